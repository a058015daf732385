"""Each revision up and down with data in every table, on both databases."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from flask_migrate import downgrade, upgrade
from sqlalchemy import Connection, MetaData, event, insert, inspect, select

from tests.conftest import ENVIRON
from webapp import create_app
from webapp.config import ROOT, Settings
from webapp.db import db, dispose_engines, transaction

REVISIONS = [
    script.revision for script in ScriptDirectory(str(ROOT / "migrations")).walk_revisions()
]
REVISIONS.reverse()
_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
# Values for the columns that a constraint or another table looks at.
_ROWS: dict[str, dict[str, Any]] = {
    "runs": {"kind": "legacy_import", "status": "finished", "requested_by_id": 1},
    "sessions": {"stage": "full", "user_id": 1},
    "api_keys": {"user_id": 1},
    "data_keys": {"user_id": 1},
    "api_key_versions": {"api_key_id": 1, "created_by_id": 1, "source": "web"},
    "audit_events": {"actor_id": 1, "subject_id": 1},
    "legacy_outbox": {"user_id": 1, "field": "key"},
    "discrepancies": {"first_run_id": 1, "last_run_id": 1},
}


@pytest.fixture
def environ(empty_database_url: str, tmp_path: Path) -> Mapping[str, str]:
    return {**ENVIRON, "DATABASE_URL": empty_database_url, "INSTANCE_DIR": str(tmp_path)}


@pytest.fixture
def app(environ: Mapping[str, str]) -> Iterator[Flask]:
    """An application on a database in which no migration ran."""
    app = create_app(Settings.from_environ(environ))
    with app.app_context():
        yield app
    dispose_engines(app)


def reflected() -> MetaData:
    metadata = MetaData()
    db.session.rollback()
    metadata.reflect(db.engine)
    return metadata


def fill_empty() -> None:
    """Insert one row with a value in every column into each table that has none."""
    counts = rows()
    tables = reflected().sorted_tables
    with transaction() as session:
        for table in tables:
            if not counts[table.name]:
                values = {c.name: _value(c.name, str(c.type)) for c in table.columns}
                session.execute(insert(table).values(values | _ROWS.get(table.name, {})))


def _value(name: str, kind: str) -> object:
    if name == "id" or "INT" in kind:
        return 1
    if "BOOL" in kind:
        return True
    if "TIMESTAMP" in kind or "DATETIME" in kind:
        return _AT
    if "JSON" in kind:
        return {"a": 1}
    if "BLOB" in kind or "BYTEA" in kind:
        return b"x" * 32
    return "ä text"


def rows() -> dict[str, int]:
    tables = reflected().sorted_tables
    found = {table.name: len(db.session.execute(select(table)).all()) for table in tables}
    db.session.rollback()
    return found


def described() -> dict[str, dict[str, object]]:
    """Return all that the database knows of each table: alembic compares no CHECK and no WHERE."""
    db.session.rollback()
    inspector = inspect(db.engine)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(name)
            },
            "primary key": inspector.get_pk_constraint(name),
            "unique": _by_name(inspector.get_unique_constraints(name)),
            "foreign keys": _by_name(inspector.get_foreign_keys(name)),
            "checks": _by_name(inspector.get_check_constraints(name)),
            "indexes": _by_name(inspector.get_indexes(name)),
        }
        for name in inspector.get_table_names()
        if name != "alembic_version"
    }


def _by_name(found: Iterable[Any]) -> dict[str, Any]:
    return {one["name"]: _as_text(one) for one in found}


def _as_text(value: object) -> object:
    """Return `value` with a condition as its SQL: two equal ones are two objects."""
    if isinstance(value, dict):
        return {key: _as_text(part) for key, part in value.items()}
    return str(value)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_goes_up_and_down_with_data(app: Flask, revision: str) -> None:
    before = "base" if revision == REVISIONS[0] else REVISIONS[REVISIONS.index(revision) - 1]
    upgrade(revision=before)
    if before != "base":
        fill_empty()
    kept = rows()
    upgrade(revision=revision)
    tables = set(rows())
    fill_empty()
    assert set(rows().values()) == {1}
    downgrade(revision=before)
    # The version's own table stays, empty.
    assert rows() == ({"alembic_version": 0} if before == "base" else kept)
    upgrade(revision=revision)
    assert set(rows()) == tables


def test_models_and_migrations_describe_the_same_tables(app: Flask) -> None:
    upgrade()
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, db.metadata) == []


def test_models_and_migrations_make_the_same_database(app: Flask) -> None:
    upgrade()
    migrated = described()
    downgrade(revision="base")
    assert described() == {}, "nothing is left behind"
    assert not _is_postgresql() or inspect(db.engine).get_sequence_names() == []
    db.metadata.create_all(db.engine)
    assert migrated == described()
    assert migrated.keys() == db.metadata.tables.keys()


def _is_postgresql() -> bool:
    return db.engine.dialect.name == "postgresql"


def test_there_is_one_line_of_revisions_and_none_needs_the_models() -> None:
    assert len(ScriptDirectory(str(ROOT / "migrations")).get_heads()) == 1
    for path in (ROOT / "migrations" / "versions").glob("*.py"):
        assert "webapp" not in path.read_text(encoding="utf-8"), path.name


def test_a_model_that_no_revision_knows_is_noticed(app: Flask) -> None:
    upgrade()
    changed = MetaData()
    for table in db.metadata.sorted_tables:
        table.to_metadata(changed)
    changed.tables["users"].c.email.nullable = False
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, changed) != []


def test_two_upgrades_at_once_do_no_harm(app: Flask, environ: Mapping[str, str]) -> None:
    # The command as people type it, without FLASK_APP: it finds wsgi.py in the checkout.
    started = [
        subprocess.Popen(
            [Path(sys.executable).with_name("flask"), "db", "upgrade"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for process in started:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert set(reflected().tables) == {*db.metadata.tables, "alembic_version"}


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_an_upgrade_waits_for_another_as_long_as_that_takes_and_no_longer_for_a_table(
    app: Flask,
) -> None:
    limits: dict[str, set[str]] = {}

    def note(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        for kind in ("pg_advisory_lock", "CREATE TABLE"):
            if kind in statement:
                cursor.execute("SHOW lock_timeout")
                limits.setdefault(kind, set()).add(cursor.fetchone()[0])

    event.listen(db.engine, "before_cursor_execute", note)
    upgrade()
    assert limits == {"pg_advisory_lock": {"0"}, "CREATE TABLE": {"10s"}}
