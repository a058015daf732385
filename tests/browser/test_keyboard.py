"""A keyboard is enough."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PASSWORD, MakeAccount
from tests.browser.driver import Person

pytestmark = pytest.mark.browser

_MOST_STEPS = 60
_FOCUS_IS_SHOWN = """() => {
    const style = getComputedStyle(document.activeElement);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0
        || style.boxShadow !== "none";
}"""

_OUTLINE = """() => {
    const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);
    const outlined = outlineStyle !== "none" && parseFloat(outlineWidth) > 0;
    return [document.activeElement.tagName, outlined];
}"""


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is on `selector`; every stop on the way shows where it is."""
    for _ in range(_MOST_STEPS):
        page.keyboard.press("Tab")
        assert page.evaluate(_FOCUS_IS_SHOWN), page.evaluate("document.activeElement.outerHTML")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"the keyboard does not reach {selector}")


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
def test_one_signs_in_saves_a_key_and_signs_out_by_keyboard(
    person: Person, make_account: MakeAccount
) -> None:
    page, username = person.page, make_account()
    person.go("/login")
    expect(page.locator("input[name=username]")).to_be_focused()
    page.keyboard.type(username)
    tab_to(page, "input[name=password]")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    person.sees_heading("Your keys")

    page.keyboard.press("Tab")
    expect(page.locator(".skip-link")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page, "#field-value-openai")
    page.keyboard.type("sk-typed-by-keyboard")
    page.keyboard.press("Enter")
    expect(person.key("openai").locator(".receipt")).to_be_focused()
    person.sees_key("openai", "saved")

    tab_to(page, "#key-openai .key-reveal button")
    page.keyboard.press("Enter")
    expect(person.shown("openai")).to_have_text("sk-typed-by-keyboard")
    expect(page.locator("[data-revealed]")).to_be_focused()
    tab_to(page, "[data-hide]")
    page.keyboard.press("Enter")
    expect(person.shown("openai")).to_have_count(0)
    expect(page.locator("#key-openai .key-reveal button")).to_be_focused()

    tab_to(page, "#key-openai .key-edit > summary")
    page.keyboard.press("Space")
    tab_to(page, "#field-value-openai")
    page.keyboard.type("sk-replaced-by-keyboard")
    tab_to(page, "#key-openai .key-submit button")
    page.keyboard.press("Enter")
    expect(person.key("openai").locator(".receipt")).to_contain_text("version 2")


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
def test_the_focus_is_seen_in_forced_colours(person: Person, make_account: MakeAccount) -> None:
    """They take shadows and backgrounds away; only an outline is left."""
    page = person.page
    page.emulate_media(forced_colors="active")
    person.sign_in(make_account(), PASSWORD)
    person.sees_heading("Your keys")
    stops = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        kind, outlined = page.evaluate(_OUTLINE)
        assert outlined, page.evaluate("document.activeElement.outerHTML")
        stops.add(kind)
    assert {"A", "BUTTON", "INPUT"} <= stops
