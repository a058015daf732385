"""The cut-over: only when both sides agree, nothing lost, nothing read or written afterwards."""

import json
import stat
from collections.abc import Callable, Iterator
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
from webapp.legacy import replace, retire
from webapp.legacy.files import LegacyUnreadable
from webapp.models import AuditEvent, OutboxEntry, Run, User
from webapp.services import (
    credentials,
    legacy_archive,
    legacy_cutover,
    legacy_lookup,
    legacy_mirror,
    legacy_mode,
    legacy_status,
    runs,
)
from webapp.services.accounts import create_account
from webapp.services.consistency import check_consistency
from webapp.services.due_runs import start_due_runs
from webapp.services.keys import get_user_api_keys, save_user_api_key
from webapp.services.legacy_cutover import (
    ArchiveDoesNotOpen,
    ChangesWait,
    SidesDiffer,
    cut_over,
    request_cutover,
    run_cutover,
    unseal,
)
from webapp.services.legacy_migration import (
    LegacyFilesUnreadable,
    LegacyNotConfigured,
    migrate_api_keys_from_json_to_db,
)

PASSWORD = "seven quiet lanterns"


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users(
        {
            "ann": record(
                password_hash=sha256_of("old password"),
                api_keys={"openai": folder.token("a key of ann")},
                theme="dark",
            ),
            "bob": record(),
        }
    )
    folder.second_factors({})
    folder.rest()
    return folder


@pytest.fixture
def app(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path), LEGACY_MODE="mirror"))
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def drain() -> None:
    legacy_mirror.run_mirror(runs.start(runs.LEGACY_MIRROR).id)


def test_the_files_are_sealed_and_their_hashes_taken_out(
    app: Flask, folder: LegacyFolder, tmp_path: Path
) -> None:
    before = contents(folder.path)
    report = cut_over()
    assert (report.hashes_removed, report.accepted) == (2, {})
    archive = folder.path / report.archive
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert b"a key of ann" not in archive.read_bytes()
    users = (folder.path / "users.json").read_bytes()
    assert b"password_hash" not in users
    assert json.loads(users)["users"]["ann"]["theme"] == "dark"
    assert set(unseal(archive, tmp_path / "unsealed")) == set(before)
    assert contents(tmp_path / "unsealed") == before
    assert credentials.find("ann") is not None
    assert get_user_api_keys("ann")["openai"] == "a key of ann"


def test_from_then_on_the_files_are_neither_read_nor_written(
    app: Flask, folder: LegacyFolder
) -> None:
    create_account("zoe", PASSWORD)
    drain()
    cut_over()
    assert not legacy_mode.is_on()
    with pytest.raises(LegacyNotConfigured):
        migrate_api_keys_from_json_to_db()
    with pytest.raises(LegacyNotConfigured):
        check_consistency()
    known = [run.id for run in db.session.scalars(select(Run))]
    folder.users({"new": record(password_hash=sha256_of("old password"))})
    start_due_runs()
    assert [run.id for run in db.session.scalars(select(Run))] == known
    assert credentials.find("new") is None
    notes = len(db.session.scalars(select(OutboxEntry)).all())
    save_user_api_key("ann", "openai", "saved later")
    create_account("new", PASSWORD)
    assert len(db.session.scalars(select(OutboxEntry)).all()) == notes
    assert legacy_status.status().mode == "off"
    assert legacy_status.status().problems == []
    kept = db.session.execute(select(User.legacy_hash, User.legacy_password)).all()
    assert {value for row in kept for value in row} == {None}
    events = db.session.scalars(select(AuditEvent.event)).all()
    assert events.count("legacy.cut_over") == 1


def test_another_folder_counts_again(
    app: Flask, folder: LegacyFolder, make_settings: MakeSettings, tmp_path: Path
) -> None:
    cut_over()
    other = LegacyFolder(tmp_path / "exported")
    again = create_app(make_settings(LEGACY_DIR=str(other.path)))
    with again.app_context():
        assert legacy_mode.is_on()
    dispose_engines(again)


def test_what_differs_is_listed_and_has_to_be_accepted_by_name(
    app: Flask, folder: LegacyFolder
) -> None:
    users = json.loads((folder.path / "users.json").read_text())["users"]
    folder.users({**users, "bad": record(password_hash="?"), "BOB": record()})
    before = contents(folder.path)
    with pytest.raises(SidesDiffer, match=r"duplicate_username 1, rejected_record 1"):
        cut_over()
    with pytest.raises(SidesDiffer, match=r"differ: rejected_record 1\."):
        cut_over(["duplicate_username"])
    assert {n: c for n, c in contents(folder.path).items() if n != ".keystay.lock"} == before
    assert legacy_mode.is_on()
    report = cut_over(["duplicate_username", "rejected_record"])
    assert report.accepted == {"duplicate_username": 1, "rejected_record": 1}
    run = runs.latest(runs.LEGACY_CUTOVER)
    assert run is not None
    assert run.report["accepted"] == {"duplicate_username": 1, "rejected_record": 1}


def test_what_was_not_imported_yet_is_imported_first(app: Flask, folder: LegacyFolder) -> None:
    users = json.loads((folder.path / "users.json").read_text())["users"]
    folder.users({**users, "late": record(api_keys={"openai": folder.token("the last one")})})
    cut_over()
    assert get_user_api_keys("late")["openai"] == "the last one"


def test_changes_that_wait_come_first(app: Flask, folder: LegacyFolder) -> None:
    save_user_api_key("ann", "openai", "new value")
    with pytest.raises(ChangesWait):
        cut_over()
    drain()
    cut_over()


@pytest.mark.parametrize("content", ['{"users": {"ann"', "", "[]"])
def test_files_that_cannot_be_read_end_it(app: Flask, folder: LegacyFolder, content: str) -> None:
    folder.raw(content)
    folder.rest()
    with pytest.raises(LegacyFilesUnreadable, match=r"users\.json"):
        cut_over()
    assert (folder.path / "users.json").read_text() == content
    assert legacy_mode.is_on()
    assert not list(folder.path.glob("keystay-archive*"))


def test_a_predecessor_that_still_writes_ends_it(
    app: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = legacy_archive._compare

    def compare(*arguments: Any) -> None:
        folder.users({"late": record()})
        real(*arguments)

    monkeypatch.setattr(legacy_archive, "_compare", compare)
    with pytest.raises(LegacyFilesUnreadable, match="changed meanwhile"):
        cut_over()
    assert legacy_mode.is_on()
    assert not list(folder.path.glob("*keystay-archive*"))


@pytest.mark.parametrize("killed_at", ["_write", "sync_folder"])
def test_killed_while_the_hashes_are_taken_out_the_next_one_goes_on(
    app: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch, killed_at: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    before = contents(folder.path)
    run = request_cutover()
    with monkeypatch.context() as patch:
        patch.setattr(replace, killed_at, kill)
        with pytest.raises(Killed):
            run_cutover(run.id)
    start_due_runs()  # nothing starts in between, whatever the files look like
    assert runs.unfinished(runs.LEGACY_IMPORT) is None
    with transaction() as session:
        session.get_one(Run, run.id).lease_expires_at = None
    run_cutover(run.id)
    assert not legacy_mode.is_on()
    assert b"password_hash" not in (folder.path / "users.json").read_bytes()
    (archive,) = folder.path.glob("keystay-archive*")
    unseal(archive, tmp_path / "unsealed")
    assert contents(tmp_path / "unsealed") == before


def test_a_write_behind_the_sealing_ends_it(
    app: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = retire.remove_hashes

    for write in (
        lambda: folder.second_factors({"ann": {"secret": TOTP, "enabled": True}}),
        lambda: folder.users({"late": record(), "ann": record(), "bob": record()}),
    ):

        def remove(*arguments: Any, write: Callable[[], None] = write) -> int:
            write()
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(retire, "remove_hashes", remove)
            with pytest.raises(LegacyFilesUnreadable, match="after it was sealed"):
                cut_over()
        assert legacy_mode.is_on()
    cut_over(["key_only_in_database", "password_differs"])
    assert credentials.find("late") is not None


def test_one_that_failed_behind_the_removal_is_finished_by_the_next(
    app: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = contents(folder.path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(legacy_cutover, "_forget_hashes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cut_over()
    failed = runs.latest(runs.LEGACY_CUTOVER)
    assert failed is not None
    assert failed.status == "failed"
    report = cut_over()
    assert not legacy_mode.is_on()
    unseal(folder.path / report.archive, tmp_path / "unsealed")
    assert contents(tmp_path / "unsealed") == before


def test_files_that_were_moved_away_end_it(
    app: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object) -> None:
        folder.users({"late": record()})
        raise LegacyUnreadable("users.json", "was written")

    with monkeypatch.context() as patch:
        patch.setattr(retire, "remove_hashes", late)
        with pytest.raises(LegacyFilesUnreadable):
            cut_over()
    (folder.path / "users.json").rename(folder.path / "users.json.bak")
    with pytest.raises(LegacyFilesUnreadable, match="is missing"):
        cut_over()
    assert legacy_mode.is_on()


def test_the_commands(app: Flask, folder: LegacyFolder, tmp_path: Path) -> None:
    command = app.test_cli_runner()
    users = json.loads((folder.path / "users.json").read_text())["users"]
    folder.users({**users, "bad": record(password_hash="?")})
    refused = command.invoke(args=["legacy", "cutover"])
    assert (refused.exit_code, "rejected_record 1" in refused.stderr) == (1, True)
    done = command.invoke(args=["legacy", "cutover", "--accept", "rejected_record", "--json"])
    assert done.exit_code == 0
    archive = folder.path / json.loads(done.output)["archive"]
    out = tmp_path / "out"
    opened = command.invoke(args=["legacy", "unseal", str(archive), "--dir", str(out)])
    assert opened.exit_code == 0
    assert (out / ".encryption_key").read_text() == folder.key
    again = command.invoke(args=["legacy", "unseal", str(archive), "--dir", str(out)])
    assert (again.exit_code, "not empty" in again.stderr) == (1, True)
    torn = tmp_path / "torn"
    torn.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(ArchiveDoesNotOpen):
        unseal(torn, tmp_path / "nothing")
    gone = command.invoke(args=["legacy", "cutover"])
    assert (gone.exit_code, "cut over" in gone.stderr) == (1, True)
