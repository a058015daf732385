"""The schedule: a child process of the worker that starts what is due.

Every worker has one, and any number of them do no more than one does. It keeps no state that
matters: killed, it is started again; without database or Redis it waits until they are back.
"""

import multiprocessing
import os
import signal
import time

import structlog
from sqlalchemy.exc import SQLAlchemyError

from webapp import children, queues
from webapp.jobs.context import job_context
from webapp.services import due_runs, maintenance, runs

ROUND_SECONDS = 3.0
_PURGE_SECONDS = 3600.0
_END_SECONDS = 5.0

_log = structlog.get_logger(__name__)
_processes = multiprocessing.get_context("fork")


class Schedule:
    """The worker's side of it."""

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None

    def ensure_running(self) -> None:
        """Start the process unless it lives. The caller must hold no database connection."""
        if self._process is not None and self._process.is_alive():
            return
        if self._process is not None:
            _log.error("schedule_ended", code=self._process.exitcode)
        self._process = _processes.Process(target=_run, args=(os.getpid(),), daemon=True)
        with children.signals_held():
            self._process.start()

    def stop(self) -> None:
        """End the process; it can be ended anywhere."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(_END_SECONDS)
            self._process.kill()
            self._process.join()
            self._process = None


class Rounds:
    """The schedule's side: one round after the other, with a log line when something changes."""

    def __init__(self) -> None:
        self._trouble: str | None = None
        self._redis: queues.RedisState = "ok"
        self._purged_at: float | None = None

    def go(self) -> None:
        """Do one round. Never raises: the next one may succeed."""
        try:
            with job_context():
                self._start_and_queue()
                self._purge()
        except SQLAlchemyError as error:
            self._note(type(error).__name__)
        except Exception as error:
            if self._note(type(error).__name__):
                _log.exception("schedule_failed")
        else:
            self._note(None)

    def _start_and_queue(self) -> None:
        redis = queues.redis_state()
        if redis != self._redis:
            self._redis = redis
            _log.warning("schedule_redis", state=redis)
        due_runs.start_due_runs()
        if redis == "ok":
            runs.enqueue_due()

    def _purge(self) -> None:
        if self._purged_at is None or time.monotonic() - self._purged_at >= _PURGE_SECONDS:
            self._purged_at = time.monotonic()
            deleted = maintenance.purge()
            if any(deleted.values()):
                _log.info("purged", **deleted)

    def _note(self, trouble: str | None) -> bool:
        """Log that the trouble began, changed or ended; return whether it did."""
        if trouble == self._trouble:
            return False
        self._trouble = trouble
        if trouble is None:
            _log.info("schedule_works")
        else:
            _log.warning("schedule_waits", reason=trouble)
        return True


def _run(parent: int) -> None:
    # The terminal's Ctrl-C is the worker's business; what it does about it ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    children.begin(parent)
    rounds = Rounds()
    while os.getppid() == parent:
        rounds.go()
        time.sleep(ROUND_SECONDS)
