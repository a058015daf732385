"""Accounts with all their keys opened, many at a time: what import and check compare with.

Three statements for any number of accounts.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Boolean, ColumnElement, Select, and_, case, or_, select, type_coerce
from sqlalchemy.orm import Session

from webapp.crypto.keyring import Keyring
from webapp.db import Base
from webapp.legacy.keys import VALUE, LegacyKey
from webapp.models import ApiKey, ApiKeyVersion, DataKey, User
from webapp.services.key_payload import Payload
from webapp.services.keyring import current_keyring
from webapp.services.vault import API_KEY, Locked, Vault, WrappedKey

IMPORT = "import"
"""What `api_key_versions.source` says of a value from the predecessor."""


class OpenedKey(NamedTuple):
    """A stored key, also one in the trash; `payload` is None when it does not open now."""

    payload: Payload | None
    source: str
    is_deleted: bool
    expires_at: datetime | None

    @property
    def is_as_imported(self) -> bool:
        """Whether nobody changed or deleted it since it came from the predecessor."""
        return self.source == IMPORT and not self.is_deleted


@dataclass(frozen=True, slots=True)
class Account:
    """An account with its keys by name.

    `is_untouched`: its password is still the predecessor's, so nobody has signed in here yet.
    """

    vault: Vault = field(repr=False, compare=False)
    keys: Mapping[str, OpenedKey]
    id: int
    username: str
    is_admin: bool
    is_untouched: bool
    is_self_registered: bool
    created_at: datetime
    second_factor: Literal["none", "prepared", "enabled"]
    sealed_totp: str | None = field(repr=False)
    legacy_password: str | None
    """Fingerprint of the predecessor's hash; see models/users.py."""


class StoredRows(NamedTuple):
    """Accounts as the database has them, sealed: plain data that `opened` takes anywhere."""

    accounts: Sequence[tuple[Any, ...]]
    data_keys: Sequence[tuple[Any, ...]]
    keys: Sequence[tuple[Any, ...]]
    """With their current versions."""

    def of(self, user_id: int) -> "StoredRows":
        """Return those of one account."""
        return StoredRows(
            [row for row in self.accounts if row[1] == user_id],
            [row for row in self.data_keys if row[0] == user_id],
            [row for row in self.keys if row[0] == user_id],
        )


def load(
    session: Session, folded_names: Sequence[str], *, for_update: bool = False
) -> dict[str, Account]:
    """Return the accounts of these names by folded name.

    With `for_update`, inside `transaction()`, nobody changes their keys until it ends.
    """
    return opened(read(session, folded_names, for_update=for_update), current_keyring())


def read(session: Session, folded_names: Sequence[str], *, for_update: bool = False) -> StoredRows:
    """Return what `load` opens."""
    accounts = _rows(
        session,
        _locked(select(*_ACCOUNT_COLUMNS), User, for_update=for_update)
        # PostgreSQL takes no text with a NUL, not even to find nothing; no account has one.
        .where(User.username_folded.in_(name for name in folded_names if "\0" not in name))
        .order_by(User.id),
    )
    ids = [account[1] for account in accounts]
    if not ids:
        return StoredRows([], [], [])
    keys = _rows(
        session,
        _locked(_CURRENT_VERSIONS, ApiKey, for_update=for_update)
        .where(ApiKey.user_id.in_(ids))
        .order_by(ApiKey.id),
    )
    # In this order: a key that was saved meanwhile with a new data key finds it.
    return StoredRows(accounts, _wrapped_keys(session, ids), keys)


def opened(rows: StoredRows, keyring: Keyring) -> dict[str, Account]:
    """Return the accounts in `rows` by folded name. Needs no database."""
    keys: dict[int, dict[str, OpenedKey]] = {}
    vaults: dict[int, Vault] = {}
    wrapped = _by_user(rows.data_keys)
    for _, user_id, *_, fingerprint_key in rows.accounts:
        keys[user_id] = {}
        vaults[user_id] = Vault(user_id, wrapped[user_id], fingerprint_key, keyring)
    for user_id, name, is_deleted, expires_at, version, sealed, source in rows.keys:
        payload = _payload(vaults[user_id], name, version, sealed)
        keys[user_id][name] = OpenedKey(payload, source or "", bool(is_deleted), expires_at)
    return {
        folded: Account(vaults[user_id], keys[user_id], user_id, *columns)
        for folded, user_id, *columns, _ in rows.accounts
    }


def as_legacy(name: str, payload: Payload) -> LegacyKey:
    """Return a stored key in the form of the predecessor's, to compare or to write it."""
    if isinstance(payload.value, str):
        parts = {VALUE: payload.value} if payload.value else {}
    else:
        parts = dict(payload.value)
    return LegacyKey(name, parts, payload.legacy_tokens)


IS_UNTOUCHED: ColumnElement[bool] = or_(
    User.imported_digest.is_not(None), User.password_hash.startswith("$2")
)
"""Whether the password still is the predecessor's: signing in once puts ours in its place."""


def payloads(
    session: Session, names: Mapping[int, Sequence[str]]
) -> Mapping[tuple[int, str], list[Payload | None]]:
    """Return all versions of the keys of these `names`, by user id and name.

    None stands for one that does not open now.
    """
    users = select(User.id, User.fingerprint_key).where(User.id.in_(names))
    wrapped = _by_user(_wrapped_keys(session, list(names)))
    vaults = {
        user.id: Vault(user.id, wrapped[user.id], user.fingerprint_key, current_keyring())
        for user in session.execute(users)
    }
    found = defaultdict(list)
    for row in session.execute(
        select(ApiKey.user_id, ApiKey.name, ApiKeyVersion.version, ApiKeyVersion.sealed_value)
        .join(ApiKeyVersion, ApiKeyVersion.api_key_id == ApiKey.id)
        .where(ApiKey.user_id.in_(names), ApiKey.name.in_({n for of in names.values() for n in of}))
    ):
        payload = _payload(vaults[row.user_id], row.name, row.version, row.sealed_value)
        found[row.user_id, row.name].append(payload)
    return found


_ACCOUNT_COLUMNS = (
    User.username_folded,
    User.id,
    User.username,
    User.is_admin,
    type_coerce(IS_UNTOUCHED, Boolean).label("is_untouched"),
    User.self_registered,
    User.created_at,
    case(
        (User.totp_secret.is_(None), "none"),
        (User.totp_enabled_at.is_(None), "prepared"),
        else_="enabled",
    ).label("second_factor"),
    User.totp_secret,
    User.legacy_password,
    User.fingerprint_key,
)
"""Those between the first and the last are fields of `Account`."""
_CURRENT_VERSIONS = select(
    ApiKey.user_id,
    ApiKey.name,
    ApiKey.deleted_at.is_not(None),
    ApiKey.expires_at,
    ApiKeyVersion.version,
    ApiKeyVersion.sealed_value,
    ApiKeyVersion.source,
).outerjoin(
    ApiKeyVersion,
    and_(ApiKeyVersion.api_key_id == ApiKey.id, ApiKeyVersion.version == ApiKey.current_version),
)


def _wrapped_keys(session: Session, user_ids: Sequence[int]) -> list[tuple[Any, ...]]:
    columns = (DataKey.user_id, DataKey.number, DataKey.wrapped_key, DataKey.master_key_id)
    return _rows(session, select(*columns).where(DataKey.user_id.in_(user_ids)))


def _rows(session: Session, statement: Select[*tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    # Not by the ORM, which takes longer; as plain tuples, which a helper can be sent.
    return [tuple(row) for row in session.connection().execute(statement)]


def _by_user(data_keys: Sequence[tuple[Any, ...]]) -> Mapping[int, list[WrappedKey]]:
    found = defaultdict(list)
    for user_id, *columns in data_keys:
        found[user_id].append(WrappedKey(*columns))
    return found


def _locked(
    statement: Select[*tuple[Any, ...]], model: type[Base], *, for_update: bool
) -> Select[*tuple[Any, ...]]:
    # Not FOR UPDATE: rows that refer to these, such as a new session, may be written meanwhile.
    return statement.with_for_update(of=model, key_share=True) if for_update else statement


def _payload(vault: Vault, name: str, version: int | None, sealed: str | None) -> Payload | None:
    try:
        return Payload.from_bytes(vault.open(API_KEY, sealed or "", name, version or 0))
    except Locked:
        return None
