"""A real worker process, with everything that it forks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from webapp.config import ROOT

_END_SECONDS = 20.0


class WorkerProcess:
    """A started worker; `log` is what it has printed so far."""

    def __init__(
        self,
        environ: Mapping[str, str],
        log: Path,
        program: Sequence[str] = ("-m", "tests.long_job"),
    ) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *program],
                env={**environ, "LOG_FORMAT": "json", "PYTHONWARNINGS": "error"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def exit_code(self) -> int | None:
        """The exit code, None while it lives."""
        return self._process.poll()

    def children(self) -> list[psutil.Process]:
        """Return the schedule and the process of a job, where there is one."""
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []

    def horse(self) -> psutil.Process | None:
        """Return the process of the running job: it leads a process group of its own."""
        for child in self.children():
            with suppress(ProcessLookupError):
                if os.getpgid(child.pid) == child.pid:
                    return child
        return None

    def kill_worker(self) -> None:
        """kill -9 the worker alone."""
        self._process.kill()
        self._process.wait()

    def kill_everything(self) -> None:
        """kill -9 all of its processes at the same moment, as a power failure would."""
        everything = [*self.children(), psutil.Process(self.pid)]
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for process in everything:
                with suppress(psutil.NoSuchProcess):  # a job that has just ended
                    act(process)
        self._process.wait()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Return the exit code once it has ended."""
        return self._process.wait(_END_SECONDS)

    def end(self) -> None:
        """End it and whatever it left, however it is doing."""
        left = self.children()
        if self.exit_code is None:
            self._process.terminate()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return once `condition` holds. Raises AssertionError when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that ended and was not waited for does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker(environ: Mapping[str, str], tmp_path: Path) -> Iterator[StartWorker]:
    """Start workers that end with the test: `start_worker(REDIS_URL=...)`.

    They know the long job too.
    """
    started: list[WorkerProcess] = []

    def start(**more: str) -> WorkerProcess:
        log = tmp_path / f"worker{len(started)}.log"
        started.append(WorkerProcess({**environ, **more}, log))
        return started[-1]

    yield start
    for worker in started:
        worker.end()
        print(worker.log)
