"""Checking a password against what is stored, whichever form that has, always at the same cost."""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, select, update

from webapp.crypto.hashing import is_bcrypt, verify_bcrypt, verify_sha256
from webapp.db import db, transaction
from webapp.models import User
from webapp.models.users import fold
from webapp.services import audit, legacy_lookup
from webapp.services.passwords import password_hashes
from webapp.services.users import ensure_user_in_database
from webapp.services.vault import PASSWORD_DIGEST, Locked, Vault


@dataclass(frozen=True)
class Credentials:
    """What is stored of one account's password, as it was read."""

    user_id: int
    username: str
    is_admin: bool
    totp_enabled_at: datetime | None
    disabled_at: datetime | None
    password_hash: str | None = field(repr=False)
    imported_digest: str | None = field(repr=False)

    @property
    def has_second_factor(self) -> bool:
        return self.totp_enabled_at is not None

    @property
    def disabled(self) -> bool:
        return self.disabled_at is not None


@dataclass(frozen=True)
class Verdict:
    """What checking a password found. `new_hash` is to be stored in place of what was read."""

    refusal: str = ""
    """Why it is refused, for the audit trail and not for the person. Empty: it is not."""
    new_hash: str | None = field(default=None, repr=False)


# Also what an UPDATE returns, where SQLite (3.40 for one) takes `IS NOT NULL` for always true: so
# the times themselves are read.
_COLUMNS = (
    User.id.label("user_id"),
    User.username,
    User.is_admin,
    User.totp_enabled_at,
    User.disabled_at,
    User.password_hash,
    User.imported_digest,
)


def find(username: str) -> Credentials | None:
    """Return the credentials of `username`, ignoring case, brought in from the legacy files."""
    found = _read(User.username_folded == fold(username))
    if found is None and (legacy := legacy_lookup.find_account(username)):
        user = ensure_user_in_database(legacy.username, legacy.password_hash, legacy.is_admin)
        found = find_by_id(user.id)
    return found


def find_by_id(user_id: int) -> Credentials | None:
    return _read(User.id == user_id)


def check(found: Credentials | None, password: str) -> Verdict:
    """Check `password`. Exactly one Argon2id computation for every refusal, whatever is stored.

    No database transaction is open meanwhile: it takes a tenth of a second and more.
    """
    digest = _open_digest(found) if found and found.imported_digest else None
    db.session.rollback()
    hashes = password_hashes()
    stored = found.password_hash if found else None
    if found and stored and not is_bcrypt(stored):
        if not hashes.verify(stored, password):
            return Verdict("wrong_password")
        if found.disabled:
            return Verdict("disabled")
        return Verdict(new_hash=None if hashes.is_current(stored) else hashes.hash(password))
    refusal = _check_old(found, digest, password)
    if not refusal:
        return Verdict(new_hash=hashes.hash(password))
    hashes.verify_dummy(password)
    return Verdict(refusal)


def confirm(found: Credentials, verdict: Verdict) -> Credentials | None:
    """Store the upgrade of `verdict`; return the account as it is now.

    None when the credentials are not those checked any more: what another sign-in upgraded or a
    password change replaced meanwhile is neither overwritten nor good enough. One conditional
    statement. Joins the surrounding transaction, which holds the account's row from here on.
    """
    with transaction() as session:
        upgraded = verdict.new_hash is not None
        row = session.execute(
            update(User)
            .where(
                User.id == found.user_id,
                User.disabled_at.is_(None),
                User.password_hash.is_not_distinct_from(found.password_hash),
                User.imported_digest.is_not_distinct_from(found.imported_digest),
            )
            .values(
                password_hash=verdict.new_hash or found.password_hash,
                imported_digest=None if upgraded else found.imported_digest,
            )
            .returning(*_COLUMNS)
        ).one_or_none()
        if row is None:
            return None
        if upgraded:
            was = "sha256" if found.imported_digest else _kind(found.password_hash or "")
            audit.record("password.upgraded", subject_id=found.user_id, was=was)
        return Credentials(**row._asdict())


def _read(condition: ColumnElement[bool]) -> Credentials | None:
    row = db.session.execute(select(*_COLUMNS).where(condition)).one_or_none()
    return Credentials(**row._asdict()) if row else None


def _open_digest(found: Credentials) -> str | None:
    try:
        opened = Vault.load(found.user_id).open(PASSWORD_DIGEST, found.imported_digest or "")
    except Locked:
        return None
    return opened.decode("ascii")


def _check_old(found: Credentials | None, digest: str | None, password: str) -> str:
    """Return why `password` is refused for an account without a hash of our own, or ""."""
    if found is None:
        return "unknown_user"
    if found.password_hash:
        fits = verify_bcrypt(found.password_hash, password)
    elif digest is not None:
        fits = verify_sha256(digest, password)
    else:
        return "locked" if found.imported_digest else "no_password"
    if not fits:
        return "wrong_password"
    return "disabled" if found.disabled else ""


def _kind(stored: str) -> str:
    return "bcrypt" if is_bcrypt(stored) else "argon2id"
