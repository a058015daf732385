"""Removes what has had its time: sessions that ended, attempts nobody counts, old runs.

Everything here may run on several workers at once, and be killed anywhere: it deletes what is still
there, in small transactions that hold nobody up.
"""

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from webapp.clock import now
from webapp.config import current_settings
from webapp.db import Base, transaction
from webapp.models import Discrepancy, LoginAttempt, LoginSession, OutboxEntry, Run
from webapp.services import runs

_BATCH = 1000
_KEEP_ATTEMPTS = timedelta(days=2)
"""Longer than the longest window that throttling can be set to (a day)."""
_KEEP_RUNS = timedelta(days=90)
_KEEP_MIRROR_RUNS = timedelta(days=1)


def purge() -> dict[str, int]:
    """Delete what is over; return how many rows of which table."""
    return {
        "sessions": _purge(LoginSession, LoginSession.digest, _ended_sessions),
        "login_attempts": _purge(LoginAttempt, LoginAttempt.id, _old_attempts),
        "discrepancies": _purge(Discrepancy, Discrepancy.id, _old_discrepancies),
        "runs": _purge(Run, Run.id, _old_runs),
        "legacy_outbox": _purge(OutboxEntry, OutboxEntry.id, _old_notes),
    }


def _purge(
    model: type[Base],
    key: InstrumentedAttribute[int] | InstrumentedAttribute[bytes],
    over: Callable[[], ColumnElement[bool]],
) -> int:
    deleted = 0
    while True:
        with transaction() as session:
            due = select(key).where(over()).limit(_BATCH).with_for_update(skip_locked=True)
            keys = session.scalars(due).all()
            if not keys:
                return deleted
            session.execute(
                delete(model).where(key.in_(keys)).execution_options(synchronize_session=False)
            )
            deleted += len(keys)


def _ended_sessions() -> ColumnElement[bool]:
    idle = timedelta(minutes=current_settings().session_idle_minutes)
    return or_(LoginSession.expires_at <= now(), LoginSession.last_seen_at <= now() - idle)


def _old_attempts() -> ColumnElement[bool]:
    return LoginAttempt.at <= now() - _KEEP_ATTEMPTS


def _old_discrepancies() -> ColumnElement[bool]:
    return Discrepancy.closed_at <= now() - _KEEP_RUNS


def _old_runs() -> ColumnElement[bool]:
    """Those that ended, save the last of each kind and the last of each that finished.

    They say which state of the files was imported, and an admin sees them.
    """
    last = select(func.max(Run.id)).group_by(Run.kind)
    last_finished = last.where(Run.status == "finished")
    frequent = and_(Run.kind == runs.LEGACY_MIRROR, Run.finished_at <= now() - _KEEP_MIRROR_RUNS)
    return and_(
        or_(Run.finished_at <= now() - _KEEP_RUNS, frequent),
        Run.status.in_(("finished", "failed")),
        Run.id.not_in(last),
        Run.id.not_in(last_finished),
        Run.id.not_in(select(Discrepancy.first_run_id)),
        Run.id.not_in(select(Discrepancy.last_run_id)),
    )


def _old_notes() -> ColumnElement[bool]:
    return OutboxEntry.applied_at <= now() - _KEEP_RUNS
