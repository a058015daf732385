"""Bringing the predecessor's accounts and keys over: from its files, and its database if given.

The job of the worker and `flask legacy import` are this code. It goes through a snapshot of the
files in batches, one transaction each, in which the run's cursor and counts move too: killed at any
moment, it goes on behind the last batch, nothing twice and nothing lost. Run again, it changes
nothing that is there. See services/legacy_accounts.py for what becomes of one account.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import IntegrityError

from webapp.config import current_settings
from webapp.db import db, transaction
from webapp.legacy.accounts import Account
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.records import LegacyUser, RejectedRecord, printable
from webapp.legacy.users_json import Snapshot
from webapp.services import legacy_accounts, legacy_mode, legacy_sources, runs
from webapp.services.errors import ServiceError
from webapp.services.import_report import ImportReport, Rejected
from webapp.services.keyring import current_keyring
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
    """What an import finds while another is taken back is not what will be there."""

    message = "An import is being undone right now; import again when that has ended."


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
    _check_no_undo()
    state = legacy_sources.stamp_or_unreadable(folder)
    lease = runs.begin(runs.LEGACY_IMPORT, source=state, parent=parent)
    with runs.working(lease):
        return _import(lease, folder)


def run_import(run_id: int) -> ImportReport:
    """Do the work of a run in the background. Raises as above."""
    with runs.working(runs.take(run_id)) as lease:
        return _import(lease, configured_folder())


def preview_import(folder: Path | None = None) -> ImportReport:
    """Return what an import would report now, without writing anything."""
    with open_files(folder or configured_folder(), lambda: None) as snapshot:
        report = ImportReport(warnings=tuple(snapshot.warnings))
        accounts = snapshot.accounts()
        while batch := list(islice(accounts, BATCH)):
            users, rejected, warnings = _sorted(batch)
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
def open_files(folder: Path, tick: Callable[[], None]) -> Iterator[Snapshot]:
    """Open a snapshot of the sources, read through and complete; `tick` is called meanwhile.

    Raises LegacyFilesUnreadable, also for a key file that cannot be used where a token needs it.
    """
    with _readable(), legacy_sources.open_sources(folder, tick=tick) as snapshot:
        snapshot.require_keys(tick)
        yield snapshot


def _import(lease: Lease, folder: Path) -> ImportReport:
    current_keyring()  # refuses here rather than in the middle of a batch
    _check_no_undo()
    with open_files(folder, lease.renew) as snapshot:
        cursor, report = _begin(lease, snapshot)
        accounts = snapshot.accounts(cursor)
        while batch := list(islice(accounts, BATCH)):
            lease.renew()
            report = _import_batch(lease, snapshot, batch, report)
        runs.finish(lease, counts=report.counts(), report=_details(report, snapshot))
        return report


def _check_no_undo() -> None:
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


def _import_batch(
    lease: Lease, snapshot: Snapshot, batch: Sequence[Account], before: ImportReport
) -> ImportReport:
    """Write one batch with the run's new cursor and counts; return the report with it."""
    users, rejected, warnings = _sorted(batch)
    for left in reversed(range(_TRIES)):
        try:
            with transaction() as session:
                counts, strangers = legacy_accounts.write(session, users, run_id=lease.run_id)
                refused = [*rejected, *_refused(strangers)]
                report = before.plus(counts, refused, warnings)
                lease.checkpoint(
                    session,
                    cursor=batch[-1].number + 1,
                    counts=report.counts(),
                    report=_details(report, snapshot) if refused or warnings else None,
                )
            return report
        except IntegrityError:
            # Somebody made one of these accounts since the batch looked for it.
            if not left:
                raise
    raise AssertionError("unreachable")


def _sorted(
    batch: Sequence[Account],
) -> tuple[list[LegacyUser], list[Rejected], list[str]]:
    users: list[LegacyUser] = []
    rejected: list[Rejected] = []
    warnings: list[str] = []
    for account in batch:
        if isinstance(account.user, RejectedRecord):
            rejected.append(Rejected(printable(account.username), str(account.user)))
        else:
            users.append(account.user)
            name = printable(account.username)
            warnings.extend(f"{name}: {warning}" for warning in account.user.warnings)
    return users, rejected, warnings


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
