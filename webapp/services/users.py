"""Rows of `users`: found by name, inserted, and ensured to be there."""

from sqlalchemy import Select, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from webapp.crypto.hashing import is_bcrypt, is_sha256
from webapp.db import db, transaction
from webapp.legacy.records import RejectedRecord, check_username
from webapp.models import User
from webapp.models.users import fold
from webapp.services import audit, legacy_lookup, legacy_outbox
from webapp.services.vault import LEGACY_HASH, PASSWORD_DIGEST, Vault


def ensure_user_in_database(username: str, password_hash: str, is_admin: bool = False) -> User:
    """Return the account of `username`, ignoring case; created when missing, else as it is.

    One that the legacy files have and the import has not reached yet comes from there, with its
    keys, its second factor and its own hash. Otherwise `password_hash` is Argon2id, bcrypt, or the
    predecessor's SHA-256 in hex, which is sealed at once. However many callers do this together,
    one account is made and all get it. Raises ValueError for a hash of no known form and for a name
    that no account can have.
    """
    existing = find_user(username)
    if existing is None and legacy_lookup.ensure_imported(username):
        existing = find_user(username)
    if existing is not None:
        return existing
    try:
        check_username(username)
    except RejectedRecord as error:
        raise ValueError(str(error)) from None
    digest = password_hash.lower() if is_sha256(password_hash) else None
    if digest is None and not is_bcrypt(password_hash) and not password_hash.startswith("$argon2"):
        raise ValueError("the password hash has no known form")
    user = User(
        username=username,
        name=username,
        is_admin=is_admin,
        password_hash=None if digest else password_hash,
    )
    with transaction() as session:
        if not insert_user(session, user):
            return session.scalars(_by_name(username)).one()
        if digest:
            vault = Vault.load_for_sealing(user.id)
            user.imported_digest = vault.seal(PASSWORD_DIGEST, digest.encode("ascii"))
        return user


def find_user(username: str) -> User | None:
    """Return the account of `username`, ignoring case, if the database has it."""
    return db.session.scalars(_by_name(username)).one_or_none()


def insert_user(session: Session, user: User, *, legacy_hash: str | None = None) -> bool:
    """Insert `user` with its audit events; False when the name is taken, whoever was first.

    `legacy_hash` is its password in a form that the predecessor reads, for the mirror.
    """
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError:
        return False
    audit.record("account.created", subject_id=user.id)
    if user.is_admin:
        audit.record("account.admin_granted", subject_id=user.id)
    if legacy_hash is not None:
        sealed = Vault.load_for_sealing(user.id).seal(LEGACY_HASH, legacy_hash.encode("ascii"))
        session.execute(update(User).where(User.id == user.id).values(legacy_hash=sealed))
    legacy_outbox.note(session, user.id, "account")
    return True


def _by_name(username: str) -> Select[User]:
    return select(User).where(User.username_folded == fold(username))
