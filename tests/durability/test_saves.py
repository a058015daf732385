"""Saves by many at once and under kill -9: what was acknowledged is there."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import pytest
from sqlalchemy import select

from tests.durability.conftest import StartStack
from tests.http_person import HttpPerson, NotAcknowledged
from tests.stack import Stack
from tests.worker_process import is_alive, until
from webapp.config import ROOT
from webapp.db import db
from webapp.models import ApiKey, ApiKeyVersion, AuditEvent, User
from webapp.services.accounts import create_account
from webapp.services.keys import get_user_api_keys

pytestmark = pytest.mark.durability

PASSWORD = "a long word that nobody guesses"
_PROGRAM = """
import sys
from webapp import create_app
from webapp.services.keys import save_user_api_key
worker, count = sys.argv[1], int(sys.argv[2])
with create_app().app_context():
    for number in range(count):
        own = save_user_api_key("amira", f"own-{worker}-{number}", f"value {worker} {number}")
        shared = save_user_api_key("amira", "shared", f"shared {worker} {number}")
        print(own.version, shared.version, flush=True)
"""
_NUMBERS = (4, 8)


@dataclass
class Writer:
    """Saves one key again and again, and remembers what was acknowledged."""

    person: HttpPerson
    name: str
    acknowledged: dict[int, str] = field(default_factory=dict)
    refused: int = 0

    def work(self, goes_on: Callable[[], bool]) -> None:
        number = 0
        while goes_on():
            number += 1
            value = f"{self.name} number {number}"
            try:
                self.acknowledged[self.person.save(self.name, value)] = value
            except NotAcknowledged:
                self.refused += 1
                time.sleep(0.02)


def write_until(writers: list[Writer], act: Callable[[], None]) -> None:
    """Let all write while `act` runs, and half a second longer."""
    ends = threading.Event()
    threads = [
        threading.Thread(target=writer.work, args=(lambda: not ends.is_set(),))
        for writer in writers
    ]
    for thread in threads:
        thread.start()
    try:
        act()
        time.sleep(0.5)
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def sign_in(stack: Stack, names: list[str]) -> list[Writer]:
    with stack.app.app_context():
        create_account("amira", PASSWORD)
    person = HttpPerson(stack.port)
    person.sign_in("amira", PASSWORD)
    return [Writer(person.other_tab(), name) for name in names]


def assert_all_there(stack: Stack, writers: list[Writer]) -> None:
    """Every acknowledged version is stored and opens, and nothing is half there."""
    with stack.app.app_context():
        db.session.rollback()
        current = get_user_api_keys("amira")
        assert not current.locked
        keys = {key.name: key for key in db.session.scalars(select(ApiKey))}
        versions: dict[int, set[int]] = {}
        for version in db.session.scalars(select(ApiKeyVersion)):
            versions.setdefault(version.api_key_id, set()).add(version.version)
        saved = {
            (event.detail["name"], event.detail["version"])
            for event in db.session.scalars(
                select(AuditEvent).where(AuditEvent.event == "key.saved")
            )
        }
        for writer in writers:
            assert writer.acknowledged, "some saves came through"
            key = keys[writer.name]
            stored = versions[key.id]
            assert set(writer.acknowledged) <= stored
            # A save that nobody was told about is whole, or not there at all.
            assert stored == set(range(1, max(stored) + 1))
            assert {(writer.name, number) for number in stored} <= saved
            assert key.current_version == max(stored)
            newest = max(writer.acknowledged)
            if newest == key.current_version:
                assert current[writer.name] == writer.acknowledged[newest]
        assert set(versions) == {key.id for key in keys.values()}
        user = db.session.scalars(select(User)).one()
        assert user.api_keys_updated_at is not None


def test_saves_of_several_processes_all_survive(start_stack: StartStack) -> None:
    stack = start_stack()
    processes, count = _NUMBERS
    with stack.app.app_context():
        create_account("amira", PASSWORD)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(number), str(count)],
            cwd=ROOT,
            env=stack.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    shared: list[int] = []
    for process in started:
        output, _ = process.communicate(timeout=90)
        assert process.returncode == 0
        receipts = [line.split() for line in output.splitlines()]
        assert [own for own, _ in receipts] == ["1"] * count
        shared += [int(version) for _, version in receipts]
    assert sorted(shared) == list(range(1, processes * count + 1)), "no number twice, none left out"
    with stack.app.app_context():
        found = get_user_api_keys("amira")
        for worker in range(processes):
            for number in range(count):
                assert found[f"own-{worker}-{number}"] == f"value {worker} {number}"
        assert len(found) == processes * count + 1
        key = db.session.scalars(select(ApiKey).where(ApiKey.name == "shared")).one()
        assert key.current_version == processes * count


def test_a_killed_web_process_loses_nothing_acknowledged(start_stack: StartStack) -> None:
    stack = start_stack().start_web()
    writers = sign_in(stack, ["one", "two", "three"])

    def kill_workers() -> None:
        for _ in range(5):
            time.sleep(0.4)
            for process in stack.web_workers():
                kill(process)
            until(lambda: has_recovered(stack))

    write_until(writers, kill_workers)
    assert_all_there(stack, writers)


def test_a_killed_web_server_loses_nothing_acknowledged(start_stack: StartStack) -> None:
    stack = start_stack().start_web()
    writers = sign_in(stack, ["one", "two"])

    def kill_server() -> None:
        for _ in range(2):
            time.sleep(0.5)
            stack.kill_web()
            stack.start_web()

    write_until(writers, kill_server)
    assert_all_there(stack, writers)


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def has_recovered(stack: Stack) -> bool:
    """Whether gunicorn has started its workers anew, by itself."""
    return sum(map(is_alive, stack.web_workers())) == 2
