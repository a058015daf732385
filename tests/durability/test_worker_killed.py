"""A worker that is killed, stopped or cut off: the run goes on, nothing twice, nothing lost."""

import fcntl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from flask import Flask
from sqlalchemy import Engine, create_engine, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tests import long_job
from tests.worker_process import StartWorker, is_alive, until
from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import LoginAttempt, Run
from webapp.services import runs

pytestmark = pytest.mark.durability


@pytest.fixture
def run_id(app: Flask) -> Iterator[int]:
    """A run of the long job, waiting in the database and in the queue."""
    with app.app_context():
        yield runs.start(long_job.KIND).id


def current(run_id: int) -> Run:
    db.session.rollback()
    run = db.session.get_one(Run, run_id, populate_existing=True)
    db.session.rollback()
    return run


def is_under_way(run_id: int) -> bool:
    return current(run_id).cursor >= 3 * long_job.BATCH


def let_the_lease_run_out(run_id: int) -> None:
    over = now() - timedelta(seconds=1)
    with transaction() as session:
        session.execute(update(Run).where(Run.id == run_id).values(lease_expires_at=over))


def assert_done_once(run_id: int) -> None:
    until(lambda: current(run_id).finished_at, 60)
    run = current(run_id)
    assert (run.status, run.error, run.cursor) == ("finished", None, long_job.TOTAL)
    assert_each_number_once()


def assert_each_number_once() -> None:
    db.session.rollback()
    numbers = [
        int.from_bytes(row, "big") for row in db.session.scalars(select(LoginAttempt.subject))
    ]
    assert sorted(numbers) == list(range(long_job.TOTAL))


def suspend_outside_of_a_write(horse: psutil.Process, app: Flask) -> None:
    """Stop the process where it holds no lock that others wait for."""
    while True:
        horse.suspend()
        with app.app_context():
            if holds_a_lock(db.engine):
                horse.resume()
                continue
            return


def holds_a_lock(engine: Engine) -> bool:
    """Whether somebody is writing: on SQLite one writer, or the next in its queue, stops all."""
    if engine.dialect.name != "sqlite":
        return not succeeds(engine, "SELECT id FROM runs FOR UPDATE NOWAIT")
    with Path(f"{engine.url.database}-writers").open() as queue:
        try:
            fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return not succeeds(engine, "PRAGMA busy_timeout = 0", "UPDATE runs SET id = id")


def succeeds(engine: Engine, *statements: str) -> bool:
    # NullPool: what was set on the connection must not stay.
    with create_engine(engine.url, poolclass=NullPool).connect() as connection:
        try:
            for statement in statements:
                connection.exec_driver_sql(statement)
        except OperationalError:
            return False
        return True


def test_the_next_worker_goes_on_after_a_power_failure(
    start_worker: StartWorker, run_id: int
) -> None:
    first = start_worker()
    until(lambda: is_under_way(run_id))
    first.kill_everything()
    assert 0 < current(run_id).cursor < long_job.TOTAL
    let_the_lease_run_out(run_id)
    start_worker()
    assert_done_once(run_id)
    assert current(run_id).lease_token == 2


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_another_worker_goes_on_within_a_minute(start_worker: StartWorker, run_id: int) -> None:
    first = start_worker()
    until(lambda: is_under_way(run_id))
    start_worker()
    first.kill_everything()
    until(lambda: current(run_id).lease_token == 2, 60)
    assert_done_once(run_id)


def test_a_job_whose_worker_alone_is_killed_hands_back_at_once(
    start_worker: StartWorker, run_id: int
) -> None:
    first = start_worker()
    until(lambda: is_under_way(run_id))
    left = first.children()
    assert len(left) == 2
    first.kill_worker()
    until(lambda: current(run_id).status == "pending", 30)
    until(lambda: not any(map(is_alive, left)), 30)
    start_worker()
    assert_done_once(run_id)


def test_an_orphan_that_wakes_up_writes_nothing(
    app: Flask, start_worker: StartWorker, run_id: int
) -> None:
    first = start_worker()
    until(lambda: is_under_way(run_id))
    horse = first.horse()
    assert horse is not None
    suspend_outside_of_a_write(horse, app)
    let_the_lease_run_out(run_id)
    start_worker()
    until(lambda: current(run_id).lease_token == 2)
    until(lambda: is_under_way(run_id))
    horse.resume()
    until(lambda: not is_alive(horse), 60)
    assert "LeaseLost" in first.log
    assert_done_once(run_id)
    assert current(run_id).lease_token == 2


def test_two_workers_do_one_run_once(start_worker: StartWorker, run_id: int) -> None:
    start_worker()
    start_worker()
    assert_done_once(run_id)
    assert current(run_id).lease_token == 1


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_killed_schedule_is_started_again(start_worker: StartWorker) -> None:
    worker = start_worker()
    until(lambda: len(worker.children()) == 1)
    (schedule,) = worker.children()
    schedule.kill()
    until(lambda: [child.pid for child in worker.children()] not in ([], [schedule.pid]), 30)
    assert "schedule_ended" in worker.log
