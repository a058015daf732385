"""Reading the predecessor's database: every schema, every state it can be in, and no trace left."""

import shutil
import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.legacy_database import LegacyDatabase
from tests.servers import PostgresServer
from webapp.legacy.files import LegacyUnreadable, Torn
from webapp.legacy.rows import Row
from webapp.services import legacy_database as reading
from webapp.services.legacy_database import RecentStamp, read, stamp

WAIT = 0.2
# The predecessor's database is of the other kind than ours, which is not used here.
on_sqlite = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def rows(database: LegacyDatabase) -> list[Row]:
    with closing(read(database.url, WAIT).rows) as found:
        return list(found)


def files_of(database: LegacyDatabase) -> list[str]:
    return [path.name for path in database.path.parent.iterdir()]


def problem(database: LegacyDatabase) -> str:
    with pytest.raises(LegacyUnreadable) as refused:
        rows(database)
    assert str(refused.value).startswith("LEGACY_DATABASE_URL ")
    assert not isinstance(refused.value, Torn)
    return str(refused.value)


def test_rows_come_as_text_in_the_order_of_their_ids(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    moment = "2026-01-02 03:04:05.5"
    legacy_database.add("zoë", is_admin=True, created_at=moment, api_keys={"openai": "x"})
    legacy_database.add("ann", is_admin=False, email="ann@example.com")
    zoe, ann = rows(legacy_database)
    assert (zoe["username"], zoe["created_at"], zoe["api_keys"]) == (
        "zoë",
        moment,
        '{"openai": "x"}',
    )
    assert zoe["is_admin"] in ("true", "1")
    assert (ann["email"], ann["api_keys"]) == ("ann@example.com", None)


@pytest.mark.parametrize(
    "without",
    [
        {"email"},
        {"api_keys_updated_at"},
        {"smtp_settings"},
        {"email", "api_keys", "api_keys_updated_at", "smtp_settings"},
        {"id", "created_at", "is_admin"},
    ],
)
def test_older_schemas_lack_columns(legacy_database: LegacyDatabase, without: set[str]) -> None:
    legacy_database.create(without=without)
    legacy_database.add("bob")
    legacy_database.add("ann")
    found = rows(legacy_database)
    assert {row["username"] for row in found} == {"ann", "bob"}
    assert not found[0].keys() & without
    assert stamp(legacy_database.url)


def test_a_table_of_another_kind_is_an_error(legacy_database: LegacyDatabase) -> None:
    legacy_database.execute("CREATE TABLE something (id INTEGER)")
    assert "has no table users" in problem(legacy_database)
    legacy_database.execute("CREATE TABLE users (id INTEGER, username TEXT)")
    assert "without password_hash" in problem(legacy_database)


def test_the_stamp_changes_with_every_write(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    legacy_database.add("ann")
    seen = [stamp(legacy_database.url)]
    assert stamp(legacy_database.url) == seen[0]
    rows(legacy_database)
    assert stamp(legacy_database.url) == seen[0], "reading changes nothing"
    legacy_database.add("bob")
    seen.append(stamp(legacy_database.url))
    legacy_database.change("ann", password_hash="other")
    seen.append(stamp(legacy_database.url))
    legacy_database.execute("DELETE FROM users WHERE username = 'bob'")
    seen.append(stamp(legacy_database.url))
    assert len(set(seen)) == 4


@on_sqlite
def test_nothing_is_written(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    before = legacy_database.path.read_bytes()
    rows(legacy_database)
    assert legacy_database.path.read_bytes() == before
    assert files_of(legacy_database) == ["users.db"]


@on_postgresql
def test_nothing_can_be_written(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    legacy_database.add("ann")
    legacy_database.execute(
        "ALTER TABLE users RENAME TO people;"
        " CREATE FUNCTION write() RETURNS text LANGUAGE sql AS"
        " $$ DELETE FROM people RETURNING username $$;"
        " CREATE VIEW users AS SELECT write() AS username, password_hash FROM people"
    )
    assert "read-only transaction" in problem(legacy_database)


def test_memory_does_not_grow_with_the_rows(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    peaks, counts = [], []
    for number in (2_000, 18_000):
        legacy_database.execute(
            "INSERT INTO users (id, username, password_hash, api_keys)"
            " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number)"
            " SELECT i + (SELECT count(*) FROM users), 'user', 'x', :keys FROM n",
            number=number,
            keys="{" + " " * 500 + "}",
        )
        tracemalloc.start()
        with closing(read(legacy_database.url, WAIT).rows) as found:
            counts.append(sum(1 for _ in found))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert counts == [2_000, 20_000]
    assert peaks[1] < peaks[0] * 1.5


@on_sqlite
def test_one_with_a_log_is_read_with_its_last_writes(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    legacy_database.add("ann")
    with closing(sqlite3.connect(legacy_database.path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        before = stamp(legacy_database.url)
        writer.execute("INSERT INTO users (id, username) VALUES (7, 'late')")
        assert stamp(legacy_database.url) != before
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO users (id, username) VALUES (8, 'not there yet')")
        assert [row["username"] for row in rows(legacy_database)] == ["ann", "late"]
        writer.execute("ROLLBACK")
    assert files_of(legacy_database) == ["users.db"]
    assert len(rows(legacy_database)) == 2
    assert files_of(legacy_database) == ["users.db"], "no log of ours is left"


@on_sqlite
def test_one_that_is_opened_while_it_is_read_is_tried_again(
    legacy_database: LegacyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy_database.create()
    legacy_database.execute("PRAGMA journal_mode=WAL")
    unused = reading._is_unused
    with closing(sqlite3.connect(legacy_database.path, isolation_level=None)) as writer:

        def opened_now(path: Path) -> bool:
            found = unused(path)
            writer.execute("INSERT INTO users (id, username) VALUES (7, 'late')")
            return found

        monkeypatch.setattr(reading, "_is_unused", opened_now)
        with pytest.raises(Torn, match="is being written"):
            rows(legacy_database)
        monkeypatch.undo()
        assert len(rows(legacy_database)) == 1


@on_sqlite
def test_its_log_is_found_through_a_link(legacy_database: LegacyDatabase, tmp_path: Path) -> None:
    legacy_database.create()
    link = tmp_path / "link.db"
    link.symlink_to(legacy_database.path)
    linked = LegacyDatabase(f"sqlite:///{link}")
    with closing(sqlite3.connect(legacy_database.path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        before = stamp(linked.url)
        writer.execute("INSERT INTO users (id, username) VALUES (7, 'late')")
        assert stamp(linked.url) != before
        assert len(rows(linked)) == 1


@on_sqlite
def test_a_write_that_was_cut_off_is_an_error(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    for number in range(100):
        legacy_database.add(f"user{number}", email="x" * 100)
    kept = legacy_database.path.with_name("kept")
    with closing(sqlite3.connect(legacy_database.path, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size=2")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE users SET email = 'y' || email")
        shutil.copytree(legacy_database.path.parent, kept)
    cut_off = LegacyDatabase(f"sqlite:///{kept / legacy_database.path.name}")
    assert "a write was cut off" in problem(cut_off)
    assert sorted(files_of(cut_off)) == ["users.db", "users.db-journal"]


@on_sqlite
def test_the_predecessor_can_write_while_its_rows_are_taken_in(
    legacy_database: LegacyDatabase,
) -> None:
    legacy_database.create()
    legacy_database.add("ann")
    legacy_database.add("bob")
    with closing(read(legacy_database.url, WAIT).rows) as found:
        assert next(found)["username"] == "ann"
        legacy_database.execute("DELETE FROM users")
        assert next(found)["username"] == "bob"


@on_sqlite
@pytest.mark.parametrize("content", [b"no database at all, " * 99, b"SQLite format 3\0", b""])
def test_what_is_no_database_is_an_error(legacy_database: LegacyDatabase, content: bytes) -> None:
    legacy_database.path.write_bytes(content)
    assert problem(legacy_database)


@on_sqlite
def test_a_damaged_one_is_an_error(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    for number in range(500):
        legacy_database.add(f"user{number}")
    content = bytearray(legacy_database.path.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    legacy_database.path.write_bytes(content)
    assert "malformed" in problem(legacy_database)


@on_sqlite
def test_one_that_is_missing_or_a_folder_is_an_error(legacy_database: LegacyDatabase) -> None:
    assert "No such file" in problem(legacy_database)
    legacy_database.path.mkdir()
    assert "cannot be read" in problem(legacy_database)
    shutil.rmtree(legacy_database.path.parent)
    assert "No such file" in problem(legacy_database)
    assert not legacy_database.path.parent.exists()


@on_sqlite
def test_a_locked_one_is_an_error(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    with locked(legacy_database):
        assert "locked" in problem(legacy_database)
    assert rows(legacy_database) == []


@on_sqlite
def test_text_that_is_not_utf_8_spoils_its_row_only(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    legacy_database.execute("INSERT INTO users (id, username) VALUES (9, CAST(x'ff' AS TEXT))")
    legacy_database.add("ann")
    assert [row["username"] for row in rows(legacy_database)] == ["ann", "\udcff"]


@contextmanager
def locked(database: LegacyDatabase) -> Iterator[None]:
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


@on_postgresql
def test_rows_are_those_of_one_moment(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    for number in range(1500):
        legacy_database.add(f"user{number}")
    with closing(read(legacy_database.url, WAIT).rows) as found:
        next(found)
        legacy_database.execute("DELETE FROM users")
        assert sum(1 for _ in found) == 1499


@on_postgresql
def test_json_and_partitions_and_views_are_read_too(legacy_database: LegacyDatabase) -> None:
    legacy_database.create(json_type="JSONB")
    legacy_database.add("ann", api_keys={"openai": "x"})
    assert rows(legacy_database)[0]["api_keys"] == '{"openai": "x"}'
    legacy_database.execute("ALTER TABLE users RENAME TO people")
    legacy_database.execute("CREATE VIEW users AS SELECT * FROM people")
    assert len(rows(legacy_database)) == 1
    before = stamp(legacy_database.url)
    legacy_database.execute("INSERT INTO people (id, username) VALUES (7, 'bob')")
    assert stamp(legacy_database.url) != before
    legacy_database.execute("DROP VIEW users")
    legacy_database.execute(
        "CREATE TABLE users (LIKE people) PARTITION BY RANGE (id);"
        " ALTER TABLE users ATTACH PARTITION people DEFAULT"
    )
    assert len(rows(legacy_database)) == 2
    before = stamp(legacy_database.url)
    legacy_database.change("ann", email="x")
    assert stamp(legacy_database.url) != before


@on_postgresql
def test_no_server_and_no_database_are_errors(
    legacy_database: LegacyDatabase, postgres_server: PostgresServer
) -> None:
    nowhere = make_url("postgresql+psycopg://keystay:hunter2@127.0.0.1:1/users")
    for url in (nowhere, legacy_database.url.set(database="none")):
        with pytest.raises(LegacyUnreadable) as refused:
            stamp(url)
        assert "hunter2" not in str(refused.value)


@on_postgresql
def test_a_server_that_goes_away_meanwhile_is_an_error(
    legacy_database: LegacyDatabase, postgres_server: PostgresServer
) -> None:
    legacy_database.create()
    for number in range(1500):
        legacy_database.add(f"user{number}")
    with closing(read(legacy_database.url, WAIT).rows) as found:
        next(found)
        postgres_server.disconnect_all(str(legacy_database.url.database))
        with pytest.raises(LegacyUnreadable):
            list(found)


@on_postgresql
def test_a_stamp_is_remembered_for_a_moment(legacy_database: LegacyDatabase) -> None:
    legacy_database.create()
    recent = RecentStamp()
    before = recent.get(legacy_database.url, fresh=False)
    legacy_database.add("ann")
    assert recent.get(legacy_database.url, fresh=False) == before
    after = recent.get(legacy_database.url, fresh=True)
    assert after != before
    legacy_database.execute("DROP TABLE users")
    assert recent.get(legacy_database.url, fresh=False) == after
    for fresh in (True, False):
        with pytest.raises(LegacyUnreadable, match="no table"):
            recent.get(legacy_database.url, fresh=fresh)
