"""The page of the cut-over: what it says before, what it asks for, and what it says afterwards."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.legacy_page import application, check, differ, wait
from tests.people import events, signed_in
from tests.visitor import Visitor
from webapp.clock import frozen, now
from webapp.db import db, transaction
from webapp.models import LoginSession, Run
from webapp.services import legacy_mirror, legacy_mode, runs
from webapp.services.consistency import check_consistency
from webapp.services.legacy_cutover import CutoverUnderWay, cut_over, request_cutover, run_cutover
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db

PATH = "/admin/legacy/cutover"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def legacy(tmp_path: Path) -> LegacyFolder:
    legacy = LegacyFolder(tmp_path / "legacy")
    legacy.users({"ann": record(password_hash=sha256_of("old password"))})
    legacy.rest()
    return legacy


@pytest.fixture
def app(make_settings: MakeSettings, legacy: LegacyFolder) -> Iterator[Flask]:
    """An application that mirrors, with what the folder has, and an admin whom it has not."""
    for app in application(make_settings, mode="mirror", LEGACY_DIR=str(legacy.path)):
        with app.app_context():
            migrate_api_keys_from_json_to_db()
        yield app


@pytest.fixture
def admin(app: Flask) -> Visitor:
    return signed_in(app)


def start(visitor: Visitor, *accept: str, stopped: bool = True, **more: object) -> TestResponse:
    data = {"accept": [*accept]} | ({"stopped": "1"} if stopped else {})
    return visitor.post_form(PATH, data, page=PATH, **more)


def asked_for(app: Flask) -> Run | None:
    with app.app_context():
        return runs.latest(runs.LEGACY_CUTOVER)


def words_of(text: str) -> str:
    """Return what a page says."""
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


# What it says before


def test_it_says_what_a_cut_over_does_and_the_way_back(admin: Visitor) -> None:
    page = admin.get(PATH).text
    for says in ("It checks a last time.", "It seals the files.", "flask legacy export --dir DIR"):
        assert says in page
    assert "own database" not in page
    assert f'href="{PATH}"' in admin.get("/admin/legacy").text


def test_a_database_of_the_predecessor_is_left_as_it_is(
    make_settings: MakeSettings, legacy: LegacyFolder, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'theirs.db'}"
    settings = {"LEGACY_DIR": str(legacy.path), "LEGACY_DATABASE_URL": url}
    for app in application(make_settings, **settings):
        assert "own database is not read any more" in signed_in(app).get(PATH).text


def test_nothing_stands_against_it_once_a_check_found_both_sides_equal(
    app: Flask, admin: Visitor
) -> None:
    assert "Both sides were never compared to the end" in admin.get(PATH).text
    check(app, equal=1)
    page = admin.get(PATH).text
    assert "Nothing stands against it" in page
    assert 'name="accept"' not in page


def test_what_stands_against_it_is_listed(app: Flask, admin: Visitor) -> None:
    differ(app, ("role_differs", "ann", ""), *[("key_differs", f"u{n}", "a") for n in range(1_200)])
    check(app, status="failed", days=-1)
    wait(app, 2)
    with app.app_context():
        runs.start(runs.LEGACY_IMPORT)
        with transaction() as session:
            session.execute(
                update(Run).where(Run.status == "failed").values(error="users.json is <torn>.")
            )
    page = admin.get(PATH).text
    says = words_of(page)
    assert "Nothing stands against it" not in says
    assert "2 changes wait to be written into the files" in says
    assert "The last consistency check failed" in says
    assert "users.json is &lt;torn&gt;." in says
    assert "A run is under way: import" in says
    assert "Role differs: 1 " in says
    assert "Key differs: 1,200 " in says
    assert re.findall(r'name="accept" value="(\w+)"', page) == ["key_differs", "role_differs"]


def test_where_nothing_is_written_back_nothing_is_waited_for(
    make_settings: MakeSettings, legacy: LegacyFolder
) -> None:
    for app in application(make_settings, LEGACY_DIR=str(legacy.path)):
        check(app, equal=1)
        wait(app, 2)
        assert "Nothing stands against it" in signed_in(app).get(PATH).text


@pytest.mark.parametrize("mode", ["off", ""])
def test_without_a_predecessor_there_is_nothing_to_cut_over(
    make_settings: MakeSettings, legacy: LegacyFolder, mode: str
) -> None:
    settings = {"LEGACY_DIR": str(legacy.path), "LEGACY_MODE": mode} if mode else {}
    for app in application(make_settings, **settings):
        admin = signed_in(app)
        page = admin.get(PATH).text
        assert "Nothing to cut over" in page
        assert 'name="stopped"' not in page
        refused = admin.post_form(PATH, {"stopped": "1"}, page="/admin/legacy")
        assert refused.status_code == 409
        assert asked_for(app) is None


def test_the_page_costs_as_many_statements_however_much_differs(
    app: Flask, admin: Visitor, statements: list[str]
) -> None:
    check(app, equal=1)
    numbers = []
    for kinds in ((), ("key_differs",), ("role_differs", "only_in_legacy", "rejected_record")):
        for kind in kinds:
            differ(app, (kind, "ann", ""))
        statements.clear()
        admin.get(PATH)
        numbers.append(len(statements))
    assert len(set(numbers)) == 1, numbers


# What it asks for


@pytest.mark.parametrize("headers", [{}, HTMX])
def test_without_the_tick_nothing_starts(
    app: Flask, admin: Visitor, headers: dict[str, str]
) -> None:
    differ(app, ("role_differs", "ann", ""), ("key_differs", "ann", "a"))
    refused = start(admin, "key_differs", stopped=False, headers=headers)
    assert refused.status_code == 422
    assert 'id="stopped-error"' in refused.text
    assert "Stop the earlier application first" in refused.text
    assert re.findall(r'value="(\w+)" checked', refused.text) == ["key_differs"]
    assert ("<html" in refused.text) == (not headers)
    assert asked_for(app) is None


@pytest.mark.parametrize("accept", [("nonsense",), ("key_differs", "\0"), ("equal",)])
def test_an_unknown_kind_is_refused(app: Flask, admin: Visitor, accept: tuple[str, ...]) -> None:
    refused = start(admin, *accept)
    assert refused.status_code == 422
    assert 'id="accept-error"' in refused.text
    assert "There is no such kind of difference." in refused.text
    assert re.search(r'name="stopped" value="1" checked', refused.text)
    assert asked_for(app) is None


def test_the_password_is_asked_for_when_it_was_given_long_ago(app: Flask, admin: Visitor) -> None:
    page = admin.get(PATH)
    assert page.status_code == 200
    with app.app_context(), transaction() as session:
        long_ago = now() - timedelta(hours=1)
        session.execute(update(LoginSession).values(authenticated_at=long_ago))
    asked = start(admin, headers={"Referer": f"http://localhost{PATH}"})
    assert asked.status_code == 403
    assert f'name="next" value="{PATH}"' in asked.text
    assert asked_for(app) is None


def test_it_is_asked_for_with_what_is_accepted(app: Flask, admin: Visitor) -> None:
    answer = start(admin, "role_differs", "key_differs", "role_differs")
    run = asked_for(app)
    assert run is not None
    assert (answer.status_code, answer.location) == (303, f"/admin/runs/{run.id}")
    assert run.arguments == {"accept": ["key_differs", "role_differs"]}
    assert [event.detail for event in events(app, "legacy.cutover_requested")] == [{"run": run.id}]
    page = admin.get(PATH).text
    assert "A cut-over is under way" in page
    assert "Differences that it accepts: key differs, role differs." in page
    assert f'id="run-{run.id}"' in page
    assert 'name="stopped"' not in page


def test_htmx_is_led_to_the_run(app: Flask, admin: Visitor) -> None:
    answer = start(admin, headers=HTMX)
    run = asked_for(app)
    assert run is not None
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (200, f"/admin/runs/{run.id}")


def test_another_one_that_accepts_other_differences_is_not_joined(
    app: Flask, admin: Visitor
) -> None:
    with app.app_context():
        first = request_cutover(["key_differs"])
    refused = start(admin)
    assert refused.status_code == 409
    assert CutoverUnderWay.message in refused.text
    assert start(admin, "key_differs").location == f"/admin/runs/{first.id}"
    with app.app_context():
        with pytest.raises(CutoverUnderWay):
            cut_over(["role_differs"])
        run = runs.unfinished(runs.LEGACY_CUTOVER)
        assert run is not None
        assert (run.status, run.arguments) == ("pending", {"accept": ["key_differs"]})
    assert len(events(app, "legacy.cutover_requested")) == 1


# What it says afterwards


def test_one_that_failed_says_why(app: Flask, admin: Visitor) -> None:
    start(admin)
    run = asked_for(app)
    assert run is not None
    with app.app_context(), pytest.raises(Exception, match="Both sides differ"):
        run_cutover(run.id)
    page = words_of(admin.get(PATH).text)
    assert "The last cut-over failed" in page
    assert "Both sides differ: only_in_database 1." in page
    assert 'name="stopped"' in admin.get(PATH).text


def test_done_it_says_when_by_whom_and_with_which_exceptions(
    app: Flask, admin: Visitor, legacy: LegacyFolder
) -> None:
    start(admin, "only_in_database")
    run = asked_for(app)
    assert run is not None
    with frozen(now()), app.app_context():
        run_cutover(run.id)
        at = f"{now().day} {now():%b %Y, %H:%M} UTC"
    (archive,) = legacy.path.glob("keystay-archive*")
    key_id = db_report(app)["master_key"]
    for path in (PATH, "/admin/legacy"):
        page = admin.get(path).text
        says = words_of(page)
        assert "The earlier application was cut over" in says
        assert f"When {at} Asked for by amira Recorded as run {run.id}" in says
        assert (
            f"Archive {archive.name} Master key that opens it {key_id}"
            " Accepted differences Account only in the database: 1" in says
        )
        assert 'name="stopped"' not in page
        assert "Import now" not in page
    left = words_of(admin.get(PATH).text)
    assert f"flask legacy unseal {archive.name} --dir DIR" in left
    assert "Then delete the rest of the folder." in left
    shown = words_of(admin.get(f"/admin/runs/{run.id}", headers=HTMX).text)
    assert "Password hashes taken out 1" in shown
    assert f"Archive {archive.name} Master key that opens it {key_id}" in shown
    assert start_anyway(admin) == 409


def test_by_command_it_says_so_and_that_there_were_no_exceptions(
    app: Flask, admin: Visitor
) -> None:
    with app.app_context():
        legacy_mirror.run_mirror(runs.start(runs.LEGACY_MIRROR).id)
        assert check_consistency().discrepancies["only_in_database"] == 1
        cut_over(["only_in_database"])
        assert legacy_mode.cut_over() is not None
    assert "Asked for by the command line" in words_of(admin.get(PATH).text)


def db_report(app: Flask) -> dict[str, str]:
    with app.app_context():
        query = select(Run.report).where(Run.kind == runs.LEGACY_CUTOVER)
        return dict(db.session.scalars(query).one())


def start_anyway(admin: Visitor) -> int:
    return admin.post_form(PATH, {"stopped": "1"}, page="/admin/legacy").status_code
