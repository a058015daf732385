"""Going back: files that the predecessor, and a later import, can start from."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from flask import Flask

from tests.conftest import MakeSettings
from tests.legacy_folder import SAMPLE, LegacyFolder, record, sha256_of
from tests.people import TOTP
from webapp import create_app
from webapp.clock import now
from webapp.db import db, dispose_engines, transaction
from webapp.legacy.records import LegacyUser
from webapp.legacy.users_json import open_snapshot
from webapp.models import User
from webapp.services import admin, legacy_lookup
from webapp.services.accounts import create_account, find_user
from webapp.services.keys import delete_user_api_key, save_user_api_key
from webapp.services.legacy_export import (
    FolderInUse,
    FolderNotWritable,
    SecondFactorLocked,
    export_legacy,
)
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.vault import TOTP_SECRET, Vault

PASSWORD = "seven quiet lanterns"


@pytest.fixture
def app(make_settings: MakeSettings) -> Iterator[Flask]:
    app = create_app(make_settings())
    with app.app_context():
        yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def read(folder: Path) -> dict[str, LegacyUser]:
    with open_snapshot(folder) as snapshot:
        accounts = {account.username: account.user for account in snapshot.accounts()}
    assert all(isinstance(user, LegacyUser) for user in accounts.values())
    return accounts  # type: ignore[return-value]


def what_counts(user: LegacyUser) -> tuple[object, ...]:
    return (
        user.name, user.email, user.password_hash, user.is_admin, user.admin_request, user.reason,
        user.created_at, user.last_login, user.api_permissions,
        user.second_factor if user.second_factor and user.second_factor.enabled else None,
        {name: key for name, key in user.keys.items() if not key.is_locked},
    )  # fmt: skip


def test_what_was_imported_comes_out_again(app: Flask, tmp_path: Path) -> None:
    migrate_api_keys_from_json_to_db(SAMPLE)
    report = export_legacy(tmp_path / "back")
    before, after = read(SAMPLE), read(tmp_path / "back")
    assert list(after) == list(before)
    for name, user in before.items():
        assert what_counts(after[name]) == what_counts(user), name
    assert report.users == 6
    assert report.keys_locked == [("emre", "google")]
    assert report.without_password == []


def test_a_later_import_finds_the_same(make_settings: MakeSettings, tmp_path: Path) -> None:
    app = create_app(make_settings())
    with app.app_context():
        migrate_api_keys_from_json_to_db(SAMPLE)
        create_account("zoe", PASSWORD)
        export_legacy(tmp_path / "back")
        report = migrate_api_keys_from_json_to_db(tmp_path / "back")
        assert (report.users_created, report.users_existing, report.rejected) == (0, 7, ())
        assert report.keys_imported == 0
    dispose_engines(app)


def test_who_has_no_password_there_is_named(app: Flask, tmp_path: Path) -> None:
    legacy = LegacyFolder(tmp_path / "legacy")
    legacy.users({"ann": record(), "bob": record(password_hash=sha256_of("b"))})
    migrate_api_keys_from_json_to_db(legacy.path)
    create_account("zoe", PASSWORD)
    create_account("root", PASSWORD, is_admin=True)
    admin.disable_account("bob")
    report = export_legacy(tmp_path / "back")
    assert [name for name, _ in report.without_password] == ["bob", "zoe", "root"]
    users = read(tmp_path / "back")
    assert users["bob"].password_hash != sha256_of("b")
    assert users["ann"].password_hash == record()["password_hash"]
    note = (tmp_path / "back" / "read-me-first.txt").read_text()
    assert "zoe: only an Argon2id hash is left" in note


def test_keys_are_written_as_they_are_now(app: Flask, tmp_path: Path) -> None:
    create_account("zoe", PASSWORD)
    save_user_api_key("zoe", "openai", "first")
    save_user_api_key("zoe", "openai", "second")
    save_user_api_key("zoe", "my-own", "umlauts ä and 'quotes'\nin two lines")
    save_user_api_key("zoe", "smtp", {"host": "h", "port": "25", "user": "u", "password": "p"})
    save_user_api_key("zoe", "slack", "gone")
    delete_user_api_key("zoe", "slack")
    export_legacy(tmp_path / "back")
    raw = json.loads((tmp_path / "back" / "users.json").read_text())["users"]["zoe"]["api_keys"]
    fernet = Fernet((tmp_path / "back" / ".encryption_key").read_text())
    assert fernet.decrypt(raw["openai"]) == b"second"
    assert fernet.decrypt(raw["my-own"]).decode() == "umlauts ä and 'quotes'\nin two lines"
    assert (raw["smtp_host"], fernet.decrypt(raw["smtp_pass"])) == ("h", b"p")
    assert "slack" not in raw


def test_files_are_private_and_never_overwrite(app: Flask, tmp_path: Path) -> None:
    create_account("zoe", PASSWORD)
    folder = tmp_path / "new" / "back"
    export_legacy(folder)
    names = {".encryption_key", "read-me-first.txt", "two_fa.json", "users.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FolderInUse):
        export_legacy(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    with pytest.raises(FolderNotWritable):
        export_legacy(Path("/dev/null/back"))


def test_without_users_it_is_empty_and_valid(app: Flask, tmp_path: Path) -> None:
    export_legacy(tmp_path / "back")
    assert read(tmp_path / "back") == {}


def test_an_account_is_not_written_without_its_second_factor(app: Flask, tmp_path: Path) -> None:
    create_account("zoe", PASSWORD)
    zoe = find_user("zoe")
    assert zoe is not None
    with transaction() as session:
        sealed = Vault.load_for_sealing(zoe.id).seal(TOTP_SECRET, TOTP.encode())
        row = session.get_one(User, zoe.id)
        row.totp_secret, row.totp_enabled_at = sealed[:-4] + "AAAA", now()
    db.session.rollback()
    with pytest.raises(SecondFactorLocked, match="zoe"):
        export_legacy(tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


def test_the_command(app: Flask, tmp_path: Path) -> None:
    create_account("zoe", PASSWORD)
    command = app.test_cli_runner()
    done = command.invoke(args=["legacy", "export", "--dir", str(tmp_path / "back"), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output) == {
        "users": 1,
        "keys": 0,
        "second_factors": 0,
        "without_password": [{"username": "zoe", "reason": "only an Argon2id hash is left"}],
        "keys_locked": [],
    }
    again = command.invoke(args=["legacy", "export", "--dir", str(tmp_path / "back")])
    assert (again.exit_code, "is not empty" in again.stderr) == (1, True)
