"""Settling stored differences: one side wins, and what loses can be had back.

A difference is looked at again before anything is changed: one that is gone is closed, and one that
cannot be settled stays open with the reason. What becomes of each kind is in repair_acts.py.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.db import db, lock, transaction
from webapp.models import Discrepancy, Run
from webapp.services import audit, runs
from webapp.services.errors import ServiceError
from webapp.services.legacy_migration import configured_folder, open_files
from webapp.services.repair_acts import Case, Winner, load_cases
from webapp.services.runs import Lease

BATCH: Final = 200
_MOST_LISTED: Final = 1000


class NothingChosen(ServiceError):
    """No open difference fits."""

    message = "No open difference fits; a check may have closed it meanwhile."


class RepairUnderWay(ServiceError):
    """Another repair waits or works; one at a time."""

    message = "Another repair is under way; wait until it has ended."


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which open differences are meant: those of `ids`, or all that fit the filters.

    `up_to` is the newest that was there when somebody chose; what came later is not meant.
    """

    winner: Winner
    ids: Sequence[int] | None = None
    kind: str | None = None
    username: str | None = None
    up_to: int | None = None

    def query(self) -> Select[Discrepancy]:
        """Return the differences that are meant, by account."""
        chosen: list[ColumnElement[bool]] = [Discrepancy.closed_at.is_(None)]
        if self.ids is not None:
            chosen.append(Discrepancy.id.in_(self.ids))
        if self.kind:
            chosen.append(Discrepancy.kind == self.kind)
        if self.username:
            chosen.append(func.lower(Discrepancy.username) == self.username.lower())
        if self.up_to is not None:
            chosen.append(Discrepancy.id <= self.up_to)
        return select(Discrepancy).where(*chosen).order_by(Discrepancy.id)

    def as_arguments(self) -> dict[str, Any]:
        """Return it as a run stores it."""
        return {
            "winner": self.winner,
            "ids": None if self.ids is None else list(self.ids),
            "kind": self.kind,
            "username": self.username,
            "up_to": self.up_to,
        }


@dataclass(frozen=True)
class Step:
    """What becomes of one difference: a sentence for people, and whether it can be done."""

    id: int
    kind: str
    username: str
    key_name: str
    says: str
    possible: bool


@dataclass(frozen=True)
class RepairReport:
    """`repaired` differences were settled, `gone` ones had settled themselves, the rest is `left`.

    `steps` lists what was left and why.
    """

    repaired: int
    gone: int
    left: int
    steps: Sequence[Step]


def preview_repair(choice: Choice, limit: int = 100) -> tuple[list[Step], int]:
    """Return what a repair would do with the first `limit` differences, and how many are meant.

    Writes nothing. Raises NothingChosen, LegacyFilesUnreadable.
    """
    total = db.session.scalar(select(func.count()).select_from(choice.query().subquery())) or 0
    rows = db.session.scalars(choice.query().limit(limit)).all()
    if not rows:
        raise NothingChosen
    with open_files(configured_folder(), lambda: None) as snapshot:
        steps = [_step(case, choice.winner) for case in load_cases(rows, snapshot, db.session())]
    db.session.rollback()
    return steps, total


def request_repair(choice: Choice, *, requested_by_id: int | None = None) -> Run:
    """Have the worker do a repair; return its run. Raises NothingChosen, RepairUnderWay."""
    arguments = choice.as_arguments() | {"up_to": _newest(choice)}
    run = runs.start(runs.LEGACY_REPAIR, arguments=arguments, requested_by_id=requested_by_id)
    if run.arguments != arguments:
        raise RepairUnderWay
    return run


def repair(choice: Choice) -> RepairReport:
    """Do a repair in the foreground.

    Raises NothingChosen, RepairUnderWay, LegacyFilesUnreadable, and NotAvailable while a worker
    does one.
    """
    arguments = choice.as_arguments() | {"up_to": _newest(choice)}
    with runs.working(runs.begin(runs.LEGACY_REPAIR, arguments=arguments)) as lease:
        if lease.arguments != arguments:
            runs.release(lease)
            raise RepairUnderWay
        return _repair(lease)


def run_repair(run_id: int) -> None:
    """Do the work of a run in the background. Raises LegacyFilesUnreadable, NotAvailable."""
    with runs.working(runs.take(run_id)) as lease:
        _repair(lease)


def _newest(choice: Choice) -> int:
    newest: int | None = db.session.scalar(select(func.max(choice.query().subquery().c.id)))
    if newest is None:
        raise NothingChosen
    return newest


def _repair(lease: Lease) -> RepairReport:
    choice = Choice(**lease.arguments)
    counts = {name: lease.counts.get(name, 0) for name in ("repaired", "gone", "left")}
    left = [Step(**step) for step in lease.report.get("steps", ())]
    with open_files(configured_folder(), lease.renew) as snapshot:
        last = lease.cursor
        while True:
            lease.renew()
            with transaction() as session:
                lock("legacy accounts", session)
                later = choice.query().where(Discrepancy.id > last).limit(BATCH)
                rows = session.scalars(later).all()
                if not rows:
                    break
                for case in load_cases(rows, snapshot, session, for_update=True):
                    outcome, reason = _settle(case, choice.winner, session, lease.run_id)
                    counts[outcome] += 1
                    if reason:
                        left.append(_left(case, reason))
                last = rows[-1].id
                report = {"steps": [asdict(step) for step in left[:_MOST_LISTED]]}
                lease.checkpoint(session, cursor=last, counts=counts, report=report)
    runs.finish(lease, counts=counts)
    return RepairReport(**counts, steps=left)


def _settle(case: Case, winner: Winner, session: Session, run_id: int) -> tuple[str, str]:
    """Settle one difference; return whether it was `repaired`, `gone` or `left`, and why left."""
    outcome = "gone"
    if not case.is_gone:
        act = case.act(winner)
        if act.why_not:
            return "left", act.why_not
        try:
            with session.begin_nested():
                act.do(session, run_id)
        except ServiceError as error:
            return "left", str(error)
        audit.record(
            "legacy.repaired",
            subject_id=case.stored.id if case.stored else None,
            kind=case.row.kind,
            name=case.row.key_name or None,
            winner=winner,
        )
        outcome = "repaired"
    session.execute(
        update(Discrepancy).where(Discrepancy.id == case.row.id).values(closed_at=now())
    )
    return outcome, ""


def _left(case: Case, reason: str) -> Step:
    row = case.row
    return Step(row.id, row.kind, row.username, row.key_name, reason, False)


def _step(case: Case, winner: Winner) -> Step:
    row = case.row
    if case.is_gone:
        return Step(row.id, row.kind, row.username, row.key_name, "is settled already", True)
    act = case.act(winner)
    if act.why_not:
        return _left(case, act.why_not)
    return Step(row.id, row.kind, row.username, row.key_name, act.says, True)
