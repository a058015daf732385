"""Accounts: how they come to be."""

import re
from dataclasses import dataclass, field

from webapp.config import current_settings
from webapp.crypto.hashing import hash_bcrypt
from webapp.db import db, transaction
from webapp.models import User
from webapp.models.users import fold
from webapp.services import audit, legacy_lookup, legacy_mode, login, throttle
from webapp.services.errors import InvalidInput, ServiceError
from webapp.services.login import SignedIn
from webapp.services.passwords import check_new_password, password_hashes
from webapp.services.users import ensure_user_in_database, find_user, insert_user

__all__ = [
    "Application",
    "InvalidUsername",
    "NewAccount",
    "SignupClosed",
    "UsernameTaken",
    "add_account",
    "check_signup_open",
    "create_account",
    "ensure_user_in_database",
    "find_user",
    "new_account",
    "sign_up",
]

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


@dataclass(frozen=True)
class NewAccount:
    """An account that is not stored yet, and its password as the predecessor can read it."""

    user: User
    legacy_hash: str | None = field(default=None, repr=False)


def create_account(username: str, password: str, *, is_admin: bool = False) -> User:
    """Make an account with a password.

    Raises InvalidUsername, UsernameTaken, UnacceptablePassword.
    """
    account = new_account(username, password, is_admin=is_admin)
    add_account(account)
    return account.user


def new_account(
    username: str, password: str, *, name: str = "", is_admin: bool = False
) -> NewAccount:
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
    user = User(
        username=username,
        name=name or username,
        is_admin=is_admin,
        password_hash=password_hashes().hash(password),
    )
    return NewAccount(user, hash_bcrypt(password) if legacy_mode.is_mirrored() else None)


def add_account(account: NewAccount) -> None:
    """Store what `new_account` made. Joins the surrounding transaction. Raises UsernameTaken."""
    with transaction() as session:
        if not insert_user(session, account.user, legacy_hash=account.legacy_hash):
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
        account = new_account(username, application.password, name=application.name)
        user = account.user
        user.self_registered = True
        user.admin_requested = application.request_admin
        user.admin_request_reason = application.admin_reason if application.request_admin else ""
        with transaction():
            add_account(account)
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


def _check_shape(username: str) -> None:
    if not USERNAME.fullmatch(username):
        raise InvalidUsername
