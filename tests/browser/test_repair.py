"""An admin repairs differences, from the ticks to what a real worker has made of them."""

from datetime import timedelta

import pytest
from playwright.sync_api import expect
from sqlalchemy import update

from tests.browser import sample
from tests.browser.conftest import PASSWORD, MakeAccount, OpenBrowser
from tests.browser.driver import Person
from tests.stack import Stack
from webapp.clock import now
from webapp.db import transaction
from webapp.models import LoginSession
from webapp.services.keys import get_user_api_keys, save_user_api_key
from webapp.services.runs import CONSISTENCY_CHECK, LEGACY_IMPORT, LEGACY_REPAIR

pytestmark = pytest.mark.browser

NAMES = ("google", "openai")


def drift(stack: Stack, person: Person, username: str) -> None:
    """Give the account other keys here, and let a check find it."""
    stack.wait_for_run(LEGACY_IMPORT)
    stack.wait_for_run(CONSISTENCY_CHECK)
    with stack.app.app_context():
        for name in NAMES:
            save_user_api_key(username, name, f"another {name} key")
    person.go("/admin/legacy")
    person.page.get_by_role("button", name="Check now").click()
    person.page.wait_for_url("**/admin/runs/*")
    stack.wait_for_run(CONSISTENCY_CHECK)


def age_sessions(stack: Stack) -> None:
    with stack.app.app_context(), transaction() as session:
        session.execute(update(LoginSession).values(authenticated_at=now() - timedelta(hours=1)))


@pytest.mark.parametrize(
    ("scripts", "username", "kept"),
    [
        (True, "chen_li", {"google": sample.value("chen_li", "google")}),
        (False, "001", {}),  # no key in the files
    ],
    ids=["with scripts", "without"],
)
def test_two_are_ticked_previewed_confirmed_and_repaired(
    open_browser: OpenBrowser,
    make_account: MakeAccount,
    stack: Stack,
    scripts: bool,
    username: str,
    kept: dict[str, str],
) -> None:
    person = open_browser(java_script_enabled=scripts)
    person.sign_in(make_account(is_admin=True), PASSWORD)
    person.sees_heading("Your keys")
    drift(stack, person, username)
    page = person.page

    person.go("/admin/legacy")
    page.get_by_label("Username").fill(username)
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**username=*")
    choose = page.get_by_role("button", name="Preview: the earlier files are right")
    choose.click()
    expect(page.locator("#repair-all-error")).to_contain_text("Tick the differences")
    found = page.locator("#differences tbody tr").filter(has_text=username)
    for name in NAMES:
        found.filter(has=page.locator(f"code:text-is('{name}')")).get_by_role("checkbox").check()
    choose.click()

    person.sees_heading("Preview of a repair")
    rows = page.get_by_role("table", name="What would become of each difference").locator(
        "tbody tr"
    )
    expect(rows).to_have_count(2)
    trashed = rows.filter(has_text="Put the key into the trash")
    expect(trashed).to_have_count(2 - len(kept))
    age_sessions(stack)
    page.get_by_role("button", name="Repair these 2 differences").click()
    page.locator("#reauthenticate-password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator(".notices[role=status]")).to_contain_text("Go on")
    person.sees_heading("Preview of a repair")
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Repair these 2 differences").click()

    page.wait_for_url("**/admin/runs/*")
    stack.wait_for_run(LEGACY_REPAIR)
    if not scripts:
        page.reload()
    expect(page.locator(".run")).to_have_attribute("data-status", "finished")
    expect(page.locator(".tally")).to_contain_text("Differences settled2")
    with stack.app.app_context():
        assert dict(get_user_api_keys(username)) == kept
