"""The database: declarative base, column types, connections and the one way to write.

SQLite and PostgreSQL behave alike here: what is written is written in `transaction()`, times are
aware, and values never appear in errors or logs.
"""

import os
import sqlite3
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, cast

import psycopg
import structlog
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from psycopg import errors
from sqlalchemy import BigInteger, DateTime, Engine, Integer, MetaData, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, Connection, Dialect, ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, ORMExecuteState, Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from webapp.writer_queue import WriterQueue

VERIFICATION = "verification"
"""Name of the second engine: its pool never hands out a connection that a save has used."""

UNREACHABLE = (OperationalError, InterfaceError, PoolTimeout)
"""What is raised when the database does not answer, is damaged, or is not the one that this release
works with; it says nothing about what is stored."""

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
_WRITE = "keystay_write"
"""Execution option of a connection whose transaction writes."""
_AFTER_COMMIT = "after_commit"
"""In a session's `info` while a `transaction()` is open: what is to be called after it."""

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNUSABLE = (errors.UndefinedTable, errors.UndefinedColumn, errors.ReadOnlySqlTransaction)
"""PostgreSQL before its migrations, and one that is a replica since a moment ago."""

_SQLITE_BUSY_SECONDS = 5
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
_POSTGRESQL_CONNECT = {
    "connect_timeout": 5,
    # A server that vanished without a word is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

_log = structlog.get_logger(__name__)
_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()


BigId = Annotated[int, "64 bits"]
"""A row's id: 64 bits wide on PostgreSQL; SQLite's INTEGER always is."""


class Base(DeclarativeBase):
    """Base of all models."""

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        BigId: BigInteger().with_variant(Integer, "sqlite"),
    }


db = SQLAlchemy(metadata=Base.metadata, session_options={"expire_on_commit": False})


class _SqliteDateTime(sqlite.DATETIME):
    """What SQLAlchemy stores too, `2026-01-31 12:00:00.000000`, written four times as fast."""

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], str | None]:
        return lambda value: value.isoformat(" ", "microseconds") if value else None


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite stores it without the zone. A naive value raises ValueError."""

    impl = DateTime(timezone=True).with_variant(_SqliteDateTime(), "sqlite")  # type: ignore[no-untyped-call]
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
        options["connect_args"] = {"isolation_level": None, "timeout": _SQLITE_BUSY_SECONDS}
    else:
        options["pool_pre_ping"] = True
        options["connect_args"] = postgresql_arguments(url)
    return {
        "SQLALCHEMY_DATABASE_URI": url,
        "SQLALCHEMY_ENGINE_OPTIONS": options,
        "SQLALCHEMY_BINDS": {VERIFICATION: options | {"url": url, "pool_size": 2}},
    }


def postgresql_arguments(url: URL, options: str = _POSTGRESQL_OPTIONS) -> dict[str, Any]:
    """Return what `url` itself does not say, for the driver; `options` are the session's."""
    ours = {name: value for name, value in _POSTGRESQL_CONNECT.items() if name not in url.query}
    return ours | {"options": f"{options} {url.query.get('options', '')}".strip()}


def init_app(app: Flask) -> None:
    """Bind the database to `app`, whose configuration holds `engine_settings`."""
    db.init_app(app)
    with app.app_context():
        for engine in db.engines.values():
            _engines.add(engine)
            if engine.dialect.name == "sqlite":
                _prepare_sqlite(engine)
            else:
                event.listen(engine, "handle_error", _hide_values)
            event.listen(engine, "handle_error", _tell_unreachable)


class NoTransaction(RuntimeError):
    """Something was written, or left for after the commit, outside of `transaction()`.

    It would be lost without a word when the session ends.
    """


@contextmanager
def transaction() -> Iterator[Session]:
    """Run the block in one write transaction and commit it; any error rolls all of it back.

    Calls inside the block join it: the outermost owns the transaction. An inner block that failed
    is undone only together with the outer one: who catches its error and goes on needs a savepoint
    (`session.begin_nested()`) around it.

    A read transaction that the session had open is ended first and its objects are expired: a stale
    read cannot be turned into a write, SQLite refuses that at once whatever the busy timeout.
    """
    session = cast("Session", db.session())
    if _AFTER_COMMIT in session.info:
        yield session
        return
    if session.new or session.dirty or session.deleted:
        raise NoTransaction("objects were changed outside of transaction()")
    session.rollback()
    callbacks: list[Callable[[], None]] = []
    session.info[_AFTER_COMMIT] = callbacks
    try:
        session.connection(execution_options={_WRITE: True})
        yield session
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        del session.info[_AFTER_COMMIT]
    for callback in callbacks:
        try:
            callback()
        except Exception:
            # What was committed stays so, and whoever asked for it must not be told otherwise.
            _log.exception("after_commit_failed")


def after_commit(callback: Callable[[], None]) -> None:
    """Call `callback` once the surrounding `transaction()` has committed, and never if it fails.

    What it raises is logged and goes no further. Raises NoTransaction.
    """
    session = db.session()
    if _AFTER_COMMIT not in session.info:
        raise NoTransaction("after_commit() outside of transaction()")
    cast("list[Callable[[], None]]", session.info[_AFTER_COMMIT]).append(callback)


def lock(name: str, session: Session) -> None:
    """Let only one transaction at a time past this point for `name`, until it ends.

    SQLite has one writer at a time already.
    """
    if session.connection().dialect.name == "postgresql":
        session.connection().exec_driver_sql(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,)
        )


def is_cut_off(error: DBAPIError) -> bool:
    """Whether the connection broke or could not be made: nothing was wrong with what was asked."""
    failed = error.orig
    never_made = isinstance(failed, psycopg.OperationalError) and failed.sqlstate is None
    return error.connection_invalidated or never_made


def dispose_engines(app: Flask) -> None:
    """Close all pooled connections, so that a fork does not share one."""
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


@event.listens_for(db.session, "before_flush")
def _refuse_flush(session: Session, *_: object) -> None:
    if _AFTER_COMMIT not in session.info:
        raise NoTransaction("objects were written outside of transaction()")


@event.listens_for(db.session, "do_orm_execute")
def _refuse_statement(state: ORMExecuteState) -> None:
    writes = state.is_insert or state.is_update or state.is_delete
    if writes and _AFTER_COMMIT not in state.session.info:
        raise NoTransaction("a statement wrote outside of transaction()")


@event.listens_for(db.session, "after_begin")
def _refuse_second_part(session: Session, _: object, connection: Connection) -> None:
    """Refuse to go on after a commit or rollback inside the block: it would be done by halves."""
    if _AFTER_COMMIT in session.info and not connection.get_execution_options().get(_WRITE):
        raise NoTransaction("the transaction was ended inside of its block")


def _hide_values(context: ExceptionContext) -> None:
    """Take the values out of an error of PostgreSQL: DETAIL quotes the row, and some messages too.

    `hide_parameters` covers only what SQLAlchemy adds.
    """
    error = context.original_exception
    if isinstance(error, psycopg.Error) and error.diag.sqlstate:
        text = message_without_values(error)
        error.args = (text,)
        if context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.args = (f"({type(error).__name__}) {text}",)


def _tell_unreachable(context: ExceptionContext) -> None:
    """Raise OperationalError for what is no error of the program, as the drivers mostly do."""
    error, wrapped = context.original_exception, context.sqlalchemy_exception
    damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
    if not damaged and not isinstance(error, _UNUSABLE):
        return
    unreachable = OperationalError(context.statement, None, error, hide_parameters=True)
    if wrapped is not None:
        unreachable.args = wrapped.args
    raise unreachable from error


def message_without_values(error: psycopg.Error) -> str:
    """Return PostgreSQL's message, but only its code for class 22, which quotes the value."""
    state = error.diag.sqlstate or ""
    if state.startswith("22") or not error.diag.message_primary:
        return f"SQLSTATE {state}"
    return error.diag.message_primary


def _prepare_sqlite(engine: Engine) -> None:
    path = cast("str", engine.url.database)

    @event.listens_for(engine, "do_connect")
    def create_private(*_: object) -> None:
        # Never open one that is there: closing it would drop the locks of this process's other
        # connections (fcntl(2)), and who leaves "last" would delete the log that they write to.
        with suppress(OSError):  # the driver's own error says it better
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        for pragma in _SQLITE_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        entry.info["queue"] = WriterQueue(f"{path}-writers")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get(_WRITE):
            connection.exec_driver_sql("BEGIN")
            return
        connection.info["queue"].enter()
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    # The engine's own commit and rollback events fire before the statement runs; a connection that
    # has come back to the pool, or was closed, is behind both.
    @event.listens_for(engine, "checkin")
    @event.listens_for(engine, "close")
    def leave(_: object, entry: ConnectionPoolEntry) -> None:
        if "queue" in entry.info:
            entry.info["queue"].leave()


def _close_idle_connections() -> None:
    for engine in list(_engines):
        engine.dispose()


# A connection must not have two owners, whoever forks: gunicorn, RQ for each job, a test.
os.register_at_fork(before=_close_idle_connections)
