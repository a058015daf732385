"""The one-time link that creates the first admin (ASVS 6.3.2: there is no default account)."""

import hashlib
import hmac
from base64 import urlsafe_b64encode

from sqlalchemy import exists, select

from webapp.config import current_settings
from webapp.db import db, lock, transaction
from webapp.models import User
from webapp.services import login
from webapp.services.accounts import add_account, new_account
from webapp.services.errors import ServiceError
from webapp.services.login import SignedIn

_LABEL = b"keystay first admin 1"


class SetupDone(ServiceError):
    """There is an account already, or the link is not the one of this installation."""

    message = "This link does not work any more."


def setup_token() -> str | None:
    """Return the token of the link; None once an account exists.

    It is derived from SECRET_KEY, so that every process knows it and none has to store it.
    """
    return None if _has_accounts() else _token()


def check_setup_token(token: str) -> None:
    """Raise SetupDone unless `token` is the right one and no account exists."""
    fits = hmac.compare_digest(token.encode("utf-8", "surrogatepass"), _token().encode("ascii"))
    if not fits or _has_accounts():
        raise SetupDone


def create_first_admin(
    token: str, username: str, password: str, *, replaces: str | None = None
) -> SignedIn:
    """Create the first account, an admin, and sign it in. Of several at once, one succeeds.

    Raises SetupDone, InvalidUsername, UsernameTaken, UnacceptablePassword.
    """
    check_setup_token(token)
    account = new_account(username, password, is_admin=True)
    user = account.user
    with transaction() as session:
        lock("first account", session)
        check_setup_token(token)
        add_account(account)
        with login.acting_as(user.id, user.username):
            return login.open_for(user.id, is_admin=True, replaces=replaces)


def _has_accounts() -> bool:
    return bool(db.session.scalar(select(exists().where(User.id.is_not(None)))))


def _token() -> str:
    key = current_settings().secret_key.encode("utf-8")
    return urlsafe_b64encode(hmac.new(key, _LABEL, hashlib.sha256).digest()).decode().rstrip("=")
