"""Mirror mode: what is done here reaches the predecessor's files through the outbox."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.people import browser, code_at, sign_in
from tests.visitor import Visitor
from webapp import create_app
from webapp.clock import now
from webapp.db import db, dispose_engines, transaction
from webapp.legacy import mirror as legacy_files_mirror
from webapp.legacy import replace
from webapp.legacy.keys import VALUE
from webapp.legacy.records import LegacyUser
from webapp.legacy.users_json import open_snapshot
from webapp.models import OutboxEntry, Run
from webapp.services import audit, legacy_lookup, legacy_mirror, legacy_outbox, legacy_status, runs
from webapp.services.accounts import create_account
from webapp.services.consistency import check_consistency
from webapp.services.due_runs import start_due_runs
from webapp.services.keys import (
    InvalidKeyValue,
    delete_user_api_key,
    get_user_api_keys,
    save_user_api_key,
)
from webapp.services.legacy_migration import LegacyFilesUnreadable, migrate_api_keys_from_json_to_db

PASSWORD = "seven quiet lanterns"
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users(
        {
            "Ann": record(
                password_hash=sha256_of("old password"),
                api_keys={"openai": folder.token("from the file"), "slack": folder.token("s")},
                theme="dark",
            ),
            "bob": record(password_hash=sha256_of("old password")),
        }
    )
    folder.second_factors({"bob": {"secret": SECRET, "enabled": True}})
    folder.rest()
    return folder


@pytest.fixture
def app(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path), LEGACY_MODE="mirror"))
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def mirror() -> Run | None:
    """Let the schedule start the mirror, and a worker do it; None when it was not due."""
    start_due_runs()
    run = runs.latest(runs.LEGACY_MIRROR)
    if run is None or run.status != "pending":
        return None
    try:
        legacy_mirror.run_mirror(run.id)
    finally:
        run = runs.latest(runs.LEGACY_MIRROR)
    return run


def there(folder: LegacyFolder, username: str) -> LegacyUser:
    """The account as the predecessor has it."""
    with open_snapshot(folder.path) as snapshot:
        user = snapshot.find(username)
    assert isinstance(user, LegacyUser)
    return user


def raw(folder: LegacyFolder) -> dict[str, Any]:
    users: dict[str, Any] = json.loads((folder.path / "users.json").read_bytes())["users"]
    return users


def notes() -> list[OutboxEntry]:
    db.session.rollback()
    return list(db.session.scalars(select(OutboxEntry).order_by(OutboxEntry.id)))


def imports() -> list[str]:
    """The statuses of the imports so far."""
    return list(db.session.scalars(select(Run.status).where(Run.kind == runs.LEGACY_IMPORT)))


def test_key_saves_reach_the_files(app: Flask, folder: LegacyFolder) -> None:
    save_user_api_key("ann", "openai", "new value here")
    save_user_api_key("ann", "smtp", {"host": "h", "port": "25", "user": "u", "password": "p"})
    delete_user_api_key("ann", "slack")
    assert there(folder, "ann").keys["openai"].parts == {VALUE: "from the file"}
    run = mirror()
    assert run is not None
    assert (run.status, run.counts["fields_written"]) == ("finished", 3)
    ann = there(folder, "ann")
    assert ann.keys["openai"].parts == {VALUE: "new value here"}
    assert ann.keys["smtp"].parts == {"host": "h", "port": "25", "user": "u", "password": "p"}
    assert set(ann.keys) == {"openai", "smtp"}
    assert raw(folder)["Ann"]["theme"] == "dark"
    assert check_consistency().items == []
    assert mirror() is None


def test_a_note_comes_and_goes_with_its_act(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(InvalidKeyValue):
        save_user_api_key("ann", "openai", "***")
    assert notes() == []
    with monkeypatch.context() as patch:
        patch.setattr(audit, "record", fail)
        with pytest.raises(ZeroDivisionError):
            save_user_api_key("ann", "openai", "new value")
    assert notes() == []
    save_user_api_key("ann", "openai", "from the file")  # changes nothing
    assert notes() == []


def test_several_changes_of_one_key_are_one_in_the_file(app: Flask, folder: LegacyFolder) -> None:
    for number in range(3):
        save_user_api_key("ann", "openai", f"value {number}")
    mirror()
    assert there(folder, "ann").keys["openai"].parts == {VALUE: "value 2"}
    assert all(note.applied_at and note.before != note.after for note in notes())


def test_a_signup_works_in_the_predecessor(app: Flask, folder: LegacyFolder) -> None:
    visitor = browser(app)
    form = {
        "name": "Zoe",
        "username": "Zoe",
        "password": PASSWORD,
        "confirm": PASSWORD,
        "request_admin": "1",
        "admin_reason": "on call",
    }
    assert visitor.post_form("/signup", form).status_code == 303
    save_user_api_key("zoe", "openai", "her own key")
    mirror()
    zoe = raw(folder)["Zoe"]
    assert bcrypt.checkpw(PASSWORD.encode(), zoe["password_hash"].encode())
    assert (zoe["name"], zoe["role"], zoe["admin_request"]) == ("Zoe", "user", True)
    assert there(folder, "zoe").keys["openai"].parts == {VALUE: "her own key"}
    assert check_consistency().items == []
    # She goes on there, and what she saves there comes here: it is her account.
    zoe["api_keys"]["slack"] = folder.token("saved there")
    folder.users({**raw(folder), "Zoe": zoe})
    report = migrate_api_keys_from_json_to_db()
    assert report.rejected == ()
    assert get_user_api_keys("zoe")["slack"] == "saved there"


def test_a_namesake_in_the_files_gets_nothing_and_gives_nothing(
    app: Flask, folder: LegacyFolder
) -> None:
    browser(app).post_form(
        "/signup",
        {"name": "Zoe", "username": "zoe", "password": PASSWORD, "confirm": PASSWORD},
    )
    save_user_api_key("zoe", "openai", "of ours")
    theirs = record(api_keys={"slack": folder.token("of theirs")})
    folder.users({**raw(folder), "Zoe": theirs})
    run = mirror()
    assert run is not None
    assert run.counts["fields_left"] == 2
    assert raw(folder)["Zoe"] == theirs
    assert all("another account" in (note.problem or "") for note in notes())
    assert "zoe" in {entry.name.lower() for entry in migrate_api_keys_from_json_to_db().rejected}
    assert set(get_user_api_keys("zoe")) == {"openai"}


def test_an_account_of_an_operator_is_written_with_its_role(
    app: Flask, folder: LegacyFolder
) -> None:
    create_account("root", PASSWORD, is_admin=True)
    mirror()
    assert there(folder, "root").is_admin


def test_a_password_that_bcrypt_cannot_hash_is_said(app: Flask, folder: LegacyFolder) -> None:
    create_account("root", "seven quiet lanterns " * 5)
    run = mirror()
    assert run is not None
    assert run.counts["fields_left"] == 1
    assert "root" not in raw(folder)
    assert "Argon2id" in (notes()[0].problem or "")
    assert mirror() is None  # it is not tried for ever


def test_second_factors_reach_the_files(app: Flask, folder: LegacyFolder) -> None:
    visitor = browser(app)
    sign_in(visitor, "bob", "old password")
    visitor.post_form("/login/verify", {"code": code_at(now(), secret=SECRET)})
    assert visitor.post_form("/account/totp/disable", page="/account").status_code == 303
    mirror()
    assert there(folder, "bob").second_factor is None
    assert check_consistency().items == []


def test_what_is_written_is_not_imported_again(app: Flask, folder: LegacyFolder) -> None:
    assert imports() == ["finished"]
    save_user_api_key("ann", "openai", "new value")
    mirror()
    start_due_runs()
    assert imports() == ["finished"]
    folder.users({**raw(folder), "new": record()})
    run = runs.latest(runs.LEGACY_IMPORT)
    assert run is not None
    with transaction() as session:
        session.get_one(Run, run.id).finished_at = run.created_at - timedelta(minutes=1)
    start_due_runs()
    assert imports() == ["finished", "pending"]


def test_a_rewrite_of_an_old_copy_is_written_again(app: Flask, folder: LegacyFolder) -> None:
    old = (folder.path / "users.json").read_bytes()
    save_user_api_key("ann", "openai", "new value")
    mirror()
    changed = json.loads(old)
    changed["users"]["bob"]["name"] = "Robert"
    folder.raw(json.dumps(changed))
    run = mirror()
    assert run is not None
    assert run.counts["fields_reverted"] == 1
    assert there(folder, "ann").keys["openai"].parts == {VALUE: "new value"}
    assert there(folder, "bob").name == "Robert"
    assert mirror() is None


def test_what_the_predecessor_changed_later_is_kept(app: Flask, folder: LegacyFolder) -> None:
    save_user_api_key("ann", "openai", "new value")
    mirror()
    users = raw(folder)
    users["Ann"]["api_keys"]["openai"] = folder.token("changed there later")
    folder.users(users)
    run = mirror()
    assert run is None or run.counts["fields_reverted"] == 0
    assert there(folder, "ann").keys["openai"].parts == {VALUE: "changed there later"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "users.json").unlink(), "users.json is missing"),
        (lambda path: (path / ".encryption_key").unlink(), ".encryption_key is missing"),
        (lambda path: (path / ".encryption_key").write_text("no key"), ".encryption_key does not"),
    ],
)
def test_while_the_files_cannot_be_written_the_outbox_waits(
    app: Flask, folder: LegacyFolder, spoil: Any, message: str
) -> None:
    everything = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    save_user_api_key("ann", "openai", "new value")
    spoil(folder.path)
    with pytest.raises(LegacyFilesUnreadable, match=message):
        mirror()
    waiting = legacy_status.status().waiting
    assert waiting is not None
    assert waiting.count == 1
    assert waiting.problems[0][0].startswith(message)
    failed = runs.latest(runs.LEGACY_MIRROR)
    assert failed is not None
    assert (failed.status, (failed.error or "").startswith(message)) == ("failed", True)
    for name, content in everything.items():
        (folder.path / name).write_bytes(content)
    legacy_mirror.run_mirror(runs.start(runs.LEGACY_MIRROR).id)
    assert not legacy_outbox.is_waiting()
    assert there(folder, "ann").keys["openai"].parts == {VALUE: "new value"}


def test_a_full_disk_loses_nothing(
    app: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = (folder.path / "users.json").read_bytes()
    save_user_api_key("ann", "openai", "new value")
    with monkeypatch.context() as patch:
        patch.setattr(replace, "_write", full)
        with pytest.raises(LegacyFilesUnreadable, match="the disk is full"):
            mirror()
    assert (folder.path / "users.json").read_bytes() == before
    assert not list(folder.path.glob("*.keystay-*"))
    waiting = legacy_status.status().waiting
    assert waiting is not None
    assert waiting.problems == [("users.json cannot be written: the disk is full.", 1)]
    legacy_mirror.run_mirror(runs.start(runs.LEGACY_MIRROR).id)
    assert there(folder, "ann").keys["openai"].parts == {VALUE: "new value"}


@pytest.mark.parametrize("killed_at", ["sync_folder", "holds"])
def test_killed_behind_the_replacement_the_next_one_settles_it(
    app: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    save_user_api_key("ann", "openai", "new value")
    run = runs.start(runs.LEGACY_MIRROR)
    module = replace if killed_at == "sync_folder" else legacy_files_mirror
    with monkeypatch.context() as patch:
        patch.setattr(module, killed_at, kill)
        with pytest.raises(Killed):
            legacy_mirror.run_mirror(run.id)
    assert there(folder, "ann").keys["openai"].parts == {VALUE: "new value"}
    (note,) = notes()
    assert note.applied_at is None
    with transaction() as session:
        row = session.get_one(Run, run.id)
        row.lease_expires_at = now()
    legacy_mirror.run_mirror(run.id)
    (note,) = notes()
    assert note.applied_at is not None
    assert note.before not in (note.after, "")  # so that a revert is still recognised


def test_what_waits_is_pending_and_no_difference(app: Flask, folder: LegacyFolder) -> None:
    save_user_api_key("ann", "openai", "new value")
    save_user_api_key("ann", "google", "another value")
    delete_user_api_key("ann", "slack")
    create_account("root", PASSWORD)
    report = check_consistency()
    assert (report.items, report.pending) == ([], 4)
    mirror()
    report = check_consistency()
    assert (report.items, report.pending) == ([], 0)


def test_a_check_finds_a_rewrite_of_an_old_copy(app: Flask, folder: LegacyFolder) -> None:
    old = (folder.path / "users.json").read_bytes()
    save_user_api_key("ann", "openai", "new value")
    create_account("root", PASSWORD)
    mirror()
    folder.raw(old)
    report = check_consistency()
    assert (report.items, report.pending) == ([], 2)
    legacy_mirror.run_mirror(runs.start(runs.LEGACY_MIRROR).id)
    assert there(folder, "ann").keys["openai"].parts == {VALUE: "new value"}
    assert "root" in raw(folder)
    assert check_consistency().pending == 0


def test_a_check_keeps_what_the_predecessor_changed_later(app: Flask, folder: LegacyFolder) -> None:
    save_user_api_key("ann", "openai", "new value")
    mirror()
    users = raw(folder)
    users["Ann"]["api_keys"]["openai"] = folder.token("changed there later")
    folder.users(users)
    (item,) = check_consistency().items
    assert (item.kind, item.key_name) == ("key_differs", "openai")


def test_a_key_named_like_a_mail_setting_stays_here(app: Flask, folder: LegacyFolder) -> None:
    save_user_api_key("ann", "smtp_host", "a custom secret")
    save_user_api_key("ann", "openai", "new value")
    run = mirror()
    assert run is not None
    assert (run.counts["fields_written"], run.counts["fields_left"]) == (1, 1)
    assert "mail settings" in (notes()[0].problem or "")
    assert "smtp_host" not in raw(folder)["Ann"]["api_keys"]
    assert get_user_api_keys("ann")["smtp_host"] == "a custom secret"
