"""Who acts, from where: set once per request, command or job, read by the audit trail."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who acts. `via` is `web`, `api`, `cli` or `job`; `user_id` is None for nobody yet known."""

    via: str
    user_id: int | None = None
    username: str = ""
    address: str = ""
    user_agent: str = ""
    request_id: str = ""


NOBODY = Actor(via="cli")
"""Who acts where nobody has said: a command."""
_current: ContextVar[Actor] = ContextVar("actor", default=NOBODY)


def current_actor() -> Actor:
    return _current.get()


def set_actor(actor: Actor) -> None:
    """Make `actor` the one who acts from here on (a request that has just learnt who it is)."""
    _current.set(actor)


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Let `actor` be the one who acts in the block."""
    token = _current.set(actor)
    try:
        yield
    finally:
        _current.reset(token)
