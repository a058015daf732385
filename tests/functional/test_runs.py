"""Leases: one worker at a time, and nothing written by one that was overtaken."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from flask import Flask
from sqlalchemy import create_engine, func, select, text, update
from sqlalchemy.exc import OperationalError, ProgrammingError

from webapp import clock
from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import AuditEvent, LoginAttempt, Run, User
from webapp.services import run_progress, runs
from webapp.services.actor import Actor, acting
from webapp.services.errors import ServiceError
from webapp.services.runs import (
    CONSISTENCY_CHECK,
    LEGACY_IMPORT,
    Interrupted,
    Lease,
    LeaseLost,
    NotAvailable,
)

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _context(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def reload(run_id: int) -> Run:
    db.session.rollback()
    run = db.session.get(Run, run_id, populate_existing=True)
    assert run is not None
    return run


def write_something() -> None:
    db.session.add(LoginAttempt(kind="password", subject=b"s" * 32))
    db.session.flush()


def written() -> int:
    db.session.rollback()
    return db.session.scalar(select(func.count()).select_from(LoginAttempt)) or 0


def fall_silent(run_id: int) -> None:
    """Let the lease of a run have run out."""
    over = now() - timedelta(seconds=1)
    with transaction() as session:
        session.execute(update(Run).where(Run.id == run_id).values(lease_expires_at=over))


def at_once(app: Flask, act: Callable[[], T], times: int = 6) -> list[T]:
    """Return the results of `act` in that many threads that begin together."""
    together = threading.Barrier(times)

    def one(_: int) -> T:
        with app.app_context():
            together.wait()
            return act()

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(one, range(times)))


def test_starting_what_is_unfinished_returns_the_unfinished_run() -> None:
    run = runs.start(LEGACY_IMPORT, source="a")
    assert (run.status, run.source, run.cursor) == ("pending", "a", 0)
    assert runs.start(LEGACY_IMPORT, source="b").id == run.id
    assert runs.start(CONSISTENCY_CHECK).id != run.id
    lease = runs.take(run.id)
    assert runs.start(LEGACY_IMPORT).id == run.id
    runs.finish(lease)
    assert runs.start(LEGACY_IMPORT).id != run.id


def test_many_that_start_at_once_get_one_run(app: Flask) -> None:
    assert len(set(at_once(app, lambda: runs.start(LEGACY_IMPORT).id))) == 1


def test_of_many_that_take_at_once_one_gets_the_lease(app: Flask) -> None:
    run_id = runs.start(LEGACY_IMPORT).id

    def attempt() -> int | None:
        try:
            return runs.take(run_id).token
        except NotAvailable:
            return None

    assert [token for token in at_once(app, attempt) if token is not None] == [1]


def test_a_person_who_asks_is_recorded() -> None:
    with transaction() as session:
        alice = User(username="alice")
        session.add(alice)
    with acting(Actor(via="web", user_id=alice.id)):
        assert runs.start(CONSISTENCY_CHECK, requested_by_id=alice.id).requested_by_id == alice.id
    events = db.session.execute(select(AuditEvent.event, AuditEvent.actor_id)).all()
    assert [tuple(event) for event in events] == [("legacy.check_requested", alice.id)]


def test_a_successor_goes_on_where_the_last_checkpoint_was() -> None:
    run_id = runs.start(LEGACY_IMPORT, source="guess").id
    lease = runs.take(run_id)
    with transaction() as session:
        write_something()
        lease.checkpoint(
            session,
            cursor=500,
            total=2000,
            counts={"users_created": 499},
            source="read",
            report={"rejected": [{"name": "x", "reason": "y"}]},
        )
    with pytest.raises(NotAvailable):
        runs.take(run_id)
    fall_silent(run_id)
    successor = runs.take(run_id)
    assert (successor.token, successor.cursor, successor.total) == (2, 500, 2000)
    assert (successor.counts, successor.source) == ({"users_created": 499}, "read")
    assert successor.report == {"rejected": [{"name": "x", "reason": "y"}]}


def overtaken() -> Lease:
    """Return the lease of a worker that fell silent and was succeeded."""
    run_id = runs.start(LEGACY_IMPORT).id
    orphan = runs.take(run_id)
    fall_silent(run_id)
    runs.take(run_id)
    return orphan


def test_the_batch_of_an_overtaken_worker_rolls_back() -> None:
    orphan = overtaken()

    def batch() -> None:
        with transaction() as session:
            write_something()
            orphan.checkpoint(session, cursor=7)

    with pytest.raises(LeaseLost):
        batch()
    assert written() == 0
    assert reload(orphan.run_id).cursor == 0


@pytest.mark.parametrize("act", [runs.finish, runs.release, lambda lease: runs.fail(lease, "no")])
def test_an_overtaken_worker_cannot_end_the_run(act: Callable[[Lease], None]) -> None:
    orphan = overtaken()
    with pytest.raises(LeaseLost):
        act(orphan)
    run = reload(orphan.run_id)
    assert (run.status, run.error, run.lease_token) == ("running", None, 2)


def test_an_overtaken_worker_learns_of_it_when_it_renews(monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = overtaken()
    orphan.renew()  # too soon to ask
    monkeypatch.setattr(runs, "_RENEW_SECONDS", 0)
    with pytest.raises(LeaseLost):
        orphan.renew()


def test_a_silent_worker_that_nobody_overtook_may_go_on() -> None:
    run_id = runs.start(LEGACY_IMPORT).id
    lease = runs.take(run_id)
    fall_silent(run_id)
    with transaction() as session:
        lease.checkpoint(session, cursor=1)
    with pytest.raises(NotAvailable):
        runs.take(run_id)


def test_renewing_keeps_others_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_RENEW_SECONDS", 0)
    start = now()
    with clock.frozen(start) as set_clock:
        run_id = runs.start(LEGACY_IMPORT).id
        lease = runs.take(run_id)
        for seconds in range(20, 100, 20):
            set_clock(start + timedelta(seconds=seconds))
            with pytest.raises(NotAvailable):
                runs.take(run_id)
            lease.renew()


def test_a_process_that_is_to_end_hands_its_run_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_stop", threading.Event())
    run_id = runs.start(LEGACY_IMPORT).id
    runs.request_stop()
    lease = runs.take(run_id)
    with transaction() as session:
        lease.checkpoint(session, cursor=3)
    with pytest.raises(Interrupted), runs.working(lease):
        lease.renew()
    run = reload(run_id)
    assert (run.status, run.cursor, run.error) == ("pending", 3, None)
    assert runs.take(run_id).cursor == 3


def test_finishing_joins_the_last_batch() -> None:
    lease = runs.take(runs.start(LEGACY_IMPORT).id)

    def last_batch() -> None:
        with transaction():
            runs.finish(lease, counts={"users_created": 1})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        last_batch()
    assert reload(lease.run_id).status == "running"
    runs.finish(lease, counts={"users_created": 1}, report={"warnings": ["w"]})
    run = reload(lease.run_id)
    assert (run.status, run.counts, run.report) == (
        "finished",
        {"users_created": 1},
        {"warnings": ["w"]},
    )
    assert run.finished_at is not None
    assert run.lease_expires_at is None
    with pytest.raises(NotAvailable):
        runs.take(run.id)


class Broken(ServiceError):
    message = "users.json is torn."


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Broken(), "users.json is torn."),
        (KeyboardInterrupt(), "It was interrupted by the operator."),
        (KeyError("sk-secret"), "An unexpected error (KeyError); see the log."),
    ],
)
def test_a_failure_stands_in_the_run(error: BaseException, sentence: str) -> None:
    lease = runs.take(runs.start(LEGACY_IMPORT).id)
    with pytest.raises(type(error)), runs.working(lease):
        raise error
    run = reload(lease.run_id)
    assert (run.status, run.error) == ("failed", sentence)
    assert run.finished_at is not None


def test_what_the_database_refuses_stands_in_the_run_without_the_values() -> None:
    lease = runs.take(runs.start(LEGACY_IMPORT).id)
    with (
        pytest.raises((OperationalError, ProgrammingError)),
        runs.working(lease),
        transaction() as session,
    ):
        session.execute(text("SELECT secret FROM nowhere"))
    run = reload(lease.run_id)
    assert run.status == "failed"
    assert run.error is not None
    assert "secret" not in run.error


def test_a_lost_connection_leaves_the_run_for_the_next_worker() -> None:
    lease = runs.take(runs.start(LEGACY_IMPORT).id)
    gone = OperationalError("SELECT 1", {}, Exception(), connection_invalidated=True)
    with pytest.raises(OperationalError), runs.working(lease):
        raise gone
    assert reload(lease.run_id).status == "running"


def test_a_database_that_is_away_leaves_the_run_for_the_next_worker(tmp_path: Path) -> None:
    lease = runs.take(runs.start(LEGACY_IMPORT).id)
    away = create_engine(f"postgresql+psycopg://nobody@/none?host={tmp_path}")
    with pytest.raises(OperationalError), runs.working(lease):
        away.connect()
    assert reload(lease.run_id).status == "running"


def test_an_overtaken_worker_records_no_failure() -> None:
    orphan = overtaken()
    with pytest.raises(Broken), runs.working(orphan):
        raise Broken
    assert reload(orphan.run_id).status == "running"


def test_the_foreground_takes_what_waits_and_resumes_what_was_interrupted() -> None:
    run_id = runs.start(LEGACY_IMPORT).id
    lease = runs.begin(LEGACY_IMPORT)
    assert (lease.run_id, lease.token) == (run_id, 1)
    with pytest.raises(NotAvailable, match="right now"):
        runs.begin(LEGACY_IMPORT)
    fall_silent(run_id)
    assert runs.begin(LEGACY_IMPORT).token == 2
    assert runs.begin(CONSISTENCY_CHECK, source="s").source == "s"


def test_progress_of_a_run() -> None:
    start = now()
    with clock.frozen(start) as set_clock:
        run_id = runs.start(LEGACY_IMPORT).id
        progress = run_progress.progress(reload(run_id))
        assert (progress.percent, progress.waiting, progress.per_second) == (None, True, None)
        lease = runs.take(run_id)
        set_clock(start + timedelta(seconds=10))
        with transaction() as session:
            lease.checkpoint(session, cursor=500, total=2000)
        progress = run_progress.progress(reload(run_id))
        assert (progress.done, progress.total, progress.percent) == (500, 2000, 25)
        assert progress.per_second == pytest.approx(50)
        assert progress.remaining == timedelta(seconds=30)
        assert not progress.waiting
        set_clock(start + timedelta(minutes=5))
        progress = run_progress.progress(reload(run_id))
        assert (progress.waiting, progress.remaining) == (True, None)
        runs.finish(lease)
        assert run_progress.progress(reload(run_id)).percent == 100


def test_an_empty_run_has_a_progress_too() -> None:
    lease = runs.take(runs.start(LEGACY_IMPORT).id)
    with transaction() as session:
        lease.checkpoint(session, cursor=0, total=0)
    assert run_progress.progress(reload(lease.run_id)).percent == 0


def test_the_latest_of_a_kind_is_the_newest() -> None:
    start = now()
    with transaction() as session:
        session.add_all(
            Run(kind=CONSISTENCY_CHECK, status="finished", created_at=start + timedelta(seconds=n))
            for n in range(3)
        )
    newest = runs.latest(CONSISTENCY_CHECK)
    assert newest is not None
    assert newest.created_at == start + timedelta(seconds=2)
    assert runs.latest(CONSISTENCY_CHECK, status="failed") is None
    assert runs.latest(LEGACY_IMPORT) is None
