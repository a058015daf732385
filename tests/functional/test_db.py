"""The one way to write: all of it or nothing, and never outside of transaction()."""

import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DataError, IntegrityError, StatementError

from webapp.db import VERIFICATION, NoTransaction, after_commit, db, transaction
from webapp.models import KeyringCheck, User

SECRET = "sk-that-no-message-may-repeat"


class Broken(Exception):
    """Something went wrong inside of a transaction."""


@pytest.fixture(autouse=True)
def _context(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def add(username: str) -> None:
    with transaction() as session:
        session.add(User(username=username))


def fail_after(act: Callable[[], object]) -> None:
    with transaction():
        act()
        raise Broken


def names() -> list[str]:
    db.session.rollback()
    found = list(db.session.scalars(select(User.username).order_by(User.id)))
    db.session.rollback()
    return found


def test_a_block_is_committed_as_a_whole() -> None:
    with transaction():
        add("alice")
        add("bob")
        assert db.session.scalar(select(func.count()).select_from(User)) == 2
    assert names() == ["alice", "bob"]


def test_an_error_undoes_all_of_it_joined_calls_included() -> None:
    with pytest.raises(Broken):
        fail_after(lambda: add("alice"))
    assert names() == []
    add("bob")
    assert names() == ["bob"]


def test_an_inner_failure_can_be_survived_with_a_savepoint() -> None:
    add("alice")
    with transaction() as session:
        session.add(User(username="bob"))
        session.flush()
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(
                insert(User).values(username="ALICE", username_folded="alice", created_at=_at())
            )
    assert names() == ["alice", "bob"]


def _at() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def test_what_was_read_before_does_not_stand_in_the_way_of_a_write(app: Flask) -> None:
    add("alice")
    user = db.session.scalars(select(User)).one()
    with app.app_context(), transaction() as session:  # somebody else, meanwhile
        session.execute(update(User).values(name="Alice"))
    with transaction() as session:
        assert user.name == "Alice", "a stale read is read again"
        session.execute(update(User).values(email="alice@example.com"))
    assert db.session.scalars(select(User)).one().email == "alice@example.com"


@pytest.mark.parametrize("how", ["flush", "commit"])
def test_writing_outside_of_a_transaction_raises(how: str) -> None:
    db.session.add(User(username="alice"))
    with pytest.raises(NoTransaction):
        getattr(db.session, how)()
    assert names() == []


def test_a_statement_that_writes_outside_of_a_transaction_raises() -> None:
    statement = insert(User).values(username="x", username_folded="x")
    with pytest.raises(NoTransaction):
        db.session.execute(statement)
    assert names() == []


def test_a_change_made_before_a_transaction_is_not_dropped_silently() -> None:
    db.session.add(User(username="alice"))
    with pytest.raises(NoTransaction), transaction():
        pytest.fail("the block must not begin")
    db.session.rollback()


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_block_cannot_be_done_by_halves(end: str) -> None:
    def by_halves() -> None:
        with transaction() as session:
            add("alice")
            getattr(session, end)()
            add("bob")

    with pytest.raises(NoTransaction):
        by_halves()
    assert "bob" not in names()


def test_what_is_left_for_later_comes_after_the_commit(app: Flask) -> None:
    seen: list[list[str]] = []

    def look() -> None:
        with app.app_context():
            seen.append(names())

    with transaction():
        with transaction():
            after_commit(look)
        add("alice")
        assert seen == []
    assert seen == [["alice"]]


def test_after_a_failure_nothing_is_called() -> None:
    called: list[bool] = []
    with pytest.raises(Broken):
        fail_after(lambda: after_commit(lambda: called.append(True)))
    add("alice")
    assert called == []
    with pytest.raises(NoTransaction):
        after_commit(lambda: None)


def test_what_fails_after_the_commit_is_logged_and_does_not_hide_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[bool] = []

    def fail() -> None:
        raise OSError("the queue is away")

    with transaction():
        add("alice")
        after_commit(fail)
        after_commit(lambda: called.append(True))
    assert names() == ["alice"]
    assert called == [True]
    assert "after_commit_failed" in caplog.text


def test_times_are_aware_and_come_back_in_utc() -> None:
    paris = timezone(timedelta(hours=2))
    with transaction() as session:
        session.add(User(username="alice", created_at=datetime(2026, 6, 1, 12, tzinfo=paris)))
    found = db.session.scalars(select(User.created_at)).one()
    assert found == datetime(2026, 6, 1, 10, tzinfo=UTC)
    assert found.utcoffset() == timedelta(0)
    with pytest.raises(StatementError, match="without a zone"), transaction() as session:
        session.add(User(username="bob", created_at=datetime(2026, 6, 1)))  # noqa: DTZ001


def test_an_error_names_the_constraint_and_no_value() -> None:
    add("alice")
    with pytest.raises(IntegrityError) as error, transaction() as session:
        session.add(User(username="alice", name=SECRET, email=SECRET))
    assert "username_folded" in str(error.value)
    for shown in (str(error.value), repr(error.value), repr(error.value.orig)):
        assert SECRET not in shown


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_postgresql_does_not_quote_a_value_that_it_refuses() -> None:
    with pytest.raises(DataError) as error:
        db.session.execute(text("SELECT CAST(:value AS integer)"), {"value": SECRET})
    for shown in (str(error.value), repr(error.value.orig)):
        assert SECRET not in shown
        assert "22P02" in shown
    db.session.rollback()


def test_a_reference_to_nothing_is_refused() -> None:
    statement = text(
        "INSERT INTO data_keys (user_id, number, wrapped_key, master_key_id, created_at)"
        " VALUES (99, 1, 'x', 'k1', '2026-01-01')"
    )
    with pytest.raises(IntegrityError), transaction() as session:
        session.execute(statement)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_sqlite_is_durable_private_and_checks_references(tmp_path: Path) -> None:
    found = [
        db.session.execute(text(f"PRAGMA {name}")).scalar_one()
        for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
    ]
    assert found == ["wal", 2, 1, 1]
    add("alice")
    files = sorted(tmp_path.glob("keystay.db*"))
    assert {file.name for file in files} >= {"keystay.db", "keystay.db-wal", "keystay.db-writers"}
    made = [file for file in files if file.name != "keystay.db"]  # that one is the test's copy
    assert {stat.S_IMODE(file.stat().st_mode) for file in made} == {0o600}


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_process_that_comes_and_goes_takes_no_file_from_one_that_stays(tmp_path: Path) -> None:
    """The last one to leave deletes the write-ahead log; who stays would write into a ghost."""
    database = tmp_path / "keystay.db"
    add("alice")
    with db.engines[VERIFICATION].connect():
        assert names_seen_by_another_process(database) == ["alice"]
        add("bob")
        assert names_seen_by_another_process(database) == ["alice", "bob"]


def names_seen_by_another_process(database: Path) -> list[str]:
    program = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]);"
        "print(*(row[0] for row in connection.execute('SELECT username FROM users ORDER BY id')));"
        "connection.close()"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, database], check=True, capture_output=True, text=True
    )
    return found.stdout.split()


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_postgresql_limits_what_waits() -> None:
    settings = {
        name: db.session.execute(text(f"SHOW {name}")).scalar_one()
        for name in ("statement_timeout", "lock_timeout", "TimeZone")
    }
    assert settings == {"statement_timeout": "1min", "lock_timeout": "15s", "TimeZone": "UTC"}


def test_a_read_holds_up_no_writer(app: Flask) -> None:
    assert db.session.scalars(select(KeyringCheck)).all() == []
    with app.app_context():
        add("alice")
    assert names() == ["alice"]
