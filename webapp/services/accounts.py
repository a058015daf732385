"""Accounts: how they come to be."""

import re
from dataclasses import dataclass, field

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from webapp.config import current_settings
from webapp.crypto.hashing import is_bcrypt, is_sha256
from webapp.db import db, transaction
from webapp.models import User
from webapp.models.users import fold
from webapp.services import audit, legacy_lookup, login, throttle
from webapp.services.errors import InvalidInput, ServiceError
from webapp.services.login import SignedIn
from webapp.services.passwords import check_new_password, password_hashes
from webapp.services.vault import PASSWORD_DIGEST, Vault

USERNAME = re.compile(r"[a-zA-Z0-9_]{3,50}")
"""What a new account may be called; imported ones may have other names."""


class InvalidUsername(InvalidInput):
    """No new account may have this name."""

    field = "username"
    message = "Use 3 to 50 letters, digits or underscores."


class UsernameTaken(InvalidInput):
    """Somebody has this name already, here or in the predecessor's files, in whatever case."""

    field = "username"
    message = "This username is taken."


class SignupClosed(ServiceError):
    """Accounts are made by an admin here."""

    message = "Sign-up is closed here. Ask an admin for an account."


@dataclass(frozen=True, kw_only=True)
class Application:
    """What somebody says who signs up. Asking for admin rights gives none."""

    name: str
    username: str
    password: str = field(repr=False)
    request_admin: bool = False
    admin_reason: str = ""


def ensure_user_in_database(username: str, password_hash: str, is_admin: bool = False) -> User:
    """Return the account of `username`, ignoring case; created when missing, else as it is.

    `password_hash` is Argon2id, bcrypt, or the predecessor's SHA-256 in hex, which is sealed at
    once. However many callers do this together, one account is made and all get it. Raises
    ValueError for a hash of no known form.
    """
    existing = find_user(username)
    if existing is not None:
        return existing
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
        if not _insert(session, user):
            return session.scalars(_by_name(username)).one()
        if digest:
            vault = Vault.load_for_sealing(user.id)
            user.imported_digest = vault.seal(PASSWORD_DIGEST, digest.encode("ascii"))
        return user


def create_account(username: str, password: str, *, is_admin: bool = False) -> User:
    """Make an account with a password.

    Raises InvalidUsername, UsernameTaken, UnacceptablePassword.
    """
    user = new_account(username, password, is_admin=is_admin)
    add_account(user)
    return user


def new_account(username: str, password: str, *, name: str = "", is_admin: bool = False) -> User:
    """Return an account for `add_account`, its password checked and hashed. Nothing is stored.

    Two steps, because hashing takes long and must not happen in a transaction. Raises
    InvalidUsername, UsernameTaken, UnacceptablePassword.
    """
    _check_shape(username)
    check_new_password(password, username=username)
    # In the files too: a stranger must not receive imported keys (SECURITY.md, decision 11).
    if find_user(username) is not None or legacy_lookup.username_in_legacy(username):
        raise UsernameTaken
    db.session.rollback()
    return User(
        username=username,
        name=name or username,
        is_admin=is_admin,
        password_hash=password_hashes().hash(password),
    )


def add_account(user: User) -> None:
    """Store what `new_account` made. Joins the surrounding transaction. Raises UsernameTaken."""
    with transaction() as session:
        if not _insert(session, user):
            raise UsernameTaken


def sign_up(application: Application, *, replaces: str | None = None) -> SignedIn:
    """Make the account that `application` asks for, and sign it in.

    Raises SignupClosed, InvalidUsername, UnacceptablePassword, UsernameTaken, Throttled: asking for
    taken names counts as guessing at names.
    """
    check_signup_open()
    username = application.username
    attempt = throttle.reserve("signup", fold(username))
    try:
        user = new_account(username, application.password, name=application.name)
        user.admin_requested = application.request_admin
        user.admin_request_reason = application.admin_reason if application.request_admin else ""
        with transaction():
            add_account(user)
            throttle.take_off(attempt)
            with login.acting_as(user.id, username):
                if application.request_admin:
                    audit.record("account.admin_requested", subject_id=user.id)
                return login.open_for(user.id, is_admin=False, replaces=replaces)
    except UsernameTaken:
        raise
    except ServiceError:
        throttle.take_off(attempt)
        raise


def check_signup_open() -> None:
    """Raise SignupClosed where SIGNUP is closed."""
    if current_settings().signup == "closed":
        raise SignupClosed


def find_user(username: str) -> User | None:
    """Return the account of `username`, ignoring case, if the database has it."""
    return db.session.scalars(_by_name(username)).one_or_none()


def _by_name(username: str) -> Select[User]:
    return select(User).where(User.username_folded == fold(username))


def _check_shape(username: str) -> None:
    if not USERNAME.fullmatch(username):
        raise InvalidUsername


def _insert(session: Session, user: User) -> bool:
    """Insert `user` with its audit events; False when the name is taken, whoever was first."""
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError:
        return False
    audit.record("account.created", subject_id=user.id)
    if user.is_admin:
        audit.record("account.admin_granted", subject_id=user.id)
    return True
