"""Keys: what people save and their apps read. The pages and commands stand on these functions.

Nothing is remembered between calls: every read is a read of the database.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeVar

from sqlalchemy import update

from webapp.clock import now
from webapp.db import UNREACHABLE, transaction
from webapp.models import ApiKey
from webapp.services import audit, key_store, legacy_lookup, legacy_outbox
from webapp.services.environment_keys import environment_keys
from webapp.services.errors import ServiceError, UnknownUser
from webapp.services.key_payload import Payload
from webapp.services.key_rules import (
    InvalidKeyName,
    InvalidKeyValue,
    KeyValue,
    check_name,
    check_value,
)
from webapp.services.key_store import Owner, StoredKey
from webapp.services.vault import Vault

__all__ = [
    "InvalidKeyName",
    "InvalidKeyValue",
    "KeysUnavailable",
    "SaveReceipt",
    "UnknownUser",
    "UserKeys",
    "delete_user_api_key",
    "get_user_api_keys",
    "reload_user_api_keys",
    "reveal_user_api_key",
    "save_user_api_key",
]

Found = TypeVar("Found")
Source = Literal["environment", "database", "legacy"]


class KeysUnavailable(ServiceError):
    """The database cannot be read now. That says nothing about which keys there are."""

    message = "The database cannot be reached. No key is lost; try again in a moment."


class SaveNotConfirmed(ServiceError):
    """The saved value could not be read back, so it is not reported as saved."""

    message = (
        "The new value could not be read back after saving, so it does not count as saved. The key"
        " is what it was before. Keep your copy and try again; tell an admin if it happens again."
    )


class KeyExists(ServiceError):
    """A new key was to be made under a name that is in use."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is a key named {name} already; replace that one, or choose a name."
        )


class NoSuchKey(ServiceError):
    """There is no key of this name."""

    message = "There is no key of this name."


class KeyLocked(ServiceError):
    """The key is stored but does not open now; the message says what it needs."""


class EnvironmentKeyHidden(ServiceError):
    """The value comes from the environment, and only admins see it (SECURITY.md, decision 10)."""

    message = (
        "This value is set by the operator for the whole installation; only admins can see it."
    )


@dataclass(frozen=True)
class SaveReceipt:
    """What was saved: version, time, and the first 12 hex digits of a keyed fingerprint.

    `changed` is False when the value was the stored one already and nothing had to be written.
    """

    version: int
    saved_at: datetime
    fingerprint: str
    changed: bool = True


@dataclass(frozen=True)
class RevealedKey:
    """A value in clear, for the eyes of its owner."""

    name: str
    value: KeyValue = field(repr=False)
    source: Source
    version: int | None


class UserKeys(Mapping[str, KeyValue]):
    """The keys that a user can use now, by name.

    `sources` says where each came from, `locked` why a stored one cannot be used.
    """

    def __init__(
        self,
        values: Mapping[str, KeyValue],
        sources: Mapping[str, Source],
        locked: Mapping[str, str],
    ) -> None:
        self._values = dict(values)
        self.sources = dict(sources)
        self.locked = dict(locked)

    def __getitem__(self, name: str) -> KeyValue:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"UserKeys({sorted(self._values)})"


def get_user_api_keys(username: str) -> UserKeys:
    """Return every key that `username` can use: environment before database before legacy file.

    Raises UnknownUser, and KeysUnavailable when the database cannot be read: a failure is never an
    empty mapping.
    """
    owner, stored, from_legacy = read_both_sides(username)
    values: dict[str, KeyValue] = {}
    sources: dict[str, Source] = {}
    locked: dict[str, str] = {}
    for name, payload in from_legacy.items():
        if payload.locked:
            locked[name] = key_store.LEGACY_REASON
        else:
            values[name], sources[name] = payload.value, "legacy"
    for name, key in stored.items():
        if key.deleted_at:
            continue
        if key.payload is None:
            locked[name] = key.locked_reason or ""
        else:
            values[name], sources[name] = key.payload.value, "database"
    for name, found in environment_keys(is_admin=owner.is_admin).items():
        values[name], sources[name] = found.value, "environment"
    allowed = {name: value for name, value in values.items() if owner.may_use(name)}
    return UserKeys(allowed, {name: sources[name] for name in allowed}, locked)


def reload_user_api_keys(username: str) -> UserKeys:
    """The same as `get_user_api_keys`: every read is fresh."""
    return get_user_api_keys(username)


def save_user_api_key(
    username: str,
    key_name: str,
    key_value: KeyValue,
    *,
    literal: bool = False,
    expires_at: datetime | None = None,
    must_be_new: bool = False,
) -> SaveReceipt:
    """Create the key or give it a new version; return the receipt once it was read back.

    Saving the current value again makes no new version, and without `expires_at` its expiry stays;
    a new value without one does not expire. `literal` accepts a value that looks masked.

    Raises UnknownUser, InvalidKeyName, InvalidKeyValue (MaskedValue), KeyExists with `must_be_new`,
    SaveNotConfirmed.
    """
    name = check_name(key_name)
    payload = Payload(check_value(name, key_value, literal=literal))
    owner = _owner(username)
    in_files = must_be_new and name in legacy_lookup.keys_not_imported(owner, ())
    with transaction() as session:
        vault = Vault.load_for_sealing(owner.id)
        before = key_store.read_one(owner.id, name)
        if must_be_new and (not before.deleted_at if before else in_files):
            raise KeyExists(name)
        if before and not before.deleted_at and before.payload == payload:
            if expires_at and expires_at != before.expires_at:
                key_store.set_expiry(session, before, expires_at)
                audit.record("key.expiry_set", subject_id=owner.id, name=name)
            return _receipt(before, changed=False)
        saved = key_store.add_version(session, vault, name, payload, expires_at=expires_at)
        audit.record(
            "key.saved",
            subject_id=owner.id,
            name=name,
            version=saved.version,
            fingerprint=saved.fingerprint,
        )
        legacy_outbox.note(session, owner.id, "key", name)
    if not key_store.is_readable(owner.id, saved):
        with transaction() as session:
            key_store.point_back(session, saved, before)
            legacy_outbox.note(session, owner.id, "key", name)
            audit.record(
                "key.verification_failed", subject_id=owner.id, name=name, version=saved.version
            )
        raise SaveNotConfirmed
    return _receipt(saved, changed=True)


def delete_user_api_key(username: str, key_name: str) -> bool:
    """Put the key into the trash, its versions kept; return whether there was one.

    Raises UnknownUser, InvalidKeyName.
    """
    name = check_name(key_name)
    owner, stored = _owner_and_key(username, name)
    if stored is None and name in legacy_lookup.keys_not_imported(owner, ()):
        # The import brings it later: it goes into the trash before, or it would come back.
        legacy_lookup.ensure_imported(owner.username)
    with transaction() as session:
        deleted = session.execute(
            update(ApiKey)
            .where(ApiKey.user_id == owner.id, ApiKey.name == name, ApiKey.deleted_at.is_(None))
            .values(deleted_at=now())
            .returning(ApiKey.current_version)
        ).scalar_one_or_none()
        if deleted is not None:
            audit.record("key.deleted", subject_id=owner.id, name=name, version=deleted)
            legacy_outbox.note(session, owner.id, "key", name)
    return deleted is not None


def reveal_user_api_key(username: str, key_name: str) -> RevealedKey:
    """Return the stored value in clear, or for an admin the environment's where none is stored.

    It is audited before it is given out. Raises UnknownUser, InvalidKeyName, NoSuchKey, KeyLocked,
    EnvironmentKeyHidden.
    """
    name = check_name(key_name)
    owner, stored = _owner_and_key(username, name)
    # Not in a transaction that writes: it may have to read the predecessor's files.
    revealed = _find_value(owner, name, stored)
    audit.record(
        "key.revealed",
        subject_id=owner.id,
        name=name,
        source=revealed.source,
        version=revealed.version,
    )
    return revealed


def read_both_sides(
    username: str,
) -> tuple[Owner, dict[str, StoredKey], dict[str, Payload]]:
    """Return the owner, every stored key, and those that only the legacy file has yet.

    Stored ones include the locked and the deleted. Brings the user in from the legacy files if
    nobody did yet. Raises UnknownUser, KeysUnavailable.
    """
    with database_required():
        owner, stored = _with_import(username, lambda: key_store.read_all(username))
        return owner, stored, legacy_lookup.keys_not_imported(owner, stored.keys())


@contextmanager
def database_required() -> Iterator[None]:
    """Turn a database that does not answer into KeysUnavailable."""
    try:
        yield
    except UNREACHABLE as error:
        raise KeysUnavailable from error


def _owner(username: str) -> Owner:
    return _with_import(username, lambda: key_store.find_owner(username))


def _owner_and_key(username: str, name: str) -> tuple[Owner, StoredKey | None]:
    return _with_import(username, lambda: key_store.read_owner_and_one(username, name))


def _with_import(username: str, read: Callable[[], Found]) -> Found:
    """Read, and where the user is unknown, once more if the legacy files have them."""
    try:
        return read()
    except UnknownUser:
        if not legacy_lookup.ensure_imported(username):
            raise
        return read()


def _find_value(owner: Owner, name: str, stored: StoredKey | None) -> RevealedKey:
    if stored and not stored.deleted_at:
        if stored.payload is None:
            raise KeyLocked(stored.locked_reason)
        return RevealedKey(name, stored.payload.value, "database", stored.version)
    found = environment_keys(is_admin=owner.is_admin).get(name)
    if found and owner.is_admin:
        return RevealedKey(name, found.value, "environment", None)
    if found:
        raise EnvironmentKeyHidden
    payload = legacy_lookup.keys_not_imported(owner, {name} if stored else ()).get(name)
    if payload is None:
        raise NoSuchKey
    if payload.locked:
        raise KeyLocked(key_store.LEGACY_REASON)
    return RevealedKey(name, payload.value, "legacy", None)


def _receipt(key: StoredKey, *, changed: bool) -> SaveReceipt:
    return SaveReceipt(key.version, key.updated_at, key.fingerprint or "", changed)
