"""The predecessor's database: unreadable, changing, not imported yet, beside mirror and undo."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from tests.conftest import MakeSettings
from tests.legacy_database import LegacyDatabase
from tests.legacy_folder import LegacyFolder, record
from tests.people import add_person, browser, sign_in, signed_in
from tests.stored_rows import stored
from tests.visitor import Visitor
from webapp import clock, create_app
from webapp.clock import now
from webapp.db import db, dispose_engines, transaction
from webapp.legacy.records import LegacyUser
from webapp.models import Run, User
from webapp.services import (
    legacy_batches,
    legacy_database,
    legacy_lookup,
    legacy_migration,
    legacy_mirror,
    legacy_sources,
    runs,
)
from webapp.services.consistency import check_consistency
from webapp.services.due_runs import start_due_runs
from webapp.services.import_report import ImportReport
from webapp.services.keys import get_user_api_keys, save_user_api_key
from webapp.services.legacy_accounts import Outcome
from webapp.services.legacy_batches import ReadyBatch
from webapp.services.legacy_migration import (
    LegacyFilesUnreadable,
    migrate_api_keys_from_json_to_db,
    preview_import,
)
from webapp.services.legacy_undo import undo_import

in_context = pytest.mark.usefixtures("_context")


@pytest.fixture
def app(bridged_app: Flask) -> Flask:
    return bridged_app


@pytest.fixture
def _context(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def run() -> ImportReport:
    return migrate_api_keys_from_json_to_db()


def roles() -> dict[str, bool]:
    db.session.rollback()
    return {user.username: user.is_admin for user in db.session.scalars(select(User))}


def unreachable(database: LegacyDatabase) -> Iterator[str]:
    """Make the database one that cannot be read, in one way after the other."""
    if database.is_sqlite:
        content = database.path.read_bytes()
        with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield "locked"
        database.path.write_bytes(b"no database " * 1000)
        yield "not a database"
        database.path.unlink()
        yield "No such file"
        database.path.write_bytes(content)
    else:
        database.execute("ALTER TABLE users ALTER username TYPE integer USING 1")
        database.execute("ALTER TABLE users RENAME username TO login")
        yield "without username"
    database.execute("DROP TABLE users")
    yield "has no table users"


@in_context
def test_one_that_cannot_be_read_is_an_error_and_nothing_is_concluded(
    both_sources: LegacyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.services.legacy_database._LONGEST_WAIT_SECONDS", 0.1)
    before = stored()
    for told in unreachable(both_sources):
        for act in (preview_import, run, check_consistency):
            with pytest.raises(LegacyFilesUnreadable, match=f"LEGACY_DATABASE_URL .*{told}"):
                act()
            assert stored() == before
        failed = runs.latest(runs.LEGACY_IMPORT)
        assert failed is not None
        assert (failed.status, told in (failed.error or "")) == ("failed", True)


def test_a_server_that_does_not_answer_is_an_error(
    legacy_folder: LegacyFolder, make_settings: MakeSettings
) -> None:
    legacy_folder.users({"ann": record()})
    nowhere = "postgresql://keystay:hunter2@127.0.0.1:1/users"
    app = create_app(make_settings(LEGACY_DIR=str(legacy_folder.path), LEGACY_DATABASE_URL=nowhere))
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    form = {"name": "X", "username": "zoe", "password": "seven quiet lanterns"}
    form["confirm"] = form["password"]
    assert sign_in(browser(app), "ann", "a password").status_code == 422
    assert browser(app).post_form("/signup", form).status_code == 503
    with app.app_context():
        before = stored()
        with pytest.raises(LegacyFilesUnreadable, match=r"LEGACY_DATABASE_URL does not answer\."):
            run()
        assert stored() == before
        assert before["users"] == 0
        assert db.session.scalars(select(Run.status)).all() == ["failed"]
    dispose_engines(app)


class PowerFailure(BaseException):
    """The process ends here, whatever it was about to do."""


@in_context
def test_a_run_that_is_cut_off_among_the_databases_own_goes_on_behind_its_last_batch(
    both_sources: LegacyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        both_sources.add(f"user{number}", api_keys={"openai": f"value {number}"})
    monkeypatch.setattr(legacy_migration, "BATCH", 3)
    batches: list[list[object]] = []
    write = legacy_batches.write

    def fail_once(
        session: Session, ready: ReadyBatch, unsettled: Sequence[LegacyUser], run_id: int
    ) -> Outcome:
        outcome = write(session, ready, unsettled, run_id)
        batches.append([event["username"] for _, event in ready.new.events])
        if len(batches) == 2:
            raise PowerFailure
        return outcome

    monkeypatch.setattr(legacy_batches, "write", fail_once)
    with pytest.raises(PowerFailure):
        run()
    interrupted = runs.latest(runs.LEGACY_IMPORT)
    assert interrupted is not None
    assert interrupted.cursor == 3
    with transaction() as session:
        session.execute(update(Run).values(lease_expires_at=None))
    report = run()
    assert batches == [
        ["ann", "bob", "cy"],
        ["user0", "user1", "user2"],
        ["user0", "user1", "user2"],
        ["user3", "user4", "user5"],
    ]
    assert (report.users_created, report.users_existing, report.keys_imported) == (9, 0, 12)
    assert stored()["users"] == 9


@in_context
def test_imports_start_again_when_the_database_changes(
    app: Flask, both_sources: LegacyDatabase, make_settings: MakeSettings
) -> None:
    with clock.frozen(now()) as set_clock:
        run()
        start_due_runs()
        assert imports() == 1
        assert legacy_lookup.find_account("cy") is None
        both_sources.change("cy", email="cy@example.com")
        legacy_lookup.forget(app)  # what was known of a PostgreSQL two seconds ago serves
        assert legacy_lookup.find_account("cy") is not None
        legacy_lookup.forget(app)
        set_clock(now() + timedelta(hours=1))
        start_due_runs()
        assert imports() == 2
        assert run().users_existing == 3
        legacy_lookup.forget(app)
        assert legacy_lookup.find_account("cy") is None


def imports() -> int:
    runs_of = select(func.count()).where(Run.kind == runs.LEGACY_IMPORT)
    return db.session.scalar(runs_of) or 0


@pytest.mark.usefixtures("both_sources", "_context")
def test_another_folder_is_read_without_the_database(
    legacy_folder: LegacyFolder, tmp_path: Path
) -> None:
    other = LegacyFolder(tmp_path / "copy")
    other.users({"zoe": record()})
    assert migrate_api_keys_from_json_to_db(other.path).users_created == 1
    assert set(roles()) == {"zoe"}
    there = legacy_folder.path / ".." / legacy_folder.path.name
    migrate_api_keys_from_json_to_db(there)
    assert set(roles()) == {"zoe", "ann", "bob", "cy"}, "the same folder by another name"


def test_who_is_only_in_the_database_signs_in_and_reads_keys(
    app: Flask, both_sources: LegacyDatabase
) -> None:
    assert sign_in(browser(app), "cy", "a password").status_code == 422
    assert sign_in(browser(app), "CY", "old password").status_code == 303
    with app.app_context():
        assert roles() == {"cy": False}
        assert get_user_api_keys("cy")["openai"] == "of cy"
        both_sources.change("cy", api_keys={"google": "added there later"})
        legacy_lookup.forget(app)
        assert get_user_api_keys("cy").sources["google"] == "legacy"


def test_a_name_of_the_database_cannot_be_signed_up_for(
    app: Flask, both_sources: LegacyDatabase
) -> None:
    form = {"name": "X", "password": "seven quiet lanterns", "confirm": "seven quiet lanterns"}
    for name in ("Cy", "ann"):
        assert browser(app).post_form("/signup", form | {"username": name}).status_code == 422
    both_sources.add("dan")
    assert browser(app).post_form("/signup", form | {"username": "dan"}).status_code == 422
    with app.app_context():
        assert roles() == {}


@in_context
def test_an_import_of_both_can_be_taken_back(
    app: Flask,
    both_sources: LegacyDatabase,
    legacy_folder: LegacyFolder,
    make_settings: MakeSettings,
) -> None:
    files_only = create_app(make_settings(LEGACY_DIR=str(legacy_folder.path)))
    with files_only.app_context():
        run()
    dispose_engines(files_only)
    both_sources.change("ann", api_keys_updated_at="2025-01-01 00:00:00")
    keys_before = stored()["api_keys"]
    run()
    assert set(roles()) == {"ann", "bob", "cy"}
    undo_import(last_import().id)
    assert set(roles()) == {"ann", "bob"}
    assert stored()["api_keys"] == keys_before
    assert get_user_api_keys("ann")["openai"] == "of the file"
    run()
    assert set(roles()) == {"ann", "bob", "cy"}
    undo_import(last_import().id)
    assert get_user_api_keys("ann")["openai"] == "of the file"


@in_context
def test_what_the_mirror_wrote_is_not_imported_and_the_database_stays_as_it_is(
    both_sources: LegacyDatabase, legacy_folder: LegacyFolder, make_settings: MakeSettings
) -> None:
    address = {"LEGACY_DIR": str(legacy_folder.path), "LEGACY_DATABASE_URL": both_sources.address}
    app = create_app(make_settings(**address, LEGACY_MODE="mirror"))
    with app.app_context():
        run()
        state = legacy_database.stamp(both_sources.url)
        save_user_api_key("ann", "openai", "saved here")
        save_user_api_key("cy", "openai", "saved here too")
        start_due_runs()
        mirrored = runs.latest(runs.LEGACY_MIRROR)
        assert mirrored is not None
        legacy_mirror.run_mirror(mirrored.id)
        assert legacy_database.stamp(both_sources.url) == state
        legacy_sources.forget(app)
        start_due_runs()
        assert imports() == 1
        found = {(item.kind, item.username) for item in check_consistency().items}
        assert found == {("key_differs", "cy")}, "who is in the database only cannot be written"
        assert run().users_existing == 3
        assert get_user_api_keys("cy")["openai"] == "saved here too"
    legacy_lookup.forget(app)
    dispose_engines(app)


def test_admins_see_whether_it_can_be_read(app: Flask, both_sources: LegacyDatabase) -> None:
    add_person(app, "boss", is_admin=True)
    admin = signed_in(app, "boss")
    assert "Its own database, read only" in admin.get("/admin/legacy").text
    assert "There" in source_row(admin)
    assert ("kB" in source_row(admin)) == both_sources.is_sqlite
    if both_sources.is_sqlite:
        both_sources.path.unlink()
    else:
        both_sources.execute("DROP TABLE users")
        legacy_sources.forget(app)
    told = "No such file" if both_sources.is_sqlite else "It has no table users."
    assert "Unreadable" in source_row(admin)
    assert told in source_row(admin)


def source_row(admin: Visitor) -> str:
    page = admin.get("/admin/legacy").text
    return page.partition("<code>LEGACY_DATABASE_URL</code>")[2].partition("</tr>")[0]


def last_import() -> Run:
    found = runs.latest(runs.LEGACY_IMPORT)
    assert found is not None
    return found
