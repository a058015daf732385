"""Child processes that live and end together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType, TracebackType

import psutil

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.1


class Supervisor:
    """A context in which children run; leaving it ends all of them, the newest first.

    SIGINT, SIGTERM and SIGHUP ask it to end, which `running` tells; asked a second time it no
    longer waits for anybody. Each child has a session of its own: it does not see the terminal's
    Ctrl-C, and whatever it leaves behind is found by that session and killed.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> "Supervisor":
        for number in _SIGNALS:
            signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for _, process in reversed(self._children):
            self._end(process)

    @property
    def asked_to_end(self) -> bool:
        return self._asked > 0

    @property
    def running(self) -> bool:
        """Whether nobody asked to end and every child lives."""
        return not self._asked and self.first_ended() is None

    def start(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start one child, with this process's output as its own."""
        self.adopt(
            name,
            subprocess.Popen(
                arguments, env=environ, stdin=subprocess.DEVNULL, start_new_session=True
            ),
        )

    def adopt(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Take over a child that leads a session of its own."""
        self._children.append((name, process))

    def first_ended(self) -> tuple[str, int] | None:
        """Return name and exit code of a child that has ended, if one has."""
        for name, process in self._children:
            code = process.poll()
            if code is not None:
                return name, code
        return None

    def wait(self) -> None:
        """Return when a child has ended or a signal came."""
        while self.running:
            time.sleep(_POLL_SECONDS)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        if self._asked == 1:
            sys.stderr.write("\nEnding …\n")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        # Asked once, RQ finishes the job in hand first; asked twice, it drops it (it is resumed).
        for _ in range(2):
            if process.poll() is None:
                process.terminate()
                self._wait_for(process)
        for member in _session_members(process.pid):
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        process.wait()

    def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        while process.poll() is None and time.monotonic() < deadline and self._asked < 2:
            time.sleep(_POLL_SECONDS / 2)


def _session_members(session: int) -> list[int]:
    members = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                members.append(pid)
    return members
