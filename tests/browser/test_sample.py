"""The people of the predecessor's sample, from the import that nobody started to their keys."""

import re

import pyotp
import pytest
from playwright.sync_api import expect

from tests.browser import sample
from tests.browser.conftest import OpenBrowser
from tests.browser.driver import Person
from tests.stack import Stack
from webapp.services.runs import CONSISTENCY_CHECK, LEGACY_IMPORT

pytestmark = pytest.mark.browser


def test_amira_replaces_a_key_and_finds_it_in_another_browser(
    open_browser: OpenBrowser, stack: Stack
) -> None:
    stack.wait_for_run(LEGACY_IMPORT)
    first = open_browser()
    first.sign_in("amira", sample.PASSWORDS["amira"])
    for name in ("openai", "google", "slack"):
        first.sees_key(name, "saved")
    assert first.reveal("openai") == sample.value("amira", "openai")
    replaced = "sk-proj-amiras-new-key-0123456789"
    first.save("openai", replaced, version=2)
    first.page.reload()
    first.sees_key("openai", "saved")
    first.sign_out()

    second = open_browser()
    second.sign_in("amira", sample.PASSWORDS["amira"])
    assert second.reveal("openai") == replaced
    assert second.reveal("google") == sample.value("amira", "google")

    # She is an admin: import and check have run by themselves, and say what they found.
    stack.wait_for_run(CONSISTENCY_CHECK)
    second.go("/admin")
    for kind in ("import", "consistency"):
        card = second.page.locator(f"section[aria-labelledby={kind}]")
        expect(card.locator(".run")).to_have_attribute("data-status", "finished")
    imported = second.page.locator("section[aria-labelledby=import] .tally")
    expect(imported).to_contain_text(re.compile(r"Accounts created\s*6"))
    second.go("/admin/legacy")
    differences = second.page.get_by_role("table", name="Differences on this page")
    expect(differences.get_by_role("row").filter(has_text="emre").first).to_be_visible()
    kinds = second.page.get_by_role("navigation", name="Kinds of differences")
    expect(kinds.get_by_role("link", name="All")).to_be_visible()


def test_ben_is_asked_for_a_code_that_works_once(person: Person, stack: Stack) -> None:
    stack.wait_for_run(LEGACY_IMPORT)
    code = pyotp.TOTP(sample.totp_secret("ben")).now()
    person.sign_in("ben", sample.PASSWORDS["ben"])
    person.sees_heading("Enter your code")
    person.go("/keys")
    person.sees_heading("Enter your code")
    person.enter_code(code)
    person.sees_heading("Your keys")
    person.sees_key("smtp", "saved")
    assert person.reveal("openai") == sample.value("ben", "openai")
    person.sign_out()

    person.sign_in("ben", sample.PASSWORDS["ben"])
    person.enter_code(code)
    person.is_refused("wrong or was used already")
    person.go("/keys")
    person.sees_heading("Enter your code")


def test_emres_locked_key_is_kept_and_can_be_replaced(person: Person, stack: Stack) -> None:
    stack.wait_for_run(LEGACY_IMPORT)
    person.sign_in("emre", sample.PASSWORDS["emre"])
    person.sees_key("google", "locked")
    expect(person.key("google")).to_contain_text("cannot be opened right now")
    expect(person.key("google").get_by_role("button", name="Reveal")).to_have_count(0)
    for name in ("openai", "mistral"):
        person.sees_key(name, "saved")
        assert person.reveal(name) == sample.value("emre", name)
    person.save("google", "AIza-emres-new-key-0123456789", version=2)
    person.page.reload()
    assert person.reveal("google") == "AIza-emres-new-key-0123456789"
