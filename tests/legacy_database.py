"""A database of the predecessor, SQLite or PostgreSQL, written by a test."""

import itertools
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.visitor import Visitor
from webapp import create_app
from webapp.config import Settings
from webapp.db import dispose_engines
from webapp.services import legacy_lookup

OLD, NEW = "2026-01-01T00:00:00", "2026-02-01 00:00:00"

_numbers = itertools.count(1)
_COLUMNS = {
    "id": "INTEGER PRIMARY KEY",
    "username": "VARCHAR(80)",
    "email": "VARCHAR(120)",
    "password_hash": "VARCHAR(256)",
    "is_admin": "BOOLEAN",
    "api_keys": "TEXT",
    "api_keys_updated_at": "TIMESTAMP",
    "smtp_settings": "TEXT",
    "created_at": "TIMESTAMP",
}


class LegacyDatabase:
    """Writes the table `users` as a test wants it. Each act is a connection of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.path = Path(self.url.database or "")
        self._engine = create_engine(self.url, poolclass=NullPool)
        self._ids = itertools.count(1)

    @property
    def url(self) -> URL:
        environ = {
            "KEYSTAY_ENV": "development",
            "LEGACY_DIR": "x",
            "LEGACY_DATABASE_URL": self.address,
            "INSTANCE_DIR": "/tmp",
        }
        url = Settings.from_environ(environ).legacy_database_url
        assert url is not None
        return url

    @property
    def is_sqlite(self) -> bool:
        return self.url.drivername == "sqlite"

    def create(self, *, without: Collection[str] = (), json_type: str = "TEXT") -> None:
        """Create the table, with a schema as old as the test wants it."""
        types = _COLUMNS | {"api_keys": json_type, "smtp_settings": json_type}
        columns = [f"{name} {kind}" for name, kind in types.items() if name not in without]
        self.execute(f"CREATE TABLE users ({', '.join(columns)})")
        self._has_id = "id" not in without

    def add(self, username: str, **fields: Any) -> None:
        """Add a row; objects become JSON."""
        row: dict[str, Any] = {"username": username, "password_hash": sha256_of("a password")}
        row |= {"id": next(self._ids)} if self._has_id else {}
        row |= {name: _stored(value) for name, value in fields.items()}
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        self.execute(f"INSERT INTO users ({names}) VALUES ({marks})", **row)

    def change(self, username: str, **fields: Any) -> None:
        changes = ", ".join(f"{name} = :{name}" for name in fields)
        values = {name: _stored(value) for name, value in fields.items()}
        self.execute(f"UPDATE users SET {changes} WHERE username = :of", of=username, **values)

    def execute(self, statement: str, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(statement), values)


def _stored(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value


@pytest.fixture
def legacy_kind(database_kind: str) -> str:
    """The databases that the predecessor can have: each once, beside the other one of ours."""
    return {"sqlite": "postgresql", "postgresql": "sqlite"}[database_kind]


@pytest.fixture
def legacy_database(
    legacy_kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[LegacyDatabase]:
    """A database of the predecessor, without its table."""
    if legacy_kind == "sqlite":
        folder = tmp_path / "predecessor"
        folder.mkdir()
        yield LegacyDatabase(f"sqlite:///{folder / 'users.db'}")
        return
    server = request.getfixturevalue("postgres_server")
    name = f"legacy{next(_numbers)}"
    yield LegacyDatabase(server.create(name))
    server.drop(name)


@pytest.fixture
def legacy_folder(tmp_path: Path) -> LegacyFolder:
    """The predecessor's files, without accounts."""
    return LegacyFolder(tmp_path / "legacy")


@pytest.fixture
def bridged_app(
    make_settings: Callable[..., Settings],
    legacy_folder: LegacyFolder,
    legacy_database: LegacyDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Flask]:
    """An application to which both sources are given."""
    monkeypatch.setattr(legacy_lookup, "_MOST_OF_THE_TIME", 0)  # what changed is seen at once
    address = {
        "LEGACY_DIR": str(legacy_folder.path),
        "LEGACY_DATABASE_URL": legacy_database.address,
    }
    app = create_app(make_settings(**address))
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


@pytest.fixture
def both_sources(legacy_folder: LegacyFolder, legacy_database: LegacyDatabase) -> LegacyDatabase:
    """Ann in both, with one key newer on either side; bob in the file, cy in the database only."""
    keys = {"openai": legacy_folder.token("of the file"), "google": "same"}
    legacy_folder.users(
        {
            "ann": record(role="admin", api_keys=keys, api_keys_updated=OLD),
            "bob": record(api_keys={"slack": "of bob"}),
        }
    )
    legacy_database.create()
    theirs = {"openai": legacy_folder.token("of the database"), "google": "same", "github": "added"}
    legacy_database.add("ann", api_keys=theirs, api_keys_updated_at=NEW, is_admin=False)
    smtp = {"host": "mail", "port": 587, "user": "cy", "pass": legacy_folder.token("p")}
    legacy_database.add(
        "cy",
        api_keys={"openai": legacy_folder.token("of cy")},
        smtp_settings=smtp,
        is_admin=True,
        password_hash=sha256_of("old password"),
    )
    return legacy_database
