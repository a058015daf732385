"""Which runs are due by themselves: an import when a source changed, a check at its interval, the
mirror when something waits to be written back, and where the settings say so a repair of what a
check found.

Any number of workers may ask at the same time: `runs.start` lets one run of a kind exist.
"""

from datetime import timedelta

from sqlalchemy import select

from webapp.clock import now
from webapp.config import current_settings
from webapp.db import db
from webapp.models import Run
from webapp.services import (
    legacy_mirror,
    legacy_mode,
    legacy_outbox,
    legacy_sources,
    repair_policy,
    runs,
)
from webapp.services.legacy_sources import UNREADABLE

_RETRY_PAUSES = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30))
"""After the first, the second and every later failure with the same state of the files."""
_AFTER_FAILURE = timedelta(seconds=20)
_AFTER_SUCCESS = timedelta(seconds=5)
_LONGEST_PAUSE = timedelta(minutes=10)


def start_due_runs() -> None:
    """Start the runs that are due. Without legacy files, none is."""
    settings = current_settings()
    if settings.legacy_dir is None or not legacy_mode.is_on():
        return
    if runs.unfinished(runs.LEGACY_CUTOVER):
        return
    if settings.mirrors and _mirror_is_due(legacy_sources.stamp_of_files(settings.legacy_dir)):
        runs.start(runs.LEGACY_MIRROR)
    # Unreadable sources make the import fail with the reason, where an admin sees it.
    state = legacy_sources.stamp_or_unreadable(settings.legacy_dir, fresh=False)
    if _import_is_due(state):
        runs.start(runs.LEGACY_IMPORT, source=state)
    elif _check_is_due(timedelta(minutes=settings.consistency_interval_minutes)):
        runs.start(runs.CONSISTENCY_CHECK)
    elif settings.legacy_repair == "import" and state != UNREADABLE and not _was_undone():
        repair_policy.start_due_repair()


def _mirror_is_due(state: str) -> bool:
    """Whether something waits to be written, or may have been undone in the files."""
    if not legacy_outbox.is_waiting() and (
        state == UNREADABLE or not legacy_mirror.revert_is_possible(state)
    ):
        return False
    last = runs.latest(runs.LEGACY_MIRROR)
    if last is None or last.status != "failed" or last.finished_at is None:
        return True
    return last.finished_at + _AFTER_FAILURE <= now()


def _import_is_due(state: str) -> bool:
    """Whether this state of the files was not imported yet and nothing speaks against it now.

    Files that keep changing are imported again and again, but for half of the time at most.
    """
    last = runs.latest(runs.LEGACY_IMPORT)
    if last is None:
        return True
    if last.finished_at is None or _was_undone():
        return False
    ends = _ends(runs.LEGACY_IMPORT, state)
    if "finished" in ends:
        return False
    if last.status == "failed" and last.source == state:
        pause = _RETRY_PAUSES[min(len(ends), len(_RETRY_PAUSES)) - 1]
    elif last.status == "failed":
        pause = _AFTER_FAILURE
    else:
        took = last.finished_at - (last.started_at or last.created_at)
        pause = min(max(took, _AFTER_SUCCESS), _LONGEST_PAUSE)
    return last.finished_at + pause <= now()


def _was_undone() -> bool:
    """Whether somebody took an import back since the last one: it comes again when they say so.

    The earlier application writes its files at each sign-in, so that they have another state soon.
    """
    undone, imported = runs.latest(runs.LEGACY_UNDO), runs.latest(runs.LEGACY_IMPORT)
    return undone is not None and imported is not None and undone.id > imported.id


def _ends(kind: str, state: str) -> list[str]:
    """Return how the runs of `kind` for this state of the files stand."""
    query = select(Run.status).where(Run.kind == kind, Run.source == state)
    return list(db.session.scalars(query))


def _check_is_due(interval: timedelta) -> bool:
    """Whether the last check is too old, or failed before the import that came after it.

    Not before the first import has ended and not during one: it would report what is on its way.
    """
    last_import = runs.latest(runs.LEGACY_IMPORT)
    if last_import is None or last_import.finished_at is None:
        return False
    last = runs.latest(runs.CONSISTENCY_CHECK)
    if last is None:
        return True
    if last.finished_at is None:
        return False
    overtaken = (
        last.status == "failed"
        and last_import.status == "finished"
        and last_import.finished_at > last.finished_at
    )
    return overtaken or last.created_at + interval <= now()
