"""Every form works where no script runs."""

import pytest
from playwright.sync_api import expect

from tests.browser import population
from tests.browser.conftest import PASSWORD, MakeAccount, OpenBrowser
from tests.browser.sites import Sites

pytestmark = pytest.mark.browser


def test_everything_works_without_javascript(
    open_browser: OpenBrowser, make_account: MakeAccount
) -> None:
    username = make_account()
    person = open_browser(java_script_enabled=False)
    person.sign_in(username, "not the password")
    person.is_refused("The username or the password is wrong.")
    person.sign_in(username, PASSWORD)
    person.sees_heading("Your keys")

    person.type_key("openai", "sk-…abcd").click()
    expect(person.key("openai").locator("[name=value]")).to_have_attribute("aria-invalid", "true")
    person.sees_key("openai", "missing")
    person.save("openai", "sk-saved-without-a-script", version=1)
    person.page.reload()
    assert person.reveal("openai") == "sk-saved-without-a-script"
    person.page.get_by_role("link", name="Hide").click()
    expect(person.shown("openai")).to_have_count(0)
    person.save("openai", "sk-replaced-without-a-script", version=2)

    person.page.locator("#new-key summary").click()
    person.page.locator("#new-name").fill("stripe_live")
    person.page.locator("#new-value").fill("a custom key")
    person.page.get_by_role("button", name="Save key").click()
    person.sees_key("stripe_live", "saved")

    person.delete("openai")
    person.go("/account")
    person.sees_heading("Account")
    person.sign_out()
    person.go("/keys")
    person.sees_heading("Sign in")


def test_differences_are_narrowed_without_javascript(
    open_browser: OpenBrowser, sites: Sites
) -> None:
    person = open_browser(sites.site("populated").url, java_script_enabled=False)
    person.sign_in(population.ADMIN, population.PASSWORD)
    person.go("/admin/legacy")
    page = person.page
    rows = page.get_by_role("table", name="Differences on this page").locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Next").click()
    expect(rows).to_have_count(10)
    page.get_by_role("link", name="Account only in the earlier files").click()
    expect(rows).to_have_count(15)
    page.get_by_label("Username").fill("MEMBER_0001")
    page.get_by_role("button", name="Search").click()
    expect(rows).to_have_count(2)
    page.get_by_role("link", name="Clear").click()
    expect(rows).to_have_count(15)
