"""Mirror mode, when both sides change the same account before either has heard of the other."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record, sha256_of
from webapp import create_app
from webapp.clock import now
from webapp.db import db, dispose_engines, transaction
from webapp.legacy import replace
from webapp.models import ApiKey, ApiKeyVersion, OutboxEntry, Run, User
from webapp.private_files import sync_folder
from webapp.services import legacy_lookup, legacy_mirror, legacy_outbox, runs
from webapp.services.accounts import create_account
from webapp.services.consistency import check_consistency
from webapp.services.due_runs import start_due_runs
from webapp.services.keys import delete_user_api_key, get_user_api_keys, save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.legacy_mirror import FilesEnd
from webapp.services.vault import API_KEY, Vault

PASSWORD = "seven quiet lanterns"
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users({"ann": record(api_keys={"openai": folder.token("first")})})
    folder.rest()
    return folder


@pytest.fixture(autouse=True)
def app(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path), LEGACY_MODE="mirror"))
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def mirror() -> None:
    legacy_mirror.run_mirror(runs.start(runs.LEGACY_MIRROR).id)


def raw(folder: LegacyFolder) -> dict[str, Any]:
    users: dict[str, Any] = json.loads((folder.path / "users.json").read_bytes())["users"]
    return users


def saved_there(folder: LegacyFolder, **keys: str) -> None:
    users = raw(folder)
    users["ann"]["api_keys"] |= {name: folder.token(value) for name, value in keys.items()}
    folder.users(users)


def versions(name: str) -> list[str]:
    """Every value that the key of ann ever had."""
    db.session.rollback()
    rows = db.session.execute(
        select(ApiKey.user_id, ApiKeyVersion.version, ApiKeyVersion.sealed_value)
        .join(ApiKeyVersion, ApiKeyVersion.api_key_id == ApiKey.id)
        .where(ApiKey.name == name)
        .order_by(ApiKeyVersion.version)
    ).all()
    return [
        Vault.load(row.user_id).open(API_KEY, row.sealed_value, name, row.version).decode()[1:]
        for row in rows
    ]


def differing() -> set[tuple[str, str]]:
    return {(item.kind.value, item.username) for item in check_consistency().items}


def test_a_value_that_is_overwritten_before_it_was_imported_is_kept(folder: LegacyFolder) -> None:
    save_user_api_key("ann", "openai", "of ours")
    saved_there(folder, openai="of theirs")
    mirror()
    assert get_user_api_keys("ann")["openai"] == "of ours"
    assert versions("openai") == ["first", "of ours", "of theirs", "of ours"]
    assert check_consistency().items == []
    saved_there(folder, openai="of theirs")  # an old copy
    mirror()
    assert versions("openai") == ["first", "of ours", "of theirs", "of ours"]


def test_a_value_that_is_removed_before_it_was_imported_is_in_the_trash(
    folder: LegacyFolder,
) -> None:
    delete_user_api_key("ann", "openai")
    saved_there(folder, openai="of theirs")
    mirror()
    assert raw(folder)["ann"]["api_keys"] == {}
    assert "openai" not in get_user_api_keys("ann")
    assert versions("openai") == ["first", "of theirs"]
    assert check_consistency().items == []


def test_who_signed_up_there_meanwhile_keeps_password_and_second_factor(
    folder: LegacyFolder,
) -> None:
    create_account("zoe", PASSWORD)
    save_user_api_key("zoe", "openai", "of ours")
    theirs = record(password_hash=sha256_of("chosen there"), role="admin")
    folder.users({**raw(folder), "zoe": theirs})
    factors = {"zoe": {"secret": SECRET, "enabled": True}}
    folder.second_factors(factors)
    mirror()
    zoe = raw(folder)["zoe"]
    assert (zoe["password_hash"], zoe["role"]) == (theirs["password_hash"], "admin")
    assert set(zoe["api_keys"]) == {"openai"}
    assert json.loads((folder.path / "two_fa.json").read_bytes()) == factors
    assert differing() == {
        ("password_differs", "zoe"),
        ("role_differs", "zoe"),
        ("second_factor_differs", "zoe"),
    }


def test_a_password_that_was_changed_there_since_a_worker_died_stays(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    create_account("zoe", PASSWORD)
    with monkeypatch.context() as patch:
        patch.setattr(replace, "sync_folder", kill)
        with pytest.raises(Killed):
            mirror()
    users = raw(folder)
    users["zoe"]["password_hash"] = sha256_of("changed there")
    folder.users(users)
    with transaction() as session:
        run = session.scalars(select(Run).where(Run.kind == runs.LEGACY_MIRROR)).one()
        run.lease_expires_at = now()
    mirror()
    assert not legacy_outbox.is_waiting()
    assert raw(folder)["zoe"]["password_hash"] == sha256_of("changed there")
    assert differing() == {("password_differs", "zoe")}


def test_what_an_old_copy_left_of_an_account_does_not_keep_an_act_back(
    folder: LegacyFolder,
) -> None:
    user = create_account("zoe", PASSWORD)
    with transaction() as session:
        legacy_outbox.note(session, user.id, "second_factor")
    folder.second_factors({"zoe": {"secret": SECRET, "enabled": True, "since": "2020"}})
    mirror()
    factors = json.loads((folder.path / "two_fa.json").read_bytes())
    assert factors == {"zoe": {"enabled": False, "since": "2020"}}
    assert check_consistency().items == []


def test_changes_of_one_key_that_lie_far_apart_are_settled_together(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy_mirror, "BATCH", 1)
    old = (folder.path / "users.json").read_bytes()
    for value in ("of ours", "newer", "newest"):
        save_user_api_key("ann", "openai", value)
    mirror()
    folder.raw(old)
    report = check_consistency()
    assert (report.items, report.pending) == ([], 1)
    mirror()
    assert check_consistency().items == []
    assert get_user_api_keys("ann")["openai"] == "newest"


def test_what_is_written_beside_a_replacement_is_imported(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = sync_folder

    def flush_and_write(path: Path) -> None:
        flush(path)
        folder.second_factors({"ann": {"secret": SECRET, "enabled": True}})

    save_user_api_key("ann", "openai", "of ours")
    with monkeypatch.context() as patch:
        patch.setattr(replace, "sync_folder", flush_and_write)
        mirror()
    with transaction() as session:
        for run in session.scalars(select(Run).where(Run.kind == runs.LEGACY_IMPORT)):
            run.finished_at = run.created_at - timedelta(minutes=1)
    start_due_runs()
    assert runs.unfinished(runs.LEGACY_IMPORT) is not None


def test_an_account_that_is_equal_is_known_to_be(folder: LegacyFolder) -> None:
    create_account("zoe", PASSWORD)
    mirror()
    query = select(User.legacy_password).where(User.username == "zoe")
    assert db.session.scalar(query)
    assert [note.problem for note in db.session.scalars(select(OutboxEntry))] == [None]


def test_nothing_is_written_while_a_cut_over_is_under_way(folder: LegacyFolder) -> None:
    save_user_api_key("ann", "openai", "new value")
    run = runs.start(runs.LEGACY_MIRROR)
    runs.start(runs.LEGACY_CUTOVER)
    text = (folder.path / "users.json").read_bytes()
    with pytest.raises(FilesEnd):
        legacy_mirror.run_mirror(run.id)
    assert (folder.path / "users.json").read_bytes() == text
    assert legacy_outbox.is_waiting()


def test_in_import_mode_nothing_is_noted(make_settings: MakeSettings, folder: LegacyFolder) -> None:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path)))
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        save_user_api_key("ann", "openai", "new value")
        create_account("root", PASSWORD)
        assert db.session.scalars(select(OutboxEntry)).all() == []
        assert db.session.scalar(select(User.legacy_hash).where(User.username == "root")) is None
        start_due_runs()
        assert runs.latest(runs.LEGACY_MIRROR) is None
    legacy_lookup.forget(app)
    dispose_engines(app)
