"""Repair: one side wins, a difference is looked at again before, and nothing is lost."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.people import TOTP
from webapp import create_app
from webapp.db import db, dispose_engines, transaction
from webapp.legacy.keys import VALUE
from webapp.legacy.records import LegacyUser
from webapp.legacy.users_json import open_snapshot
from webapp.models import ApiKey, ApiKeyVersion, AuditEvent, Discrepancy, OutboxEntry, Run, User
from webapp.services import credentials, legacy_lookup, legacy_mirror, legacy_repair, runs
from webapp.services.accounts import create_account, ensure_user_in_database
from webapp.services.consistency import check_consistency
from webapp.services.keys import delete_user_api_key, get_user_api_keys, save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.legacy_repair import (
    Choice,
    NothingChosen,
    RepairUnderWay,
    preview_repair,
    repair,
    request_repair,
    run_repair,
)
from webapp.services.repair_acts import Winner
from webapp.services.vault import API_KEY, Vault

PASSWORD = "seven quiet lanterns"


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users(accounts(folder))
    return folder


def accounts(folder: LegacyFolder, **more: object) -> dict[str, Any]:
    return {
        "root": record(role="admin"),
        "cy": record(role="admin"),
        "ann": record(api_keys={"openai": folder.token("first"), "slack": folder.token("s")}),
        "bob": record(),
        **more,
    }


@pytest.fixture
def mode() -> str:
    return "mirror"


@pytest.fixture
def app(make_settings: MakeSettings, folder: LegacyFolder, mode: str) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path), LEGACY_MODE=mode))
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def drift(folder: LegacyFolder) -> None:
    """Make every kind of difference that can be repaired, and let a check find it."""
    save_user_api_key("ann", "openai", "of the database")
    save_user_api_key("ann", "github", "only in the database")
    create_account("zoe", PASSWORD)
    with transaction() as session:
        for note in session.scalars(select(OutboxEntry)):
            session.delete(note)
    folder.users(
        accounts(
            folder,
            cy=record(role="user"),
            ann=record(
                api_keys={
                    "openai": folder.token("of the files"),
                    "slack": folder.token("s"),
                    "google": folder.token("only in the files"),
                }
            ),
            bob=record(role="admin", password_hash=sha256_of("changed there")),
            new=record(api_keys={"openai": folder.token("hers")}),
        )
    )
    folder.second_factors({"bob": {"secret": TOTP, "enabled": True}})
    check_consistency()


def kinds() -> dict[str, int]:
    db.session.rollback()
    found = db.session.scalars(select(Discrepancy.kind).where(Discrepancy.closed_at.is_(None)))
    return dict.fromkeys(found, 1)


def versions(username: str, name: str) -> list[str]:
    """Every value that the key ever had."""
    rows = db.session.execute(
        select(User.id, ApiKeyVersion.version, ApiKeyVersion.sealed_value)
        .join(ApiKey, ApiKey.user_id == User.id)
        .join(ApiKeyVersion, ApiKeyVersion.api_key_id == ApiKey.id)
        .where(User.username == username, ApiKey.name == name)
        .order_by(ApiKeyVersion.version)
    ).all()
    return [
        Vault.load(row.id).open(API_KEY, row.sealed_value, name, row.version).decode()[1:]
        for row in rows
    ]


def there(folder: LegacyFolder, username: str) -> LegacyUser:
    with open_snapshot(folder.path) as snapshot:
        user = snapshot.find(username)
    assert isinstance(user, LegacyUser)
    return user


def drain() -> None:
    run = runs.start(runs.LEGACY_MIRROR)
    legacy_mirror.run_mirror(run.id)


def test_the_files_win(app: Flask, folder: LegacyFolder) -> None:
    drift(folder)
    report = repair(Choice(winner="legacy"))
    assert get_user_api_keys("ann")["openai"] == "of the files"
    assert versions("ann", "openai") == ["first", "of the database", "of the files"]
    assert get_user_api_keys("ann")["google"] == "only in the files"
    assert "github" not in get_user_api_keys("ann")
    assert versions("ann", "github") == ["only in the database"]
    assert get_user_api_keys("new")["openai"] == "hers"
    bob = credentials.find("bob")
    assert bob is not None
    assert (bob.is_admin, bob.has_second_factor) == (True, True)
    assert not credentials.check(bob, "changed there").refusal
    assert [(step.kind, step.username) for step in report.steps] == [("only_in_database", "zoe")]
    assert "not deleted" in report.steps[0].says
    assert (report.repaired, report.gone, report.left) == (8, 0, 1)
    assert [item.username for item in check_consistency().items] == ["zoe"]
    events = db.session.scalars(select(AuditEvent).where(AuditEvent.event == "legacy.repaired"))
    assert len(events.all()) == 8


def test_the_database_wins(app: Flask, folder: LegacyFolder) -> None:
    drift(folder)
    report = repair(Choice(winner="database"))
    left = {(step.kind, step.username) for step in report.steps}
    assert left == {("only_in_legacy", "new"), ("password_differs", "bob")}
    drain()
    ann = there(folder, "ann")
    assert ann.keys["openai"].parts == {VALUE: "of the database"}
    assert set(ann.keys) == {"openai", "slack", "github"}
    assert versions("ann", "openai") == [
        "first", "of the database", "of the files", "of the database",
    ]  # fmt: skip
    assert versions("ann", "google") == ["only in the files"]
    assert "google" not in get_user_api_keys("ann")
    assert there(folder, "cy").is_admin
    assert not there(folder, "bob").is_admin
    assert there(folder, "bob").second_factor is None
    assert there(folder, "zoe").name == "zoe"
    assert {(i.kind.value, i.username) for i in check_consistency().items} == left


@pytest.mark.parametrize("mode", ["import"])
def test_without_the_mirror_the_files_are_not_written(app: Flask, folder: LegacyFolder) -> None:
    drift(folder)
    content = (folder.path / "users.json").read_bytes()
    open_before = kinds()
    report = repair(Choice(winner="database"))
    assert report.repaired == 0
    assert all("LEGACY_MODE=mirror" in step.says for step in report.steps)
    assert (folder.path / "users.json").read_bytes() == content
    assert kinds() == open_before
    assert versions("ann", "openai") == ["first", "of the database"]


@pytest.mark.parametrize("winner", ["legacy", "database"])
def test_a_preview_says_what_a_repair_does_and_writes_nothing(
    app: Flask, folder: LegacyFolder, winner: Winner
) -> None:
    drift(folder)
    before = [row.id for row in db.session.scalars(select(AuditEvent))]
    foreseen = preview_repair(Choice(winner=winner))
    steps = foreseen.steps
    assert foreseen.total == len(steps) == 9
    db.session.rollback()
    assert [row.id for row in db.session.scalars(select(AuditEvent))] == before
    report = repair(Choice(winner=winner))
    assert [step for step in steps if not step.possible] == list(report.steps)
    assert report.repaired == sum(step.possible for step in steps)


def test_what_settled_itself_is_only_closed(app: Flask, folder: LegacyFolder) -> None:
    drift(folder)
    save_user_api_key("ann", "openai", "of the files")
    (step,) = preview_repair(Choice(winner="legacy", kinds=["key_differs"])).steps
    assert step.says == "is settled already"
    report = repair(Choice(winner="legacy", kinds=["key_differs"]))
    assert (report.repaired, report.gone, report.left) == (0, 1, 0)
    assert "key_differs" not in kinds()
    assert versions("ann", "openai") == ["first", "of the database", "of the files"]


def test_some_can_be_chosen(app: Flask, folder: LegacyFolder) -> None:
    drift(folder)
    ids = [
        row.id
        for row in db.session.scalars(select(Discrepancy).where(Discrepancy.username == "ann"))
        if row.key_name == "openai"
    ]
    assert repair(Choice(winner="legacy", ids=ids)).repaired == 1
    assert repair(Choice(winner="legacy", username="BOB", kinds=["role_differs"])).repaired == 1
    assert "key_differs" not in kinds()
    assert "password_differs" in kinds()
    with pytest.raises(NothingChosen):
        repair(Choice(winner="legacy", username="nobody"))
    with pytest.raises(NothingChosen):
        preview_repair(Choice(winner="legacy", ids=[]))


def test_the_last_admin_stays_one(app: Flask, folder: LegacyFolder) -> None:
    folder.users(accounts(folder, root=record(role="user"), cy=record(role="user")))
    check_consistency()
    report = repair(Choice(winner="legacy"))
    assert report.repaired == 1
    assert "last admin" in report.steps[0].says


def test_records_that_cannot_be_read_are_left(app: Flask, folder: LegacyFolder) -> None:
    save_user_api_key("ann", "openai", "of the database")
    drain()
    folder.users(accounts(folder, ann=record(password_hash="?"), ROOT=record()))
    check_consistency()
    report = repair(Choice(winner="legacy"))
    assert {step.kind for step in report.steps} == {"rejected_record", "duplicate_username"}
    assert report.left == 2


def test_a_worker_goes_on_where_another_was_killed(
    app: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    drift(folder)
    monkeypatch.setattr(legacy_repair, "BATCH", 2)
    run = request_repair(Choice(winner="legacy"))
    with pytest.raises(RepairUnderWay):
        request_repair(Choice(winner="database"))

    class Killed(BaseException):
        pass

    done = iter(range(100))
    real = legacy_repair._settle

    def settle(*arguments: Any) -> Any:
        if next(done) == 5:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(legacy_repair, "_settle", settle)
        with pytest.raises(Killed):
            run_repair(run.id)
    with transaction() as session:
        session.get_one(Run, run.id).lease_expires_at = None
    run_repair(run.id)
    ended = runs.latest(runs.LEGACY_REPAIR)
    assert ended is not None
    assert (ended.status, ended.counts) == ("finished", {"repaired": 8, "gone": 0, "left": 1})
    assert versions("ann", "openai") == ["first", "of the database", "of the files"]


def test_the_command(app: Flask, folder: LegacyFolder) -> None:
    drift(folder)
    command = app.test_cli_runner()
    foreseen = command.invoke(args=["legacy", "repair", "--winner", "legacy", "--dry-run"])
    assert foreseen.exit_code == 1
    assert "take the role from users.json" in foreseen.output
    done = command.invoke(args=["legacy", "repair", "--winner=legacy", "--user=ann", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output) == {"repaired": 3, "gone": 0, "left": 0, "items": []}
    assert "of the files" not in done.output
    again = command.invoke(args=["legacy", "repair", "--winner=legacy", "--user=ann"])
    assert (again.exit_code, "No open difference" in again.stderr) == (1, True)


def test_deleted_here_comes_back_when_the_files_win(app: Flask, folder: LegacyFolder) -> None:
    delete_user_api_key("ann", "slack")
    drain_nothing = runs.latest(runs.LEGACY_MIRROR)
    assert drain_nothing is None
    with transaction() as session:
        for note in session.scalars(select(OutboxEntry)):
            session.delete(note)
    check_consistency()
    assert repair(Choice(winner="legacy")).repaired == 1
    assert get_user_api_keys("ann")["slack"] == "s"


def test_a_stranger_receives_nothing(app: Flask, folder: LegacyFolder) -> None:
    ensure_user_in_database("eve", "$2b$12$" + "a" * 53)
    with transaction() as session:
        session.scalars(select(User).where(User.username == "eve")).one().self_registered = True
    folder.users(accounts(folder, eve=record(api_keys={"openai": folder.token("of another")})))
    drain()
    check_consistency()
    report = repair(Choice(winner="legacy"))
    assert "openai" not in get_user_api_keys("eve")
    assert report.repaired == 0
