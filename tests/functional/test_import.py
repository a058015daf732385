"""Importing the predecessor's files: everything arrives, and nothing of ours is overwritten."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from sqlalchemy import inspect, select, text, update

from tests.conftest import MakeSettings
from tests.legacy_folder import SAMPLE, LegacyFolder, record, sha256_of
from webapp import create_app
from webapp.db import db, dispose_engines, transaction
from webapp.legacy.records import LegacyUser
from webapp.legacy.users_json import open_snapshot
from webapp.models import ApiKey, ApiKeyVersion, User
from webapp.models.users import fold
from webapp.services import credentials, runs, stored_accounts
from webapp.services.import_report import ImportReport
from webapp.services.key_payload import Payload
from webapp.services.keys import delete_user_api_key, get_user_api_keys, save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.vault import PASSWORD_DIGEST, TOTP_SECRET, Vault

OTHER_KEY = Fernet.generate_key().decode()


@pytest.fixture(autouse=True)
def _context(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return LegacyFolder(tmp_path / "legacy")


def run(folder: LegacyFolder | Path) -> ImportReport:
    return migrate_api_keys_from_json_to_db(folder if isinstance(folder, Path) else folder.path)


def user(username: str) -> User:
    db.session.rollback()
    found = db.session.scalars(select(User).where(User.username == username)).one()
    db.session.refresh(found)
    return found


def versions(username: str, name: str) -> list[ApiKeyVersion]:
    query = (
        select(ApiKeyVersion)
        .join(ApiKey, ApiKey.id == ApiKeyVersion.api_key_id)
        .join(User, User.id == ApiKey.user_id)
        .where(User.username == username, ApiKey.name == name)
        .order_by(ApiKeyVersion.version)
    )
    return list(db.session.scalars(query))


def everything(*, but: Collection[str] = ()) -> str:
    """All that stands in the database, as text."""
    with db.engine.connect() as connection:
        return "\n".join(
            str(tuple(row))
            for table in inspect(connection).get_table_names()
            if table not in but
            for row in connection.execute(text(f"SELECT * FROM {table}"))
        )


def payload(username: str, name: str) -> Payload:
    """What is sealed in the newest version of a key."""
    account = stored_accounts.load(db.session(), [fold(username)])[fold(username)]
    found = account.keys[name].payload
    assert found is not None
    return found


def test_the_sample_is_counted_as_it_is() -> None:
    report = run(SAMPLE)
    assert report.counts() == {
        "users_created": 6,
        "users_existing": 0,
        "keys_imported": 9,
        "keys_kept": 0,
        "keys_locked": 1,
        "records_rejected": 0,
        "two_factor_imported": 2,
    }
    assert (report.warnings, report.rejected) == ((), ())
    finished = runs.latest(runs.LEGACY_IMPORT)
    assert finished is not None
    assert (finished.status, finished.cursor, finished.total) == ("finished", 6, 6)
    assert finished.counts == report.counts()


def test_everything_of_the_sample_arrives() -> None:
    run(SAMPLE)
    amira, ben, chen_li, dora = (user(name) for name in ("amira", "ben", "chen_li", "dora"))
    assert (amira.name, amira.email, amira.is_admin) == ("Amira Haddad", "amira@example.com", True)
    assert amira.created_at.isoformat() == "2025-12-09T21:45:47.940277+00:00"
    assert amira.last_login_at is not None
    assert amira.last_login_at.isoformat() == "2025-12-13T16:42:34.118204+00:00"
    assert amira.api_keys_updated_at is not None
    assert amira.api_keys_updated_at.isoformat() == "2025-12-12T10:11:12.000001+00:00"
    assert (ben.is_admin, ben.email, ben.last_login_at) == (False, None, None)
    assert (chen_li.is_admin, chen_li.admin_requested) == (False, True)
    assert chen_li.admin_request_reason == "I look after the reports."
    assert chen_li.api_permissions == {"openai": False, "google": True, "slack": False}
    assert (dora.password_hash or "").startswith("$2b$10$")
    assert user("001").api_keys_updated_at is None


def test_second_factors_of_the_sample_arrive_sealed() -> None:
    run(SAMPLE)
    for name, secret, enabled in (
        ("ben", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", True),
        ("chen_li", "KRSXG5CTMVRXEZLUKRSXG5CTMVRXEZLU", False),
    ):
        found = user(name)
        assert found.totp_secret is not None
        assert Vault.load(found.id).open(TOTP_SECRET, found.totp_secret).decode() == secret
        assert (found.totp_enabled_at is not None) == enabled


def test_keys_of_the_sample_can_be_read() -> None:
    run(SAMPLE)
    amira = get_user_api_keys("amira")
    assert amira["openai"] == "sk-proj-sample-amira-0123456789abcdef"
    assert dict(amira.sources) == dict.fromkeys(("openai", "google", "slack"), "database")
    smtp = get_user_api_keys("ben")["smtp"]
    assert not isinstance(smtp, str)
    assert {**smtp, "password": ""} == {
        "host": "smtp.example.com",
        "port": "587",
        "user": "ben@example.com",
        "password": "",
    }
    assert "sample" in smtp["password"]
    emre = get_user_api_keys("emre")
    assert emre["openai"] == "sk-plain-never-encrypted-emre"
    assert (set(emre), set(emre.locked)) == ({"openai", "mistral"}, {"google"})
    assert get_user_api_keys("001").locked == dict(get_user_api_keys("001")) == {}


def test_the_ciphertext_of_a_locked_key_is_kept(folder: LegacyFolder) -> None:
    token = folder.token("a password", OTHER_KEY)
    folder.users({"ann": record(api_keys={"smtp_host": "mail", "smtp_pass": token})})
    report = run(folder)
    assert (report.keys_imported, report.keys_locked) == (0, 1)
    assert payload("ann", "smtp") == Payload({"host": "mail"}, {"password": token})
    assert versions("ann", "smtp")[0].fingerprint is None


def test_fields_of_a_record_arrive(folder: LegacyFolder) -> None:
    folder.users(
        {
            "Ann Other": record(
                name="Ann",
                email="ann@example.com",
                last_login="2026-01-02T03:04:05",
                api_permissions={"openai": False, "google": True},
                password_hash=sha256_of("old password").upper(),
            )
        }
    )
    run(folder)
    ann = user("Ann Other")
    assert (ann.name, ann.email, ann.api_permissions) == (
        "Ann",
        "ann@example.com",
        {"openai": False, "google": True},
    )
    assert ann.created_at.isoformat() == "2025-12-09T21:45:47.940277+00:00"
    assert ann.last_login_at is not None
    assert ann.last_login_at.isoformat() == "2026-01-02T03:04:05+00:00"


def test_nothing_of_the_sample_that_is_secret_stands_there_in_clear() -> None:
    run(SAMPLE)
    found = everything()
    with open_snapshot(SAMPLE) as snapshot:
        accounts = [entry.user for entry in snapshot.accounts()]
    secrets = (SAMPLE / "users.json").read_text() + (SAMPLE / "two_fa.json").read_text()
    sought = {*re.findall(r'"([0-9a-f]{64}|gAAAA[^"]+|[A-Z2-7]{32})"', secrets)}
    for account in accounts:
        assert isinstance(account, LegacyUser)
        for key in account.keys.values():
            sought |= set(key.parts.values()) - {"587"}
    assert len(sought) == 5 + 9 + 2 + 11, "digests, tokens, second factors, values"
    for secret in sought:
        assert secret.lower() not in found.lower()
    assert "amira@example.com" in found, "the search itself works"


def test_an_upper_case_digest_is_sealed_as_well(folder: LegacyFolder) -> None:
    digest = sha256_of("old password")
    folder.users({"ann": record(password_hash=digest.upper())})
    run(folder)
    ann = user("ann")
    assert digest not in everything().lower()
    assert ann.imported_digest is not None
    assert Vault.load(ann.id).open(PASSWORD_DIGEST, ann.imported_digest).decode() == digest


def test_a_second_run_changes_nothing(folder: LegacyFolder) -> None:
    folder.users(
        {
            "ann": record(api_keys={"openai": folder.token("one"), "google": "never encrypted"}),
            "bob": record(api_keys={"slack": folder.token("x", OTHER_KEY)}),
        }
    )
    first = run(folder)
    assert (first.users_created, first.keys_imported, first.keys_locked) == (2, 2, 1)
    before = everything(but={"runs"})
    second = run(folder)
    assert everything(but={"runs"}) == before
    assert (second.users_created, second.users_existing) == (0, 2)
    assert (second.keys_imported, second.keys_kept, second.keys_locked) == (0, 2, 1)


def test_a_key_that_somebody_changed_is_never_overwritten(folder: LegacyFolder) -> None:
    folder.users({"ann": record(api_keys={"openai": folder.token("old"), "google": "g"})})
    run(folder)
    save_user_api_key("ann", "openai", "changed here")
    delete_user_api_key("ann", "google")
    folder.users({"ann": record(api_keys={"openai": folder.token("newer"), "google": "newer"})})
    assert run(folder).keys_kept == 2
    assert dict(get_user_api_keys("ann")) == {"openai": "changed here"}


def test_a_key_as_it_was_imported_takes_a_newer_value_as_a_new_version(
    folder: LegacyFolder,
) -> None:
    folder.users({"ann": record(api_keys={"openai": folder.token("old")})})
    run(folder)
    folder.users({"ann": record(api_keys={"openai": folder.token("newer"), "slack": "added"})})
    assert run(folder).keys_imported == 2
    assert dict(get_user_api_keys("ann")) == {"openai": "newer", "slack": "added"}
    found = versions("ann", "openai")
    assert [(v.version, v.source) for v in found] == [(1, "import"), (2, "import")]


def test_what_an_import_creates_bears_its_number(folder: LegacyFolder) -> None:
    folder.users({"ann": record(api_keys={"openai": "old"})})
    run(folder)
    first = runs.latest(runs.LEGACY_IMPORT)
    folder.users({"ann": record(api_keys={"openai": "newer", "slack": "added"}), "bob": record()})
    run(folder)
    second = runs.latest(runs.LEGACY_IMPORT)
    assert first is not None
    assert second is not None
    assert (user("ann").import_run_id, user("bob").import_run_id) == (first.id, second.id)
    assert [v.run_id for v in versions("ann", "openai")] == [first.id, second.id]
    assert [v.run_id for v in versions("ann", "slack")] == [second.id]
    save_user_api_key("ann", "openai", "saved here")
    assert [v.run_id for v in versions("ann", "openai")] == [first.id, second.id, None]


def test_a_key_that_vanished_from_the_file_stays(folder: LegacyFolder) -> None:
    folder.users({"ann": record(api_keys={"openai": folder.token("old")})})
    run(folder)
    folder.users({"ann": record(api_keys={"openai": ""})})
    run(folder)
    folder.users({})
    run(folder)
    assert dict(get_user_api_keys("ann")) == {"openai": "old"}


def test_a_locked_token_is_kept_and_imported_once_there_is_a_key(
    folder: LegacyFolder, make_settings: MakeSettings
) -> None:
    folder.users({"ann": record(api_keys={"openai": folder.token("for another key", OTHER_KEY)})})
    assert run(folder).keys_locked == 1
    assert set(get_user_api_keys("ann").locked) == {"openai"}
    assert run(folder).keys_locked == 1
    assert len(versions("ann", "openai")) == 1
    later = create_app(make_settings(LEGACY_ENCRYPTION_KEYS=OTHER_KEY))
    with later.app_context():
        report = run(folder)
        assert (report.keys_imported, report.keys_locked) == (1, 0)
        assert dict(get_user_api_keys("ann")) == {"openai": "for another key"}
    dispose_engines(later)


def test_a_value_that_does_not_open_never_replaces_one_that_does(folder: LegacyFolder) -> None:
    folder.users({"ann": record(api_keys={"openai": folder.token("good")})})
    run(folder)
    folder.users({"ann": record(api_keys={"openai": folder.token("unreadable", OTHER_KEY)})})
    report = run(folder)
    assert (report.keys_imported, report.keys_kept, report.keys_locked) == (0, 0, 1)
    assert dict(get_user_api_keys("ann")) == {"openai": "good"}
    assert len(versions("ann", "openai")) == 1


def test_a_second_factor_follows_until_somebody_signs_in(folder: LegacyFolder) -> None:
    def switch(enabled: bool) -> ImportReport:
        folder.second_factors({"ann": {"secret": "JBSWY3DPEHPK3PXP", "enabled": enabled}})
        return run(folder)

    folder.users({"ann": record()})
    assert run(folder).two_factor_imported == 0
    assert switch(enabled=False).two_factor_imported == 1
    assert user("ann").totp_enabled_at is None
    assert switch(enabled=False).two_factor_imported == 0
    assert switch(enabled=True).two_factor_imported == 1
    switched_on = user("ann").totp_enabled_at
    assert switched_on is not None
    assert (
        switch(enabled=False).two_factor_imported == switch(enabled=True).two_factor_imported == 0
    )
    assert user("ann").totp_enabled_at == switched_on
    with transaction() as session:  # as somebody leaves it who signed in and switched it off
        session.execute(
            update(User).values(
                imported_digest=None, password_hash="$argon2id$", totp_enabled_at=None
            )
        )
    assert switch(enabled=True).two_factor_imported == 0
    assert user("ann").totp_enabled_at is None


def test_an_account_that_exists_keeps_what_it_has(folder: LegacyFolder) -> None:
    folder.users({"ann": record()})
    run(folder)
    with transaction() as session:
        session.execute(update(User).values(name="Ann here", is_admin=False, imported_digest=None))
    folder.users(
        {"Ann": record(name="Ann there", role="admin", api_keys={"openai": "from the file"})}
    )
    folder.second_factors({"Ann": {"secret": "JBSWY3DPEHPK3PXP", "enabled": True}})
    report = run(folder)
    assert (report.users_existing, report.two_factor_imported) == (1, 0)
    ann = user("ann")
    assert (ann.name, ann.is_admin, ann.totp_secret) == ("Ann here", False, None)
    assert dict(get_user_api_keys("ann")) == {"openai": "from the file"}


def test_one_bad_record_is_rejected_with_its_reason_and_the_rest_goes_on(
    folder: LegacyFolder,
) -> None:
    folder.users(
        {
            "ann": record(),
            "no_hash": record(password_hash=None),
            "a list": ["not", "a", "record"],
            "ANN": record(name="the second"),
            "bob": record(),
        }
    )
    report = run(folder)
    assert (report.users_created, report.records_rejected) == (2, 3)
    reasons = {entry.name: entry.reason for entry in report.rejected}
    assert set(reasons) == {"no_hash", "a list", "ANN"}
    assert "password_hash" in reasons["no_hash"]
    assert "twice" in reasons["ANN"]
    finished = runs.latest(runs.LEGACY_IMPORT)
    assert finished is not None
    assert finished.report["rejected"] == [
        {"name": entry.name, "reason": entry.reason} for entry in report.rejected
    ]


def test_a_password_changed_there_is_followed_until_somebody_signs_in_here(
    folder: LegacyFolder,
) -> None:
    def fits(password: str) -> bool:
        found = credentials.find("ann")
        assert found is not None
        verdict = credentials.check(found, password)
        return not verdict.refusal and credentials.confirm(found, verdict) is not None

    folder.users({"ann": record(password_hash=sha256_of("first password"))})
    run(folder)
    folder.users({"ann": record(password_hash=sha256_of("second password"))})
    run(folder)
    assert not fits("first password")
    assert fits("second password")
    folder.users({"ann": record(password_hash=sha256_of("third password"))})
    run(folder)
    assert not fits("third password")
    assert fits("second password")
