"""People whom the import has not reached yet: they sign in and read their keys from the files."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.people import add_person, browser, code_at, events, is_signed_in, sign_in
from tests.visitor import Visitor
from webapp import create_app
from webapp.clock import now
from webapp.db import db, dispose_engines
from webapp.legacy.records import LegacyUser
from webapp.legacy.users_json import Snapshot
from webapp.models import User
from webapp.services import legacy_accounts, legacy_lookup
from webapp.services.accounts import ensure_user_in_database
from webapp.services.keys import (
    UnknownUser,
    delete_user_api_key,
    get_user_api_keys,
    save_user_api_key,
)
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db, preview_import
from webapp.services.legacy_rows import create_accounts
from webapp.services.legacy_sources import open_sources

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
NEW_PASSWORD = "seven quiet lanterns"


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users(
        {
            "Ann": record(
                password_hash=sha256_of("old password").upper(),
                api_keys={"openai": folder.token("sk-from-the-file"), "slack": "plain"},
            ),
            "bob": record(password_hash=sha256_of("old password")),
            "broken": record(password_hash="?"),
        }
    )
    folder.second_factors({"bob": {"secret": SECRET, "enabled": True}})
    folder.rest()
    return folder


@pytest.fixture
def app(
    make_settings: MakeSettings, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flask]:
    monkeypatch.setattr(legacy_lookup, "_MOST_OF_THE_TIME", 0)  # what changed is seen at once
    app = create_app(make_settings(LEGACY_DIR=str(folder.path)))
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read whole, once for each reading."""
    seen: list[str] = []

    def counting(*arguments: Any, **options: Any) -> Snapshot:
        seen.append("users.json")
        return open_sources(*arguments, **options)

    monkeypatch.setattr(legacy_lookup, "open_sources", counting)
    return seen


def usernames(app: Flask) -> list[str]:
    with app.app_context():
        return list(db.session.scalars(select(User.username).order_by(User.id)))


def test_one_signs_in_with_the_password_of_the_file(app: Flask) -> None:
    digest = sha256_of("old password")
    for wrong in ("another password", digest, digest.upper()):
        assert sign_in(browser(app), "ann", wrong).status_code == 422
    visitor = browser(app)
    assert sign_in(visitor, "ann", "old password").status_code == 303
    assert is_signed_in(visitor)
    assert usernames(app) == ["Ann"]
    with app.app_context():
        user = db.session.scalars(select(User)).one()
        assert (user.password_hash or "").startswith("$argon2id$")
        assert user.imported_digest is None
        assert user.import_run_id is None, "no import brought it"
        assert dict(get_user_api_keys("ann")) == {"openai": "sk-from-the-file", "slack": "plain"}


def test_the_second_factor_of_the_file_is_asked_for(app: Flask) -> None:
    visitor = browser(app)
    assert sign_in(visitor, "bob", "old password").location == "/login/verify"
    assert not is_signed_in(visitor)
    answer = visitor.post_form("/login/verify", {"code": code_at(now(), secret=SECRET)})
    assert answer.status_code == 303
    assert is_signed_in(visitor)


def test_reading_keys_brings_the_user_in(app: Flask) -> None:
    with app.app_context():
        assert get_user_api_keys("ANN")["openai"] == "sk-from-the-file"
        with pytest.raises(UnknownUser):
            get_user_api_keys("nobody")
        with pytest.raises(UnknownUser):
            get_user_api_keys("broken")
    assert usernames(app) == ["Ann"]


def test_a_key_that_is_only_in_the_file_says_so_and_can_be_replaced(
    app: Flask, folder: LegacyFolder
) -> None:
    visitor = browser(app)
    sign_in(visitor, "ann", "old password")
    folder.users(
        {
            "Ann": record(
                password_hash=sha256_of("old password"),
                api_keys={"google": folder.token("added there later")},
            )
        }
    )
    with app.app_context():
        found = get_user_api_keys("ann")
        assert (found["google"], found.sources["google"]) == ("added there later", "legacy")
        assert found.sources["openai"] == "database"
    page = visitor.get("/keys").text
    assert 'data-key="google" data-state="legacy"' in page
    assert "added there later" not in page
    shown = visitor.post_form("/keys/google/reveal", page="/keys")
    assert "added there later" in shown.text
    assert visitor.post_form("/keys/google", {"value": "ours"}, page="/keys").status_code == 303
    assert 'data-key="google" data-state="saved"' in visitor.get("/keys").text
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        assert get_user_api_keys("ann")["google"] == "ours"


def test_a_key_deleted_here_stays_so_while_the_files_have_it(
    app: Flask, folder: LegacyFolder
) -> None:
    visitor = browser(app)
    sign_in(visitor, "ann", "old password")
    visitor.post_form("/keys/openai/delete", page="/keys")
    folder.users({"Ann": record(api_keys={"openai": folder.token("a newer one")})})
    assert 'data-key="openai" data-state="deleted"' in visitor.get("/keys").text
    assert visitor.post_form("/keys/openai/reveal", page="/keys").status_code == 404
    with app.app_context():
        assert dict(get_user_api_keys("ann")) == {"slack": "plain"}
        migrate_api_keys_from_json_to_db()
        assert dict(get_user_api_keys("ann")) == {"slack": "plain"}


def test_a_new_key_does_not_take_the_name_of_one_that_is_only_in_the_file(
    app: Flask, folder: LegacyFolder
) -> None:
    visitor = browser(app)
    sign_in(visitor, "ann", "old password")
    folder.users({"Ann": record(api_keys={"mistral": folder.token("there")})})
    form = {"name": "mistral", "value": "sk-another-key-of-mine"}
    assert visitor.post_form("/keys", form).status_code == 422
    with app.app_context():
        assert get_user_api_keys("ann")["mistral"] == "there"


def test_who_signed_up_before_gets_nothing_of_the_person_in_the_files(
    app: Flask, folder: LegacyFolder
) -> None:
    form = {"name": "X", "username": "zoe", "password": NEW_PASSWORD, "confirm": NEW_PASSWORD}
    assert browser(app).post_form("/signup", form).status_code == 303
    folder.users({"Zoe": record(role="admin", api_keys={"openai": "of another zoe"})})
    folder.second_factors({"Zoe": {"secret": SECRET, "enabled": True}})
    folder.rest()
    with app.app_context():
        assert dict(get_user_api_keys("zoe")) == {}
        foreseen = preview_import()
        report = migrate_api_keys_from_json_to_db()
        assert report == foreseen
        assert (report.users_existing, report.records_rejected) == (0, 1)
        assert report.rejected[0].name == "Zoe"
        assert "signed up" in report.rejected[0].reason
        assert dict(get_user_api_keys("zoe")) == {}
        zoe = db.session.scalars(select(User)).one()
        assert (zoe.is_admin, zoe.totp_secret) == (False, None)


def test_a_key_that_only_the_file_has_can_be_deleted(app: Flask, folder: LegacyFolder) -> None:
    visitor = browser(app)
    sign_in(visitor, "ann", "old password")
    folder.users({"Ann": record(api_keys={"google": folder.token("added there later")})})
    folder.rest()
    page = visitor.get("/keys").text
    assert 'data-key="google" data-state="legacy"' in page
    assert visitor.post_form("/keys/google/delete", page="/keys").status_code == 303
    assert 'data-key="google" data-state="deleted"' in visitor.get("/keys").text
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        assert "google" not in get_user_api_keys("ann")
        assert delete_user_api_key("ann", "google") is False


@pytest.mark.parametrize("name", ["ann", "ANN", "broken", "Bob"])
def test_a_name_of_the_files_cannot_be_signed_up_for(app: Flask, name: str) -> None:
    form = {"name": "X", "username": name, "password": NEW_PASSWORD, "confirm": NEW_PASSWORD}
    answer = browser(app).post_form("/signup", form)
    assert answer.status_code == 422
    assert usernames(app) == []


def test_signup_is_refused_while_nobody_knows_the_names(app: Flask, folder: LegacyFolder) -> None:
    folder.raw('{"users": {')
    folder.rest()
    form = {"name": "X", "username": "zoe", "password": NEW_PASSWORD, "confirm": NEW_PASSWORD}
    answer = browser(app).post_form("/signup", form)
    assert answer.status_code == 503
    assert "cannot be read" in answer.text
    assert 'value="zoe"' in answer.text, "what was typed stays"
    assert NEW_PASSWORD not in answer.text
    assert usernames(app) == []
    folder.users({})
    folder.rest()
    assert browser(app).post_form("/signup", form).status_code == 303


def test_stored_keys_are_served_while_the_files_cannot_be_read(
    app: Flask, folder: LegacyFolder
) -> None:
    with app.app_context():
        save_user_api_key("ann", "openai", "ours")
        folder.raw("{")
        folder.rest()
        assert get_user_api_keys("ann")["openai"] == "ours"


def test_an_unknown_name_does_not_read_the_files_again(app: Flask, reads: list[str]) -> None:
    for number in range(5):
        assert sign_in(browser(app), f"nobody{number}", "a password").status_code == 422
    assert reads == ["users.json"]


def test_files_that_were_imported_as_they_are_are_not_read_at_all(
    app: Flask, reads: list[str]
) -> None:
    with app.app_context():
        migrate_api_keys_from_json_to_db()
    visitor = browser(app)
    assert sign_in(visitor, "nobody", "a password").status_code == 422
    assert sign_in(visitor, "ann", "old password").status_code == 303
    assert is_signed_in(visitor)
    assert reads == []


def test_files_that_keep_changing_are_read_again_for_a_signup_only(
    app: Flask, folder: LegacyFolder, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy_lookup, "_MOST_OF_THE_TIME", 1_000_000)
    for number in range(3):
        folder.second_factors({"nobody": {"secret": "", "enabled": False, "n": number}})
        assert sign_in(browser(app), f"nobody{number}", "a password").status_code == 422
    assert len(reads) == 1
    folder.users({"zoe": record()})
    form = {"name": "X", "username": "Zoe", "password": NEW_PASSWORD, "confirm": NEW_PASSWORD}
    assert browser(app).post_form("/signup", form).status_code == 422
    assert len(reads) == 2


@pytest.mark.parametrize("imported", [True, False])
def test_the_keys_page_and_a_reveal_cost_no_more_with_a_predecessor(
    app: Flask, folder: LegacyFolder, statements: list[str], imported: bool
) -> None:
    visitor = browser(app)
    sign_in(visitor, "ann", "old password")
    folder.users({"Ann": record(api_keys={"google": folder.token("added there later")})})
    if imported:
        with app.app_context():
            migrate_api_keys_from_json_to_db()
    token = visitor.csrf_token("/keys")
    statements.clear()
    page = visitor.get("/keys").text
    assert f'data-key="google" data-state="{"saved" if imported else "legacy"}"' in page
    assert len(statements) <= 4
    headers = {"Origin": "http://localhost", "HX-Request": "true"}
    for name in ("openai", "google"):
        statements.clear()
        data = {"csrf_token": token}
        answer = visitor.post(f"/keys/{name}/reveal", data=data, headers=headers)
        assert answer.status_code == 200
        assert len(statements) <= 6


def test_ensuring_creates_and_never_changes(app: Flask) -> None:
    digest = sha256_of("first").upper()
    with app.app_context():
        made = ensure_user_in_database("zoe", digest)
        again = ensure_user_in_database("ZOE", "$2b$12$" + "a" * 53, is_admin=True)
        assert made.id == again.id
        assert again.is_admin is False
        assert again.password_hash is None
        with pytest.raises(ValueError, match="no known form"):
            ensure_user_in_database("other", "plain text")
    assert sign_in(browser(app), "zoe", "first").status_code == 303
    assert usernames(app) == ["zoe"]


def test_ensuring_brings_the_user_of_the_files_in_with_all_that_is_theirs(app: Flask) -> None:
    with app.app_context():
        user = ensure_user_in_database("ann", sha256_of("another password"), is_admin=True)
        assert (user.username, user.is_admin) == ("Ann", False)
        assert set(get_user_api_keys("ann").sources.values()) == {"database"}
        assert ensure_user_in_database("bob", sha256_of("old password")).totp_enabled_at
    assert sign_in(browser(app), "ann", "another password").status_code == 422
    assert sign_in(browser(app), "ann", "old password").status_code == 303
    assert usernames(app) == ["Ann", "bob"]


def test_however_many_sign_in_at_once_one_account_is_made(app: Flask) -> None:
    together = threading.Barrier(4)

    def one(_: int) -> int:
        together.wait()
        return sign_in(browser(app), "ann", "old password").status_code

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == [303] * 4
    assert usernames(app) == ["Ann"]
    assert [event.event for event in events(app, "account")] == ["account.imported"]


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)  # SQLite has one writer
def test_an_account_that_somebody_makes_at_the_same_moment_is_left_as_it_is(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(session: Session, users: Sequence[LegacyUser], run_id: int | None) -> None:
        with ThreadPoolExecutor(1) as somebody:
            somebody.submit(add_person, app, "ann", name="first").result()
        create_accounts(session, users, run_id)

    monkeypatch.setattr(legacy_accounts, "create_accounts", create)
    with app.app_context():
        assert ensure_user_in_database("ann", sha256_of("old password")).name == "first"
        assert get_user_api_keys("ann").sources["openai"] == "legacy"
    assert usernames(app) == ["ann"]


def test_after_the_import_the_old_password_works_and_its_digest_does_not(app: Flask) -> None:
    with app.app_context():
        migrate_api_keys_from_json_to_db()
    digest = sha256_of("old password")
    for wrong in (digest, digest.upper()):
        assert sign_in(browser(app), "ann", wrong).status_code == 422
    assert sign_in(browser(app), "ann", "old password").status_code == 303
    with app.app_context():
        user = db.session.scalars(select(User).where(User.username == "Ann")).one()
        assert (user.password_hash or "").startswith("$argon2id$")
        assert user.imported_digest is None


def test_a_signup_reads_no_file_whose_every_record_was_imported(
    app: Flask, folder: LegacyFolder, reads: list[str]
) -> None:
    def sign_up(username: str) -> int:
        form = {
            "name": "X",
            "username": username,
            "password": NEW_PASSWORD,
            "confirm": NEW_PASSWORD,
        }
        return browser(app).post_form("/signup", form).status_code

    folder.users({"Ann": record(), "bob": record()})
    with app.app_context():
        migrate_api_keys_from_json_to_db()
    assert sign_up("zoe") == 303
    assert sign_up("ANN") == 422
    assert reads == []
    folder.users({"Ann": record(), "bob": record(), "broken": record(password_hash="?")})
    with app.app_context():
        migrate_api_keys_from_json_to_db()
    assert sign_up("Broken") == 422
    assert sign_up("zia") == 303
    assert len(reads) == 1
