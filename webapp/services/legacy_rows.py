"""New accounts with everything they bring from the predecessor, written as rows in bulk."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, cast

from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.crypto.keyring import Keyring
from webapp.legacy.keys import VALUE, LegacyKey
from webapp.legacy.records import LegacyUser
from webapp.models import ApiKey, ApiKeyVersion, DataKey, User
from webapp.models.users import fold
from webapp.services import audit
from webapp.services.bulk import Row, insert_rows, reserve_ids
from webapp.services.key_payload import Payload, fingerprinted
from webapp.services.keyring import current_keyring
from webapp.services.stored_accounts import IMPORT
from webapp.services.vault import API_KEY, PASSWORD_DIGEST, TOTP_SECRET, Vault

_USER_COLUMNS = (
    "id",
    "username",
    "username_folded",
    "name",
    "email",
    "password_hash",
    "imported_digest",
    "is_admin",
    "self_registered",
    "admin_requested",
    "admin_request_reason",
    "api_permissions",
    "totp_secret",
    "totp_enabled_at",
    "totp_last_step",
    "fingerprint_key",
    "legacy_password",
    "import_run_id",
    "api_keys_updated_at",
    "created_at",
    "last_login_at",
)
_DATA_KEY_COLUMNS = ("user_id", "number", "wrapped_key", "master_key_id", "created_at")
_KEY_COLUMNS = ("id", "user_id", "name", "current_version", "created_at", "updated_at")
_VERSION_COLUMNS = (
    "api_key_id",
    "version",
    "sealed_value",
    "fingerprint",
    "source",
    "run_id",
    "created_by_id",
    "created_at",
)


def payload_of(key: LegacyKey) -> Payload:
    """Return what is sealed for a key of the predecessor."""
    value = dict(key.parts) if key.has_fields else key.parts.get(VALUE, "")
    return Payload(value, key.locked)


def password_state(password_hash: str) -> bytes:
    """Return what `users.legacy_password` is the fingerprint of."""
    return b"password\0" + password_hash.encode()


def password(user: LegacyUser, vault: Vault) -> dict[str, str | None]:
    """Return the columns of `users` that hold the predecessor's password."""
    digest = user.password_hash if user.has_sha256_hash else None
    return {
        "password_hash": None if digest else user.password_hash,
        "imported_digest": vault.seal(PASSWORD_DIGEST, digest.encode()) if digest else None,
        "legacy_password": vault.fingerprint(password_state(user.password_hash)),
    }


def create_accounts(session: Session, users: Sequence[LegacyUser], run_id: int | None) -> None:
    """Create an account for each of `users`. Inside `transaction()`.

    `run_id` is the import's, by which it can be undone; None for who came by signing in. Raises
    IntegrityError where one exists.
    """
    user_ids = reserve_ids(session, User, len(users))
    insert_accounts(session, seal_accounts(users, user_ids, run_id, current_keyring()))


class SealedRows(NamedTuple):
    """New accounts, ready to be inserted: plain data.

    `keys` and `versions` have the position of the key instead of its id; no seal depends on that.
    """

    users: list[Row]
    data_keys: list[Row]
    keys: list[Row]
    versions: list[Row]
    events: list[tuple[int | None, audit.Details]]


def seal_accounts(
    users: Sequence[LegacyUser], user_ids: Sequence[int], run_id: int | None, keyring: Keyring
) -> SealedRows:
    """Return the rows of `users` under `user_ids`, which seals depend on. Needs no database."""
    rows = SealedRows([], [], [], [], [])
    at = now()
    for user_id, user in zip(user_ids, users, strict=True):
        _add_account(rows, Vault(user_id, [], None, keyring), user, run_id, at)
    return rows


def insert_accounts(session: Session, rows: SealedRows) -> None:
    """Insert what `seal_accounts` returned. Inside `transaction()`. Raises IntegrityError."""
    key_ids = reserve_ids(session, ApiKey, len(rows.keys))
    insert_rows(session, User, _USER_COLUMNS, rows.users)
    insert_rows(session, DataKey, _DATA_KEY_COLUMNS, rows.data_keys)
    insert_rows(session, ApiKey, _KEY_COLUMNS, _numbered(rows.keys, key_ids))
    insert_rows(session, ApiKeyVersion, _VERSION_COLUMNS, _numbered(rows.versions, key_ids))
    audit.record_many("account.imported", rows.events)


def _numbered(rows: Sequence[Row], ids: Sequence[int]) -> list[Row]:
    return [(ids[cast("int", position)], *rest) for position, *rest in rows]


def _add_account(
    rows: SealedRows, vault: Vault, user: LegacyUser, run_id: int | None, at: datetime
) -> None:
    user_id = vault.user_id
    _, data_key = vault.create_data_key()
    rows.data_keys.append(
        (user_id, data_key.number, data_key.wrapped_key, data_key.master_key_id, at)
    )
    rows.users.append(_user_row(user_id, user, vault, run_id, at))
    rows.events.append((user_id, {"username": user.username, "keys": len(user.keys)}))
    for name, key in user.keys.items():
        versions = [key.older, key] if key.older else [key]
        position = len(rows.keys)
        rows.keys.append((position, user_id, name, len(versions), at, at))
        for version, one in enumerate(versions, 1):
            payload = payload_of(one)
            sealed = vault.seal(API_KEY, payload.to_bytes(), name, version)
            fingerprint = (
                None if payload.locked else vault.fingerprint(fingerprinted(payload.value))
            )
            rows.versions.append((position, version, sealed, fingerprint, IMPORT, run_id, None, at))


def _user_row(
    user_id: int, user: LegacyUser, vault: Vault, run_id: int | None, at: datetime
) -> Row:
    factor = user.second_factor
    hashes = password(user, vault)
    return (
        user_id,
        user.username,
        fold(user.username),
        user.name,
        user.email,
        hashes["password_hash"],
        hashes["imported_digest"],
        user.is_admin,
        False,
        user.admin_request,
        user.reason,
        dict(user.api_permissions),
        vault.seal(TOTP_SECRET, factor.secret.encode()) if factor else None,
        at if factor and factor.enabled else None,
        0,
        vault.sealed_fingerprint_key(),
        hashes["legacy_password"],
        run_id,
        user.api_keys_updated or (at if user.keys else None),
        user.created_at or at,
        user.last_login,
    )
