"""The worker: RQ's, made to hand long jobs back and to outlive Redis, with the schedule beside it.

RQ forks a process for each job. It is ended by its worker's death (Linux), or goes on as an orphan
that writes nothing once another worker has taken the run over.
"""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

import structlog
from flask import Flask
from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import ConnectionError, RedisError, TimeoutError  # noqa: A004 - Redis's
from redis.retry import Retry
from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from sqlalchemy.exc import SQLAlchemyError

from webapp import children, queues
from webapp.db import dispose_engines
from webapp.jobs import legacy as _imported_before_the_fork  # noqa: F401
from webapp.jobs.schedule import Schedule
from webapp.services import runs
from webapp.services.errors import ServiceError
from webapp.services.keyring import check_keyring

_WORKER_TTL_SECONDS = 30
"""RQ asks Redis for a job for half of this, and then shows that it lives."""
_MONITORING_SECONDS = 10
_LONGEST_WAIT_SECONDS = 5.0
_CONNECT_SECONDS = 5.0

_log = structlog.get_logger(__name__)


def serve(app: Flask, redis_url: str) -> None:
    """Work until SIGTERM or SIGINT. Raises KeyringRefused instead of working with wrong keys.

    A database or Redis that is down, at the start or later, is waited for.
    """
    stop = threading.Event()
    _stop_on_signals(stop)
    _wait_for_master_keys(app, stop)
    schedule = Schedule()
    try:
        while not stop.is_set():
            _work(redis_url, schedule, stop)
            _stop_on_signals(stop)
            stop.wait(1)
    finally:
        schedule.stop()


def _stop_on_signals(stop: threading.Event) -> None:
    for number in children.SIGNALS:
        signal.signal(number, lambda *_: stop.set())


def _wait_for_master_keys(app: Flask, stop: threading.Event) -> None:
    """Return once the master keys are found right, with no connection left open for a fork."""
    wait = 1.0
    while not stop.is_set():
        try:
            with app.app_context():
                check_keyring()
            return
        except SQLAlchemyError as error:
            _log.warning("worker_waits_for_database", reason=type(error).__name__)
            stop.wait(wait)
            wait = min(2 * wait, 30.0)
        finally:
            dispose_engines(app)


def _work(redis_url: str, schedule: Schedule, stop: threading.Event) -> None:
    """Work with one connection to Redis, until it breaks in a way that RQ does not mend."""
    schedule.ensure_running()
    connection = Redis.from_url(
        redis_url,
        socket_connect_timeout=_CONNECT_SECONDS,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),  # RQ waits and tries again itself
    )
    worker = None
    try:
        worker = JobWorker(connection, schedule, stop)
        worker.work(logging_level="WARNING")
    except RedisError as error:
        _log.warning("worker_waits_for_redis", reason=type(error).__name__)
    finally:
        if worker is not None:
            worker.end_horse()
        connection.close()


class JobWorker(Worker):
    """RQ's worker for our one queue."""

    log_result_lifespan = False
    max_connection_wait_time = _LONGEST_WAIT_SECONDS

    def __init__(self, connection: "Redis", schedule: Schedule, stop: threading.Event) -> None:
        super().__init__(
            [queues.QUEUE],
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=_WORKER_TTL_SECONDS,
            job_monitoring_interval=_MONITORING_SECONDS,
            log_job_description=False,
        )
        self._schedule = schedule
        self._stop = stop

    def end_horse(self) -> None:
        """Ask the job's process, if there is one, to hand back its run, and wait for it."""
        if self.horse_pid:
            self._ask_horse_to_end()
            self.wait_for_horse()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        self._stop.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def handle_warm_shutdown_request(self) -> None:
        """A long job does not hold up the end: it hands its run back at the next safe point."""
        self._ask_horse_to_end()

    def heartbeat(self, timeout: int | None = None, pipeline: "Pipeline | None" = None) -> None:
        if not self.is_horse:
            self._schedule.ensure_running()
        super().heartbeat(timeout, pipeline)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """When Redis goes away meanwhile, leave RQ's loop, so that it is entered anew."""
        try:
            super().execute_job(job, queue)
        except (ConnectionError, TimeoutError) as error:
            raise StopRequested from error

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Redis may be away during a job: its lease is in the database, and it goes on."""
        with suppress(RedisError):
            super().maintain_heartbeats(job, execution)

    def subscribe(self) -> None:
        """Take no commands from Redis: who can write there must not end jobs."""

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        with children.signals_held():
            super().fork_work_horse(job, queue)

    def setup_work_horse_signals(self) -> None:
        """In the job's process: SIGTERM hands the run back, and so does the worker's death."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: runs.request_stop())
        assert self.pid is not None  # noqa: S101 - only a worker that was looked up has none
        children.begin(self.pid)

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        with suppress(RedisError):
            super().handle_execution_ended(job, queue, heartbeat_ttl)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log a failure once. What people can act on is a sentence and needs no traceback."""
        error = exc_info[1]
        if isinstance(error, ServiceError):
            _log.warning("job_failed", job=job.id, reason=str(error))
        elif isinstance(error, RedisError):
            _log.warning("job_end_not_noted", job=job.id, reason=type(error).__name__)
        else:
            _log.error("job_failed", job=job.id, exc_info=exc_info)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry | None = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Keep the traceback out of Redis; the log has it."""
        super().handle_job_failure(job, queue, started_job_registry, "see the log", execution)

    def _ask_horse_to_end(self) -> None:
        if self.horse_pid:
            with suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGTERM)
