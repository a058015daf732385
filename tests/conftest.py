"""What every test can ask for: real databases, a real Redis, an application and a client."""

import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_migrate import upgrade
from sqlalchemy import Engine, event

from devserver.embedded_redis import EmbeddedRedis
from tests import compiled_statements, compiled_templates
from tests.servers import PostgresServer
from tests.visitor import Visitor, new_visitor
from webapp import create_app
from webapp.config import PasswordCost, Settings
from webapp.db import db, dispose_engines
from webapp.services import legacy_lookup

pytest_plugins = ["tests.worker_process", "tests.legacy_database"]


compiled_templates.share()
compiled_statements.share()

CHEAP_PASSWORDS = PasswordCost(memory_kib=64, passes=1, lanes=1)
ENVIRON = {
    "KEYSTAY_ENV": "development",
    "SECRET_KEY": "a secret key that only the tests use, and never anything else",
    "MASTER_KEYS": "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
}
_NOT_COUNTED = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|PRAGMA)\b", re.IGNORECASE)
_numbers = itertools.count(1)

MakeSettings = Callable[..., Settings]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what mostly waits, so that no process is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("durability") is None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for each test process, started when the first test asks for it."""
    server = PostgresServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def _postgresql_template(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> str:
    url = postgres_server.create("migrated")
    _migrate(url, tmp_path_factory.mktemp("postgresql"))
    return "migrated"


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sqlite")
    path = folder / "migrated.db"
    _migrate(f"sqlite:///{path}", folder)
    return path


def _migrate(url: str, instance_dir: Path) -> None:
    environ = ENVIRON | {"DATABASE_URL": url, "INSTANCE_DIR": str(instance_dir)}
    app = create_app(Settings.from_environ(environ))
    with app.app_context():
        upgrade()
    dispose_engines(app)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """The databases that every test runs on."""
    return str(request.param)


@pytest.fixture
def database_url(
    database_kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    """The address of a database of this test's own, migrated and empty."""
    if database_kind == "sqlite":
        path = tmp_path / "keystay.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    template = request.getfixturevalue("_postgresql_template")
    yield from _postgresql_database(request.getfixturevalue("postgres_server"), template)


@pytest.fixture
def empty_database_url(
    database_kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[str]:
    """The address of a database in which no migration ran."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    yield from _postgresql_database(request.getfixturevalue("postgres_server"), "template0")


def _postgresql_database(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"test{next(_numbers)}"
    yield server.create(name, template)
    server.drop(name)


@pytest.fixture(scope="session")
def _redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(_redis_server: EmbeddedRedis) -> str:
    """The address of a Redis with nothing in it."""
    _redis_server.clear()
    return _redis_server.url


@pytest.fixture
def environ(
    request: pytest.FixtureRequest, database_url: str, redis_url: str, tmp_path: Path
) -> Mapping[str, str]:
    """The variables of this test's deployment, those of `@pytest.mark.environ` included.

    What the application reads in this process and what a started child is given.
    """
    own = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "INSTANCE_DIR": str(tmp_path)}
    marked: dict[str, str] = {}
    for mark in reversed(list(request.node.iter_markers("environ"))):
        marked |= mark.kwargs
    return ENVIRON | own | marked


@pytest.fixture
def make_settings(environ: Mapping[str, str]) -> MakeSettings:
    """Settings with further variables: `make_settings(SIGNUP="closed")`. Passwords are cheap."""
    return lambda **more: replace(
        Settings.from_environ({**environ, **more}), password_cost=CHEAP_PASSWORDS
    )


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings()


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """An application on a database of its own; no application context is pushed."""
    app = create_app(settings)
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


@pytest.fixture
def client(app: Flask) -> Visitor:
    """Somebody's browser without JavaScript; `new_visitor(app)` is another one."""
    return new_visitor(app)


@pytest.fixture
def statements(app: Flask) -> list[str]:
    """Every SQL statement sent from here on, without transaction control and PRAGMA."""
    sent: list[str] = []

    def record(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if not _NOT_COUNTED.match(statement):
            sent.append(statement)

    with app.app_context():
        engines: list[Engine] = list(db.engines.values())
    for engine in engines:
        event.listen(engine, "before_cursor_execute", record)
    return sent
