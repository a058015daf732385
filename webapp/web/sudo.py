"""Acts that need the password given a short while ago, in this very session."""

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import ParamSpec, TypeVar

from webapp.clock import now
from webapp.config import current_settings
from webapp.services.errors import ServiceError
from webapp.web.gate import admin_required
from webapp.web.identity import Identity, half_identity

__all__ = [
    "RecentAuthenticationNeeded",
    "admin_required",
    "recent_authentication",
    "require_recent_authentication",
]

P = ParamSpec("P")
R = TypeVar("R")


class RecentAuthenticationNeeded(ServiceError):
    """The password was given too long ago for this act; nothing was done.

    The sign-in pages answer it with the form that asks for the password.
    """

    message = "Confirm that it is you: give your password."


def recent_authentication(view: Callable[P, R]) -> Callable[P, R]:
    """Run the view only if the password was given within RECENT_AUTH_MINUTES.

    Signing in counts. Raises RecentAuthenticationNeeded; the person repeats the act afterwards,
    since what they had sent is not kept.
    """

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        require_recent_authentication(half_identity())
        return view(*args, **kwargs)

    return guarded


def require_recent_authentication(identity: Identity | None) -> None:
    """The same for a view that needs it in some cases only."""
    limit = timedelta(minutes=current_settings().recent_auth_minutes)
    if identity is None or identity.authenticated_at <= now() - limit:
        raise RecentAuthenticationNeeded
