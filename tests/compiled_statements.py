"""SQL statements compiled once for the engines of all tests.

Each test has an application and engines of its own, and SQLAlchemy compiles every statement anew
for each engine, which costs more than most tests themselves. A compiled statement serves every
engine of the same dialect on the same server.
"""

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

_SIZE = 5_000
_caches: "dict[type, LRUCache[Any, Any]]" = {}


def share() -> None:
    """Let every engine that is made from now on use the cache of its dialect."""
    for dialect in (PGDialect_psycopg, SQLiteDialect_pysqlite):
        # The key of a compiled statement begins with the dialect, which compares by identity.
        dialect.__eq__ = _is_same_kind  # type: ignore[method-assign]
        dialect.__hash__ = _hash_of_kind  # type: ignore[assignment, method-assign]
    Engine._compiled_cache = property(_cache_of, _keep)  # type: ignore[assignment]


def _cache_of(engine: Engine) -> "LRUCache[Any, Any]":
    return _caches.setdefault(type(engine.dialect), LRUCache(_SIZE))


def _keep(engine: Engine, own: object) -> None:
    """Leave the shared one in place of the engine's own."""


def _is_same_kind(one: object, other: object) -> bool:
    return type(one) is type(other)


def _hash_of_kind(one: object) -> int:
    return hash(type(one))
