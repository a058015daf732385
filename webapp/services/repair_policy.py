"""What the schedule repairs by itself, where LEGACY_REPAIR says so: what only the files have.

The import has brought over what it saw; this is for what is missing here all the same, such as an
account that stands in files which somebody put back. Nothing comes back that was deleted here
(`is_automatic` in services/repair_acts.py), nor what an undo took away (services/due_runs.py).
"""

from contextlib import suppress
from typing import Final

from sqlalchemy import select

from webapp.db import db
from webapp.legacy.compare import Kind
from webapp.models import Run
from webapp.services import runs
from webapp.services.legacy_repair import Choice, NothingChosen, RepairUnderWay, request_repair

KINDS: Final = (Kind.ONLY_IN_LEGACY.value, Kind.KEY_ONLY_IN_LEGACY.value)

_HOLD_IT_UP: Final = (runs.LEGACY_IMPORT, runs.LEGACY_UNDO, runs.LEGACY_REPAIR)
_AFTER_CHECK = Run.arguments["after_check"].as_string()


def start_due_repair() -> None:
    """Have the worker import what the last check found in the files only, once for each check.

    What an earlier one of these repairs has left is not tried again.
    """
    check = runs.latest(runs.CONSISTENCY_CHECK)
    if check is None or check.status != "finished" or not any(map(check.counts.get, KINDS)):
        return
    last = _last_automatic()
    if last and (last.arguments or {})["after_check"] == check.id:
        return
    if any(map(runs.unfinished, _HOLD_IT_UP)):
        return
    tried = _last_automatic(status="finished")
    newer_than = (tried.arguments or {})["up_to"] if tried else 0
    with suppress(NothingChosen, RepairUnderWay):
        request_repair(
            Choice(winner="legacy", kinds=KINDS, newer_than=newer_than, after_check=check.id)
        )


def _last_automatic(**columns: str) -> Run | None:
    return db.session.scalar(
        select(Run)
        .filter_by(kind=runs.LEGACY_REPAIR, **columns)
        .where(_AFTER_CHECK.is_not(None))
        .order_by(Run.id.desc())
        .limit(1)
    )
