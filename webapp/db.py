"""The database: declarative base, column types, connections and the one way to write.

SQLite and PostgreSQL behave alike here: a write transaction holds its locks from the start, times
are aware, and values never appear in errors or logs (`hide_parameters`).
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, cast

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import BigInteger, DateTime, Engine, Integer, MetaData, event
from sqlalchemy.engine import URL, Connection, Dialect
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

VERIFICATION = "verification"
"""Name of the second engine: its pool never hands out a connection that a save has used."""

UNREACHABLE = (OperationalError, InterfaceError, PoolTimeout)
"""What is raised when the database does not answer; it says nothing about what is stored."""

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
_SQLITE_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",
)
_POSTGRESQL_OPTIONS = (
    "-c timezone=utc -c statement_timeout=60s -c lock_timeout=15s"
    " -c idle_in_transaction_session_timeout=120s"
)


BigId = Annotated[int, "64 bits"]
"""A row's id: 64 bits wide on PostgreSQL; SQLite's INTEGER always is."""


class Base(DeclarativeBase):
    """Base of all models."""

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        BigId: BigInteger().with_variant(Integer, "sqlite"),
    }


db = SQLAlchemy(metadata=Base.metadata, session_options={"expire_on_commit": False})


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite stores it without the zone. A naive value raises ValueError."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def engine_settings(url: URL) -> dict[str, Any]:
    """Return Flask-SQLAlchemy's configuration for `url`."""
    options: dict[str, Any] = {"hide_parameters": True, "pool_timeout": 15}
    if url.get_backend_name() == "sqlite":
        # Transactions are begun by _begin below, not by the driver's own guess.
        options["connect_args"] = {"isolation_level": None, "timeout": 15}
    else:
        options["pool_pre_ping"] = True
        options["connect_args"] = {"connect_timeout": 5, "options": _POSTGRESQL_OPTIONS}
    return {
        "SQLALCHEMY_DATABASE_URI": url,
        "SQLALCHEMY_ENGINE_OPTIONS": options,
        "SQLALCHEMY_BINDS": {VERIFICATION: options | {"url": url, "pool_size": 2}},
    }


def init_app(app: Flask) -> None:
    """Bind the database to `app`, whose configuration holds `engine_settings`."""
    db.init_app(app)
    with app.app_context():
        for engine in db.engines.values():
            if engine.dialect.name == "sqlite":
                _prepare_sqlite(engine)


@contextmanager
def transaction() -> Iterator[Session]:
    """Run the block in one write transaction and commit it; any error rolls all of it back.

    Calls inside the block join it: the outermost owns the transaction. A read transaction that the
    session had open is ended first and its objects are expired, since a stale read cannot be turned
    into a write: SQLite refuses that at once, whatever the busy timeout.
    """
    session = cast("Session", db.session())
    if "after_commit" in session.info:
        yield session
        return
    session.rollback()
    callbacks: list[Callable[[], None]] = []
    session.info["after_commit"] = callbacks
    try:
        session.connection(execution_options={"keystay_write": True})
        yield session
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        del session.info["after_commit"]
    for callback in callbacks:
        callback()


def after_commit(callback: Callable[[], None]) -> None:
    """Call `callback` once the surrounding `transaction()` has committed, and never if it fails."""
    cast("list[Callable[[], None]]", db.session().info["after_commit"]).append(callback)


def lock(name: str, session: Session) -> None:
    """Let only one transaction at a time past this point for `name`, until it ends.

    SQLite has one writer at a time already.
    """
    if session.connection().dialect.name == "postgresql":
        session.connection().exec_driver_sql(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,)
        )


def dispose_engines(app: Flask) -> None:
    """Close all pooled connections, so that a fork does not share one."""
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


def _prepare_sqlite(engine: Engine) -> None:
    path = cast("str", engine.url.database)

    @event.listens_for(engine, "do_connect")
    def create_private(*_: object) -> None:
        with suppress(OSError):  # the driver's own error says it better
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        for pragma in _SQLITE_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        entry.info["queue"] = _WriterQueue(f"{path}-writers")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("keystay_write"):
            connection.exec_driver_sql("BEGIN")
            return
        connection.info["queue"].enter()
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    # The engine's own commit and rollback events fire before the statement runs; a connection that
    # has come back to the pool is behind both.
    @event.listens_for(engine, "checkin")
    def checkin(connection: sqlite3.Connection | None, entry: ConnectionPoolEntry) -> None:
        if "queue" in entry.info:
            entry.info["queue"].leave()

    @event.listens_for(engine, "close")
    def close(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        queue = entry.info.pop("queue", None)
        if queue:
            queue.close()


class _WriterQueue:
    """Lets the writers of one SQLite file in one after the other.

    SQLite's own busy handler polls with growing pauses, so that an unlucky writer starves for
    seconds. The kernel wakes whoever waits for a file lock, and drops the lock of a dead process.
    Each pooled connection has its own open file, so that threads wait for each other too.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def enter(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def leave(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._descriptor)
