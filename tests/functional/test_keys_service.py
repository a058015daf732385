"""The functions that the team's own code calls: save, read, delete, on both databases."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from flask import Flask
from sqlalchemy import Engine, delete, event, select, text, update
from sqlalchemy.exc import OperationalError

from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import ApiKey, ApiKeyVersion, AuditEvent, DataKey, User
from webapp.services import audit, key_store, keys
from webapp.services.key_list import KeyEntry, list_keys
from webapp.services.key_rules import MaskedValue
from webapp.services.keys import (
    InvalidKeyValue,
    KeyExists,
    KeysUnavailable,
    SaveNotConfirmed,
    UnknownUser,
    delete_user_api_key,
    get_user_api_keys,
    reload_user_api_keys,
    reveal_user_api_key,
    save_user_api_key,
)

SECRET = "sk-proj-0123456789abcdef"
SMTP = {"host": "mail.hidden.example", "port": "587", "user": "ben", "password": "a password"}


@pytest.fixture(autouse=True)
def _alice(app: Flask) -> Iterator[None]:
    with app.app_context():
        with transaction() as session:
            session.add(User(username="alice"))
        yield


def versions(name: str) -> list[ApiKeyVersion]:
    query = select(ApiKeyVersion).join(ApiKey, ApiKey.id == ApiKeyVersion.api_key_id)
    return list(db.session.scalars(query.where(ApiKey.name == name)).all())


def entry(name: str) -> KeyEntry:
    return next(found for found in list_keys("alice") if found.name == name)


def test_what_was_saved_is_read() -> None:
    receipt = save_user_api_key("alice", "openai", f"  {SECRET}\n")
    save_user_api_key("alice", "smtp", SMTP)
    assert receipt.version == 1
    assert len(receipt.fingerprint) == 12
    assert abs((now() - receipt.saved_at).total_seconds()) < 60
    found = get_user_api_keys("ALICE")
    assert dict(found) == {"openai": SECRET, "smtp": SMTP}
    assert found.sources == {"openai": "database", "smtp": "database"}
    assert found.locked == {}
    assert SECRET not in repr(found)


def test_a_replaced_value_is_a_new_version_and_the_old_one_stays() -> None:
    first = save_user_api_key("alice", "openai", SECRET)
    second = save_user_api_key("alice", "openai", "another-secret")
    assert (first.version, second.version) == (1, 2)
    assert first.fingerprint != second.fingerprint
    assert get_user_api_keys("alice")["openai"] == "another-secret"
    assert len(versions("openai")) == 2


def test_saving_the_current_value_again_changes_nothing() -> None:
    first = save_user_api_key("alice", "openai", SECRET)
    again = save_user_api_key("alice", "openai", SECRET)
    assert (again.version, again.saved_at, again.fingerprint, again.changed) == (
        first.version, first.saved_at, first.fingerprint, False,
    )  # fmt: skip
    assert len(versions("openai")) == 1


def test_an_expiry_can_be_set_without_a_new_version() -> None:
    save_user_api_key("alice", "openai", SECRET)
    expiry = datetime(2027, 1, 2, 23, 59, 59, tzinfo=UTC)
    save_user_api_key("alice", "openai", SECRET, expires_at=expiry)
    assert (entry("openai").version, entry("openai").expires_at) == (1, expiry)
    save_user_api_key("alice", "openai", SECRET)
    assert entry("openai").expires_at == expiry
    save_user_api_key("alice", "openai", "another-secret")
    assert entry("openai").expires_at is None


@pytest.mark.parametrize("value", ["", "   ", "***", "sk-…abcd", "••••••••", "ks1.1." + "A" * 60])
def test_a_refused_value_leaves_the_stored_one(value: str) -> None:
    save_user_api_key("alice", "openai", SECRET)
    with pytest.raises(InvalidKeyValue):
        save_user_api_key("alice", "openai", value)
    assert get_user_api_keys("alice")["openai"] == SECRET
    assert len(versions("openai")) == 1


def test_a_mask_that_is_meant_is_saved() -> None:
    with pytest.raises(MaskedValue):
        save_user_api_key("alice", "openai", "***")
    save_user_api_key("alice", "openai", "***", literal=True)
    assert get_user_api_keys("alice")["openai"] == "***"


def test_a_new_key_does_not_take_a_name_in_use() -> None:
    save_user_api_key("alice", "stripe", SECRET)
    with pytest.raises(KeyExists):
        save_user_api_key("alice", "stripe", "another", must_be_new=True)
    assert get_user_api_keys("alice")["stripe"] == SECRET


def test_a_deleted_key_is_gone_from_reading_and_its_versions_stay() -> None:
    save_user_api_key("alice", "openai", SECRET)
    assert delete_user_api_key("alice", "openai") is True
    assert delete_user_api_key("alice", "openai") is False
    assert delete_user_api_key("alice", "slack") is False
    assert "openai" not in get_user_api_keys("alice")
    assert entry("openai").state == "deleted"
    assert len(versions("openai")) == 1
    assert save_user_api_key("alice", "openai", SECRET).version == 2
    assert reload_user_api_keys("alice")["openai"] == SECRET


def test_an_unknown_user_is_an_error_everywhere() -> None:
    for call in (get_user_api_keys, reload_user_api_keys, list_keys):
        with pytest.raises(UnknownUser):
            call("nobody")
    with pytest.raises(UnknownUser):
        save_user_api_key("nobody", "openai", SECRET)
    with pytest.raises(UnknownUser):
        delete_user_api_key("nobody", "openai")
    with pytest.raises(UnknownUser):
        reveal_user_api_key("nobody", "openai")


def test_a_database_that_cannot_be_read_is_never_an_empty_mapping() -> None:
    save_user_api_key("alice", "openai", SECRET)
    with db.engine.begin() as connection:
        connection.execute(text("ALTER TABLE api_keys RENAME TO elsewhere"))
    with pytest.raises(KeysUnavailable):
        get_user_api_keys("alice")


def test_a_save_that_cannot_be_read_back_is_not_reported(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires_at = datetime(2030, 1, 2, tzinfo=UTC)
    save_user_api_key("alice", "openai", SECRET, expires_at=expires_at)
    readable = key_store.is_readable

    def damaged(owner_id: int, saved: key_store.StoredKey) -> bool:
        with transaction() as session:  # a fault between the commit and the check
            session.execute(
                update(ApiKeyVersion)
                .where(
                    ApiKeyVersion.api_key_id == saved.id,
                    ApiKeyVersion.version == saved.version,
                )
                .values(sealed_value="ks1.1." + "A" * 60)
            )
        return readable(owner_id, saved)

    monkeypatch.setattr(key_store, "is_readable", damaged)
    with pytest.raises(SaveNotConfirmed):
        save_user_api_key("alice", "openai", "another-secret")
    with pytest.raises(SaveNotConfirmed):
        save_user_api_key("alice", "slack", "a-first-secret")
    monkeypatch.undo()
    assert dict(get_user_api_keys("alice")) == {"openai": SECRET}
    assert entry("openai").expires_at == expires_at
    assert save_user_api_key("alice", "openai", "a third secret").version == 3
    events = db.session.scalars(select(AuditEvent.event)).all()
    assert events.count("key.verification_failed") == 2


def test_after_a_save_that_failed_the_key_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    save_user_api_key("alice", "openai", SECRET, expires_at=datetime(2030, 1, 1, tzinfo=UTC))
    before = entry("openai")
    monkeypatch.setattr(key_store, "is_readable", lambda *_: False)
    with pytest.raises(SaveNotConfirmed):
        save_user_api_key("alice", "openai", "another-secret")
    assert entry("openai") == before


def test_a_key_that_was_deleted_meanwhile_stays_so_when_a_save_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_user_api_key("alice", "openai", SECRET)
    monkeypatch.setattr(
        key_store, "is_readable", lambda *_: not delete_user_api_key("alice", "openai")
    )
    with pytest.raises(SaveNotConfirmed):
        save_user_api_key("alice", "openai", "another-secret")
    assert entry("openai").state == "deleted"


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_connection_that_is_cut_in_the_middle_of_a_save_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_user_api_key("alice", "openai", SECRET)
    cut = text("SELECT pg_terminate_backend(pg_backend_pid())")
    monkeypatch.setattr(audit, "record", lambda *_, **__: db.session.execute(cut))
    with pytest.raises(OperationalError):
        save_user_api_key("alice", "openai", "another-secret")
    monkeypatch.undo()
    assert dict(get_user_api_keys("alice")) == {"openai": SECRET}
    assert save_user_api_key("alice", "openai", "another-secret").version == 2


def test_the_check_reads_on_a_connection_that_the_save_did_not_use(app: Flask) -> None:
    used: dict[str, set[int]] = {"default": set(), "verification": set()}

    def note(kind: str, engine: Engine) -> None:
        event.listen(engine, "checkout", lambda connection, *_: used[kind].add(id(connection)))

    note("default", db.engine)
    note("verification", db.engines["verification"])
    save_user_api_key("alice", "openai", SECRET)
    assert used["default"]
    assert used["verification"]
    assert not used["default"] & used["verification"]


def test_reveal_is_audited_and_says_where_the_value_is_from() -> None:
    save_user_api_key("alice", "openai", SECRET)
    revealed = reveal_user_api_key("alice", "openai")
    assert (revealed.value, revealed.source, revealed.version) == (SECRET, "database", 1)
    assert SECRET not in repr(revealed)
    event = db.session.scalars(select(AuditEvent).where(AuditEvent.event == "key.revealed")).one()
    assert event.detail == {"name": "openai", "source": "database", "version": 1}


def test_reveal_of_what_is_not_there() -> None:
    with pytest.raises(keys.NoSuchKey):
        reveal_user_api_key("alice", "openai")


def test_a_value_copied_to_another_row_is_locked_and_not_shown() -> None:
    save_user_api_key("alice", "openai", SECRET)
    save_user_api_key("alice", "slack", "another-secret")
    stolen = versions("openai")[0].sealed_value
    row = versions("slack")[0]
    with transaction() as session:
        session.execute(
            update(ApiKeyVersion)
            .where(ApiKeyVersion.api_key_id == row.api_key_id)
            .values(sealed_value=stolen)
        )
    found = get_user_api_keys("alice")
    assert dict(found) == {"openai": SECRET}
    assert list(found.locked) == ["slack"]
    assert entry("slack").state == "locked"


def test_a_key_whose_data_key_is_gone_stays_listed_and_can_be_replaced_or_deleted() -> None:
    save_user_api_key("alice", "openai", SECRET)
    save_user_api_key("alice", "slack", SECRET)
    with transaction() as session:
        session.execute(delete(DataKey))
    assert entry("openai").state == "locked"
    with pytest.raises(keys.KeyLocked):
        reveal_user_api_key("alice", "openai")
    assert save_user_api_key("alice", "openai", "another-secret").version == 2
    assert delete_user_api_key("alice", "slack") is True
    assert dict(get_user_api_keys("alice")) == {"openai": "another-secret"}


@pytest.mark.environ(OPENAI_API_KEY="env-openai-0123456789", SHARE_ENVIRONMENT_KEYS="1")
def test_the_environment_comes_first_and_does_not_hide_the_stored_key() -> None:
    save_user_api_key("alice", "openai", SECRET)
    found = get_user_api_keys("alice")
    assert (found["openai"], found.sources["openai"]) == ("env-openai-0123456789", "environment")
    shown = entry("openai")
    assert (shown.state, shown.source, shown.stored_behind_environment) == (
        "environment", "environment", True,
    )  # fmt: skip
    assert shown.hint is None, "not even the end of an installation's key is shown to a user"
    assert reveal_user_api_key("alice", "openai").value == SECRET


@pytest.mark.environ(OPENAI_API_KEY="env-openai-0123456789", SHARE_ENVIRONMENT_KEYS="0")
def test_environment_keys_that_are_not_shared_serve_admins_only() -> None:
    assert "openai" not in get_user_api_keys("alice")
    assert entry("openai").state == "missing"
    with transaction() as session:
        session.execute(update(User).values(is_admin=True))
    assert get_user_api_keys("alice")["openai"] == "env-openai-0123456789"
    assert reveal_user_api_key("alice", "openai").source == "environment"


@pytest.mark.environ(OPENAI_API_KEY="env-openai-0123456789", SHARE_ENVIRONMENT_KEYS="1")
def test_the_environment_value_is_revealed_to_admins_only() -> None:
    with pytest.raises(keys.EnvironmentKeyHidden):
        reveal_user_api_key("alice", "openai")


@pytest.mark.environ(SMTP_HOST="mail", SMTP_PORT="25", SMTP_USER="u", SMTP_PASS="p")
def test_smtp_comes_from_the_environment_as_a_whole() -> None:
    assert get_user_api_keys("alice")["smtp"] == {
        "host": "mail", "port": "25", "user": "u", "password": "p",
    }  # fmt: skip


@pytest.mark.environ(OPENAI_API_KEY="env-openai-0123456789")
def test_a_forbidden_provider_is_kept_and_not_delivered() -> None:
    save_user_api_key("alice", "openai", SECRET)
    save_user_api_key("alice", "slack", SECRET)
    with transaction() as session:
        session.execute(update(User).values(api_permissions={"openai": False, "slack": True}))
    assert dict(get_user_api_keys("alice")) == {"slack": SECRET}
    assert entry("openai").allowed is False
    assert entry("openai").stored_behind_environment is True


def test_simultaneous_saves_of_different_keys_all_survive(app: Flask) -> None:
    names = [f"key-{number}" for number in range(8)]
    _together(app, [(name, f"secret-{name}") for name in names])
    assert dict(get_user_api_keys("alice")) == {name: f"secret-{name}" for name in names}


def test_simultaneous_saves_of_one_key_become_versions(app: Flask) -> None:
    values = [f"secret-{number}" for number in range(8)]
    receipts = _together(app, [("openai", value) for value in values])
    assert sorted(receipt.version for receipt in receipts) == list(range(1, 9))
    newest = max(receipts, key=lambda receipt: receipt.version)
    assert entry("openai").version == newest.version == 8
    assert entry("openai").fingerprint == newest.fingerprint


def _together(app: Flask, saves: list[tuple[str, str]]) -> list[keys.SaveReceipt]:
    barrier, receipts, failures = threading.Barrier(len(saves)), [], []

    def save(name: str, value: str) -> None:
        try:
            with app.app_context():
                barrier.wait(10)
                receipts.append(save_user_api_key("alice", name, value))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=each) for each in saves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    return receipts


def test_the_list_costs_two_statements_however_many_keys_there_are(statements: list[str]) -> None:
    for number in range(20):
        save_user_api_key("alice", f"key-{number}", SECRET)
    statements.clear()
    assert len(list_keys("alice")) > 20
    assert len(statements) == 2


def test_listing_shows_no_value_and_at_most_four_characters() -> None:
    save_user_api_key("alice", "openai", SECRET)
    save_user_api_key("alice", "short", "elevenchars")
    save_user_api_key("alice", "smtp", SMTP)
    assert entry("openai").hint == "cdef"
    assert entry("short").hint is None
    listed = repr(list_keys("alice"))
    for value in (SECRET, "elevenchars", SMTP["host"], SMTP["password"]):
        assert value not in listed
