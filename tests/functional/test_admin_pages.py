"""The admin pages: for admins only, metadata only, and nothing fails while there is nothing yet."""

from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import select, update

from tests.legacy_folder import SAMPLE
from tests.visitor import Visitor
from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import Run, User
from webapp.services import runs
from webapp.services.accounts import Application, create_account, sign_up
from webapp.services.keys import save_user_api_key

PASSWORD = "seven quiet lanterns"
SECRET = "sk-proj-0123456789abcdef"
PAGES = ["/admin", "/admin/users", "/admin/runs", "/admin/legacy"]


@pytest.fixture
def admin(app: Flask, client: Visitor) -> Visitor:
    with app.app_context():
        create_account("root_of_all", PASSWORD, is_admin=True)
        create_account("alice", PASSWORD)
        save_user_api_key("alice", "openai", SECRET)
    return sign_in(client, "root_of_all")


def sign_in(client: Visitor, username: str) -> Visitor:
    assert (
        client.post_form("/login", {"username": username, "password": PASSWORD}).status_code == 303
    )
    return client


@pytest.mark.parametrize("path", PAGES)
def test_admins_only(app: Flask, admin: Visitor, path: str) -> None:
    assert admin.get(path).status_code == 200
    alice = app.test_client()
    assert isinstance(alice, Visitor)
    assert sign_in(alice, "alice").get(path).status_code == 403
    assert app.test_client().get(path).status_code == 302


@pytest.mark.parametrize("path", PAGES)
def test_no_page_shows_a_value_or_its_end(admin: Visitor, path: str) -> None:
    text = admin.get(path).text
    assert SECRET not in text
    assert "cdef" not in text


def test_requests_to_become_admin_are_shown_and_give_nothing(app: Flask, admin: Visitor) -> None:
    with app.app_context():
        sign_up(
            Application(
                name="Chen Li",
                username="chen",
                password=PASSWORD,
                request_admin=True,
                admin_reason="I look after the reports.",
            )
        )
        assert db.session.scalar(select(User.is_admin).where(User.username == "chen")) is False
    assert "I look after the reports." in admin.get("/admin").text


@pytest.mark.environ(LEGACY_DIR=str(SAMPLE))
def test_an_import_can_be_asked_for_once(app: Flask, admin: Visitor) -> None:
    first = admin.post_form("/admin/import", page="/admin")
    second = admin.post_form("/admin/import", page="/admin")
    assert first.status_code == second.status_code == 303
    assert first.location == second.location
    page = admin.get(first.location)
    assert "Waiting" in page.text
    assert 'hx-trigger="every 2s"' in page.text
    with app.app_context(), transaction() as session:
        session.execute(
            update(Run).values(status="finished", finished_at=now(), counts={"users_created": 6})
        )
    done = admin.get(first.location, headers={"HX-Request": "true"})
    assert "<html" not in done.text
    assert "hx-trigger" not in done.text, "the polling ends with the run"
    assert "Accounts created" in done.text
    assert done.headers["HX-Trigger"] == "run-ended", "the page brings the rest up to date"


def test_without_a_predecessor_there_is_nothing_to_import(admin: Visitor) -> None:
    assert admin.post_form("/admin/import", page="/admin").status_code == 404


@pytest.mark.environ(LEGACY_DIR=str(SAMPLE))
def test_a_failed_run_says_so_on_the_first_page(app: Flask, admin: Visitor) -> None:
    with app.app_context(), transaction() as session:
        session.add(Run(kind=runs.LEGACY_IMPORT, status="failed", error="users.json is cut off."))
    page = admin.get("/admin").text
    assert "The last import failed" in page
    assert "users.json is cut off." in page


def test_runs_are_shown_by_kind(app: Flask, admin: Visitor) -> None:
    with app.app_context(), transaction() as session:
        session.add(Run(kind=runs.LEGACY_IMPORT, status="finished"))
        session.add(Run(kind=runs.CONSISTENCY_CHECK, status="failed"))
    every, imports = admin.get("/admin/runs"), admin.get("/admin/runs?kind=legacy_import")
    assert "Consistency check 2" in every.text
    assert "Import 1" in imports.text
    assert "Consistency check 2" not in imports.text
    assert "Consistency check 2" in admin.get("/admin/runs?kind=no_such_kind").text


@pytest.mark.environ(LEGACY_DIR=str(SAMPLE))
def test_a_run_says_how_fast_it_is_and_when_it_is_done(app: Flask, admin: Visitor) -> None:
    with app.app_context(), transaction() as session:
        started = now() - timedelta(seconds=100)
        ends = started + timedelta(seconds=100) + runs.LEASE
        run = Run(kind=runs.LEGACY_IMPORT, status="running", started_at=started)
        run.cursor, run.total, run.lease_expires_at = 210_000, 714_000, ends
        session.add(run)
    for page in ("/admin", "/admin/legacy", "/admin/runs/1"):
        assert "2,100 a second, about 4 minutes left" in admin.get(page).text
    with app.app_context(), transaction() as session:
        session.execute(update(Run).values(lease_expires_at=now() - timedelta(seconds=1)))
    assert "Its worker fell silent" in admin.get("/admin/runs/1").text


@pytest.mark.parametrize("page", ["0", "-1", "x", "9" * 30, "²"])
def test_a_page_that_does_not_exist_is_the_nearest(admin: Visitor, page: str) -> None:
    assert admin.get(f"/admin/users?page={page}").status_code == 200


@pytest.mark.parametrize("number", ["0", str(2**63), str(2**70)])
def test_a_run_that_does_not_exist_is_not_found(admin: Visitor, number: str) -> None:
    assert admin.get(f"/admin/runs/{number}").status_code == 404


def test_the_first_page_costs_a_fixed_number_of_statements(
    app: Flask, admin: Visitor, statements: list[str]
) -> None:
    admin.get("/admin")
    statements.clear()
    admin.get("/admin")
    before = len(statements)
    with app.app_context():
        for number in range(15):
            create_account(f"user{number}", PASSWORD)
    statements.clear()
    admin.get("/admin")
    assert len(statements) == before
