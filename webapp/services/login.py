"""Signing in, step by step, and out. Every way in ends in `open_for`.

A failed sign-in tells and costs the same whatever the cause (SECURITY.md, decision 8): one message,
one Argon2id computation, and a floor under the time that hides what old hashes take beside it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sqlalchemy import update

from webapp.clock import now
from webapp.db import transaction
from webapp.models import User
from webapp.models.users import fold
from webapp.services import audit, credentials, second_factor, sessions, throttle
from webapp.services.actor import acting, current_actor
from webapp.services.credentials import Credentials, Verdict
from webapp.services.errors import ServiceError
from webapp.services.passwords import password_hashes
from webapp.services.sessions import SessionEnded, Stage
from webapp.services.vault import Locked

_TRIES = 3
_FLOOR_IN_HASHES = 2.5


class LoginRefused(ServiceError):
    """The sign-in failed, for whatever reason."""

    message = "The username or the password is wrong."


class WrongPassword(ServiceError):
    """The password that a signed-in person gave again is not theirs."""

    message = "The password is wrong."


class WrongCode(ServiceError):
    """The code of the second factor is wrong, too old, or was used before."""

    message = "This code is wrong or was used already. Wait for the next one."


@dataclass(frozen=True)
class SignedIn:
    """The id of a new session, for the browser alone, and how far it is."""

    sid: str = field(repr=False)
    stage: Stage


def sign_in(username: str, password: str, *, replaces: str | None = None) -> SignedIn:
    """Check a password and open a session in place of `replaces`, the id the browser had before.

    An old hash is replaced by one of today's in the same act. Raises LoginRefused, Throttled.
    """
    attempt = throttle.reserve("password", fold(username))
    began = time.monotonic()
    found: Credentials | None = None
    refusal = ""
    for found, verdict in _checked(lambda: credentials.find(username), password):
        refusal = verdict.refusal
        if found is None or refusal:
            break
        with acting_as(found.user_id, found.username), transaction():
            account = credentials.confirm(found, verdict)
            if account is not None:
                throttle.take_off(attempt)
                return open_for(
                    account.user_id,
                    is_admin=account.is_admin,
                    has_second_factor=account.has_second_factor,
                    replaces=replaces,
                )
    audit.record("login.failed", subject_id=found.user_id if found else None, reason=refusal)
    _wait_for_floor(began)
    raise LoginRefused


def open_for(
    user_id: int, *, is_admin: bool, has_second_factor: bool = False, replaces: str | None = None
) -> SignedIn:
    """Open a session for somebody whose first factor is proven.

    Joins the surrounding transaction.
    """
    with transaction():
        stage: Stage = (
            "second_factor"
            if has_second_factor
            else sessions.settled_stage(is_admin=is_admin, has_second_factor=False)
        )
        signed_in = SignedIn(sessions.open_session(user_id, stage, replaces=replaces), stage)
        if stage == "second_factor":
            audit.record("login.half", subject_id=user_id, factor="password")
        else:
            _note_login(user_id, factor="password", stage=stage)
        return signed_in


@contextmanager
def acting_as(user_id: int, username: str) -> Iterator[None]:
    """Let the audit trail name the account as the one who acts, which was nobody until now."""
    with acting(replace(current_actor(), user_id=user_id, username=username)):
        yield


def verify_code(sid: str, user_id: int, code: str) -> SignedIn:
    """Finish a sign-in with a code of the second factor.

    Raises WrongCode, Throttled, SessionEnded, and Locked when the stored secret does not open: that
    is no way past it.
    """
    attempt = throttle.reserve("second_factor", str(user_id), account_id=user_id)
    try:
        with transaction():
            if second_factor.consume(user_id, code):
                throttle.take_off(attempt)
                signed_in = SignedIn(sessions.renew(sid, "full"), "full")
                audit.record("second_factor.succeeded", subject_id=user_id, factor="totp")
                _note_login(user_id, factor="password+totp", stage="full")
                return signed_in
    except (Locked, SessionEnded):
        throttle.take_off(attempt)
        raise
    audit.record("second_factor.failed", subject_id=user_id, factor="totp")
    raise WrongCode


def reauthenticate(sid: str, user_id: int, username: str, password: str) -> str:
    """Check the password of somebody who is signed in; return the session's next id.

    It shares the budget of signing in. Raises WrongPassword, Throttled, SessionEnded.
    """
    attempt = throttle.reserve("password", fold(username), account_id=user_id)
    for found, verdict in _checked(lambda: credentials.find_by_id(user_id), password):
        if found is None or verdict.refusal:
            break
        with transaction():
            if credentials.confirm(found, verdict):
                throttle.take_off(attempt)
                renewed = sessions.renew(sid, authenticated=True)
                audit.record("reauthentication.succeeded", subject_id=user_id)
                return renewed
    audit.record("reauthentication.failed", subject_id=user_id)
    raise WrongPassword


def sign_out(sid: str, user_id: int | None) -> None:
    """End the session `sid`."""
    with transaction():
        sessions.end(sid)
        if user_id is not None:
            audit.record("logout", subject_id=user_id)


def _note_login(user_id: int, *, factor: str, stage: Stage) -> None:
    with transaction() as session:
        session.execute(update(User).where(User.id == user_id).values(last_login_at=now()))
        audit.record("login.succeeded", subject_id=user_id, factor=factor, stage=stage)


def _checked(
    read: Callable[[], Credentials | None], password: str
) -> Iterator[tuple[Credentials | None, Verdict]]:
    """Read and check, again where the credentials have changed before they could be confirmed."""
    for _ in range(_TRIES):
        found = read()
        yield found, credentials.check(found, password)


def _wait_for_floor(began: float) -> None:
    floor = _FLOOR_IN_HASHES * password_hashes().seconds
    time.sleep(max(0.0, floor - (time.monotonic() - began)))
