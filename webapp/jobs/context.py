"""The application that jobs run in, one for each process, who acts in them, and how they end."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import structlog
from flask import Flask

from webapp import create_app
from webapp.services.actor import Actor, acting
from webapp.services.runs import Interrupted, LeaseLost, NotAvailable

_OBJECTS_BETWEEN_COLLECTIONS = 50_000

_log = structlog.get_logger(__name__)


@cache
def application() -> Flask:
    """Return this process's application; a job process inherits its worker's.

    What is loaded by now stays: it is taken out of the sight of the garbage collector, which would
    look at all of it again and again, and in a job process copy the memory that it shares. What a
    job makes of a batch lives until the batch is written, so that a collector that came as often as
    by default would find nothing.
    """
    app = create_app()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    return app


@contextmanager
def job_context() -> Iterator[None]:
    """Let the block act as a job, in the application's context."""
    with application().app_context(), acting(Actor(via="job")):
        yield


def carry_out(work: Callable[[int], object], run_id: int) -> None:
    """Do the work of a run. That another worker does it, or will, is no failure of this job.

    What is one stands in the run by now, and goes on to the worker's log.
    """
    with job_context():
        try:
            work(run_id)
        except (NotAvailable, LeaseLost, Interrupted) as reason:
            _log.info("run_left", run=run_id, reason=type(reason).__name__)
