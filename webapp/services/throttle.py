"""How many guesses at a secret are let through. Kept in the database (SECURITY.md, decision 7).

A guess is counted before it is checked, in a transaction that lets one guess at a time at a subject
past: however many arrive together, no more than the budget are ever checked. One that turns out
right is taken off the count.
"""

import hashlib
import hmac
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address
from typing import Literal

from sqlalchemy import ColumnElement, insert, select, update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.config import current_settings
from webapp.db import lock, transaction
from webapp.models import LoginAttempt
from webapp.services import audit
from webapp.services.actor import current_actor
from webapp.services.errors import ServiceError

ADDRESS_LIMIT = 20
"""Failures from one address in the window, whatever they were at: spraying over many accounts."""

Kind = Literal["password", "second_factor", "signup"]


class Throttled(ServiceError):
    """Too many failures; nothing was checked. `retry_after` is in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        minutes = math.ceil(retry_after / 60)
        super().__init__(
            f"Too many attempts. Try again in {minutes} minute{'s' if minutes > 1 else ''}."
        )
        self.retry_after = retry_after


def reserve(kind: Kind, subject: str, *, account_id: int | None = None) -> int:
    """Count a guess of `kind` at `subject` and return its id, for `take_off`.

    Raises Throttled when the subject or the current address has used up its budget; the guess is
    not counted then, so waiting helps whoever waits. The refusal is in the audit trail, about
    `account_id`, once a minute.
    """
    digest, address = _digest(kind, subject), _network(current_actor().address)
    limit = current_settings().login_attempt_limit
    with transaction() as session:
        # Always in this order, so that two guesses never wait for each other.
        lock(f"attempts {digest.hex()}", session)
        at_subject = (LoginAttempt.kind == kind) & (LoginAttempt.subject == digest)
        wait = _wait(session, at_subject, limit)
        if address:
            lock(f"attempts from {address}", session)
            wait = max(wait, _wait(session, LoginAttempt.address == address, ADDRESS_LIMIT))
        if not wait:
            return _insert(session, kind, digest, address)
        audit.record_sparingly("login.throttled", subject_id=account_id, kind=kind)
    raise Throttled(wait)


def take_off(attempt_id: int) -> None:
    """Take a guess off the count that was right, or was none. Joins the surrounding transaction."""
    with transaction() as session:
        session.execute(
            update(LoginAttempt).where(LoginAttempt.id == attempt_id).values(succeeded=True)
        )


def _wait(session: Session, counted: ColumnElement[bool], limit: int) -> int:
    """Return after how many seconds there is room for one more failure; 0 for now."""
    window = timedelta(minutes=current_settings().login_attempt_window_minutes)
    moment = now()
    newest: Sequence[datetime] = session.scalars(
        select(LoginAttempt.at)
        .where(counted, LoginAttempt.succeeded.is_(False), LoginAttempt.at > moment - window)
        .order_by(LoginAttempt.at.desc())
        .limit(limit)
    ).all()
    if len(newest) < limit:
        return 0
    return max(1, math.ceil((newest[-1] + window - moment).total_seconds()))


def _insert(session: Session, kind: Kind, digest: bytes, address: str) -> int:
    return session.execute(
        insert(LoginAttempt)
        .values(kind=kind, subject=digest, address=address, succeeded=False, at=now())
        .returning(LoginAttempt.id)
    ).scalar_one()


def _digest(kind: Kind, subject: str) -> bytes:
    """People type passwords into the username field: what was guessed at is not stored."""
    key = current_settings().secret_key.encode("utf-8")
    text = f"login attempt {kind} {subject}".encode("utf-8", "surrogatepass")
    return hmac.new(key, text, hashlib.sha256).digest()


def _network(address: str) -> str:
    """Return what counts as one address: whoever has an IPv6 address has a whole /64 of them."""
    try:
        ip = ip_address(address)
    except ValueError:
        # A Unix socket without a trusted proxy: everybody would share one budget.
        return ""
    if not isinstance(ip, IPv6Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return f"{IPv6Address(int(ip) >> 64 << 64)}/64"
