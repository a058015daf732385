"""Comparing the predecessor's files with the database: every account, every key, values opened.

A check writes what it found when it has seen everything, and not before: from a side that could not
be read to the end nothing is concluded. Memory does not grow with the number of accounts.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, cast

from sqlalchemy import Table, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from webapp import parallel
from webapp.clock import now
from webapp.db import db, transaction
from webapp.legacy.compare import Difference, Kind
from webapp.legacy.users_json import Snapshot
from webapp.models import Discrepancy, User
from webapp.models.users import fold
from webapp.services import legacy_pending, runs, stored_accounts
from webapp.services.account_comparison import Batch, Comparison, Outcome
from webapp.services.keyring import current_keyring
from webapp.services.legacy_migration import configured_folder, open_files
from webapp.services.runs import Lease

BATCH: Final = 500


@dataclass(frozen=True)
class CheckReport:
    """`equal` counts the users of whom nothing differs; `items` are the open discrepancies.

    `pending` counts the fields that wait to be written back, which are no discrepancies.
    """

    equal: int
    pending: int
    discrepancies: Mapping[str, int]
    items: Sequence[Difference]


def check_consistency(*, parent: Lease | None = None) -> CheckReport:
    """Compare LEGACY_DIR with the database in the foreground.

    For `parent` see `runs.begin`; without the single items then.

    Raises LegacyFilesUnreadable, LegacyNotConfigured, and NotAvailable while a worker checks.
    """
    lease = runs.begin(runs.CONSISTENCY_CHECK, parent=parent)
    with runs.working(lease):
        counts = _check(lease)
    equal, pending = counts.pop("equal"), counts.pop("pending")
    items = open_discrepancies() if parent is None else []  # as many as there are users, perhaps
    return CheckReport(equal, pending, counts, items)


def run_check(run_id: int) -> None:
    """Do the work of a run in the background. Raises as above."""
    with runs.working(runs.take(run_id)) as lease:
        _check(lease)


def open_discrepancies() -> list[Difference]:
    """Return what the last complete check found."""
    rows = db.session.execute(
        select(Discrepancy.kind, Discrepancy.username, Discrepancy.key_name)
        .where(Discrepancy.closed_at.is_(None))
        .order_by(Discrepancy.kind, Discrepancy.username, Discrepancy.key_name)
    )
    return [Difference(Kind(row.kind), row.username, row.key_name) for row in rows]


def _check(lease: Lease) -> dict[str, int]:
    """Return how many users are `equal`, what is `pending`, and the open differences by kind."""
    current_keyring()  # refuses here rather than in the middle
    started_at = now()
    folder = configured_folder()
    with open_files(folder, lease.renew) as snapshot, closing(_Findings()) as found:
        accounts = db.session.scalar(select(func.count()).select_from(User)) or 0
        _progress(lease, 0, total=snapshot.total + accounts)
        done = 0
        for compared in (_compare_legacy(snapshot, found), _compare_database(snapshot, found)):
            for number in compared:
                done += number
                _progress(lease, done)
        for batch in found.batches():
            with transaction() as session:
                _upsert(session, lease.run_id, batch)
                lease.checkpoint(session)
        with transaction() as session:
            _close_others(session, lease.run_id, started_at, found.unjudged)
            counts = _open_by_kind(session)
            counts = {"equal": found.equal, "pending": found.pending, **counts}
            runs.finish(lease, counts=counts)
    return counts


def _progress(lease: Lease, done: int, *, total: int | None = None) -> None:
    lease.renew()
    with transaction() as session:
        lease.checkpoint(session, cursor=done, total=total)


def _compare_legacy(snapshot: Snapshot, found: "_Findings") -> Iterator[int]:
    """Compare every account of the files; yield how many were done, batch by batch."""
    compare = Comparison(
        snapshot.parse, current_keyring(), knows_second_factors=snapshot.knows_second_factors
    )
    helpers = parallel.helpers_for(snapshot.total)
    batches = parallel.in_order(compare, _batches(snapshot), helpers=helpers)
    with closing(batches) as compared:
        for batch, outcome in compared:
            _take(batch, outcome, found, compare)
            yield len(batch.unparsed)


def _batches(snapshot: Snapshot) -> Iterator[Batch]:
    unparsed = snapshot.unparsed()
    while found := list(islice(unparsed, BATCH)):
        stored = stored_accounts.read(db.session(), [fold(one.username) for one in found])
        db.session.rollback()
        yield Batch(found, stored)


def _take(batch: Batch, outcome: Outcome, found: "_Findings", compare: Comparison) -> None:
    """Add what was found about a batch, save what waits to be written back."""
    found.equal += outcome.equal
    user_ids = [one.user_id for one in outcome.findings if one.user_id is not None]
    pending = legacy_pending.load(user_ids)
    db.session.rollback()
    for finding in outcome.findings:
        differences = finding.differences
        if finding.user_id is not None and pending.concerns(finding.user_id):
            legacy, stored = compare.sides(batch, finding)
            differences = pending.without_pending(stored, legacy, differences)
        found.add(differences)
    pending.note_reverted()
    found.pending += pending.count


def _compare_database(snapshot: Snapshot, found: "_Findings") -> Iterator[int]:
    """Look for accounts that the files do not have, those made here included."""
    last = 0
    while True:
        rows = db.session.execute(
            select(User.id, User.username).where(User.id > last).order_by(User.id).limit(BATCH)
        ).all()
        names = set(snapshot.absent([row.username for row in rows]))
        absent = [row for row in rows if row.username in names]
        pending = legacy_pending.load([row.id for row in absent])
        db.session.rollback()
        if not rows:
            return
        drift = [row for row in absent if not pending.is_new_there(row.id)]
        found.add([Difference(Kind.ONLY_IN_DATABASE, row.username) for row in drift])
        pending.note_reverted()
        found.pending += pending.count
        last = rows[-1].id
        yield len(rows)


def _upsert(session: Session, run_id: int, batch: Sequence[Difference]) -> None:
    """Store differences: one that is open already was seen again."""
    dialect = session.connection().dialect.name
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    at = now()
    statement = insert(cast("Table", Discrepancy.__table__)).on_conflict_do_update(
        index_elements=["kind", "username", "key_name"],
        index_where=Discrepancy.closed_at.is_(None),
        set_={"last_run_id": run_id, "last_seen_at": at},
    )
    seen = {"first_run_id": run_id, "last_run_id": run_id, "first_seen_at": at, "last_seen_at": at}
    session.execute(
        statement,
        [
            {"kind": found.kind, "username": found.username, "key_name": found.key_name, **seen}
            for found in batch
        ],
    )


def _close_others(session: Session, run_id: int, started_at: datetime, unjudged: Set[str]) -> None:
    """Close what this check did not see any more, save of users whom it could not judge.

    Other runs' clocks may be off. What this run saw before it was interrupted is older than it.
    """
    unseen = or_(Discrepancy.last_run_id != run_id, Discrepancy.last_seen_at < started_at)
    last = 0
    while True:
        rows = session.execute(
            select(Discrepancy.id, Discrepancy.username)
            .where(Discrepancy.closed_at.is_(None), unseen, Discrepancy.id > last)
            .order_by(Discrepancy.id)
            .limit(BATCH)
        ).all()
        if not rows:
            return
        last = rows[-1].id
        gone = [row.id for row in rows if row.username not in unjudged]
        session.execute(update(Discrepancy).where(Discrepancy.id.in_(gone)).values(closed_at=now()))


def _open_by_kind(session: Session) -> dict[str, int]:
    rows = session.execute(
        select(Discrepancy.kind, func.count())
        .where(Discrepancy.closed_at.is_(None))
        .group_by(Discrepancy.kind)
    )
    found = dict(rows.all())
    return {kind.value: found.get(kind.value, 0) for kind in Kind}


class _Findings:
    """What a check has found so far, on disk: SQLite removes the file's name at once.

    `equal` counts the accounts of which nothing differs, `pending` what waits to be written back
    and is no difference therefore. `unjudged` are those whose record in the file cannot be read:
    nothing is concluded about them.
    """

    def __init__(self) -> None:
        self.equal = 0
        self.pending = 0
        self.unjudged: set[str] = set()
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("CREATE TABLE found (kind TEXT, username TEXT, key_name TEXT)")

    def close(self) -> None:
        self._db.close()

    def add(self, found: Sequence[Difference]) -> None:
        self.unjudged |= {one.username for one in found if one.kind is Kind.REJECTED_RECORD}
        self._db.executemany(
            "INSERT INTO found VALUES (?, ?, ?)",
            ((one.kind.value, one.username, one.key_name) for one in found),
        )

    def batches(self) -> Iterator[list[Difference]]:
        rows = self._db.execute("SELECT kind, username, key_name FROM found ORDER BY rowid")
        while batch := rows.fetchmany(BATCH):
            yield [Difference(Kind(kind), username, key) for kind, username, key in batch]
