"""The job queue: RQ on Redis. It carries the name of a function and ids, and nothing else.

The queue only wakes workers up. What is to be done stands in `runs`, and the schedule puts a run
that nobody was told about back into the queue, so a Redis that is down or was emptied costs time
and nothing more.
"""

from datetime import timedelta
from typing import Literal, cast

import structlog
from flask import current_app
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now as rq_now

from webapp.config import current_settings

QUEUE = "default"

_CONNECT_SECONDS = 0.5
_ANSWER_SECONDS = 1.0
_UNLIMITED = -1
_FAILURE_SECONDS = 300
"""RQ's own note of a failed job lives this long; the run's error is in the database."""
_STARTED_BY_NOW = timedelta(seconds=10)
"""A job that left the queue this long after it was put there has taken its lease, or died."""

_log = structlog.get_logger(__name__)

RedisState = Literal["ok", "down", "unset"]


def enqueue(function: str, *ids: int, job_id: str) -> bool:
    """Ask a worker to call `function` (a dotted name) with `ids`; return whether Redis has it.

    A job that already waits under `job_id` is not put there twice. Never raises when Redis is away
    or REDIS_URL unset: that is logged, and the schedule asks again.
    """
    connection = _connection()
    if connection is None:
        _log.warning("job_not_queued", job=job_id, reason="REDIS_URL is not set")
        return False
    try:
        _put(Queue(QUEUE, connection=connection, serializer=JSONSerializer), function, ids, job_id)
    except RedisError as error:
        _log.warning("job_not_queued", job=job_id, reason=type(error).__name__)
        return False
    return True


def redis_state() -> RedisState:
    """Return whether the queue can be reached now; takes about a second at most."""
    connection = _connection()
    if connection is None:
        return "unset"
    try:
        connection.ping()
    except RedisError:
        return "down"
    return "ok"


def _put(queue: Queue, function: str, ids: tuple[int, ...], job_id: str) -> None:
    if queue.get_job_position(job_id) is not None:
        return
    if _is_being_started(queue, job_id):
        return
    try:
        queue.enqueue_call(
            function,
            args=ids,
            job_id=job_id,
            unique=True,
            timeout=_UNLIMITED,
            result_ttl=0,
            failure_ttl=_FAILURE_SECONDS,
            description=function,  # RQ's own would print the arguments
        )
    except DuplicateJobError:
        return


def _is_being_started(queue: Queue, job_id: str) -> bool:
    """Whether a worker has just taken the job; what a dead worker left of it is removed."""
    try:
        job = Job.fetch(job_id, connection=queue.connection, serializer=JSONSerializer)
    except NoSuchJobError:
        return False
    if job.enqueued_at is not None and rq_now() - job.enqueued_at < _STARTED_BY_NOW:
        return True
    job.delete(remove_from_queue=False)
    return False


def _connection() -> "Redis | None":
    """Return this process's client, which gives up quickly: a web request must not wait."""
    url = current_settings().redis_url
    if url is None:
        return None
    if "keystay_redis" not in current_app.extensions:
        current_app.extensions["keystay_redis"] = Redis.from_url(
            url,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    return cast("Redis", current_app.extensions["keystay_redis"])
