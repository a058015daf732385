"""The cut-over: the predecessor's files have had their time.

Both sides must agree, or somebody has accepted by name what differs. Then the files are sealed into
an archive, read back, and the password hashes are taken out of what is left there; from then on the
files are neither read nor written. Killed anywhere, the next worker goes on where that was safe.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import select, update

from webapp.clock import now
from webapp.crypto.envelope import DoesNotOpen
from webapp.crypto.keyring import MissingMasterKey
from webapp.db import transaction
from webapp.legacy import retire
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.replace import Overtaken, locked
from webapp.models import Run, User
from webapp.private_files import make_private_folder
from webapp.services import (
    audit,
    consistency,
    legacy_archive,
    legacy_mode,
    legacy_outbox,
    legacy_sources,
    runs,
)
from webapp.services.errors import ServiceError
from webapp.services.keyring import current_keyring
from webapp.services.legacy_migration import (
    LegacyFilesUnreadable,
    check_no_undo,
    configured_folder,
    migrate_api_keys_from_json_to_db,
)
from webapp.services.runs import Lease, NotAvailable

_BATCH: Final = 1000
_PAUSE_SECONDS: Final = 0.5

Result = TypeVar("Result")


class SidesDiffer(ServiceError):
    """Something differs that nobody has accepted; `counts` says how much of which kind."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        listed = ", ".join(f"{kind} {number:,}" for kind, number in counts.items())
        super().__init__(
            f"Both sides differ: {listed}. Repair it, or accept each kind by name to cut over all"
            " the same."
        )
        self.counts = counts


class ChangesWait(ServiceError):
    """Changes wait to be written into the files."""

    message = (
        "Changes made here still wait to be written into the files. Let the worker do that first."
    )


class CutoverUnderWay(ServiceError):
    """Another one waits or works, which accepts other differences; one at a time."""

    message = (
        "Another cut-over is under way, and it accepts other differences than these. Wait until it"
        " has ended."
    )


class ArchiveDoesNotOpen(ServiceError):
    """The archive cannot be opened; the message says why."""


@dataclass(frozen=True)
class CutoverReport:
    """`archive` is the sealed file; `accepted` the differences that were open, by kind."""

    archive: str
    hashes_removed: int
    accepted: Mapping[str, int]


def request_cutover(accept: Sequence[str] = (), *, requested_by_id: int | None = None) -> Run:
    """Have the worker cut over; return its run. Raises LegacyNotConfigured, CutoverUnderWay."""
    configured_folder()
    arguments = _arguments(accept)
    with transaction():
        run = runs.start(runs.LEGACY_CUTOVER, arguments=arguments, requested_by_id=requested_by_id)
        if run.arguments != arguments:
            raise CutoverUnderWay
        return run


def cut_over(accept: Sequence[str] = ()) -> CutoverReport:
    """Cut over in the foreground: the predecessor must be stopped by now.

    `accept` names the kinds of differences that may stay. Raises SidesDiffer, ChangesWait,
    LegacyFilesUnreadable, LegacyNotConfigured, CutoverUnderWay, and NotAvailable while a worker is
    at it.
    """
    configured_folder()
    arguments = _arguments(accept)
    with transaction():
        lease = runs.begin(runs.LEGACY_CUTOVER, arguments=arguments)
        if lease.arguments != arguments:
            raise CutoverUnderWay
    with runs.working(lease):
        return _cut_over(lease)


def run_cutover(run_id: int) -> None:
    """Do the work of a run in the background. Raises as above."""
    with runs.working(runs.take(run_id)) as lease:
        _cut_over(lease)


def unseal(archive: Path, folder: Path) -> list[str]:
    """Write the files of an archive into a new `folder`; return their names.

    Raises ArchiveDoesNotOpen.
    """
    try:
        make_private_folder(folder)
        if any(folder.iterdir()):
            raise ArchiveDoesNotOpen(
                f"{folder} is not empty. Name a folder that does not exist yet."
            )
        return legacy_archive.open_archive(archive, folder, current_keyring())
    except MissingMasterKey as error:
        raise ArchiveDoesNotOpen(f"It needs the master key {error.master_key_id}.") from error
    except DoesNotOpen as error:
        raise ArchiveDoesNotOpen(f"{archive} is no whole archive of a cut-over.") from error
    except OSError as error:
        raise ArchiveDoesNotOpen(f"{error.filename or archive}: {error.strerror}.") from error


def _arguments(accept: Sequence[str]) -> dict[str, list[str]]:
    return {"accept": sorted(set(accept))}


def _cut_over(lease: Lease) -> CutoverReport:
    folder = configured_folder()
    try:
        report = dict(lease.report) or _half_done(lease, folder) or _seal(lease, folder)
        with locked(folder):
            removed = retire.remove_hashes(folder, report["sealed"], lambda: _confirm(lease))
    except LegacyUnreadable as error:
        raise LegacyFilesUnreadable(f"{error}.") from error
    except Overtaken as error:
        raise LegacyFilesUnreadable(
            "users.json was written by the earlier application; stop that first."
        ) from error
    _forget_hashes(lease)
    with transaction() as session:
        lease.checkpoint(session, source=legacy_mode.folder_id(folder))
        audit.record("legacy.cut_over", archive=report["archive"], run=lease.run_id)
        runs.finish(lease, counts={"hashes_removed": removed}, report=report)
    legacy_mode.ask_again()
    return CutoverReport(report["archive"], removed, report["accepted"])


def _half_done(lease: Lease, folder: Path) -> dict[str, Any] | None:
    """Return the report of the last cut-over if it ended behind the removal of the hashes.

    The files can neither be imported nor compared any more then, and it has only to be finished.
    """
    last = runs.latest(runs.LEGACY_CUTOVER, status="failed")
    if last is None or last.report.get("folder") != legacy_mode.folder_id(folder):
        return None
    if retire.has_hashes(folder):
        return None
    report = dict(last.report)
    with transaction() as session:
        lease.checkpoint(session, report=report)
    return report


def _seal(lease: Lease, folder: Path) -> dict[str, Any]:
    """Make sure that both sides agree, and seal the files; what came of it is stored."""
    check_no_undo()
    if legacy_outbox.is_waiting() and legacy_mode.is_mirrored():
        raise ChangesWait
    lease.renew()
    state = legacy_sources.stamp(folder)
    last = runs.latest(runs.LEGACY_IMPORT, status="finished")
    if last is None or last.source != state:
        _after_others(lease, lambda: migrate_api_keys_from_json_to_db(parent=lease))
    found = _after_others(lease, lambda: consistency.check_consistency(parent=lease))
    if found.pending:
        raise ChangesWait
    differing = {kind: number for kind, number in found.discrepancies.items() if number}
    refused = {kind: n for kind, n in differing.items() if kind not in lease.arguments["accept"]}
    if refused:
        raise SidesDiffer(refused)
    if legacy_sources.stamp(folder) != state:
        raise LegacyFilesUnreadable(
            "users.json was written by the earlier application; stop that first."
        )
    name = f"keystay-archive-{now():%Y%m%d-%H%M%S}.sealed"
    with locked(folder):
        sealed = legacy_archive.seal_files(folder, folder / name, current_keyring(), lease.renew)
    report = {
        "sealed": sealed,
        "folder": legacy_mode.folder_id(folder),
        "archive": name,
        "master_key": current_keyring().active.id,
        "accepted": differing,
        "equal": found.equal,
    }
    with transaction() as session:
        lease.checkpoint(session, report=report)
    return report


def _after_others(lease: Lease, act: Callable[[], Result]) -> Result:
    """Do `act`, after the worker that is at the same thing now."""
    while True:
        try:
            return act()
        except NotAvailable:
            lease.renew()
            time.sleep(_PAUSE_SECONDS)


def _confirm(lease: Lease) -> None:
    with transaction() as session:
        lease.checkpoint(session)


def _forget_hashes(lease: Lease) -> None:
    """Drop what was kept to compare and to mirror passwords."""
    last = 0
    while True:
        lease.renew()
        with transaction() as session:
            ids = session.scalars(
                select(User.id).where(User.id > last).order_by(User.id).limit(_BATCH)
            ).all()
            if not ids:
                return
            session.execute(
                update(User).where(User.id.in_(ids)).values(legacy_password=None, legacy_hash=None)
            )
            lease.checkpoint(session)
            last = ids[-1]
