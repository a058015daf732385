"""Long jobs: who works on them, how far they got, how they ended.

The row in `runs` is the truth, the queue only wakes a worker up. Whoever works holds a lease. Each
taking counts `lease_token` up, and everything a run writes is conditional on the token (a fencing
token): a process that was stopped or cut off and comes back after another one took over writes
nothing more. The clock decides only when somebody may take over, never who may write.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import ColumnElement, Select, and_, or_, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from webapp import queues
from webapp.clock import now
from webapp.db import after_commit, db, is_cut_off, transaction
from webapp.models import Run
from webapp.services import audit
from webapp.services.errors import ServiceError

LEGACY_IMPORT: Final = "legacy_import"
CONSISTENCY_CHECK: Final = "consistency_check"
LEGACY_MIRROR: Final = "legacy_mirror"
LEGACY_CUTOVER: Final = "legacy_cutover"
LEGACY_REPAIR: Final = "legacy_repair"
LEGACY_UNDO: Final = "legacy_undo"

LEASE: Final = timedelta(seconds=30)
"""How long a silent worker is waited for; with the schedule's round a successor starts within 60 s
of a death. A batch that takes longer is safe, as long as nobody has taken over."""
_RENEW_SECONDS: Final = 5.0

Arguments = Mapping[str, Any]
"""What a run is asked to do, where its kind alone does not say it."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Kind:
    """A kind of long job."""

    job: str
    """What the worker calls with the run's id."""
    requested: str
    """The audit event when a person asks for it."""
    name: str
    """What people call it."""


KINDS: Final = {
    LEGACY_IMPORT: Kind("webapp.jobs.legacy.run_import", "legacy.import_requested", "import"),
    CONSISTENCY_CHECK: Kind(
        "webapp.jobs.legacy.run_check", "legacy.check_requested", "consistency check"
    ),
    LEGACY_MIRROR: Kind("webapp.jobs.legacy.run_mirror", "legacy.mirror_requested", "writing back"),
    LEGACY_CUTOVER: Kind("webapp.jobs.legacy.run_cutover", "legacy.cutover_requested", "cut-over"),
    LEGACY_REPAIR: Kind("webapp.jobs.legacy.run_repair", "legacy.repair_requested", "repair"),
    LEGACY_UNDO: Kind(
        "webapp.jobs.legacy.run_undo", "legacy.undo_requested", "undoing of an import"
    ),
}


class NotAvailable(ServiceError):
    """The run cannot be taken: another worker holds its lease, or it has ended."""

    message = "Another worker is doing this right now; its progress is on the admin page."


class LeaseLost(ServiceError):
    """Another worker has taken the run over; what was about to be written is not."""

    message = "Another worker has taken this over."


class Interrupted(ServiceError):
    """The process was asked to end; the run was handed back and the next worker goes on with it."""

    message = "The worker is shutting down; the next one goes on from here."


class Lease:
    """The right to work on a run, and where to begin: the state of the run when it was taken.

    `cursor`, `counts`, `report`, `total` and `source` are what the last checkpoint wrote, so that a
    run that was interrupted goes on behind it. Not for several threads.
    """

    def __init__(self, run: Run) -> None:
        self.run_id = run.id
        self.kind = run.kind
        self.token = run.lease_token
        self.source = run.source
        self.arguments: Arguments = run.arguments or {}
        self.cursor = run.cursor
        self.total = run.total
        self.counts: Mapping[str, int] = dict(run.counts)
        self.report: Mapping[str, Any] = dict(run.report)
        self.parent: Lease | None = None
        """The lease of a run that this one is a part of; it is kept too."""
        self._written_at = time.monotonic()

    def checkpoint(
        self,
        session: Session,
        *,
        cursor: int | None = None,
        counts: Mapping[str, int] | None = None,
        total: int | None = None,
        source: str | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        """Store how far the run is and renew the lease, in the batch's own `transaction()`.

        Call it last in the batch: the row stays locked until the commit. What is None stays as it
        is. Raises LeaseLost, so that the batch rolls back.
        """
        values = {
            "cursor": cursor,
            "counts": None if counts is None else dict(counts),
            "total": total,
            "source": source,
            "report": None if report is None else dict(report),
        }
        self._write(session, {name: value for name, value in values.items() if value is not None})

    def renew(self) -> None:
        """Keep the lease during a long pass that writes nothing; call it between batches too.

        Outside of `transaction()`, and it ends the session's read transaction. Cheap: it writes
        every few seconds only. Raises LeaseLost; raises Interrupted, with the run handed back, when
        this process was asked to end.
        """
        if _stop.is_set():
            release(self)
            raise Interrupted
        if self.parent is not None:
            self.parent.renew()
        if time.monotonic() - self._written_at >= _RENEW_SECONDS:
            with transaction() as session:
                self._write(session, {})

    def _write(self, session: Session, values: Mapping[str, object]) -> None:
        _update_mine(session, self, {"lease_expires_at": now() + LEASE, **values})
        self._written_at = time.monotonic()


_stop = threading.Event()


def request_stop() -> None:
    """Make the run of this process hand itself back at its next `renew()`. Safe in a handler."""
    _stop.set()


def start(
    kind: str,
    *,
    source: str = "",
    arguments: Arguments | None = None,
    requested_by_id: int | None = None,
) -> Run:
    """Return the unfinished run of `kind`, created when there is none, and wake a worker for it.

    However many processes do this at once, there is one run: the database allows no second. One
    that is there keeps its own `arguments`. A person who asks for it is recorded.
    """
    with transaction():
        run = _create_or_find(kind, source, arguments, requested_by_id)
        if requested_by_id is not None:
            audit.record(KINDS[kind].requested, run=run.id)
        if run.status == "pending":
            after_commit(lambda: _enqueue(run.id, run.kind, run.lease_token))
        return run


def begin(
    kind: str,
    *,
    source: str = "",
    arguments: Arguments | None = None,
    parent: Lease | None = None,
) -> Lease:
    """Start a run in the foreground and take it at once, an interrupted one where there is one.

    As a part of the run of `parent`, whose lease is then kept too. Raises NotAvailable when another
    worker is at it.
    """
    with transaction():
        lease = take(_create_or_find(kind, source, arguments, None).id)
    lease.parent = parent
    return lease


def take(run_id: int) -> Lease:
    """Take the lease of a run that is pending or whose worker fell silent.

    Raises NotAvailable; of several processes that try at once, one succeeds.
    """
    with transaction() as session:
        at = now()
        run = session.scalar(
            update(Run)
            .where(Run.id == run_id, _is_due(at))
            .values(
                status="running",
                lease_token=Run.lease_token + 1,
                lease_expires_at=at + LEASE,
                started_at=db.func.coalesce(Run.started_at, at),
            )
            .returning(Run)
            .execution_options(populate_existing=True)
        )
        if run is None:
            raise NotAvailable
        return Lease(run)


@contextmanager
def working(lease: Lease) -> Iterator[Lease]:
    """Run the block under `lease` and record how it failed, if it does; errors go on to the caller.

    The block itself ends with `finish`. A database that went away is not a failure of the run: its
    lease runs out and the next worker goes on with it.
    """
    try:
        yield lease
    except (LeaseLost, Interrupted):
        raise
    except ServiceError as error:
        _fail_quietly(lease, str(error))
        raise
    except KeyboardInterrupt:
        _fail_quietly(lease, "It was interrupted by the operator.")
        raise
    except DBAPIError as error:
        if not is_cut_off(error):
            _fail_quietly(lease, f"The database refused ({type(error).__name__}); see the log.")
        raise
    except Exception as error:
        _fail_quietly(lease, f"An unexpected error ({type(error).__name__}); see the log.")
        raise


def finish(
    lease: Lease,
    *,
    counts: Mapping[str, int] | None = None,
    report: Mapping[str, Any] | None = None,
) -> None:
    """End the run well. Joins the transaction of the last batch. Raises LeaseLost."""
    values: dict[str, object] = {"status": "finished", "finished_at": now(), "error": None}
    if counts is not None:
        values["counts"] = dict(counts)
    if report is not None:
        values["report"] = dict(report)
    with transaction() as session:
        _update_mine(session, lease, {"lease_expires_at": None, **values})


def fail(lease: Lease, error: str) -> None:
    """End the run with a sentence for people. Raises LeaseLost."""
    with transaction() as session:
        _update_mine(
            session,
            lease,
            {"status": "failed", "error": error, "finished_at": now(), "lease_expires_at": None},
        )


def release(lease: Lease) -> None:
    """Hand the run back, so that the next worker goes on at once. Raises LeaseLost."""
    with transaction() as session:
        _update_mine(session, lease, {"status": "pending", "lease_expires_at": None})
        after_commit(lambda: _enqueue(lease.run_id, lease.kind, lease.token))


def enqueue_due() -> None:
    """Put every run that waits for a worker into the queue, unless it is there.

    Those are the pending ones and those whose worker fell silent.
    """
    due = db.session.execute(
        select(Run.id, Run.kind, Run.lease_token).where(_is_due(now())).order_by(Run.id)
    ).all()
    db.session.rollback()
    for row in due:
        _enqueue(row.id, row.kind, row.lease_token)


def latest(kind: str, *, status: str | None = None) -> Run | None:
    """Return the newest run of `kind`, of those with `status` if that is given."""
    query = _newest_first().where(Run.kind == kind)
    if status is not None:
        query = query.where(Run.status == status)
    return db.session.scalar(query.limit(1))


def unfinished(kind: str) -> Run | None:
    """Return the run of `kind` that has not ended: at most one."""
    return db.session.scalar(
        select(Run)
        .where(Run.kind == kind, Run.status.in_(("pending", "running")))
        .execution_options(populate_existing=True)
    )


def _newest_first() -> Select[Run]:
    # A run that this session has read before is read again: other processes write it.
    query = select(Run).order_by(Run.created_at.desc(), Run.id.desc())
    return query.execution_options(populate_existing=True)


def _is_due(at: datetime) -> ColumnElement[bool]:
    silent = or_(Run.lease_expires_at.is_(None), Run.lease_expires_at <= at)
    return or_(Run.status == "pending", and_(Run.status == "running", silent))


def _create_or_find(
    kind: str, source: str, arguments: Arguments | None, requested_by_id: int | None
) -> Run:
    values: dict[str, Any] = {"arguments": dict(arguments) if arguments else None}
    with transaction() as session:
        while True:
            run = Run(kind=kind, source=source, requested_by_id=requested_by_id, **values)
            with suppress(IntegrityError), session.begin_nested():
                session.add(run)
                session.flush()
                return run
            found = unfinished(kind)
            if found is not None:  # else it ended between the two statements
                return found


def _update_mine(session: Session, lease: Lease, values: Mapping[str, object]) -> None:
    """Change the run while it is ours. The one place where the fencing token is compared."""
    mine = session.scalar(
        update(Run)
        .where(Run.id == lease.run_id, Run.lease_token == lease.token, Run.status == "running")
        .values(**values)
        .returning(Run.id)
        .execution_options(synchronize_session=False)
    )
    if mine is None:
        raise LeaseLost


def _fail_quietly(lease: Lease, error: str) -> None:
    """Record the failure; where that fails too, the error that is on its way says more."""
    try:
        fail(lease, error)
    except (DBAPIError, LeaseLost) as second:
        _log.warning("run_failure_not_recorded", run=lease.run_id, reason=type(second).__name__)


def _enqueue(run_id: int, kind: str, token: int) -> None:
    # The token is part of the job's id: a run that was taken over is a new job for RQ.
    queues.enqueue(KINDS[kind].job, run_id, job_id=f"run-{run_id}-{token}")
