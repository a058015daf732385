"""A value that is shown leaves the browser again, whatever comes next."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PASSWORD, MakeAccount, OpenBrowser
from tests.browser.driver import Person

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("stack", ["sqlite"], indirect=True),
]

SECRET = "sk-shown-and-gone-again-0123456789"
_STORED = """async () => ({
    local: {...localStorage}, tab: {...sessionStorage}, entry: history.state, window: window.name,
    caches: await caches.keys(), databases: await indexedDB.databases(),
})"""
_NOTHING: dict[str, object] = {
    "local": {},
    "tab": {"htmx-current-path-for-history": "/keys"},
    "entry": None,
    "window": "",
    "caches": [],
    "databases": [],
}


@pytest.fixture
def owner(person: Person, make_account: MakeAccount) -> Person:
    """Somebody signed in, with a stored key and a clock that the test sets."""
    person.page.clock.install()
    person.sign_in(make_account(), PASSWORD)
    person.save("openai", SECRET)
    return person


def test_the_copy_button_copies(owner: Person) -> None:
    owner.context.grant_permissions(["clipboard-read", "clipboard-write"])
    owner.reveal("openai")
    button = owner.key("openai").locator("[data-copy-target]")
    button.click()
    expect(button).to_contain_text("Copied")
    assert owner.page.evaluate("navigator.clipboard.readText()") == SECRET


def test_a_value_hides_after_30_seconds(owner: Person) -> None:
    owner.reveal("openai")
    owner.page.clock.run_for(29_000)
    expect(owner.shown("openai")).to_be_visible()
    owner.page.clock.run_for(2_000)
    expect(owner.shown("openai")).to_have_count(0)
    assert SECRET not in owner.page.content()


def test_who_needs_longer_keeps_it_showing(owner: Person) -> None:
    owner.reveal("openai")
    owner.page.clock.run_for(25_000)
    owner.page.get_by_role("button", name="Keep showing").click()
    owner.page.clock.run_for(25_000)
    expect(owner.shown("openai")).to_be_visible()
    owner.page.clock.run_for(6_000)
    expect(owner.shown("openai")).to_have_count(0)


def test_the_back_button_shows_nothing_after_signing_out(owner: Person) -> None:
    owner.reveal("openai")
    owner.sign_out()
    for _ in range(3):
        owner.page.go_back()
        assert SECRET not in owner.page.content()
        expect(owner.page.locator("[data-key]")).to_have_count(0)


def test_the_back_button_shows_no_value_while_signed_in(owner: Person) -> None:
    owner.reveal("openai")
    owner.go("/account")
    owner.page.go_back()
    owner.sees_key("openai", "saved")
    assert SECRET not in owner.page.content()


@pytest.mark.parametrize("java_script_enabled", [True, False])
def test_the_browser_keeps_nothing_but_the_session(
    open_browser: OpenBrowser, make_account: MakeAccount, java_script_enabled: bool
) -> None:
    person = open_browser(java_script_enabled=java_script_enabled)
    person.sign_in(make_account(), PASSWORD)
    person.save("openai", SECRET)
    person.reveal("openai")
    [cookie] = person.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert cookie["expires"] == -1
    assert SECRET not in str(person.context.storage_state(indexed_db=True))
    assert SECRET not in person.page.url
    if java_script_enabled:
        assert person.page.evaluate(_STORED) == _NOTHING
    person.sign_out()
    assert SECRET not in str(person.context.storage_state(indexed_db=True))
