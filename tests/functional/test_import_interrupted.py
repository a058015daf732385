"""An import is whole or not at all: unreadable files, dry runs, and runs that were interrupted."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record
from tests.stored_rows import stored
from webapp import create_app
from webapp.db import db, dispose_engines, transaction
from webapp.legacy import files
from webapp.legacy.records import LegacyUser
from webapp.models import AuditEvent, Run, User
from webapp.services import legacy_batches, legacy_migration, runs
from webapp.services.import_report import ImportReport
from webapp.services.keys import get_user_api_keys, save_user_api_key
from webapp.services.legacy_accounts import Outcome
from webapp.services.legacy_batches import ReadyBatch
from webapp.services.legacy_migration import (
    LegacyFilesUnreadable,
    LegacyNotConfigured,
    migrate_api_keys_from_json_to_db,
    preview_import,
)
from webapp.services.legacy_rows import SealedRows, insert_accounts

OTHER_KEY = Fernet.generate_key().decode()


@pytest.fixture(autouse=True)
def _context(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return LegacyFolder(tmp_path / "legacy")


def run(folder: LegacyFolder) -> ImportReport:
    return migrate_api_keys_from_json_to_db(folder.path)


def messy(folder: LegacyFolder) -> None:
    folder.users(
        {
            "ann": record(api_keys={"openai": folder.token("one"), "smtp_host": "mail"}),
            "bob": record(api_keys={"google": folder.token("two", OTHER_KEY), "My Key!": "3"}),
            "bad": record(password_hash="?"),
            "ANN": record(),
        }
    )
    folder.second_factors({"bob": {"secret": "JBSWY3DPEHPK3PXP", "enabled": True}})


def test_a_dry_run_says_what_a_run_does_and_writes_nothing(folder: LegacyFolder) -> None:
    messy(folder)
    before, runs_before = stored(), db.session.scalar(select(func.count()).select_from(Run))
    foreseen = preview_import(folder.path)
    assert stored() == before
    assert db.session.scalar(select(func.count()).select_from(Run)) == runs_before
    assert foreseen == run(folder)
    assert preview_import(folder.path) == run(folder)
    save_user_api_key("ann", "openai", "changed here")
    folder.users({"ann": record(api_keys={"openai": folder.token("x"), "slack": "y"})})
    assert preview_import(folder.path) == run(folder)


def replace_by_folder(file: Path) -> None:
    """Make `file` one that cannot be read, for root either."""
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f.path / "users.json").unlink(), "users.json"),
        (lambda f: f.raw(""), "users.json"),
        (lambda f: f.raw((f.path / "users.json").read_bytes()[:-9]), "users.json"),
        (lambda f: f.raw((f.path / "users.json").read_bytes()[:300]), "users.json"),
        (lambda f: f.raw("not json at all"), "users.json"),
        (lambda f: f.raw('["a list"]'), "users.json"),
        (lambda f: f.raw('{"users": []}'), "users.json"),
        (lambda f: (f.path / ".encryption_key").unlink(), ".encryption_key"),
        (lambda f: (f.path / ".encryption_key").write_text("no key"), ".encryption_key"),
        (lambda f: (f.path / "two_fa.json").write_text('{"ann": '), "two_fa.json"),
        (lambda f: replace_by_folder(f.path / "users.json"), "users.json"),
        (lambda f: replace_by_folder(f.path / "two_fa.json"), "two_fa.json"),
        (lambda f: replace_by_folder(f.path / ".encryption_key"), ".encryption_key"),
    ],
)
def test_files_that_cannot_be_read_are_an_error_and_nothing_is_written(
    folder: LegacyFolder, damage: Callable[[LegacyFolder], object], named: str
) -> None:
    messy(folder)
    damage(folder)
    folder.rest()
    before = stored()
    for act in (preview_import, migrate_api_keys_from_json_to_db):
        with pytest.raises(LegacyFilesUnreadable, match=named.replace(".", r"\.")):
            act(folder.path)
        assert stored() == before


def test_a_failure_stands_in_the_run_where_an_admin_sees_it(
    make_settings: MakeSettings, folder: LegacyFolder
) -> None:
    folder.raw("{")
    folder.rest()
    app = create_app(make_settings(LEGACY_DIR=str(folder.path)))
    with app.app_context():
        made = runs.start(runs.LEGACY_IMPORT)
        with pytest.raises(LegacyFilesUnreadable):
            legacy_migration.run_import(made.id)
        failed = runs.latest(runs.LEGACY_IMPORT)
        assert failed is not None
        assert failed.status == "failed"
        assert "users.json" in (failed.error or "")
    dispose_engines(app)


def test_a_missing_two_fa_json_is_a_warning(folder: LegacyFolder) -> None:
    messy(folder)
    (folder.path / "two_fa.json").unlink()
    report = run(folder)
    assert report.users_created == 2
    assert any("two_fa.json" in warning for warning in report.warnings)


def test_a_key_file_that_no_token_needs_may_be_missing(folder: LegacyFolder) -> None:
    folder.users({"ann": record(api_keys={"openai": "never encrypted"}), "bob": record()})
    (folder.path / ".encryption_key").unlink()
    assert run(folder).keys_imported == 1


def test_further_keys_can_take_the_place_of_the_key_file(
    folder: LegacyFolder, make_settings: MakeSettings
) -> None:
    folder.users({"ann": record(api_keys={"openai": folder.token("one", OTHER_KEY)})})
    (folder.path / ".encryption_key").unlink()
    app = create_app(make_settings(LEGACY_ENCRYPTION_KEYS=OTHER_KEY))
    with app.app_context():
        assert run(folder).keys_imported == 1
    dispose_engines(app)


def test_without_a_folder_there_is_nothing_to_import() -> None:
    with pytest.raises(LegacyNotConfigured):
        migrate_api_keys_from_json_to_db()


class PowerFailure(BaseException):
    """The process ends here, whatever it was about to do."""


@pytest.fixture
def failing_batch(monkeypatch: pytest.MonkeyPatch) -> dict[int, BaseException]:
    """Batches of three accounts; what is put in here is raised in the batch of that number."""
    monkeypatch.setattr(legacy_migration, "BATCH", 3)
    faults: dict[int, BaseException] = {}
    original = legacy_batches.write
    calls: list[int] = []

    def write(
        session: Session, ready: ReadyBatch, unsettled: Sequence[LegacyUser], run_id: int
    ) -> Outcome:
        outcome = original(session, ready, unsettled, run_id)
        calls.append(run_id)
        if len(calls) in faults:
            raise faults[len(calls)]
        return outcome

    monkeypatch.setattr(legacy_batches, "write", write)
    return faults


def accounts(word: str, count: int = 10) -> dict[str, Any]:
    return {f"user{n}": record(api_keys={"openai": f"{word} {n}"}) for n in range(count)}


def let_the_lease_run_out() -> None:
    with transaction() as session:
        session.execute(update(Run).values(lease_expires_at=None))


def test_an_interrupted_run_goes_on_behind_its_last_batch(
    folder: LegacyFolder, failing_batch: dict[int, BaseException]
) -> None:
    folder.users(accounts("value"))
    failing_batch[3] = PowerFailure()
    with pytest.raises(PowerFailure):
        run(folder)
    interrupted = runs.latest(runs.LEGACY_IMPORT)
    assert interrupted is not None
    assert (interrupted.cursor, interrupted.counts["users_created"]) == (6, 6)
    assert stored()["users"] == 6
    let_the_lease_run_out()
    report = run(folder)
    assert (report.users_created, report.users_existing, report.keys_imported) == (10, 0, 10)
    assert stored()["users"] == stored()["api_key_versions"] == 10
    imported = select(func.count()).where(AuditEvent.event == "account.imported")
    assert db.session.scalar(imported) == 10
    finished = runs.latest(runs.LEGACY_IMPORT)
    assert finished is not None
    assert (finished.id, finished.status, finished.cursor) == (interrupted.id, "finished", 10)


def test_a_run_begins_anew_when_the_files_have_changed_meanwhile(
    folder: LegacyFolder, failing_batch: dict[int, BaseException]
) -> None:
    folder.users(accounts("value"))
    failing_batch[3] = PowerFailure()
    with pytest.raises(PowerFailure):
        run(folder)
    let_the_lease_run_out()
    folder.users(accounts("newer"))
    report = run(folder)
    assert (report.users_created, report.users_existing, report.keys_imported) == (4, 6, 10)
    assert get_user_api_keys("user0")["openai"] == "newer 0"


def test_what_was_rejected_before_an_interruption_is_in_the_report(
    folder: LegacyFolder, failing_batch: dict[int, BaseException]
) -> None:
    bad = {f"bad{n}": record(password_hash="?") for n in range(5)}
    folder.users({**bad, **accounts("value", 6), "USER0": record()})
    failing_batch[3] = PowerFailure()
    with pytest.raises(PowerFailure):
        run(folder)
    let_the_lease_run_out()
    report = run(folder)
    assert (report.users_created, report.records_rejected) == (6, 6)
    assert [entry.name for entry in report.rejected] == [*bad, "USER0"]


def test_a_touched_file_is_the_same_file(
    folder: LegacyFolder, failing_batch: dict[int, BaseException]
) -> None:
    folder.users(accounts("value"))
    failing_batch[3] = PowerFailure()
    with pytest.raises(PowerFailure):
        run(folder)
    let_the_lease_run_out()
    folder.rest()
    report = run(folder)
    assert (report.users_created, report.users_existing) == (10, 0)
    finished = runs.latest(runs.LEGACY_IMPORT)
    assert finished is not None
    assert finished.source == files.stamp(folder.path).text


def test_a_batch_that_fails_fails_the_run_and_the_next_one_begins_anew(
    folder: LegacyFolder, failing_batch: dict[int, BaseException]
) -> None:
    folder.users(accounts("value"))
    failing_batch[2] = ZeroDivisionError("what was divided is secret")
    with pytest.raises(ZeroDivisionError):
        run(folder)
    failed = runs.latest(runs.LEGACY_IMPORT)
    assert failed is not None
    assert (failed.status, failed.cursor) == ("failed", 3)
    assert failed.error == "An unexpected error (ZeroDivisionError); see the log."
    assert stored()["users"] == 3, "the batch that failed was rolled back"
    report = run(folder)
    assert (report.users_created, report.users_existing) == (7, 3)
    assert (report.keys_imported, report.keys_kept) == (7, 3)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)  # SQLite has one writer
def test_an_account_that_somebody_makes_during_its_batch_is_tried_again(
    app: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.users(accounts("value", 3))

    def insert(session: Session, rows: SealedRows) -> None:
        if len(rows.users) == 3:
            with ThreadPoolExecutor(1) as somebody:
                somebody.submit(sign_up).result()
        insert_accounts(session, rows)

    def sign_up() -> None:
        with app.app_context(), transaction() as other:
            other.add(User(username="User1"))

    monkeypatch.setattr(legacy_batches, "insert_accounts", insert)
    report = run(folder)
    assert (report.users_created, report.users_existing, report.keys_imported) == (2, 1, 3)
