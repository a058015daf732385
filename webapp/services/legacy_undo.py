"""Taking one import back: what it created goes, unless somebody changed it since.

A long run of its own, over all accounts in batches, one transaction each, in which its position and
its counts move too: killed at any moment, it goes on behind the last batch. It reads no file. See
services/imported_rows.py for what becomes of one account.

Imports and undos take turns, so that their numbers say in which order they came: an import with a
lower number than the last undo says nothing any more about what is in the database, and sign-in
falls back to the files again (services/legacy_lookup.py). That state of the files is not imported
again by itself (services/due_runs.py): somebody has just taken it back. After a cut-over nothing is
undone, since the files are gone that hold it too.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import func, select

from webapp.db import db, transaction
from webapp.models import Run, User
from webapp.services import imported_rows, legacy_mode, runs
from webapp.services.errors import ServiceError
from webapp.services.runs import Lease, NotAvailable
from webapp.services.undo_report import UndoReport

BATCH: Final = 500
"""Accounts looked at in one transaction."""


class NoSuchRun(ServiceError):
    """There is no run of this number, or not any more."""

    message = "There is no run of this number."


class NotAnImport(ServiceError):
    """Only what an import has done can be taken back."""

    message = "This run is no import; only an import can be undone."


class ImportUnderWay(NotAvailable):
    """An import has not ended, so what there is to take back is not settled."""

    message = "An import is running or waiting; undo one when that has ended."


class CutOverUnderWay(NotAvailable):
    """What a cut-over has compared must stay as it is."""

    message = "A cut-over is running or waiting; undo an import when that has ended."


class CutOver(ServiceError):
    """Without the files, what an import brought exists here alone."""

    message = (
        "The earlier application was cut over: what its imports brought exists nowhere else any"
        " more, so none of them can be undone."
    )


class AnotherUndo(NotAvailable):
    """There is one unfinished undo at a time."""

    message = "Another import is being undone right now; undo this one when that has ended."


def undo_import(run_id: int) -> UndoReport:
    """Take the import `run_id` back, in the foreground.

    Goes on with an undo of it that was interrupted. Raises NoSuchRun, NotAnImport, ImportUnderWay,
    CutOverUnderWay, CutOver, AnotherUndo, and NotAvailable while a worker does it.
    """
    arguments, source = _check(run_id)
    with transaction():
        lease = runs.begin(runs.LEGACY_UNDO, source=source, arguments=arguments)
        if lease.arguments != arguments:
            raise AnotherUndo
    with runs.working(lease):
        return _undo(lease)


def request_undo(run_id: int, *, requested_by_id: int) -> Run:
    """Have a worker take the import `run_id` back. Raises as above, save NotAvailable."""
    arguments, source = _check(run_id)
    with transaction():
        run = runs.start(
            runs.LEGACY_UNDO, source=source, arguments=arguments, requested_by_id=requested_by_id
        )
        if run.arguments != arguments:
            raise AnotherUndo
        return run


def run_undo(run_id: int) -> UndoReport:
    """Do the work of a run in the background."""
    with runs.working(runs.take(run_id)) as lease:
        return _undo(lease)


def can_be_undone(run: Run) -> bool:
    """Whether `run` is an import that has ended."""
    is_ended_import = run.kind == runs.LEGACY_IMPORT and run.finished_at is not None
    return is_ended_import and legacy_mode.cut_over_at() is None


def _check(run_id: int) -> tuple[Mapping[str, int], str]:
    """Return what the undo is asked to do, and which state of the files the import had read."""
    run = db.session.get(Run, run_id, populate_existing=True)
    if run is None:
        raise NoSuchRun
    if run.kind != runs.LEGACY_IMPORT:
        raise NotAnImport
    _check_turn()
    return {"run": run_id}, run.source


def _check_turn() -> None:
    """Raise ImportUnderWay, CutOverUnderWay, CutOver."""
    if runs.unfinished(runs.LEGACY_IMPORT) is not None:
        raise ImportUnderWay
    if runs.unfinished(runs.LEGACY_CUTOVER) is not None:
        raise CutOverUnderWay
    legacy_mode.ask_again()
    if legacy_mode.cut_over_at() is not None:
        raise CutOver


def _undo(lease: Lease) -> UndoReport:
    # Once more: each side marks itself first and looks for the other then, so they never meet.
    _check_turn()
    import_id = int(lease.arguments["run"] or 0)
    position = int(lease.report.get("position", 0))
    report = UndoReport.restored(lease.counts, lease.report)
    total = max(lease.total or 0, db.session.scalar(select(func.count()).select_from(User)) or 0)
    done = lease.cursor
    while batch := _next_accounts(position):
        lease.renew()
        position, done = batch[-1], done + len(batch)
        with transaction() as session:
            outcome = imported_rows.take_back(session, import_id, batch)
            report = report.plus(outcome.counts, outcome.kept)
            lease.checkpoint(
                session,
                cursor=done,
                total=total,
                counts=report.counts(),
                report=_details(report, position),
            )
    runs.finish(lease, counts=report.counts(), report=_details(report, position))
    return report


def _next_accounts(position: int) -> list[int]:
    """Return the ids of the accounts behind `position`."""
    query = select(User.id).where(User.id > position).order_by(User.id).limit(BATCH)
    found = list(db.session.scalars(query))
    db.session.rollback()
    return found


def _details(report: UndoReport, position: int) -> dict[str, Any]:
    return report.details() | {"position": position}
