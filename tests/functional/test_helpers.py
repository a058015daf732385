"""Import and check spread over processes: what comes out is what comes out of one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography.fernet import Fernet
from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record
from tests.people import TOTP
from webapp import create_app, parallel
from webapp.db import db, dispose_engines
from webapp.models import Discrepancy
from webapp.services import consistency, legacy_lookup, legacy_mode, runs, stored_accounts
from webapp.services.consistency import CheckReport, check_consistency
from webapp.services.keys import save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db

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


def stored() -> list[tuple[str, str, str, bool]]:
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
        found.append((report, stored()))
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
    assert len(forks) == 2
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
def test_few_accounts_are_worth_no_helper(forks: list[int]) -> None:
    migrate_api_keys_from_json_to_db()
    check_consistency()
    assert forks == []
