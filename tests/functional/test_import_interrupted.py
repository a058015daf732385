"""An import is whole or not at all: unreadable files, dry runs, and runs that were interrupted."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
from webapp.legacy.records import LegacyUser
from webapp.models import AuditEvent, Run
from webapp.services import legacy_accounts, legacy_migration, runs
from webapp.services.import_report import ImportReport
from webapp.services.keys import get_user_api_keys, save_user_api_key
from webapp.services.legacy_migration import (
    LegacyFilesUnreadable,
    LegacyNotConfigured,
    migrate_api_keys_from_json_to_db,
    preview_import,
)

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


def test_without_a_folder_there_is_nothing_to_import() -> None:
    with pytest.raises(LegacyNotConfigured):
        migrate_api_keys_from_json_to_db()


class PowerFailure(BaseException):
    """The process ends here, whatever it was about to do."""


@pytest.fixture
def failing_batch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches of three accounts; the process ends in the one whose number is put in here."""
    monkeypatch.setattr(legacy_migration, "BATCH", 3)
    fails_at: list[int] = []
    original = legacy_accounts.write
    calls: list[int] = []

    def write(session: Session, users: Sequence[LegacyUser]) -> legacy_accounts.Outcome:
        outcome = original(session, users)
        calls.append(len(users))
        if len(calls) in fails_at:
            raise PowerFailure
        return outcome

    monkeypatch.setattr(legacy_accounts, "write", write)
    return fails_at


def let_the_lease_run_out() -> None:
    with transaction() as session:
        session.execute(update(Run).values(lease_expires_at=None))


def test_an_interrupted_run_goes_on_behind_its_last_batch(
    folder: LegacyFolder, failing_batch: list[int]
) -> None:
    folder.users({f"user{n}": record(api_keys={"openai": f"value {n}"}) for n in range(10)})
    failing_batch.append(3)
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
    folder: LegacyFolder, failing_batch: list[int]
) -> None:
    folder.users({f"user{n}": record(api_keys={"openai": f"value {n}"}) for n in range(10)})
    failing_batch.append(3)
    with pytest.raises(PowerFailure):
        run(folder)
    let_the_lease_run_out()
    folder.users({f"user{n}": record(api_keys={"openai": f"newer {n}"}) for n in range(10)})
    report = run(folder)
    assert (report.users_created, report.users_existing, report.keys_imported) == (4, 6, 10)
    assert get_user_api_keys("user0")["openai"] == "newer 0"
