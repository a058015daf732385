"""Import and check spread over processes: what comes out is what comes out of one."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.fernet import Fernet
from flask import Flask
from sqlalchemy import delete, select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record
from tests.people import TOTP
from webapp import clock, create_app, parallel
from webapp.clock import now
from webapp.db import Base, db, dispose_engines, transaction
from webapp.legacy.records import LegacyUser
from webapp.models import AuditEvent, Discrepancy, User
from webapp.services import (
    consistency,
    legacy_batches,
    legacy_lookup,
    legacy_migration,
    legacy_mode,
    runs,
    stored_accounts,
)
from webapp.services.consistency import CheckReport, check_consistency
from webapp.services.keys import save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.legacy_rows import SealedRows, seal_accounts
from webapp.services.runs import Lease
from webapp.services.stored_accounts import StoredRows

OTHER_KEY = Fernet.generate_key().decode()
USERS = 25


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    write(folder)
    return folder


@pytest.fixture(params=["import", "mirror"])
def app(
    make_settings: MakeSettings, folder: LegacyFolder, request: pytest.FixtureRequest
) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path), LEGACY_MODE=request.param))
    with app.app_context():
        yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


@pytest.fixture(autouse=True)
def forks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches of three accounts; the processes that were forked."""
    monkeypatch.setattr(consistency, "BATCH", 3)
    monkeypatch.setattr(legacy_migration, "BATCH", 3)
    forked: list[int] = []
    fork = os.fork

    def noted() -> int:
        pid = fork()
        forked.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", noted)
    return forked


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two, however many accounts and cores there are."""
    use(monkeypatch, 2)


def use(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(parallel, "helpers_for", lambda _: number)


def write(folder: LegacyFolder, **more: object) -> None:
    many = {
        f"user{number}": record(
            api_keys={"openai": folder.token(f"value {number}"), "smtp_host": "mail"}
        )
        for number in range(USERS)
    }
    folder.users(many | more)
    folder.second_factors({"user3": {"secret": TOTP, "enabled": True}})


def let_them_differ(folder: LegacyFolder) -> None:
    """Of everything a little, and in the mirror's mode something that waits."""
    write(
        folder,
        user1=record(role="admin"),
        user4=record(password_hash="?"),
        USER5=record(),
        user7=record(api_keys={"openai": folder.token("x", OTHER_KEY), "smtp_host": "mail"}),
        new=record(),
    )
    save_user_api_key("user9", "openai", "changed here")
    folder.second_factors({})


def accounts() -> dict[str, object]:
    """Everything that users have, values opened, without what differs each time."""
    db.session.rollback()
    users = db.session.scalars(select(User).order_by(User.id)).all()
    events = db.session.execute(select(AuditEvent.event, AuditEvent.subject_id)).all()
    found: dict[str, object] = {}
    for user in users:
        loaded = stored_accounts.load(db.session(), [user.username_folded])[user.username_folded]
        columns = (user.username, user.name, user.is_admin, user.api_permissions, user.created_at)
        origin = (user.import_run_id is None, user.legacy_password is None, user.totp_enabled_at)
        keys = {name: (key.payload, key.is_as_imported) for name, key in loaded.keys.items()}
        about = sorted(event.event for event in events if event.subject_id == user.id)
        found[user.username] = (*columns, *origin, loaded.second_factor, keys, about)
    db.session.rollback()
    return found


def differences() -> list[tuple[str, str, str, bool]]:
    db.session.rollback()
    rows = db.session.execute(
        select(
            Discrepancy.kind, Discrepancy.username, Discrepancy.key_name, Discrepancy.closed_at
        ).order_by(Discrepancy.id)
    )
    return [(row.kind, row.username, row.key_name, row.closed_at is None) for row in rows]


@pytest.mark.usefixtures("app")
def test_a_check_by_helpers_finds_what_one_without_finds(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch, forks: list[int]
) -> None:
    migrate_api_keys_from_json_to_db()
    let_them_differ(folder)
    found: list[tuple[CheckReport, object]] = []
    for number in (0, 2):
        use(monkeypatch, number)
        report = check_consistency()
        found.append((report, differences()))
    assert len(forks) == 2
    assert found[0] == found[1]
    assert found[0][0].equal == USERS - 5
    assert found[0][0].pending == (1 if legacy_mode.is_mirrored() else 0)
    assert not any(map(psutil.pid_exists, forks))


@pytest.mark.usefixtures("app", "helpers")
def test_a_check_whose_helper_is_killed_comes_to_its_end(
    monkeypatch: pytest.MonkeyPatch, forks: list[int]
) -> None:
    migrate_api_keys_from_json_to_db()
    here, opened = os.getpid(), stored_accounts.opened

    def die(*arguments: object) -> object:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return opened(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stored_accounts, "opened", die)
    report = check_consistency()
    assert (report.equal, report.items) == (USERS, [])
    assert len(forks) == 4
    assert not any(map(psutil.pid_exists, forks))


@pytest.mark.usefixtures("app", "helpers")
def test_an_error_in_a_helper_is_the_runs(
    monkeypatch: pytest.MonkeyPatch, forks: list[int]
) -> None:
    migrate_api_keys_from_json_to_db()

    def fail(*_: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(stored_accounts, "opened", fail)
    with pytest.raises(ZeroDivisionError):
        check_consistency()
    failed = runs.latest(runs.CONSISTENCY_CHECK)
    assert failed is not None
    assert failed.error == "An unexpected error (ZeroDivisionError); see the log."
    assert not any(map(psutil.pid_exists, forks))


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("times", [1, 2, 3])
def test_an_import_by_helpers_does_what_one_without_does(
    folder: LegacyFolder, forks: list[int], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    done = []
    with clock.frozen(now()):
        for number in (0, 2):
            use(monkeypatch, number)
            forget_everything()
            write(folder)
            reports = [migrate_api_keys_from_json_to_db()]
            if times > 1:
                let_them_differ(folder)
            reports += [migrate_api_keys_from_json_to_db() for _ in range(times - 1)]
            done.append((reports, accounts()))
    assert len(forks) == 2 * times
    assert done[0] == done[1]
    assert done[0][0][0].users_created == USERS


def forget_everything() -> None:
    with transaction() as session:
        for table in reversed(Base.metadata.sorted_tables):
            if table.name != "keyring_checks":
                session.execute(delete(table))


@pytest.mark.usefixtures("app", "helpers")
def test_an_import_whose_helper_is_killed_comes_to_its_end(
    monkeypatch: pytest.MonkeyPatch, forks: list[int]
) -> None:
    here, seal = os.getpid(), seal_accounts

    def die(users: Sequence[LegacyUser], *arguments: Any) -> SealedRows:
        if os.getpid() != here and users[0].username > "user2":
            os.kill(os.getpid(), signal.SIGKILL)
        return seal(users, *arguments)

    monkeypatch.setattr(legacy_batches, "seal_accounts", die)
    report = migrate_api_keys_from_json_to_db()
    assert (report.users_created, report.users_existing) == (USERS, 0)
    assert len(forks) == 2
    assert not any(map(psutil.pid_exists, forks))
    use(monkeypatch, 0)
    assert check_consistency().equal == USERS


@pytest.mark.usefixtures("app", "helpers")
def test_who_signs_up_between_reading_and_writing_keeps_name_and_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On SQLite each of them takes the id that the next batch was sealed for."""
    names = iter(["new1", "USER9", "new2", "new3", "user20", "new4"])
    renew, read, is_reading = Lease.renew, stored_accounts.read, threading.Event()

    def noted(*arguments: Any) -> StoredRows:
        is_reading.set()
        return read(*arguments)

    def sign_up_and_renew(lease: Lease) -> None:
        if is_reading.is_set() and (name := next(names, None)):
            with transaction() as session:
                session.add(User(username=name, self_registered=True))
        renew(lease)

    monkeypatch.setattr(stored_accounts, "read", noted)
    monkeypatch.setattr(Lease, "renew", sign_up_and_renew)
    report = migrate_api_keys_from_json_to_db()
    monkeypatch.undo()
    assert (report.users_created, report.users_existing) == (USERS - 2, 0)
    assert [entry.name for entry in report.rejected] == ["user9", "user20"]
    found = check_consistency()
    assert found.equal == USERS - 2


@pytest.mark.usefixtures("app")
def test_few_accounts_are_worth_no_helper(forks: list[int]) -> None:
    migrate_api_keys_from_json_to_db()
    check_consistency()
    assert forks == []
