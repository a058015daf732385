"""Children live and end together, and nothing of them stays."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from devserver import supervisor

PROGRAM = """
import sys
from devserver.supervisor import Supervisor

with Supervisor() as supervisor:
    for number, code in enumerate(sys.argv[1:]):
        supervisor.start(f"child{number}", [sys.executable, "-uc", code], {})
    supervisor.wait()
    print("first", supervisor.first_ended(), flush=True)
"""
SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
WITH_GRANDCHILD = (
    "import os, signal, subprocess, sys, time;"
    f"p = subprocess.Popen([sys.executable, '-uc', {STUBBORN!r}], process_group=0);"
    "time.sleep(600)"
)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program that supervises children with the given code."""
    started: list[subprocess.Popen[str]] = []

    def run(*children: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *children], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def _read_pid(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def _lives(pid: int) -> bool:
    """An orphan that was killed stays a zombie until init comes round."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_children_and_what_they_started(start: Start, number: signal.Signals) -> None:
    process = start(SLEEPER, WITH_GRANDCHILD)
    pids = [_read_pid(process), _read_pid(process)]
    process.send_signal(number)
    assert process.wait(10) == 0
    assert not any(_lives(pid) for pid in pids)


def test_when_one_child_ends_so_do_the_others(start: Start) -> None:
    process = start(SLEEPER, "import time; time.sleep(0.5); raise SystemExit(3)")
    pid = _read_pid(process)
    output, _ = process.communicate(timeout=10)
    assert "('child1', 3)" in output
    assert not _lives(pid)


def test_asked_twice_it_waits_for_nobody(start: Start) -> None:
    process = start(STUBBORN)
    pid = _read_pid(process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(supervisor.GRACE_SECONDS - 1) == 0
    assert not _lives(pid)
