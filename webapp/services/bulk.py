"""Inserting many rows at once, each database in its fastest way: COPY, or executemany.

For rows that the caller has complete: defaults of the models do not apply.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import psycopg
from sqlalchemy import Connection, Table, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from webapp.db import Base

Row = tuple[object, ...]
_Convert = Callable[[Any], Any]


def reserve_ids(
    session: Session, model: type[Base], count: int, *, behind: int = 0
) -> Sequence[int]:
    """Return `count` ids for new rows of `model` that nobody else will use, all above `behind`.

    Inside `transaction()`: SQLite has no sequence, but only one writer at a time. Outside of it
    somebody else may use them there, so that inserting raises IntegrityError. `behind` is the
    highest that was reserved before and is not used yet; a sequence knows by itself.
    """
    if not count:
        return []
    table = cast("Table", model.__table__)
    if _is_sqlite(session.connection()):
        highest = max(session.scalar(select(func.max(table.c.id))) or 0, behind)
        return range(highest + 1, highest + 1 + count)
    rows = session.execute(
        text(
            "SELECT nextval(pg_get_serial_sequence(:table, 'id')) FROM generate_series(1, :count)"
        ),
        {"table": table.name, "count": count},
    )
    return rows.scalars().all()


def insert_rows(
    session: Session, model: type[Base], columns: Sequence[str], rows: Sequence[Row]
) -> None:
    """Insert `rows`, whose values stand in the order of `columns`. Inside `transaction()`.

    Raises sqlalchemy.exc.DBAPIError, such as IntegrityError, without values in its message.
    """
    if not rows:
        return
    connection = session.connection()
    table = cast("Table", model.__table__)
    converted = _converted(connection, table, columns, rows)
    names = ", ".join(connection.dialect.identifier_preparer.quote(name) for name in columns)
    if _is_sqlite(connection):
        marks = ", ".join("?" * len(columns))
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) VALUES ({marks})",  # noqa: S608 - names of ours
            converted,
        )
    else:
        _copy(connection, f"COPY {table.name} ({names}) FROM STDIN", converted)


def _converted(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row]
) -> list[Row]:
    """Return `rows` as the driver takes them: what the columns' types do to values."""
    dialect = connection.dialect
    converted: list[Sequence[object]] = []
    for name, values in zip(columns, zip(*rows, strict=True), strict=True):
        process = table.c[name].type.dialect_impl(dialect).bind_processor(dialect)
        converted.append(values if process is None else _processed(process, values))
    return list(zip(*converted, strict=True))


def _processed(process: _Convert, values: Sequence[object]) -> list[object]:
    """Return `values` converted; the same object one after the other is converted once.

    Most times of a batch are one object, and converting them is what inserting costs.
    """
    done: list[object] = []
    last, converted = None, process(None)
    for value in values:
        if value is not last:
            last, converted = value, process(value)
        done.append(converted)
    return done


def _copy(connection: Connection, statement: str, rows: Sequence[Row]) -> None:
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    try:
        with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        if driver.broken:
            connection.invalidate(error)
        # PostgreSQL's full message quotes the row that it refused.
        clean = type(error)(error.diag.message_primary or type(error).__name__)
        raise DBAPIError.instance(
            statement,
            None,
            clean,
            psycopg.Error,
            hide_parameters=True,
            connection_invalidated=driver.broken,
            dialect=connection.dialect,
        ) from None


def _is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"
