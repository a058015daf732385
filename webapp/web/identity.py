"""Who sends this request: the session in the cookie, read from the database once per request."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from flask import Flask, Request, g, session
from flask_login import AnonymousUserMixin, UserMixin, current_user

from webapp.extensions import login_manager
from webapp.services import sessions
from webapp.services.actor import current_actor, set_actor
from webapp.services.sessions import SessionEnded, Stage

_SID = "sid"


@dataclass(frozen=True, eq=False, kw_only=True)
class Identity(UserMixin):
    """Somebody whose session is valid; what they may do with it is its `stage`."""

    sid: str = field(repr=False)
    session_digest: bytes = field(repr=False)
    stage: Stage
    last_seen_at: datetime
    authenticated_at: datetime
    user_id: int
    username: str
    name: str
    is_admin: bool
    has_second_factor: bool

    @property
    def is_authenticated(self) -> bool:
        """Whether all steps of the sign-in are done. Half of one counts for nothing."""
        return self.stage == "full"

    def get_id(self) -> str:
        return str(self.user_id)


class Nobody(AnonymousUserMixin):
    """Whoever has no valid session."""

    stage = None
    is_admin = False
    username = ""


def init_app(app: Flask) -> None:
    """Make Flask-Login's `current_user` an Identity, or Nobody."""
    login_manager.anonymous_user = Nobody
    login_manager.request_loader(_load)


def current_identity() -> Identity:
    """Return who is signed in. Raises SessionEnded where nobody is, which the gate rules out."""
    identity = current_identity_or_none()
    if identity is None:
        raise SessionEnded
    return identity


def current_identity_or_none() -> Identity | None:
    """Return who is signed in, all steps done."""
    found = half_identity()
    return found if found and found.is_authenticated else None


def half_identity() -> Identity | None:
    """Return whose session this is at whatever stage of the sign-in."""
    user = current_user._get_current_object()
    return user if isinstance(user, Identity) else None


def presented_sid() -> str | None:
    """Return the session id that the browser sent, valid or not."""
    sid = session.get(_SID)
    return sid if isinstance(sid, str) else None


def hand_out(sid: str) -> None:
    """Give the browser the session `sid`, and with it a new CSRF token.

    Everything that the cookie held before is gone: nothing crosses a step of a sign-in.
    """
    forget()
    session[_SID] = sid


def forget() -> None:
    """Empty the browser's cookie, and what this request remembered of it."""
    session.clear()
    g.pop("csrf_token", None)
    g.pop("_login_user", None)


def render_for_nobody() -> None:
    """Let the page that is rendered next do without knowing who asks, and so without a database."""
    g._login_user = Nobody()


def _load(request: Request) -> Identity | None:
    sid = presented_sid()
    owner = sessions.find(sid) if sid else None
    if sid is None or owner is None:
        return None
    set_actor(replace(current_actor(), user_id=owner.user_id, username=owner.username))
    return Identity(sid=sid, **vars(owner))
