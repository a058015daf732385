"""Sessions: rows that say who is signed in where. The browser holds an id, the row its SHA-256.

Each step of a sign-in makes a new id and deletes the row of the old one, so that an id that
somebody knew before is worth nothing after it (ASVS 7.2.4).
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import ColumnElement, and_, delete, func, insert, select, update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.config import Settings, current_settings
from webapp.db import db, lock, transaction
from webapp.models import LoginSession, User
from webapp.services.actor import current_actor
from webapp.services.errors import ServiceError

Stage = Literal["second_factor", "enrol", "full"]

MAX_SESSIONS = 10
"""Of one account at a time; a further one ends the oldest (ASVS 7.1.2)."""
_HALF_WAY = {"second_factor": timedelta(minutes=10), "enrol": timedelta(minutes=30)}
_TOUCHED_EVERY = timedelta(minutes=1)


class SessionEnded(ServiceError):
    """The session was ended meanwhile."""

    message = "Your session has ended. Sign in again."


@dataclass(frozen=True)
class SessionOwner:
    """Who a valid session belongs to, as the database has it now.

    `stage` is what the session may do now: a full one of somebody who must have a second factor and
    has none counts as `enrol`.
    """

    session_digest: bytes
    stage: Stage
    last_seen_at: datetime
    authenticated_at: datetime
    user_id: int
    username: str
    name: str
    is_admin: bool
    has_second_factor: bool


def digest_of(sid: str) -> bytes:
    """Return what the database knows of the session id `sid`."""
    return hashlib.sha256(sid.encode("utf-8", "surrogatepass")).digest()


def find(sid: str) -> SessionOwner | None:
    """Return whose valid session `sid` is: one statement, and the disabled are out at once."""
    row = db.session.execute(
        select(
            LoginSession.digest.label("session_digest"),
            LoginSession.stage,
            LoginSession.last_seen_at,
            LoginSession.authenticated_at,
            User.id.label("user_id"),
            User.username,
            User.name,
            User.is_admin,
            User.totp_enabled_at.is_not(None).label("has_second_factor"),
        )
        .join(User, User.id == LoginSession.user_id)
        .where(LoginSession.digest == digest_of(sid), User.disabled_at.is_(None), _is_alive())
    ).one_or_none()
    if row is None:
        return None
    values = row._asdict()
    if row.stage == "full":
        values["stage"] = settled_stage(
            is_admin=row.is_admin, has_second_factor=row.has_second_factor
        )
    return SessionOwner(**values)


def settled_stage(*, is_admin: bool, has_second_factor: bool) -> Literal["enrol", "full"]:
    """Return the stage of somebody who has shown all the factors that they have."""
    if has_second_factor or not must_have_second_factor(current_settings(), is_admin=is_admin):
        return "full"
    return "enrol"


def must_have_second_factor(settings: Settings, *, is_admin: bool) -> bool:
    """Whether REQUIRE_TWO_FACTOR means this person."""
    policy = settings.require_two_factor
    return policy == "everyone" or (policy == "admins" and is_admin)


def touch(session_digest: bytes, last_seen_at: datetime) -> None:
    """Note that the session is in use, at most once a minute. A row that is gone stays gone."""
    moment = now()
    # Where the idle limit is short, a minute that is not noted would end a session in use.
    idle = timedelta(minutes=current_settings().session_idle_minutes)
    if last_seen_at > moment - min(_TOUCHED_EVERY, idle / 60):
        return
    with transaction() as session:
        session.execute(
            update(LoginSession)
            .where(LoginSession.digest == session_digest, LoginSession.last_seen_at < moment)
            .values(last_seen_at=moment)
        )


def open_session(user_id: int, stage: Stage, *, replaces: str | None = None) -> str:
    """Open a session and return its new id. Joins the surrounding transaction.

    `replaces` is the id that the browser had before, whoever's it was.
    """
    with transaction() as session:
        _lock(user_id, session)
        if replaces:
            end(replaces)
        moment = now()
        return _insert(session, user_id, stage, created_at=moment, authenticated_at=moment)


def renew(sid: str, stage: Stage | None = None, *, authenticated: bool = False) -> str:
    """Give a session its next id, and `stage` where it changes, and return the id.

    Its absolute limit stays where it was; with `authenticated` the password was just given. Joins
    the surrounding transaction. Raises SessionEnded when it is not there any more.
    """
    digest = digest_of(sid)
    with transaction() as session:
        owner = select(LoginSession.user_id).where(LoginSession.digest == digest)
        # Locked before anything is deleted, so that two of an account's sessions never wait for
        # each other.
        _lock(session.scalar(owner), session)
        old = session.execute(
            delete(LoginSession)
            .where(LoginSession.digest == digest, _is_alive())
            .returning(
                LoginSession.user_id,
                LoginSession.stage,
                LoginSession.created_at,
                LoginSession.authenticated_at,
            )
        ).one_or_none()
        if old is None:
            raise SessionEnded
        return _insert(
            session,
            old.user_id,
            stage or old.stage,
            created_at=old.created_at,
            authenticated_at=now() if authenticated else old.authenticated_at,
        )


def end(sid: str) -> None:
    """End one session. Joins the surrounding transaction."""
    with transaction() as session:
        session.execute(delete(LoginSession).where(LoginSession.digest == digest_of(sid)))


def end_all(user_id: int, *, but: str | None = None) -> int:
    """End every session of an account, but the one with the id `but`; return how many.

    Joins the surrounding transaction.
    """
    others = LoginSession.user_id == user_id
    if but:
        others &= LoginSession.digest != digest_of(but)
    with transaction() as session:
        _lock(user_id, session)
        gone = session.execute(delete(LoginSession).where(others).returning(LoginSession.user_id))
        return len(gone.all())


def count_open(user_id: int) -> int:
    """Return how many browsers are signed in as this account."""
    count = db.session.scalar(
        select(func.count())
        .select_from(LoginSession)
        .where(LoginSession.user_id == user_id, LoginSession.stage != "second_factor", _is_alive())
    )
    return count or 0


def _lock(user_id: int | None, session: Session) -> None:
    lock(f"sessions {user_id}", session)


def _is_alive() -> ColumnElement[bool]:
    settings, moment = current_settings(), now()
    return and_(
        LoginSession.expires_at > moment,
        LoginSession.last_seen_at > moment - timedelta(minutes=settings.session_idle_minutes),
        # Beside `expires_at`, so that a limit that was lowered holds for open sessions too.
        LoginSession.created_at > moment - timedelta(hours=settings.session_max_hours),
    )


def _insert(
    session: Session,
    user_id: int,
    stage: Stage,
    *,
    created_at: datetime,
    authenticated_at: datetime,
) -> str:
    sid = secrets.token_urlsafe(32)
    limit = timedelta(hours=current_settings().session_max_hours)
    actor = current_actor()
    session.execute(
        insert(LoginSession).values(
            digest=digest_of(sid),
            user_id=user_id,
            stage=stage,
            created_at=created_at,
            last_seen_at=now(),
            authenticated_at=authenticated_at,
            expires_at=created_at + min(limit, _HALF_WAY.get(stage, limit)),
            address=actor.address,
            user_agent=actor.user_agent[:300],
        )
    )
    _end_oldest(session, user_id, stage)
    return sid


def _end_oldest(session: Session, user_id: int, stage: Stage) -> None:
    # Sign-ins that lack the code are counted by themselves: knowing the password must not be enough
    # to push its owner out.
    half = LoginSession.stage == "second_factor"
    same = and_(LoginSession.user_id == user_id, half if stage == "second_factor" else ~half)
    kept = (
        select(LoginSession.digest)
        .where(same)
        .order_by(LoginSession.created_at.desc(), LoginSession.last_seen_at.desc())
        .limit(MAX_SESSIONS)
    )
    session.execute(
        delete(LoginSession)
        .where(same, LoginSession.digest.not_in(kept))
        .execution_options(synchronize_session=False)
    )
