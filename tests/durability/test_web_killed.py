"""kill -9 of the web server's processes while people save: what was acknowledged is there."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, pairwise

import pytest

from tests.durability.conftest import StartStack
from tests.durability.kept import assert_kept, assert_nothing_half, stored_keys
from tests.http_person import HttpPerson, NotAnswered
from tests.saver import Saved
from tests.stack import Stack
from tests.worker_process import until
from webapp.db import dispose_engines
from webapp.services.accounts import create_account

pytestmark = pytest.mark.durability

PASSWORD = "a long word that nobody guesses"
USERS = ("alice", "bob")
TABS = 3
BETWEEN_KILLS = 12


class Tab(threading.Thread):
    """Somebody who saves on and on, to one key of their own and to one that others save to.

    A request that is not answered counts for nothing; any answer but a receipt is trouble.
    """

    def __init__(self, username: str, number: int, person: HttpPerson) -> None:
        super().__init__(daemon=True)
        self.saved: list[Saved] = []
        self.interrupted = 0
        self.trouble: list[BaseException] = []
        self._who = (username, number)
        self._person = person
        self._enough = threading.Event()

    def run(self) -> None:
        username, number = self._who
        try:
            for turn in count():
                if self._enough.is_set():
                    return
                name = ("openai", f"tab-{number}")[turn % 2]
                self._save(username, name, f"sk-{username}-{number}-{turn}")
        except BaseException as error:
            self.trouble.append(error)

    def stop(self) -> None:
        self._enough.set()
        self.join()

    def _save(self, username: str, name: str, value: str) -> None:
        began = time.monotonic()
        try:
            receipt = self._person.save(name, value)
        except NotAnswered as error:
            self.interrupted += not error.refused
            self._enough.wait(0.05)
            return
        result = (receipt.version, receipt.fingerprint, began, time.monotonic())
        self.saved.append(Saved(username, name, value, *result))


@pytest.fixture
def stack(start_stack: StartStack) -> Stack:
    stack = start_stack().start_web()
    with stack.app.app_context():
        for username in USERS:
            create_account(username, PASSWORD)
    dispose_engines(stack.app)  # the stack is to have the database for itself
    return stack


@pytest.fixture
def tabs(stack: Stack) -> Iterator[list[Tab]]:
    tabs: list[Tab] = []
    for username in USERS:
        person = HttpPerson(stack.port).sign_in(username, PASSWORD)
        tabs += [Tab(username, number, person.other_tab()) for number in range(TABS)]
    for tab in tabs:
        tab.start()
    yield tabs
    for tab in tabs:
        tab.stop()


def go_on_saving(tabs: list[Tab]) -> None:
    """Return after some more saves of everybody together."""
    enough = sum(len(tab.saved) for tab in tabs) + BETWEEN_KILLS
    until(lambda: sum(len(tab.saved) for tab in tabs) >= enough, 60)
    assert [error for tab in tabs for error in tab.trouble] == []


def kill_one_worker(stack: Stack) -> None:
    """kill -9 a worker and return when the server has replaced it by itself."""
    before = stack.web_workers()
    before[0].kill()
    until(partial(is_replaced, stack, before[0].pid, len(before)))


def is_replaced(stack: Stack, killed: int, number: int) -> bool:
    pids = {worker.pid for worker in stack.web_workers()}
    return killed not in pids and len(pids) == number


def test_no_acknowledged_save_is_lost(stack: Stack, tabs: list[Tab]) -> None:
    go_on_saving(tabs)
    for kill in ("worker", "server", "worker", "server", "worker"):
        if kill == "worker":
            kill_one_worker(stack)
        else:
            stack.kill_web()
            stack.start_web()
        go_on_saving(tabs)
    for tab in tabs:
        tab.stop()
    assert sum(tab.interrupted for tab in tabs) > 0, "no kill has met a request"
    saves = [save for tab in tabs for save in tab.saved]
    assert_kept(stack.app, saves)
    assert_nothing_half(stack.app)
    assert_order_was_kept(stack, saves)


def assert_order_was_kept(stack: Stack, saves: list[Saved]) -> None:
    """A save that began after another was acknowledged is the newer version."""
    for key in stored_keys(stack.app):
        of_key = sorted(
            (save for save in saves if (save.username, save.name) == key), key=lambda s: s.version
        )
        for earlier, later in pairwise(of_key):
            assert earlier.began < later.ended, (earlier, later)
