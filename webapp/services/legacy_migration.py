"""Bringing the predecessor's accounts and keys over: from its files, and its database if given.

The job of the worker and `flask legacy import` are this code. It goes through a snapshot of the
files in batches, one transaction each, in which the run's cursor and counts move too: killed at any
moment, it goes on behind the last batch, nothing twice and nothing lost. Run again, it changes
nothing that is there. See services/legacy_accounts.py for what becomes of one account.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from webapp import parallel
from webapp.config import current_settings
from webapp.db import db, transaction
from webapp.legacy.accounts import Unparsed
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.records import printable
from webapp.legacy.users_json import Snapshot
from webapp.models import User
from webapp.models.users import fold
from webapp.services import (
    legacy_accounts,
    legacy_batches,
    legacy_mode,
    legacy_sources,
    runs,
    stored_accounts,
)
from webapp.services.bulk import reserve_ids
from webapp.services.errors import ServiceError
from webapp.services.import_report import ImportReport, Rejected
from webapp.services.keyring import current_keyring
from webapp.services.legacy_batches import Batch, Preparation, ReadyBatch, sort_out
from webapp.services.runs import Lease, NotAvailable

BATCH: Final = 500
"""Accounts in one transaction: enough to be fast, few enough to let savers in between."""
_TRIES: Final = 3
_STRANGER: Final = (
    "somebody signed up under this name here, who may be another person; nothing was added to it"
)


class LegacyNotConfigured(ServiceError):
    """There is no folder to read."""

    message = (
        "LEGACY_DIR is not set, LEGACY_MODE is off, or the folder was cut over: there is no"
        " predecessor to read."
    )


class UndoUnderWay(NotAvailable):
    """What is found here while an import is taken back is not what will be there."""

    message = "An import is being undone right now; try again when that has ended."


class LegacyFilesUnreadable(ServiceError):
    """The predecessor's files cannot be read; the message names the file. Nothing was written."""


def migrate_api_keys_from_json_to_db(
    folder: Path | None = None, *, parent: Lease | None = None
) -> ImportReport:
    """Import the files in `folder`, by default LEGACY_DIR, in the foreground.

    For `parent` see `runs.begin`. Goes on with a run that was interrupted. Raises
    LegacyFilesUnreadable, LegacyNotConfigured, and NotAvailable while a worker imports or takes an
    import back.
    """
    folder = folder or configured_folder()
    check_no_undo()
    state = legacy_sources.stamp_or_unreadable(folder)
    is_other = folder != current_settings().legacy_dir
    arguments = {"folder": str(folder.resolve())} if is_other else None
    lease = runs.begin(runs.LEGACY_IMPORT, source=state, arguments=arguments, parent=parent)
    with runs.working(lease):
        return _import(lease, folder)


def run_import(run_id: int) -> ImportReport:
    """Do the work of a run in the background. Raises as above."""
    with runs.working(runs.take(run_id)) as lease:
        other = lease.arguments.get("folder")
        return _import(lease, Path(other) if other else configured_folder())


def preview_import(folder: Path | None = None) -> ImportReport:
    """Return what an import would report now, without writing anything."""
    with open_files(folder or configured_folder(), lambda: None) as snapshot:
        report = ImportReport(warnings=tuple(snapshot.warnings))
        accounts = snapshot.accounts()
        while batch := list(islice(accounts, BATCH)):
            users, rejected, warnings = sort_out(batch)
            counts, strangers = legacy_accounts.preview(db.session(), users)
            db.session.rollback()
            report = report.plus(counts, [*rejected, *_refused(strangers)], warnings)
        return report


def configured_folder() -> Path:
    """Return LEGACY_DIR. Raises LegacyNotConfigured."""
    folder = current_settings().legacy_dir
    if folder is None or not legacy_mode.is_on():
        raise LegacyNotConfigured
    return folder


@contextmanager
def open_files(
    folder: Path, tick: Callable[[], None], *, patience_seconds: float = 60.0
) -> Iterator[Snapshot]:
    """Open a snapshot of the sources, read through and complete; `tick` is called meanwhile.

    A file that is being written is waited for as long as the patience lasts. Raises
    LegacyFilesUnreadable, also for a key file that cannot be used where a token needs it.
    """
    with (
        _readable(),
        legacy_sources.open_sources(
            folder, patience_seconds=patience_seconds, tick=tick
        ) as snapshot,
    ):
        snapshot.require_keys(tick)
        yield snapshot


def _import(lease: Lease, folder: Path) -> ImportReport:
    current_keyring()  # refuses here rather than in the middle of a batch
    check_no_undo()
    with open_files(folder, lease.renew) as snapshot:
        cursor, report = _begin(lease, snapshot)
        batches = _Batches(lease, snapshot)
        helpers = parallel.helpers_for(snapshot.total - cursor)
        with closing(
            parallel.in_order(batches.prepare, batches.read(cursor), helpers=helpers)
        ) as prepared:
            for batch, ready in prepared:
                lease.renew()
                report = batches.write(batch, ready, report)
        runs.finish(lease, counts=report.counts(), report=_details(report, snapshot))
        return report


def check_no_undo() -> None:
    """Raise UndoUnderWay while an import is taken back (services/legacy_undo.py)."""
    if runs.unfinished(runs.LEGACY_UNDO) is not None:
        raise UndoUnderWay


def _begin(lease: Lease, snapshot: Snapshot) -> tuple[int, ImportReport]:
    """Return where to go on and the report so far: from the start if the files have changed."""
    cursor, report = 0, ImportReport(warnings=tuple(snapshot.warnings))
    if lease.cursor and lease.report.get("digest") == snapshot.digest:
        cursor, report = lease.cursor, ImportReport.restored(lease.counts, lease.report)
    with transaction() as session:
        lease.checkpoint(
            session,
            cursor=cursor,
            counts=report.counts(),
            total=snapshot.total,
            source=snapshot.stamp,
            report=_details(report, snapshot),
        )
    return cursor, report


class _Batches:
    """The batches of one import, read ahead of writing them."""

    def __init__(self, lease: Lease, snapshot: Snapshot) -> None:
        self.prepare = Preparation(snapshot.parse, current_keyring(), lease.run_id)
        self._lease = lease
        self._snapshot = snapshot
        self._last_id = 0

    def read(self, start: int) -> Iterator[Batch]:
        """Yield what there is from record number `start`, with the ids of new accounts reserved."""
        unparsed = self._snapshot.unparsed(start)
        while found := list(islice(unparsed, BATCH)):
            batch = self._read(db.session(), found)
            db.session.rollback()
            yield batch

    def write(self, batch: Batch, ready: ReadyBatch, before: ImportReport) -> ImportReport:
        """Write a batch with the run's new cursor and counts; return the report with it."""
        for left in reversed(range(_TRIES)):
            try:
                with transaction() as session:
                    if left < _TRIES - 1:
                        # Read once more, in the transaction that writes.
                        batch = self._read(session, batch.unparsed)
                        ready = self.prepare(batch)
                    return self._write(session, batch, ready, before)
            except IntegrityError:
                # Somebody made one of these accounts since the batch was read, or took an id.
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _read(self, session: Session, unparsed: Sequence[Unparsed]) -> Batch:
        stored = stored_accounts.read(session, [fold(one.username) for one in unparsed])
        missing = len(unparsed) - len(stored.accounts)
        user_ids = reserve_ids(session, User, missing, behind=self._last_id)
        self._last_id = max(user_ids, default=self._last_id)
        return Batch(unparsed, stored, user_ids)

    def _write(
        self, session: Session, batch: Batch, ready: ReadyBatch, before: ImportReport
    ) -> ImportReport:
        lease = self._lease
        unsettled = self.prepare.users(batch, ready.unsettled)
        counts, strangers = legacy_batches.write(session, ready, unsettled, lease.run_id)
        refused = [*ready.rejected, *_refused(strangers)]
        report = before.plus(counts, refused, ready.warnings)
        lease.checkpoint(
            session,
            cursor=batch.unparsed[-1].number + 1,
            counts=report.counts(),
            report=_details(report, self._snapshot) if refused or ready.warnings else None,
        )
        return report


def _refused(strangers: Sequence[str]) -> list[Rejected]:
    return [Rejected(printable(name), _STRANGER) for name in strangers]


def _details(report: ImportReport, snapshot: Snapshot) -> dict[str, Any]:
    return report.details() | {"digest": snapshot.digest}


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except LegacyUnreadable as error:
        raise LegacyFilesUnreadable(f"{error}.") from error
