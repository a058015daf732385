"""Helpers: the same results in the same order, whatever becomes of them, and none left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.worker_process import is_alive, until
from webapp import parallel
from webapp.config import ROOT
from webapp.parallel import FEWEST, helpers_for, in_order

HERE = os.getpid()

PROGRAM = """
import os, time
from webapp.parallel import in_order
list(in_order(lambda task: os.write(1, task) and time.sleep(600), [b"1\\n", b"2\\n"], helpers=2))
"""


def children() -> list[psutil.Process]:
    """Return the forks of this process, those that ended and were not waited for included."""
    mine = psutil.Process()
    return [
        child
        for child in mine.children()
        if child.status() == psutil.STATUS_ZOMBIE or child.cmdline() == mine.cmdline()
    ]


def square(number: int) -> int:
    return number * number


def only_here(act: Callable[[], object]) -> Callable[[int], int]:
    """Return `square` which does `act` first with task 5 in a helper."""

    def work(number: int) -> int:
        if number == 5 and os.getpid() != HERE:
            act()
        return square(number)

    return work


def end_me(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def squares(work: Callable[[int], int], helpers: int = 2, count: int = 12) -> None:
    expected = [(number, square(number)) for number in range(count)]
    assert list(in_order(work, range(count), helpers=helpers)) == expected
    assert children() == []


@pytest.mark.parametrize("helpers", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 12])
def test_results_come_in_the_order_of_the_tasks(helpers: int, count: int) -> None:
    squares(square, helpers, count)


def test_helpers_do_the_work_and_few_tasks_are_read_ahead() -> None:
    read: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(12):
            read.append(number)
            yield number

    with closing(in_order(lambda _: os.getpid(), tasks(), helpers=3)) as results:
        first = [next(results) for _ in range(3)]
        assert len({pid for _, pid in first} - {HERE}) == 3
        assert len(read) == 6
        assert len(children()) == 3
    assert children() == []


def test_a_task_larger_than_a_pipe_holds_goes_through_both_ways() -> None:
    tasks = [bytes([number]) * 3_000_000 for number in range(5)]
    with closing(in_order(lambda task: task[::-1], tasks, helpers=2)) as results:
        assert [result for _, result in results] == tasks


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_what_a_helper_that_dies_was_at_is_done_here(number: signal.Signals) -> None:
    squares(only_here(end_me(number)))


def test_helpers_that_are_gone_before_they_are_asked_are_not_waited_for() -> None:
    results = in_order(square, range(12), helpers=2)
    first = next(results)
    for child in children():
        child.kill()
    assert [first, *results] == [(number, square(number)) for number in range(12)]
    assert children() == []


def test_a_helper_that_is_silent_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_PATIENCE_SECONDS", 0.5)
    squares(only_here(end_me(signal.SIGSTOP)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_ends_the_whole_group_does_not_end_the_work(number: signal.Signals) -> None:
    def work(_: int) -> int:
        os.kill(os.getpid(), number)
        return os.getpid()

    with closing(in_order(work, range(4), helpers=2)) as results:
        assert HERE not in {pid for _, pid in results}


def test_what_the_work_raises_is_raised_here_behind_the_results_before() -> None:
    def work(number: int) -> int:
        if number == 5:
            raise ZeroDivisionError("five")
        return square(number)

    done: list[int] = []
    with pytest.raises(ZeroDivisionError, match="five"):
        done.extend(task for task, _ in in_order(work, range(12), helpers=2))
    assert done == [0, 1, 2, 3, 4]
    assert children() == []


def test_what_cannot_be_sent_back_is_done_here() -> None:
    with closing(in_order(lambda _: threading.Lock(), [1, 2, 3], helpers=2)) as results:
        assert len(list(results)) == 3


def test_an_error_in_the_middle_leaves_no_process() -> None:
    def fail() -> None:
        with closing(in_order(square, range(12), helpers=2)) as results:
            next(results)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert children() == []


def test_a_helper_has_nothing_open_but_its_pipe(tmp_path: Path) -> None:
    def work(_: int) -> list[str]:
        links = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
        return [str(link) for link in links]

    with (tmp_path / "secret").open("w"), closing(in_order(work, [1], helpers=1)) as results:
        ((_, found),) = results
    assert not [path for path in found if "secret" in path]
    assert len([path for path in found if path.startswith("socket:")]) == 1


def test_helpers_end_with_the_process_that_forked_them() -> None:
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, cwd=ROOT)
    with program:
        assert program.stdout is not None
        assert {program.stdout.readline(), program.stdout.readline()} == {b"1\n", b"2\n"}
        helpers = psutil.Process(program.pid).children()
        assert len(helpers) == 2
        program.kill()
    until(lambda: not any(map(is_alive, helpers)), 10)


def test_few_things_or_one_core_need_no_helper() -> None:
    cores = os.sched_getaffinity(0)
    assert helpers_for(FEWEST - 1) == 0
    assert helpers_for(FEWEST) == (min(len(cores), 4) if len(cores) > 1 else 0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert helpers_for(1_000_000) == 0
    finally:
        os.sched_setaffinity(0, cores)
