"""The worker as a process: what it refuses, what it waits for, what it leaves in Redis."""

import json
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from flask import Flask
from sqlalchemy import func, select

from devserver.embedded_redis import EmbeddedRedis
from tests import long_job
from tests.conftest import MakeSettings
from tests.legacy_folder import SAMPLE
from tests.worker_process import StartWorker, until
from webapp import create_app, queues
from webapp.db import db, dispose_engines
from webapp.models import LoginAttempt, Run
from webapp.services import runs
from webapp.services.keyring import check_keyring

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def current(run_id: int) -> Run:
    db.session.rollback()
    run = db.session.get_one(Run, run_id, populate_existing=True)
    db.session.rollback()
    return run


def assert_done(run_id: int) -> None:
    until(lambda: current(run_id).finished_at, 40)
    run = current(run_id)
    assert (run.status, run.error, run.cursor) == ("finished", None, long_job.TOTAL)
    written = db.session.scalar(select(func.count(LoginAttempt.subject.distinct())))
    assert written == db.session.scalar(select(func.count(LoginAttempt.id))) == long_job.TOTAL


class Starts:
    """A Redis of the test's own, which can be down."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedRedis(folder)
        self._runs = False

    @property
    def url(self) -> str:
        return self._server.url

    def start(self) -> None:
        self._server.start()
        self._runs = True

    def stop(self) -> None:
        if self._runs:
            self._server.stop()
            self._runs = False


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Starts]:
    server = Starts(tmp_path / "own")
    yield server
    server.stop()


@pytest.fixture
def app_with_own_redis(make_settings: MakeSettings, own_redis: Starts) -> Iterator[Flask]:
    app = create_app(make_settings(REDIS_URL=own_redis.url))
    yield app
    dispose_engines(app)


@on_sqlite
@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"REDIS_URL": ""}, "keystay: REDIS_URL: is required by the worker"),
        ({"SIGNUP": "maybe"}, "keystay: SIGNUP: must be one of open, closed, not 'maybe'"),
    ],
)
def test_a_bad_setting_is_one_line(
    start_worker: StartWorker, more: dict[str, str], line: str
) -> None:
    worker = start_worker(**more)
    assert worker.wait() == 2
    assert worker.log.splitlines() == [line]


def test_a_wrong_master_key_is_one_line_that_names_it(
    app: Flask, start_worker: StartWorker
) -> None:
    with app.app_context():
        check_keyring()
    worker = start_worker(MASTER_KEYS="k1:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA")
    assert worker.wait() == 2
    (line,) = worker.log.splitlines()
    assert line.startswith("keystay: master key k1 is not the one")


@on_sqlite
def test_a_database_that_is_down_is_waited_for(start_worker: StartWorker, tmp_path: Path) -> None:
    worker = start_worker(DATABASE_URL=f"postgresql://nobody@/none?host={tmp_path}")
    until(lambda: "worker_waits_for_database" in worker.log)
    assert worker.exit_code is None
    worker.terminate()
    assert worker.wait() == 0


def test_a_worker_asked_to_end_hands_its_run_back(app: Flask, start_worker: StartWorker) -> None:
    with app.app_context():
        run_id = runs.start(long_job.KIND).id
        first = start_worker()
        until(lambda: current(run_id).cursor)
        asked_at = time.monotonic()
        first.terminate()
        assert first.wait() == 0
        assert time.monotonic() - asked_at < 5
        run = current(run_id)
        assert (run.status, run.error) == ("pending", None)
        assert 0 < run.cursor < long_job.TOTAL
        start_worker()
        assert_done(run_id)


def test_with_redis_down_a_run_waits_in_the_database(
    app_with_own_redis: Flask, own_redis: Starts, start_worker: StartWorker
) -> None:
    with app_with_own_redis.app_context():
        assert queues.redis_state() == "down"
        asked_at = time.monotonic()
        run_id = runs.start(long_job.KIND).id
        assert time.monotonic() - asked_at < 2
        worker = start_worker(REDIS_URL=own_redis.url)
        until(lambda: "worker_waits_for_redis" in worker.log)
        assert current(run_id).status == "pending"
        own_redis.start()
        assert_done(run_id)


@on_sqlite
def test_with_redis_down_the_import_waits_in_the_database(
    app_with_own_redis: Flask, own_redis: Starts, start_worker: StartWorker
) -> None:
    def the_import() -> Run | None:
        db.session.rollback()
        found = runs.latest(runs.LEGACY_IMPORT)
        db.session.rollback()
        return found

    with app_with_own_redis.app_context():
        worker = start_worker(REDIS_URL=own_redis.url, LEGACY_DIR=str(SAMPLE))
        until(lambda: the_import() and "worker_waits_for_redis" in worker.log)
        waiting = the_import()
        assert waiting is not None
        assert waiting.status == "pending"
        own_redis.start()
        until(lambda: current(waiting.id).finished_at, 40)
        run = current(waiting.id)
        assert (run.status, run.counts["users_created"]) == ("finished", 6)


@on_sqlite
def test_a_redis_that_dies_and_forgets_everything_loses_nothing(
    app_with_own_redis: Flask, own_redis: Starts, start_worker: StartWorker
) -> None:
    own_redis.start()
    with app_with_own_redis.app_context():
        worker = start_worker(REDIS_URL=own_redis.url)
        first = runs.start(long_job.KIND).id
        until(lambda: current(first).cursor)
        own_redis.stop()
        assert_done(first)
        second = runs.start(long_job.KIND).id
        own_redis.start()
        until(lambda: current(second).finished_at, 40)
        assert worker.exit_code is None


@on_sqlite
def test_a_redis_that_was_emptied_is_told_again(
    app: Flask, redis_url: str, start_worker: StartWorker
) -> None:
    with app.app_context():
        run_id = runs.start(long_job.KIND).id
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        start_worker()
        assert_done(run_id)


def test_a_failure_is_told_to_people_and_not_to_redis(
    app: Flask, redis_url: str, start_worker: StartWorker
) -> None:
    with app.app_context():
        worker = start_worker()
        run_id = runs.start(long_job.KIND, source=long_job.FAIL).id
        until(lambda: current(run_id).finished_at)
        assert current(run_id).error == "An unexpected error (ValueError); see the log."
        until(lambda: "ValueError" in worker.log)
        time.sleep(0.5)
        assert long_job.SECRET not in everything_in(redis_url)


@on_sqlite
def test_a_job_in_redis_is_a_name_and_an_id(app: Flask, redis_url: str) -> None:
    with app.app_context():
        run_id = runs.start(long_job.KIND, source="a-source").id
        runs.start(long_job.KIND)
        runs.enqueue_due()
    with redis.Redis.from_url(redis_url) as client:
        assert client.lrange("rq:queue:default", 0, -1) == [f"run-{run_id}-0".encode()]
        job = client.hgetall(f"rq:job:run-{run_id}-0")
    assert json.loads(zlib.decompress(job[b"data"])) == ["tests.long_job.run", None, [run_id], {}]
    assert (job[b"description"], job[b"timeout"]) == (b"tests.long_job.run", b"-1")
    assert "a-source" not in everything_in(redis_url)


def everything_in(redis_url: str) -> str:
    """Return all keys and values, what RQ compressed in clear."""
    found: list[bytes] = []
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter():
            found.append(key)
            kind = client.type(key)
            if kind == b"hash":
                found.extend(part for item in client.hgetall(key).items() for part in item)
            elif kind == b"list":
                found.extend(client.lrange(key, 0, -1))
            elif kind == b"set":
                found.extend(client.smembers(key))
            elif kind == b"zset":
                found.extend(client.zrange(key, 0, -1))
            elif kind == b"stream":
                for _, fields in client.xrange(key):
                    found.extend(part for item in fields.items() for part in item)
            else:
                found.append(client.get(key) or b"")
    return "\n".join(_clear(part) for part in found)


def _clear(part: bytes) -> str:
    with suppress(zlib.error):
        part = zlib.decompress(part)
    return part.decode("utf-8", "replace")
