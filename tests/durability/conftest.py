"""The real stack on each database, and a PostgreSQL to stop and to look into."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import PostgresServer
from tests.stack import Stack

StartStack = Callable[..., Stack]
_numbers = itertools.count(1)


@pytest.fixture
def start_stack(database_url: str, tmp_path: Path) -> Iterator[StartStack]:
    """Make a stack on this test's database: `start_stack(legacy=...)`. Nothing runs but Redis."""
    started: list[Stack] = []

    def start(**options: object) -> Stack:
        folder = tmp_path / f"stack{next(_numbers)}"
        folder.mkdir()
        stack = Stack(folder, database_url, **options)  # type: ignore[arg-type]
        started.append(stack.__enter__())
        return stack

    yield start
    for stack in started:
        stack.__exit__()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server for this test alone."""
    server = PostgresServer().start()
    yield server
    server.stop()
