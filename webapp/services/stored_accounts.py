"""Accounts with all their keys opened, many at a time: what import and check compare with.

Three statements for any number of accounts.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Select, and_, case, or_, select
from sqlalchemy.orm import Session

from webapp.db import Base
from webapp.legacy.keys import VALUE, LegacyKey
from webapp.models import ApiKey, ApiKeyVersion, DataKey, User
from webapp.services.key_payload import Payload
from webapp.services.keyring import current_keyring
from webapp.services.vault import API_KEY, Locked, Vault, WrappedKey

IMPORT = "import"
"""What `api_key_versions.source` says of a value from the predecessor."""


@dataclass(frozen=True, slots=True)
class OpenedKey:
    """A stored key, also one in the trash; `payload` is None when it does not open now."""

    payload: Payload | None = field(repr=False)
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
    vault: Vault = field(repr=False, compare=False)
    keys: Mapping[str, OpenedKey]


def load(
    session: Session, folded_names: Sequence[str], *, for_update: bool = False
) -> dict[str, Account]:
    """Return the accounts of these names by folded name.

    With `for_update`, inside `transaction()`, nobody changes their keys until it ends.
    """
    users = session.execute(
        _locked(select(*_ACCOUNT_COLUMNS), User, for_update=for_update)
        # PostgreSQL takes no text with a NUL, not even to find nothing; no account has one.
        .where(User.username_folded.in_(name for name in folded_names if "\0" not in name))
        .order_by(User.id)
    ).all()
    if not users:
        return {}
    ids = [user.id for user in users]
    wrapped = _wrapped_keys(session, ids)
    keys = _current_versions(session, ids, for_update=for_update)
    return {user.username_folded: _opened(user, wrapped[user.id], keys[user.id]) for user in users}


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
    wrapped = _wrapped_keys(session, list(names))
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
        found[row.user_id, row.name].append(_payload(vaults[row.user_id], row))
    return found


_ACCOUNT_COLUMNS = (
    User.id,
    User.username,
    User.username_folded,
    User.is_admin,
    User.self_registered,
    User.created_at,
    User.fingerprint_key,
    User.totp_secret,
    User.legacy_password,
    IS_UNTOUCHED.label("is_untouched"),
    case(
        (User.totp_secret.is_(None), "none"),
        (User.totp_enabled_at.is_(None), "prepared"),
        else_="enabled",
    ).label("second_factor"),
)


def _wrapped_keys(session: Session, user_ids: Sequence[int]) -> Mapping[int, list[WrappedKey]]:
    found = defaultdict(list)
    for row in session.execute(
        select(DataKey.user_id, DataKey.number, DataKey.wrapped_key, DataKey.master_key_id).where(
            DataKey.user_id.in_(user_ids)
        )
    ):
        found[row.user_id].append(WrappedKey(row.number, row.wrapped_key, row.master_key_id))
    return found


def _current_versions(
    session: Session, user_ids: Sequence[int], *, for_update: bool
) -> Mapping[int, list[Row[Any]]]:
    found = defaultdict(list)
    statement = select(
        ApiKey.user_id,
        ApiKey.name,
        ApiKey.deleted_at,
        ApiKey.expires_at,
        ApiKeyVersion.version,
        ApiKeyVersion.sealed_value,
        ApiKeyVersion.source,
    ).outerjoin(
        ApiKeyVersion,
        and_(
            ApiKeyVersion.api_key_id == ApiKey.id,
            ApiKeyVersion.version == ApiKey.current_version,
        ),
    )
    for row in session.execute(
        _locked(statement, ApiKey, for_update=for_update)
        .where(ApiKey.user_id.in_(user_ids))
        .order_by(ApiKey.id)
    ):
        found[row.user_id].append(row)
    return found


def _locked(
    statement: Select[*tuple[Any, ...]], model: type[Base], *, for_update: bool
) -> Select[*tuple[Any, ...]]:
    # Not FOR UPDATE: rows that refer to these, such as a new session, may be written meanwhile.
    return statement.with_for_update(of=model, key_share=True) if for_update else statement


def _opened(user: Row[Any], wrapped: Sequence[WrappedKey], keys: Sequence[Row[Any]]) -> Account:
    vault = Vault(user.id, wrapped, user.fingerprint_key, current_keyring())
    opened = {
        row.name: OpenedKey(
            _payload(vault, row), row.source or "", row.deleted_at is not None, row.expires_at
        )
        for row in keys
    }
    return Account(
        user.id,
        user.username,
        user.is_admin,
        bool(user.is_untouched),
        user.self_registered,
        user.created_at,
        user.second_factor,
        user.totp_secret,
        user.legacy_password,
        vault,
        opened,
    )


def _payload(vault: Vault, row: Row[*tuple[Any, ...]]) -> Payload | None:
    try:
        return Payload.from_bytes(
            vault.open(API_KEY, row.sealed_value or "", row.name, row.version or 0)
        )
    except Locked:
        return None
