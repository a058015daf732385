"""axe finds nothing on any page in any state, and nothing is wider than a small phone.

With KEYSTAY_SCREENSHOTS set to a folder, what was looked at is left there as pictures.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, ViewportSize
from sqlalchemy import select, update

from tests.browser.conftest import PASSWORD, MakeAccount, OpenBrowser
from tests.browser.driver import Person
from tests.stack import Stack
from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import ApiKey, ApiKeyVersion, Run, User
from webapp.services import runs
from webapp.services.keys import delete_user_api_key, save_user_api_key
from webapp.services.runs import CONSISTENCY_CHECK, LEGACY_IMPORT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.parametrize("stack", ["sqlite"], indirect=True),
    pytest.mark.timeout(300),
]

PHONE: ViewportSize = {"width": 320, "height": 700}
WIDE: ViewportSize = {"width": 1280, "height": 900}
LONG_NAME = "a-name-as-long-as-a-name-can-be-" * 2
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RULES_OF_WIDTH = ["target-size", "scrollable-region-focusable", "meta-viewport"]
_WIDER_THAN_THE_SCREEN = """() => [...document.querySelectorAll("body *")]
    .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .filter(one => !one.closest(".table-scroll, .visually-hidden, .skip-link"))
    .map(one => one.outerHTML.slice(0, 120))"""

Look = Callable[[Person, str], None]
_FOLDER = os.environ.get("KEYSTAY_SCREENSHOTS")


@pytest.fixture
def look() -> Iterator[Look]:
    """Look at the page that somebody sees; at the end nothing may have been wrong with any.

    In full on a wide screen; in the dark at what colours change; on a phone at what width changes.
    """
    wrong: list[str] = []
    axe = Axe()

    def check(page: Page, name: str, only: Mapping[str, object]) -> None:
        options = {"runOnly": only, "resultTypes": ["violations"]}
        found = axe.run(page, options=options).response["violations"]
        wrong.extend(f"{name}: {one['id']}: {_nodes(one)}" for one in found)
        _keep(page, f"{name}.png")

    def look(person: Person, name: str) -> None:
        page = person.page
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
        page.set_viewport_size(WIDE)
        check(page, f"{name}-light", {"type": "tag", "values": TAGS})
        page.emulate_media(color_scheme="dark")
        check(page, f"{name}-dark", {"type": "rule", "values": ["color-contrast"]})
        page.set_viewport_size(PHONE)
        page.evaluate("() => new Promise(requestAnimationFrame)")  # let scripts see the new size
        check(page, f"{name}-phone", {"type": "rule", "values": RULES_OF_WIDTH})
        wrong.extend(f"{name}: too wide: {one}" for one in page.evaluate(_WIDER_THAN_THE_SCREEN))

    yield look
    assert wrong == []


def _nodes(violation: dict[str, list[dict[str, str]]]) -> str:
    return " | ".join(node["html"][:160] for node in violation["nodes"][:3])


def _keep(page: Page, name: str) -> None:
    if _FOLDER:
        page.screenshot(path=Path(_FOLDER) / name, full_page=True)


def with_every_state(stack: Stack, username: str) -> None:
    """Give somebody keys in every state, with long names and values."""
    with stack.app.app_context():
        for name in (
            "openai",
            "anthropic",
            "github",
            "slack",
            "a-name-as-long-as-a-name-can-be-" * 2,
        ):
            save_user_api_key(username, name[:64], f"value of {name} 0123456789")
        fields = {"host": "smtp.example.com", "port": "587", "user": "ben", "password": "word"}
        save_user_api_key(username, "smtp", fields)
        delete_user_api_key(username, "slack")
        with transaction() as session:
            key = (
                select(ApiKey.id)
                .join(User)
                .where(User.username == username, ApiKey.name == "github")
            )
            session.execute(
                update(ApiKeyVersion)
                .where(ApiKeyVersion.api_key_id.in_(key))
                .values(sealed_value="damaged")
            )


def test_pages_for_everybody(open_browser: OpenBrowser, stack: Stack, look: Look) -> None:
    person = open_browser(stack.url)
    person.go("/login")
    look(person, "login")
    person.sign_in("nobody", "not the password")
    person.is_refused("The username or the password is wrong.")
    look(person, "login-refused")
    person.go("/signup")
    look(person, "signup")
    person.page.get_by_role("button", name="Create account").click()
    person.page.locator("#password-error").wait_for()
    look(person, "signup-refused")
    for path in ("/nowhere", "/setup/x"):
        person.go(path)
        look(person, f"error{path.replace('/', '-')}")


def test_pages_of_keys_and_account(
    open_browser: OpenBrowser, make_account: MakeAccount, stack: Stack, look: Look
) -> None:
    person, username = open_browser(), make_account()
    person.sign_in(username, PASSWORD)
    person.sees_heading("Your keys")
    look(person, "keys-empty")
    with_every_state(stack, username)
    person.go("/keys")
    look(person, "keys")
    person.type_key("google", "sk-…abcd").click()
    person.key("google").locator("#field-value-google-error").wait_for()
    look(person, "keys-refused")
    person.save("google", "a value that is accepted")
    person.reveal("openai")
    person.page.locator("#new-key summary").click()
    person.key("anthropic").locator(".key-delete > summary").click()
    person.key("smtp").locator(".key-edit > summary").click()
    look(person, "keys-open")
    person.go("/admin")
    look(person, "error-forbidden")
    for path in ("/account", "/account/totp", "/reauthenticate"):
        person.go(path)
        look(person, path.replace("/", "-").strip("-"))


def test_admin_pages(
    open_browser: OpenBrowser, make_account: MakeAccount, stack: Stack, look: Look
) -> None:
    stack.wait_for_run(LEGACY_IMPORT)
    stack.wait_for_run(CONSISTENCY_CHECK)
    person = open_browser()
    person.sign_in(make_account(is_admin=True), PASSWORD)
    for path in ("/admin", "/admin/users", "/admin/runs", "/admin/consistency"):
        person.go(path)
        look(person, path.replace("/", "-").strip("-"))
    for status in ("running", "failed"):
        person.go(f"/admin/runs/{made_run(stack, status)}")
        look(person, f"admin-run-{status}")


def made_run(stack: Stack, status: str) -> int:
    """Return a run that looks as if somebody worked on it; no worker takes an unknown kind."""
    with stack.app.app_context(), transaction() as session:
        run = Run(kind=f"shown_{status}", status=status, cursor=420, total=1000)
        run.counts = {"users_created": 400, "keys_imported": 1200, "records_rejected": 20}
        if status == "failed":
            run.error = "users.json is not valid JSON: premature EOF."
            run.finished_at = run.created_at
        else:
            run.lease_token, run.lease_expires_at = 1, now() + runs.LEASE * 1000
        for old in db.session.scalars(select(Run).where(Run.kind == run.kind)):
            session.delete(old)
        session.flush()
        session.add(run)
        session.flush()
        return run.id
