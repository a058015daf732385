"""How `flask db …` runs the revisions: one upgrade at a time, in one transaction, time-limited."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from alembic import context
from sqlalchemy import Connection, TypeDecorator, text

from webapp.db import db

logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)

# A migration that waits for a lock makes everybody behind it wait too: better to fail and retry.
_LIMITS = "SET lock_timeout = '10s'; SET statement_timeout = '15min'"
# But the end of another upgrade is waited for, and that can take long.
_NO_LIMITS = "SET lock_timeout = 0; SET statement_timeout = 0"


def _render_item(kind: str, item: object, autogen_context: object) -> str | Literal[False]:
    """Write our own column types as what they are in the database: revisions import no models."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl!r}"
    return False


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Let a second upgrade wait here until the first is done; it then finds nothing to do."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(_NO_LIMITS))
        connection.execute(text("SELECT pg_advisory_lock(hashtext('keystay migrations'))"))
        connection.execute(text(_LIMITS))
        connection.commit()
        try:
            yield
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(hashtext('keystay migrations'))"))
            connection.commit()
    else:
        descriptor = os.open(
            f"{connection.engine.url.database}-migrations", os.O_RDWR | os.O_CREAT, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _run() -> None:
    engine = db.engine.execution_options(keystay_write=True)
    with engine.connect() as connection, _alone(connection):
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            compare_type=True,
            render_item=_render_item,
            transactional_ddl=True,
            render_as_batch=connection.dialect.name == "sqlite",
        )
        with context.begin_transaction():
            context.run_migrations()


_run()
