"""What the predecessor was meant to do and did not: five scenarios, on both databases."""

import pytest
from playwright.sync_api import expect

from tests.browser import sample
from tests.browser.conftest import PASSWORD, MakeAccount, OpenBrowser
from tests.browser.driver import Person
from tests.stack import Stack
from webapp.services.runs import LEGACY_IMPORT

pytestmark = pytest.mark.browser

OPENAI = "sk-proj-a-key-that-stays-0123456789"
GOOGLE = "AIza-another-key-that-stays-0123456789"
SLACK = "https://hooks.slack.example/services/T0/B0/a-hook-that-stays"


def test_a_saved_key_is_there_after_a_reload(person: Person, make_account: MakeAccount) -> None:
    person.sign_in(make_account(), PASSWORD)
    person.sees_key("openai", "missing")
    person.save("openai", OPENAI, version=1)
    person.page.reload()
    person.sees_key("openai", "saved")
    assert person.reveal("openai") == OPENAI


def test_a_saved_key_is_there_after_signing_out_and_in(
    person: Person, make_account: MakeAccount
) -> None:
    username = make_account()
    person.sign_in(username, PASSWORD)
    person.save("openai", OPENAI)
    person.sign_out()
    person.sign_in(username, PASSWORD)
    person.sees_key("openai", "saved")
    assert person.reveal("openai") == OPENAI


def test_keys_of_three_providers_live_side_by_side(
    person: Person, make_account: MakeAccount
) -> None:
    keys = {"openai": OPENAI, "google": GOOGLE, "slack": SLACK}
    person.sign_in(make_account(), PASSWORD)
    for name, value in keys.items():
        person.save(name, value)
    person.page.reload()
    assert {name: person.reveal(name) for name in keys} == keys


def test_keys_appear_after_the_import(person: Person, stack: Stack) -> None:
    stack.wait_for_run(LEGACY_IMPORT)
    person.sign_in("dora", sample.PASSWORDS["dora"])
    person.sees_key("slack", "saved")
    person.sees_key("openai", "missing")
    assert person.reveal("slack") == sample.value("dora", "slack")


def test_who_has_just_signed_up_can_save_at_once(open_browser: OpenBrowser, stack: Stack) -> None:
    person = open_browser()
    person.go("/signup")
    username = f"newcomer_{stack.port}"
    typed = {"name": "New Comer", "username": username, "password": PASSWORD, "confirm": PASSWORD}
    for field, text in typed.items():
        person.page.locator(f"input[name={field}]").fill(text)
    person.page.get_by_role("button", name="Create account").click()
    person.sees_heading("Your keys")
    person.save("openai", OPENAI, version=1)
    person.page.reload()
    assert person.reveal("openai") == OPENAI
    expect(person.page.get_by_text(username)).to_be_visible()
