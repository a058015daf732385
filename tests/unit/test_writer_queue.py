"""The queue in front of a SQLite file, between threads and processes."""

import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from webapp import writer_queue
from webapp.writer_queue import WriterQueue


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "keystay.db-writers")


def is_free(path: str) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def test_one_is_in_at_a_time(path: str) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        queue = WriterQueue(path)
        for _ in range(50):
            queue.enter()
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)
            queue.leave()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 200
    assert max(most) == 1


def test_leaving_lets_the_next_in_and_can_be_done_twice(path: str) -> None:
    queue = WriterQueue(path)
    queue.leave()
    queue.enter()
    assert not is_free(path)
    queue.leave()
    queue.leave()
    assert is_free(path)


def test_entering_again_gives_up_the_turn_before(path: str) -> None:
    queue = WriterQueue(path)
    queue.enter()
    queue.enter()
    queue.leave()
    assert is_free(path)


def test_a_killed_process_lets_the_next_in(path: str) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        WriterQueue(path).enter()
        os.write(tell, b"x")
        signal.pause()
    assert os.read(ready, 1) == b"x"
    assert not is_free(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(tell)
    assert is_free(path)


def test_who_has_waited_long_enough_goes_on_without_a_turn(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_queue, "_GIVE_UP_SECONDS", 0.05)
    first, second = WriterQueue(path), WriterQueue(path)
    first.enter()
    second.enter()  # returns: SQLite decides then
    second.leave()
    assert not is_free(path), "the turn of the first is not taken away"
    first.leave()
