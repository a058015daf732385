"""Work on plain data, spread over the cores by forked processes, the results in order.

A helper is a fork of the process that has the data: what `work` needs besides its task (keys, say)
it inherits, and nothing of that is written anywhere or sent. It holds on to one pipe and closes all
else that it inherited, so it reaches no database, no Redis and no file; it ends with the process
that forked it, whatever ends that.
"""

import gc
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, closing, suppress
from itertools import cycle
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from webapp import children

FEWEST: Final = 4000
"""With less to do than this, forking and handing over takes longer than it saves."""
_MOST_HELPERS: Final = 4
"""The process that hands out keeps up with no more."""
_PATIENCE_SECONDS: Final = 20.0
"""A helper that is silent for longer is given up; less than a lease lasts (services/runs.py)."""

_log = structlog.get_logger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")


def helpers_for(count: int) -> int:
    """Return how many helpers are worth it for `count` things of some 100 microseconds each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, _MOST_HELPERS) if (cores or 1) > 1 and count >= FEWEST else 0


def in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], *, helpers: int
) -> Generator[tuple[Task, Result], None, None]:
    """Yield each task with its result, in the order of `tasks`; to be closed.

    `helpers` processes do the work, and this one with none. They are forked when the first result
    is asked for: no database connection may be in use then. Of `tasks` as many are read ahead as
    there are helpers. Tasks and results are pickled, and `work` must change nothing. What a helper
    does not bring to an end, since it died or raised, is done once more here; so what `work` raises
    is raised here, and a run whose helpers are gone goes on without them.
    """
    if not helpers:
        for task in tasks:
            yield task, work(task)
        return
    under_way: deque[tuple[_Helper[Task, Result], Task]] = deque()
    with ExitStack() as stack:
        crew = [stack.enter_context(closing(_Helper(work))) for _ in range(helpers)]
        # Each helper has one task at a time, so that neither side waits for the other to read. The
        # next one was read by then and is handed over first, so that it does not wait either.
        for helper, task in zip(cycle(crew), tasks, strict=False):
            finished = [_finish(under_way)] if len(under_way) == helpers else []
            helper.give(task)
            under_way.append((helper, task))
            yield from finished
        while under_way:
            yield _finish(under_way)


def _finish(under_way: "deque[tuple[_Helper[Task, Result], Task]]") -> tuple[Task, Result]:
    helper, task = under_way.popleft()
    return task, helper.result(task)


class _Helper(Generic[Task, Result]):
    """One forked process. When it is lost, this one does its work."""

    def __init__(self, work: Callable[[Task], Result]) -> None:
        self._work = work
        self._pipe, theirs = Pipe()
        self._pid = 0
        parent = os.getpid()
        try:
            with children.signals_held():
                self._pid = os.fork()
                if not self._pid:
                    _serve(theirs, work, parent)
        except OSError:
            self._lose()
        theirs.close()

    def give(self, task: Task) -> None:
        """Hand over a task; the result of the one before was taken."""
        try:
            if not self._pipe.closed:
                self._pipe.send_bytes(pickle.dumps(task, pickle.HIGHEST_PROTOCOL))
        except OSError:
            self._lose()

    def result(self, task: Task) -> Result:
        """Return the result of `task`, which was handed over last."""
        try:
            if not self._pipe.closed and self._pipe.poll(_PATIENCE_SECONDS):
                is_done, result = pickle.loads(self._pipe.recv_bytes())  # noqa: S301 - our fork's
                return result if is_done else self._work(task)
        except (EOFError, OSError):
            pass
        self._lose()
        return self._work(task)

    def _lose(self) -> None:
        if not self._pipe.closed:
            _log.warning("helper_lost", pid=self._pid)
            self.close()

    def close(self) -> None:
        """End the process. It can be ended anywhere."""
        if not self._pipe.closed:
            self._pipe.close()
            if not self._pid:  # there were too many processes
                return
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)


def _serve(pipe: "Connection[bytes, bytes]", work: Callable[[Task], Result], parent: int) -> None:
    """Be a helper. Does not return."""
    try:
        # Who ends the whole group wants the parent to come to a good end, which needs the result.
        for number in children.SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        children.begin(parent, end=signal.SIGKILL)
        # Closed behind the back of the objects that own them, which nobody uses here: closing
        # those would say goodbye to servers that the parent goes on to talk to.
        for descriptor in [int(entry.name) for entry in Path("/dev/fd").iterdir()]:
            if descriptor > 2 and descriptor != pipe.fileno():
                with suppress(OSError):  # that of the list
                    os.close(descriptor)
        gc.freeze()
        while True:
            task = pickle.loads(pipe.recv_bytes())  # noqa: S301 - our parent's
            pipe.send_bytes(_answer(work, task))
    finally:
        os._exit(0)


def _answer(work: Callable[[Task], Result], task: Task) -> bytes:
    try:
        return pickle.dumps((True, work(task)), pickle.HIGHEST_PROTOCOL)
    except Exception:
        return pickle.dumps((False, None))
