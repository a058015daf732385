"""The predecessor's own database, SQLite or PostgreSQL, read and never written.

What is read is one consistent state of its table `users`, streamed in constant memory. What cannot
be read is LegacyUnreadable, never a table without rows.
"""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from webapp.db import message_without_values, postgresql_arguments
from webapp.legacy.files import LegacyUnreadable, Torn
from webapp.legacy.rows import COLUMNS, DATABASE, REQUIRED_COLUMNS, Row, Rows

_TABLE: Final = "users"
_FETCHED: Final = 1000
_LONGEST_WAIT_SECONDS: Final = 5.0
"""For a lock of the predecessor. It waits as long for ours, which a copy needs much shorter."""
_CLOCK_TICK_SECONDS: Final = 0.05
"""Two writes closer together than this can leave the same modification time."""
_RECENT_SECONDS: Final = 2.0
_TIMES_AS_LONG: Final = 10
_POSTGRESQL_OPTIONS: Final = (
    "-c default_transaction_read_only=on -c timezone=utc -c datestyle=ISO"
    " -c statement_timeout=60s -c lock_timeout=5s -c idle_in_transaction_session_timeout=120s"
)
_COLUMNS_OF_TABLE: Final = text(
    "SELECT attname FROM pg_attribute"
    " WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped"
)
_WRITE_FORMAT = slice(18, 20)
"""The bytes of an SQLite file that say how it is written: 2 for a write-ahead log."""

# Closing a file drops the locks that other connections of this process hold on it (fcntl(2)).
_sqlite_lock = threading.Lock()


def stamp(url: URL) -> str:
    """Return the state of the database, as far as it shows without reading all of it.

    For SQLite that is what the file system tells of the file and its log. For PostgreSQL it is the
    number of rows and the sum of the transactions that wrote them: every insert, update and delete
    shows. Where `users` is no table but a view, only the number shows; the consistency check finds
    the rest. Raises LegacyUnreadable.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_stamp(_path(url))[0]
    with _unreadable_if_refused(), _connected(url) as connection:
        return _postgresql_stamp(connection)


def read(url: URL, wait_seconds: float) -> Rows:
    """Begin a reading of the database, which waits so long for locks of the predecessor at most.

    Raises LegacyUnreadable, and Torn for what another try may mend; so does iterating.
    """
    if url.get_backend_name() == "sqlite":
        path, wait = _path(url), min(wait_seconds, _LONGEST_WAIT_SECONDS)
        before, age = _sqlite_stamp(path)
        if 0 <= age < _CLOCK_TICK_SECONDS:
            time.sleep(_CLOCK_TICK_SECONDS)
            before, _ = _sqlite_stamp(path)
        return Rows(before, _sqlite_rows(path, before, wait))
    return Rows(stamp(url), _postgresql_rows(url))


class RecentStamp:
    """The stamp of a database as it was a moment ago, for who asks at each request.

    It is asked for again after two seconds, or after ten times as long as the answer took; a
    failure is remembered likewise. SQLite's is always fresh, since it costs nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self._stamp: str | None = None
        self._problem = ""

    def get(self, url: URL, *, fresh: bool) -> str:
        """Return the stamp. Raises LegacyUnreadable."""
        if url.get_backend_name() == "sqlite":
            return stamp(url)
        with self._lock:
            if fresh or time.monotonic() >= self._until:
                self._ask(url)
            if self._stamp is None:
                raise LegacyUnreadable(DATABASE, self._problem)
            return self._stamp

    def _ask(self, url: URL) -> None:
        started = time.monotonic()
        try:
            self._stamp = stamp(url)
        except LegacyUnreadable as error:
            self._stamp, self._problem = None, error.problem
        now = time.monotonic()
        self._until = now + max(_RECENT_SECONDS, _TIMES_AS_LONG * (now - started))


def _path(url: URL) -> Path:
    """Return the file itself: SQLite puts the log beside that, not beside a link to it."""
    return Path(url.database or "").resolve()


def _sqlite_stamp(path: Path) -> tuple[str, float]:
    """Return the state of the file and its write-ahead log, and the seconds since it changed."""
    try:
        found = path.stat()
    except OSError as error:
        raise LegacyUnreadable(DATABASE, f"cannot be read: {path}: {error.strerror}") from error
    state = f"{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
    newest = found.st_mtime
    try:
        log = _log_of(path).stat()
    except OSError:
        log = None
    # An empty log says the same as none.
    if log is not None and log.st_size:
        state += f"|{log.st_size}:{log.st_mtime_ns}"
        newest = max(newest, log.st_mtime)
    return hashlib.sha256(state.encode()).hexdigest()[:32], time.time() - newest


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _sqlite_rows(path: Path, before: str, wait_seconds: float) -> Generator[Row, None, None]:
    with closing(sqlite3.connect("", uri=True, timeout=wait_seconds, isolation_level=None)) as copy:
        with _sqlite_lock:
            columns = _copy_table(path, before, copy)
        copy.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        cursor = copy.execute("SELECT * FROM copied ORDER BY rowid")
        while rows := cursor.fetchmany(_FETCHED):
            for row in rows:
                yield dict(zip(columns, row, strict=True))


def _copy_table(path: Path, before: str, copy: sqlite3.Connection) -> list[str]:
    """Copy the table into `copy`, which has no name and is gone with it; return the columns.

    In one statement, since the predecessor cannot commit meanwhile unless it has a write-ahead log.
    """
    unused = _is_unused(path)
    address = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if unused else ''}"
    try:
        copy.execute("ATTACH ? AS legacy", (address,))
        present = {row[1] for row in copy.execute(f"PRAGMA legacy.table_info({_TABLE})")}
        columns = _columns(present)
        copy.execute(f"CREATE TABLE copied AS {_select(columns, present, 'legacy.users')}")
        copy.execute("DETACH legacy")
    except sqlite3.Error as error:
        if _sqlite_stamp(path)[0] != before:
            raise Torn(DATABASE, "is being written") from error
        says = str(error)
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:
            says = "a write was cut off, which its application undoes when it opens it"
        raise LegacyUnreadable(DATABASE, f"cannot be read: {path}: {says}") from error
    if unused and (_log_of(path).exists() or _sqlite_stamp(path)[0] != before):
        raise Torn(DATABASE, "is being written")
    return columns


def _is_unused(path: Path) -> bool:
    """Whether the database has a write-ahead log by its format and nobody has it open.

    Then SQLite is told that the file does not change, and whether it did is looked up afterwards:
    opened in the usual way it would leave files of ours beside it, which the predecessor may not be
    allowed to write.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            header = file.read(_WRITE_FORMAT.stop)
    except OSError as error:
        raise LegacyUnreadable(DATABASE, f"cannot be read: {path}: {error.strerror}") from error
    return header[_WRITE_FORMAT] == b"\2\2" and not _log_of(path).exists()


@contextmanager
def _connected(url: URL) -> Iterator[Connection]:
    """Open a connection in one read-only transaction that sees one state to its end."""
    engine = create_engine(
        url,
        poolclass=NullPool,
        isolation_level="REPEATABLE READ",
        connect_args=postgresql_arguments(url, _POSTGRESQL_OPTIONS),
        hide_parameters=True,
    )
    with engine.connect() as connection:
        yield connection


def _postgresql_stamp(connection: Connection) -> str:
    columns = set(connection.scalars(_COLUMNS_OF_TABLE, {"table": _TABLE}))
    _columns(columns)
    is_table = connection.scalar(
        text("SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = to_regclass(:table)"),
        {"table": _TABLE},
    )
    written_by = "sum(xmin::text::bigint)" if is_table else "NULL"
    count, writers = connection.execute(
        text(f"SELECT count(*), {written_by} FROM {_TABLE}")  # noqa: S608 - names of ours
    ).one()
    return hashlib.sha256(f"{count}:{writers}:{sorted(columns)}".encode()).hexdigest()[:32]


def _postgresql_rows(url: URL) -> Generator[Row, None, None]:
    with _unreadable_if_refused(), _connected(url) as connection:
        present = set(connection.scalars(_COLUMNS_OF_TABLE, {"table": _TABLE}))
        statement = text(_select(_columns(present), present, _TABLE))
        with connection.execution_options(yield_per=_FETCHED).execute(statement) as rows:
            for row in rows.mappings():
                yield dict(row)


@contextmanager
def _unreadable_if_refused() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        failed = error.orig
        says = "does not answer"
        if isinstance(failed, psycopg.Error) and failed.sqlstate:
            says = f"cannot be read: {message_without_values(failed)}"
        raise LegacyUnreadable(DATABASE, says) from None


def _columns(present: Collection[str]) -> list[str]:
    """Return which of the columns that matter the table has. Raises LegacyUnreadable."""
    if not present:
        raise LegacyUnreadable(DATABASE, f"has no table {_TABLE}")
    missing = [name for name in REQUIRED_COLUMNS if name not in present]
    if missing:
        raise LegacyUnreadable(DATABASE, f"has a table {_TABLE} without {', '.join(missing)}")
    return [name for name in COLUMNS if name in present]


def _select(columns: Collection[str], present: Collection[str], table: str) -> str:
    """Return a statement for the rows as text, whatever types they have, in a lasting order."""
    values = ", ".join(f"CAST({name} AS TEXT) AS {name}" for name in columns)
    order = "id" if "id" in present else "username"
    return f"SELECT {values} FROM {table} ORDER BY {order}"  # noqa: S608 - names of ours
