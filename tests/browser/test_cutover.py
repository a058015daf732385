"""A whole cut-over by somebody at a browser, with a real worker, on both databases."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import expect
from sqlalchemy import update

from tests.browser import sample
from tests.browser.conftest import OpenBrowser, new_database
from tests.browser.driver import Person
from tests.stack import LEGACY_SAMPLE, Stack
from webapp.clock import now
from webapp.db import transaction
from webapp.models import LoginSession
from webapp.services.runs import CONSISTENCY_CHECK, LEGACY_CUTOVER, LEGACY_IMPORT

pytestmark = pytest.mark.browser

PATH = "/admin/legacy/cutover"
ARCHIVE = "keystay-archive-*.sealed"


@pytest.fixture
def mirroring(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    """An installation of its own, since a cut-over cannot be taken back."""
    url = new_database(request, "sqlite", tmp_path)
    with Stack(tmp_path, url, legacy=LEGACY_SAMPLE, LEGACY_MODE="mirror") as stack:
        stack.start_web().start_worker()
        stack.wait_for_run(LEGACY_IMPORT)
        stack.wait_for_run(CONSISTENCY_CHECK)
        yield stack


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_an_admin_cuts_over(mirroring: Stack, open_browser: OpenBrowser, scripts: bool) -> None:
    person = open_browser(mirroring.url, java_script_enabled=scripts)
    person.sign_in("amira", sample.PASSWORDS["amira"])
    person.sees_heading("Your keys")
    person.go("/admin/legacy")
    page = person.page
    page.get_by_role("link", name="Cut over").click()
    person.sees_heading("Cut-over")

    page.get_by_role("button", name="Cut over").click()
    expect(page.locator("#stopped-error")).to_contain_text("Stop the earlier application first")
    assert not list(mirroring.legacy_dir.glob(ARCHIVE))

    forget_the_password(mirroring)
    tick_and_send(person)
    page.get_by_label("Password", exact=True).fill(sample.PASSWORDS["amira"])
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_text("Go on with what you were about to do")).to_be_visible()
    person.sees_heading("Cut-over")

    tick_and_send(person)
    expect(page).to_have_url(re.compile(r"/admin/runs/\d+$"))
    mirroring.wait_for_run(LEGACY_CUTOVER)
    if not scripts:
        page.reload()
    expect(page.locator(".run")).to_have_attribute("data-status", "finished")
    (archive,) = mirroring.legacy_dir.glob(ARCHIVE)
    expect(page.locator(".run")).to_contain_text(archive.name)
    for path in (PATH, "/admin/legacy"):
        person.go(path)
        done = page.locator("section[aria-labelledby=cut-over]")
        expect(done).to_contain_text("amira")
        expect(done).to_contain_text(archive.name)
        expect(page.locator("[name=stopped]")).to_have_count(0)
    assert b"password_hash" not in (mirroring.legacy_dir / "users.json").read_bytes()

    other = open_browser(mirroring.url, java_script_enabled=scripts)
    other.sign_in("dora", sample.PASSWORDS["dora"])
    other.sees_key("slack", "saved")
    assert other.reveal("slack") == sample.value("dora", "slack")


def forget_the_password(stack: Stack) -> None:
    """Let it be long ago that somebody gave a password."""
    with stack.app.app_context(), transaction() as session:
        long_ago = now() - timedelta(minutes=30)
        session.execute(update(LoginSession).values(authenticated_at=long_ago))


def tick_and_send(person: Person) -> None:
    """Accept everything that differs, say that the predecessor is stopped, and send."""
    for kind in person.page.locator("[name=accept]").all():
        kind.check()
    person.page.get_by_label("The earlier application is stopped").check()
    person.page.get_by_role("button", name="Cut over").click()
