"""The rows of stored keys: read, opened, written, and read back after a save.

Below the use cases of services/keys.py, which own the transactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Row, Select, and_, func, insert, select, update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.db import VERIFICATION, db
from webapp.models import ApiKey, ApiKeyVersion, User
from webapp.models.users import fold
from webapp.services.actor import current_actor
from webapp.services.errors import UnknownUser
from webapp.services.key_payload import Payload, fingerprinted
from webapp.services.vault import API_KEY, Locked, Vault

LEGACY_REASON = (
    "The earlier application encrypted it with a key that this installation has not been given."
)


@dataclass(frozen=True)
class Owner:
    """Whose keys are meant."""

    id: int
    username: str
    is_admin: bool
    api_permissions: Mapping[str, bool]
    self_registered: bool
    """Made by signing up: what the predecessor has under this name may be somebody else's, unless
    the mirror wrote it."""
    created_at: datetime

    def may_use(self, name: str) -> bool:
        """Whether an admin allows this provider; what nobody mentioned is allowed."""
        return self.api_permissions.get(name, True) is not False


@dataclass(frozen=True)
class StoredKey:
    """A key's row with its current version, opened: either `payload` or `locked_reason` is set."""

    id: int
    name: str
    version: int
    fingerprint: str | None
    source: str
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    expires_at: datetime | None
    last_used_at: datetime | None
    payload: Payload | None = field(repr=False)
    locked_reason: str | None


def find_owner(username: str) -> Owner:
    """Return the account of `username`, ignoring case: one statement. Raises UnknownUser."""
    row = db.session.execute(
        select(*_OWNER).where(User.username_folded == fold(username))
    ).one_or_none()
    if row is None:
        raise UnknownUser
    return Owner(*row)


def read_all(username: str) -> tuple[Owner, dict[str, StoredKey]]:
    """Return the owner and all stored keys by name, deleted ones included.

    Two statements however many keys there are. Raises UnknownUser.
    """
    rows = db.session.execute(
        _with_current_version(
            select(*_OWNER, *_COLUMNS).outerjoin(ApiKey, ApiKey.user_id == User.id)
        )
        .where(User.username_folded == fold(username))
        .order_by(ApiKey.name)
    ).all()
    if not rows:
        raise UnknownUser
    owner = Owner(*rows[0][: len(_OWNER)])
    found = [row for row in rows if row.key_id is not None]
    if not found:
        return owner, {}
    vault = Vault.load(owner.id)
    return owner, {row.name: _open(row, vault) for row in found}


def read_owner_and_one(username: str, name: str) -> tuple[Owner, StoredKey | None]:
    """Return the owner and one stored key, opened: two statements. Raises UnknownUser."""
    row = db.session.execute(
        _with_current_version(
            select(*_OWNER, *_COLUMNS).outerjoin(
                ApiKey, and_(ApiKey.user_id == User.id, ApiKey.name == name)
            )
        ).where(User.username_folded == fold(username))
    ).one_or_none()
    if row is None:
        raise UnknownUser
    owner = Owner(*row[: len(_OWNER)])
    return owner, _open(row, Vault.load(owner.id)) if row.key_id is not None else None


def read_one(owner_id: int, name: str, session: Session | None = None) -> StoredKey | None:
    """Return one stored key, opened: two statements."""
    session = session or db.session()
    row = session.execute(
        _with_current_version(select(*_COLUMNS).select_from(ApiKey)).where(
            ApiKey.user_id == owner_id, ApiKey.name == name
        )
    ).one_or_none()
    return _open(row, Vault.load(owner_id, session)) if row else None


def add_version(
    session: Session,
    vault: Vault,
    name: str,
    payload: Payload,
    *,
    expires_at: datetime | None,
    source: str | None = None,
    run_id: int | None = None,
) -> StoredKey:
    """Write `payload` as the newest version of the key and make it current.

    `source` says where it came from, by default the way in which somebody acts now; `run_id`, which
    import wrote it. Inside a write transaction in which `vault` was loaded for sealing, which makes
    the writers of one user take turns: that is what keeps version numbers from repeating.
    """
    at = now()
    key_id, version = _key_row(session, vault.user_id, name, expires_at, at)
    fingerprint = None if payload.locked else vault.fingerprint(fingerprinted(payload.value))
    source = source or current_actor().via
    session.execute(
        insert(ApiKeyVersion).values(
            api_key_id=key_id,
            version=version,
            sealed_value=vault.seal(API_KEY, payload.to_bytes(), name, version),
            fingerprint=fingerprint,
            source=source,
            run_id=run_id,
            created_by_id=current_actor().user_id,
            created_at=at,
        )
    )
    session.execute(update(User).where(User.id == vault.user_id).values(api_keys_updated_at=at))
    return StoredKey(
        id=key_id,
        name=name,
        version=version,
        fingerprint=fingerprint,
        source=source,
        created_at=at,
        updated_at=at,
        deleted_at=None,
        expires_at=expires_at,
        last_used_at=None,
        payload=payload,
        locked_reason=None,
    )


def set_expiry(session: Session, stored: StoredKey, expires_at: datetime) -> None:
    """Change when the key expires; its value and version stay."""
    session.execute(update(ApiKey).where(ApiKey.id == stored.id).values(expires_at=expires_at))


def is_readable(owner_id: int, saved: StoredKey) -> bool:
    """Whether `saved` can be read back in a new transaction on a connection that no save used.

    A newer version that somebody saved meanwhile does not matter: the version itself is read.
    """
    with Session(db.engines[VERIFICATION]) as session:
        row = session.execute(
            select(ApiKeyVersion.sealed_value).where(
                ApiKeyVersion.api_key_id == saved.id, ApiKeyVersion.version == saved.version
            )
        ).one_or_none()
        if row is None:
            return False
        try:
            content = Vault.load(owner_id, session).open(
                API_KEY, row.sealed_value, saved.name, saved.version
            )
        except Locked:
            return False
        return saved.payload is not None and Payload.from_bytes(content) == saved.payload


def point_back(session: Session, saved: StoredKey, before: StoredKey | None) -> None:
    """Make the key what it was before `saved`, unless a newer save came in between."""
    restored: dict[str, object] = {"deleted_at": now()}
    if before:
        restored = {
            "current_version": before.version,
            "updated_at": before.updated_at,
            "expires_at": before.expires_at,
        }
        if before.deleted_at:  # else it stays as it is: somebody may have deleted it meanwhile
            restored["deleted_at"] = before.deleted_at
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == saved.id, ApiKey.current_version == saved.version)
        .values(**restored)
    )


def _key_row(
    session: Session, user_id: int, name: str, expires_at: datetime | None, at: datetime
) -> tuple[int, int]:
    """Create or update the key's row for its next version; return its id and that version."""
    row = session.execute(
        select(ApiKey.id, func.max(ApiKeyVersion.version).label("newest"))
        .outerjoin(ApiKeyVersion, ApiKeyVersion.api_key_id == ApiKey.id)
        .where(ApiKey.user_id == user_id, ApiKey.name == name)
        .group_by(ApiKey.id)
    ).one_or_none()
    changed = {"updated_at": at, "deleted_at": None, "expires_at": expires_at}
    if row is None:
        key_id = session.execute(
            insert(ApiKey)
            .values(user_id=user_id, name=name, current_version=1, created_at=at, **changed)
            .returning(ApiKey.id)
        ).scalar_one()
        return key_id, 1
    version = (row.newest or 0) + 1
    session.execute(
        update(ApiKey).where(ApiKey.id == row.id).values(current_version=version, **changed)
    )
    return row.id, version


_OWNER = (
    User.id,
    User.username,
    User.is_admin,
    User.api_permissions,
    User.self_registered,
    User.created_at.label("born_at"),
)
_COLUMNS = (
    ApiKey.id.label("key_id"),
    ApiKey.user_id,
    ApiKey.name,
    ApiKeyVersion.version,
    ApiKeyVersion.sealed_value,
    ApiKeyVersion.fingerprint,
    ApiKeyVersion.source,
    ApiKey.created_at,
    ApiKey.updated_at,
    ApiKey.deleted_at,
    ApiKey.expires_at,
    ApiKey.last_used_at,
)


def _with_current_version(statement: Select) -> Select:  # type: ignore[type-arg]
    return statement.outerjoin(
        ApiKeyVersion,
        and_(
            ApiKeyVersion.api_key_id == ApiKey.id,
            ApiKeyVersion.version == ApiKey.current_version,
        ),
    )


def _open(row: Row, vault: Vault) -> StoredKey:  # type: ignore[type-arg]
    payload, locked_reason = None, None
    try:
        content = vault.open(API_KEY, row.sealed_value or "", row.name, row.version or 0)
        payload = Payload.from_bytes(content)
    except Locked as error:
        locked_reason = str(error)
    if payload and payload.locked:
        payload, locked_reason = None, LEGACY_REASON
    return StoredKey(
        id=row.key_id,
        name=row.name,
        version=row.version or 0,
        fingerprint=row.fingerprint,
        source=row.source or "",
        created_at=row.created_at,
        updated_at=row.updated_at,
        deleted_at=row.deleted_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        payload=payload,
        locked_reason=locked_reason,
    )
