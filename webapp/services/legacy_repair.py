"""Settling stored differences: one side wins, and what loses can be had back.

A difference is looked at again before anything is changed: one that is gone is closed, and one that
cannot be settled stays open with the reason. What becomes of each kind is in repair_acts.py.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.db import db, lock, transaction
from webapp.models import Discrepancy, Run
from webapp.services import audit, runs
from webapp.services.discrepancies import Selection
from webapp.services.errors import ServiceError
from webapp.services.legacy_migration import configured_folder, open_files
from webapp.services.repair_acts import Case, Winner, load_cases
from webapp.services.runs import Lease

BATCH: Final = 200
MOST_PREVIEWED: Final = 100
_PATIENCE_SECONDS: Final = 3.0
"""So long somebody who looks at a page waits for a file that is being written."""
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

    `username` is a whole name and `username_part` anything in one, both in upper or lower case.
    Ids count up: what is not newer than `newer_than` is not meant, nor what came after `up_to`, the
    newest that was there when somebody chose. `after_check` is the check that a repair followed by
    itself; such a one brings nothing back that was deleted here.
    """

    winner: Winner
    ids: Sequence[int] | None = None
    kinds: Sequence[str] = ()
    username: str | None = None
    username_part: str = ""
    newer_than: int = 0
    up_to: int | None = None
    after_check: int | None = None

    @property
    def is_automatic(self) -> bool:
        return self.after_check is not None

    def query(self) -> Select[Discrepancy]:
        """Return the differences that are meant, in the order in which they were found."""
        chosen = Selection(username=self.username_part).conditions()
        if self.ids is not None:
            chosen.append(Discrepancy.id.in_(self.ids))
        if self.kinds:
            chosen.append(Discrepancy.kind.in_(self.kinds))
        if self.username:
            same = func.lower(Discrepancy.username) == self.username.lower()
            chosen.append(or_(same, Discrepancy.username == self.username))
        if self.newer_than:
            chosen.append(Discrepancy.id > self.newer_than)
        if self.up_to is not None:
            chosen.append(Discrepancy.id <= self.up_to)
        return select(Discrepancy).where(*chosen).order_by(Discrepancy.id)

    def as_arguments(self) -> dict[str, Any]:
        """Return it as a run stores it."""
        ids = None if self.ids is None else list(self.ids)
        return asdict(self) | {"ids": ids, "kinds": list(self.kinds)}


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
class Preview:
    """What a repair would do with the first of the differences, of `total` that are meant.

    `up_to` is the newest of them: with it in the Choice, a repair means no others.
    """

    steps: Sequence[Step]
    total: int
    up_to: int


@dataclass(frozen=True)
class RepairReport:
    """`repaired` differences were settled, `gone` ones had settled themselves, the rest is `left`.

    `steps` lists what was left and why.
    """

    repaired: int
    gone: int
    left: int
    steps: Sequence[Step]


def preview_repair(choice: Choice, limit: int = MOST_PREVIEWED) -> Preview:
    """Return what a repair would do with the first `limit` differences.

    Writes nothing. Raises NothingChosen, LegacyNotConfigured, LegacyFilesUnreadable.
    """
    folder = configured_folder()
    meant = choice.query().subquery()
    total, newest = db.session.execute(select(func.count(), func.max(meant.c.id))).one()
    if not total:
        raise NothingChosen
    rows = db.session.scalars(replace(choice, up_to=newest).query().limit(limit)).all()
    db.session.rollback()  # reading a large file takes longer than a transaction may last
    with open_files(folder, lambda: None, patience_seconds=_PATIENCE_SECONDS) as snapshot:
        snapshot.index()
        steps = [_step(case, choice) for case in load_cases(rows, snapshot, db.session())]
    db.session.rollback()
    return Preview(steps, total, newest)


def request_repair(choice: Choice, *, requested_by_id: int | None = None) -> Run:
    """Have the worker do a repair; return its run.

    Raises NothingChosen, RepairUnderWay, LegacyNotConfigured.
    """
    configured_folder()
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
    total, done, last = lease.total, lease.cursor, int(lease.report.get("position", 0))
    if total is None:
        total = db.session.scalar(select(func.count()).select_from(choice.query().subquery()))
        db.session.rollback()
    with open_files(configured_folder(), lease.renew) as snapshot:
        snapshot.index(lease.renew)  # not in a transaction that others wait for
        while True:
            lease.renew()
            with transaction() as session:
                lock("legacy accounts", session)
                later = choice.query().where(Discrepancy.id > last).limit(BATCH)
                rows = session.scalars(later).all()
                if not rows:
                    break
                for case in load_cases(rows, snapshot, session, for_update=True):
                    outcome, reason = _settle(case, choice, session, lease.run_id)
                    counts[outcome] += 1
                    if reason and len(left) < _MOST_LISTED:
                        left.append(_left(case, reason))
                done, last = done + len(rows), rows[-1].id
                steps = [asdict(step) for step in left[:_MOST_LISTED]]
                report = {"steps": steps, "position": last}
                lease.checkpoint(session, cursor=done, total=total, counts=counts, report=report)
    runs.finish(lease, counts=counts)
    return RepairReport(**counts, steps=left)


def _settle(case: Case, choice: Choice, session: Session, run_id: int) -> tuple[str, str]:
    """Settle one difference; return whether it was `repaired`, `gone` or `left`, and why left."""
    outcome = "gone"
    if not case.is_gone:
        act = case.act(choice.winner, is_automatic=choice.is_automatic)
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
            winner=choice.winner,
        )
        outcome = "repaired"
    session.execute(
        update(Discrepancy).where(Discrepancy.id == case.row.id).values(closed_at=now())
    )
    return outcome, ""


def _left(case: Case, reason: str) -> Step:
    row = case.row
    return Step(row.id, row.kind, row.username, row.key_name, reason, False)


def _step(case: Case, choice: Choice) -> Step:
    row = case.row
    if case.is_gone:
        return Step(row.id, row.kind, row.username, row.key_name, "is settled already", True)
    act = case.act(choice.winner, is_automatic=choice.is_automatic)
    if act.why_not:
        return _left(case, act.why_not)
    return Step(row.id, row.kind, row.username, row.key_name, act.says, True)
