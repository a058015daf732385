"""How things stand between the predecessor and the database: what admins see of it.

The files are looked at without being read: a page must not wait for a huge one.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import func, select
from sqlalchemy.engine import URL

from webapp.clock import now
from webapp.config import LegacyMode, LegacyRepair, Settings, current_settings
from webapp.db import db
from webapp.legacy import files
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.rows import DATABASE
from webapp.models import OutboxEntry, Run
from webapp.services import legacy_mode, legacy_sources, runs
from webapp.services.legacy_mode import CutOver

MOST_CHECKS: Final = 60
MOST_PROBLEMS: Final = 10
NOT_DIFFERENCES: Final = frozenset({"equal", "pending"})
"""Counts of a check that are none: accounts that agree, and what is on its way to the files."""

_WHAT: Final = {
    files.USERS: "Accounts and keys",
    files.SECOND_FACTORS: "Second factors",
    files.KEY_FILE: "Opens the keys",
}
_MISSING: Final = {
    files.USERS: "Without it nothing can be imported or compared.",
    files.SECOND_FACTORS: "Fine if nobody had a second factor there.",
    files.KEY_FILE: "Keys that were encrypted there stay locked without it.",
}
_DATABASE_IS: Final = "Its own database, read only"
_LONG_SECONDS: Final = 300
_LOOKED_AT: Final = 5000
"""Of what waits, so many are asked for their problem. Changes are written in their order, so that
what was tried is among the first."""

SourceState = Literal["there", "empty", "missing", "unreadable"]


@dataclass(frozen=True)
class Source:
    """Something that the predecessor left, and whether it can be used.

    `problem` is a sentence for people where it cannot; size and time are those of a file.
    """

    name: str
    what: str
    state: SourceState
    problem: str = ""
    size_bytes: int | None = None
    changed_at: datetime | None = None


@dataclass(frozen=True)
class Waiting:
    """What is still to be written into the predecessor's files.

    `problems` are pairs of a sentence and how many changes it keeps from being written, the newest
    first; `is_long` when somebody should look at the worker.
    """

    count: int
    oldest_at: datetime | None
    problems: Sequence[tuple[str, int]]

    @property
    def is_long(self) -> bool:
        return self.oldest_at is not None and (
            (now() - self.oldest_at).total_seconds() > _LONG_SECONDS
        )


@dataclass(frozen=True)
class Check:
    """What one finished consistency check counted."""

    finished_at: datetime
    differences: int
    equal: int


@dataclass(frozen=True)
class Status:
    """The page of the earlier application. `problems` are pairs of what is wrong and what to do.

    `checks` are the last finished ones, the oldest first. `waiting` is None where nothing is
    written back and nothing waits for it.
    """

    mode: LegacyMode
    cut_over_at: datetime | None
    repair: LegacyRepair
    folder: Path | None
    sources: Sequence[Source]
    problems: Sequence[tuple[str, str]]
    last_import: Run | None
    checks: Sequence[Check]
    waiting: Waiting | None
    cut_over: CutOver | None


def status() -> Status:
    """Gather the page; a fixed number of statements."""
    settings = current_settings()
    waiting = _waiting()
    cut_over_at = legacy_mode.cut_over_at()
    return Status(
        mode="off" if cut_over_at else settings.legacy_mode,
        cut_over_at=cut_over_at,
        repair=settings.legacy_repair,
        folder=settings.legacy_dir,
        sources=_sources(settings),
        problems=standing_problems(settings),
        last_import=runs.latest(runs.LEGACY_IMPORT),
        checks=finished_checks(),
        waiting=waiting if waiting.count or legacy_mode.is_mirrored() else None,
        cut_over=legacy_mode.cut_over(),
    )


def standing_problems(settings: Settings) -> list[tuple[str, str]]:
    """Return what stays wrong for as long as the predecessor's files lie there."""
    if legacy_mode.cut_over_at():
        return []  # the cut-over took the hashes out
    if settings.legacy_dir and _lies_there(settings.legacy_dir / files.USERS):
        # SECURITY.md, decision 12.
        advice = (
            "Whoever can read it can guess the passwords in it quickly. Delete it once nobody needs"
            " the earlier application any more."
        )
        return [("users.json still lies in the earlier application’s folder", advice)]
    return []


def finished_checks() -> list[Check]:
    """Return the last consistency checks that came to an end, the oldest first."""
    rows = db.session.execute(
        select(Run.finished_at, Run.counts)
        .where(Run.kind == runs.CONSISTENCY_CHECK, Run.status == "finished")
        .where(Run.finished_at.is_not(None))
        .order_by(Run.created_at.desc(), Run.id.desc())
        .limit(MOST_CHECKS)
    )
    found = [
        Check(
            row.finished_at,
            sum(number for name, number in row.counts.items() if name not in NOT_DIFFERENCES),
            row.counts.get("equal", 0),
        )
        for row in rows
    ]
    return sorted(found, key=lambda check: check.finished_at)


def _sources(settings: Settings) -> list[Source]:
    """Return everything that is configured."""
    if settings.legacy_dir is None:
        return []
    found = [_file(settings.legacy_dir / name, what) for name, what in _WHAT.items()]
    if settings.legacy_database_url is not None and settings.legacy_enabled:
        found.append(_database(settings.legacy_dir, settings.legacy_database_url))
    return found


def _database(folder: Path, url: URL) -> Source:
    """Return the predecessor's database, a server's as it was a moment ago."""
    try:
        legacy_sources.stamp(folder, fresh=False)
    except LegacyUnreadable as error:
        if error.file == DATABASE:
            return Source(DATABASE, _DATABASE_IS, "unreadable", f"It {error.problem}.")
    if url.get_backend_name() == "sqlite" and url.database:
        return replace(_file(Path(url.database), _DATABASE_IS), name=DATABASE)
    return Source(DATABASE, _DATABASE_IS, "there")


def _file(path: Path, what: str) -> Source:
    try:
        found = path.stat()
    except FileNotFoundError:
        return Source(path.name, what, "missing", _MISSING.get(path.name, ""))
    except OSError as error:
        return Source(path.name, what, "unreadable", f"It cannot be looked at: {error.strerror}.")
    if not stat.S_ISREG(found.st_mode):
        return Source(path.name, what, "unreadable", "It is not a regular file.")
    state: SourceState = "there"
    problem = ""
    if not os.access(path, os.R_OK):
        state, problem = "unreadable", "This process is not allowed to read it."
    elif not found.st_size:
        state, problem = "empty", "Nothing is concluded from an empty file."
    changed_at = datetime.fromtimestamp(found.st_mtime, UTC)
    return Source(path.name, what, state, problem, found.st_size, changed_at)


def _lies_there(path: Path) -> bool:
    """Whether there is such a file; one that cannot be looked at is a problem of its own."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def _waiting() -> Waiting:
    """Count through the index of what waits, which is in the order of the acts."""
    waits = OutboxEntry.applied_at.is_(None)
    oldest = select(OutboxEntry.created_at).where(waits).order_by(OutboxEntry.id).limit(1)
    total = select(func.count()).select_from(OutboxEntry).where(waits)
    row = db.session.execute(
        select(total.scalar_subquery().label("number"), oldest.scalar_subquery().label("oldest_at"))
    ).one()
    first = (
        select(OutboxEntry.id, OutboxEntry.problem)
        .where(waits)
        .order_by(OutboxEntry.id)
        .limit(_LOOKED_AT)
        .subquery()
    )
    problems = db.session.execute(
        select(first.c.problem, func.count())
        .where(first.c.problem.is_not(None))
        .group_by(first.c.problem)
        .order_by(func.max(first.c.id).desc())
        .limit(MOST_PROBLEMS)
    )
    return Waiting(row.number, row.oldest_at, [(text, number) for text, number in problems])
