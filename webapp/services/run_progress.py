"""How far a run is, for people."""

from dataclasses import dataclass
from datetime import timedelta

from webapp.clock import now
from webapp.models import Run
from webapp.services.runs import LEASE


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows. `percent`, `per_second` and `remaining` are None while unknown."""

    done: int
    total: int | None
    percent: int | None
    per_second: float | None
    remaining: timedelta | None
    waiting: bool
    """Nobody works on it at the moment; a worker will."""


def progress(run: Run) -> Progress:
    """Return how far `run` is. The rate is that of the whole run, as far as it was worked on."""
    waiting = run.status == "pending" or (
        run.status == "running" and (run.lease_expires_at is None or run.lease_expires_at <= now())
    )
    percent = None
    if run.status == "finished":
        percent = 100
    elif run.total is not None:
        percent = min(99, 100 * run.cursor // max(run.total, 1))
    per_second, remaining = _rate(run), None
    if per_second and run.total is not None and run.status == "running" and not waiting:
        remaining = timedelta(seconds=max(run.total - run.cursor, 0) / per_second)
    return Progress(run.cursor, run.total, percent, per_second, remaining, waiting)


def _rate(run: Run) -> float | None:
    last_seen = run.finished_at or (run.lease_expires_at and run.lease_expires_at - LEASE)
    if run.started_at is None or last_seen is None:
        return None
    seconds = (last_seen - run.started_at).total_seconds()
    return run.cursor / seconds if run.cursor and seconds > 0 else None
