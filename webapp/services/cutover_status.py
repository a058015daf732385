"""What stands against a cut-over now, for whoever is about to ask for one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from webapp.config import current_settings
from webapp.db import db
from webapp.models import Run
from webapp.services import discrepancies, legacy_mode, legacy_status, runs
from webapp.services.legacy_mode import CutOver
from webapp.services.legacy_status import Waiting

_MUST_HAVE_WORKED: Final = (runs.LEGACY_IMPORT, runs.CONSISTENCY_CHECK)


@dataclass(frozen=True)
class Readiness:
    """How a cut-over would begin. Once there was one, `cut_over` is it and the rest says nothing.

    `is_possible`: a folder is read. `under_way` is a cut-over that has not ended, `failed` the last
    ones of its kind, of imports and of checks that failed, `busy` the other runs that have not
    ended. `waiting` are the changes that still have to reach the files, and `differences` what the
    check `compared`, the last that came to an end, left open by kind.
    """

    cut_over: CutOver | None
    is_possible: bool
    has_database: bool
    under_way: Run | None
    failed: Sequence[Run]
    busy: Sequence[Run]
    waiting: Waiting | None
    differences: Mapping[str, int]
    compared: Run | None

    @property
    def is_clear(self) -> bool:
        """Whether nothing is known that would keep it from going through."""
        is_held_up = self.failed or self.busy or self.waiting or self.differences
        return self.compared is not None and not is_held_up


def readiness() -> Readiness:
    """Gather it; a fixed number of statements."""
    status = legacy_status.status()
    unfinished = db.session.scalars(
        select(Run).where(Run.status.in_(("pending", "running"))).order_by(Run.id)
    ).all()
    newest = [runs.latest(kind) for kind in (runs.LEGACY_CUTOVER, *_MUST_HAVE_WORKED)]
    waits = status.waiting if legacy_mode.is_mirrored() else None
    return Readiness(
        cut_over=status.cut_over,
        is_possible=legacy_mode.is_on(),
        has_database=current_settings().legacy_database_url is not None,
        under_way=next((run for run in unfinished if run.kind == runs.LEGACY_CUTOVER), None),
        failed=[run for run in newest if run is not None and run.status == "failed"],
        busy=[run for run in unfinished if run.kind != runs.LEGACY_CUTOVER],
        waiting=waits if waits and waits.count else None,
        differences=discrepancies.open_by_kind(),
        compared=runs.latest(runs.CONSISTENCY_CHECK, status="finished"),
    )
