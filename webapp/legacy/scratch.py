"""What must be looked up in sources larger than memory: a temporary SQLite database on disk.

SQLite removes its name at once, so that nothing is left behind however the process ends.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import cast

_BATCH = 1000
_SCHEMA = """
CREATE TABLE names (
    level INTEGER, folded TEXT, username TEXT, number INTEGER, times INTEGER DEFAULT 1,
    PRIMARY KEY (level, folded)
) WITHOUT ROWID;
CREATE TABLE second_factors (username TEXT PRIMARY KEY, entry TEXT) WITHOUT ROWID;
CREATE TABLE records (folded TEXT PRIMARY KEY, username TEXT, record TEXT) WITHOUT ROWID;
CREATE TABLE rows (
    position INTEGER PRIMARY KEY, folded TEXT, username TEXT, is_rejected INTEGER, content TEXT
);
CREATE TABLE alone (number INTEGER PRIMARY KEY, position INTEGER UNIQUE);
"""
_ALONE = """
INSERT INTO alone (position) SELECT position FROM rows r WHERE is_rejected
    OR NOT EXISTS (SELECT 1 FROM names n
        WHERE n.level = ? AND n.folded = r.folded AND n.username = r.username)
    OR EXISTS (SELECT 1 FROM rows e
        WHERE e.folded = r.folded AND e.username = r.username AND e.position < r.position)
ORDER BY position
"""
_ALONE_FROM = """
SELECT r.content,
    EXISTS (SELECT 1 FROM names n WHERE n.level = ? AND n.folded = r.folded)
    OR EXISTS (SELECT 1 FROM rows e WHERE e.folded = r.folded AND e.position < r.position)
FROM alone a JOIN rows r ON r.position = a.position WHERE a.number > ? ORDER BY a.number LIMIT ?
"""


class Scratch:
    """Usernames by depth in the file; by username second factors, records, rows of the database.

    A row is alone that belongs to no record of the file: there is none of that very name, or it is
    the row's second, or what the row holds is rejected.
    """

    def __init__(self) -> None:
        # Guarded by whoever shares it between threads.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.create_function("fold", 1, str.casefold, deterministic=True)
        self._db.executescript("PRAGMA journal_mode=OFF; PRAGMA cache_size=-4000;" + _SCHEMA)

    def close(self) -> None:
        self._db.close()

    def add_names(self, names: Iterable[tuple[int, str, str, int]]) -> None:
        """Add depth, folded name, name and record number.

        Of names that differ by case the first stays; of equal ones the last, as JSON is read.
        """
        self._add(
            "INSERT INTO names (level, folded, username, number) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET number = excluded.number, times = times + 1"
            " WHERE username = excluded.username",
            names,
        )

    def count_names(self, level: int) -> int:
        rows = self._db.execute("SELECT count(*) FROM names WHERE level = ?", (level,))
        return cast("int", rows.fetchone()[0])

    def name_of(self, level: int, folded: str) -> tuple[str, int] | None:
        """Return the account of this name that counts: how it is written, its record number."""
        row = self._db.execute(
            "SELECT username, number FROM names WHERE level = ? AND folded = ?", (level, folded)
        ).fetchone()
        return (row[0], row[1]) if row else None

    def repeated(self, level: int) -> Iterator[tuple[str, int]]:
        """Yield the names that stand several times in the very same form, and how often."""
        rows = self._db.execute(
            "SELECT username, times FROM names WHERE level = ? AND times > 1 ORDER BY number",
            (level,),
        )
        yield from rows

    def known_names(self, level: int, folded: Iterable[str]) -> set[str]:
        """Return those of `folded` of which there is an account."""
        rows = self._db.execute(
            "SELECT folded FROM names WHERE level = ?"
            " AND folded IN (SELECT value FROM json_each(?))",
            (level, json.dumps(list(folded))),
        )
        return {row[0] for row in rows}

    def add_second_factors(self, entries: Iterable[tuple[str, object]]) -> None:
        """Add username and entry; of equal names the last stays, as JSON is read."""
        self._add(
            "INSERT OR REPLACE INTO second_factors VALUES (?, ?)",
            ((username, _dump(entry)) for username, entry in entries),
        )

    def count_second_factors(self) -> int:
        return cast("int", self._db.execute("SELECT count(*) FROM second_factors").fetchone()[0])

    def count_strangers(self, level: int) -> int:
        """Return how many second factors belong to no account, or to one in another case."""
        rows = self._db.execute(
            "SELECT count(*) FROM second_factors s LEFT JOIN names n"
            " ON n.level = ? AND n.folded = fold(s.username) WHERE n.username IS NOT s.username"
            " AND NOT EXISTS (SELECT 1 FROM rows r"
            " WHERE r.folded = fold(s.username) AND r.username = s.username)",
            (level,),
        )
        return cast("int", rows.fetchone()[0])

    def second_factors(self, usernames: Iterable[str]) -> dict[str, object]:
        """Return the entries of those of `usernames` that have one."""
        rows = self._db.execute(
            "SELECT username, entry FROM second_factors"
            " WHERE username IN (SELECT value FROM json_each(?))",
            (json.dumps(list(usernames)),),
        )
        return {username: json.loads(entry) for username, entry in rows}

    def add_records(self, records: Iterable[tuple[str, str, object]]) -> None:
        """Add folded name, username and record; which of them stays, see `add_names`."""
        self._add(
            "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
            " SET record = excluded.record WHERE username = excluded.username",
            ((folded, username, _dump(record)) for folded, username, record in records),
        )

    def record(self, folded: str) -> tuple[str, object] | None:
        """Return username and record of an account."""
        row = self._db.execute(
            "SELECT username, record FROM records WHERE folded = ?", (folded,)
        ).fetchone()
        return (row[0], json.loads(row[1])) if row else None

    def add_rows(self, rows: Iterable[tuple[str, str, bool, object]]) -> None:
        """Add folded name, username, whether it is rejected, and content, in their order."""
        self._add(
            "INSERT INTO rows (folded, username, is_rejected, content) VALUES (?, ?, ?, ?)",
            ((folded, name, rejected, _dump(content)) for folded, name, rejected, content in rows),
        )

    def match_rows(self, level: int) -> int:
        """Find the rows that are alone, when all names and rows are there; return their number."""
        self._db.execute("CREATE INDEX rows_by_name ON rows (folded, username)")
        self._db.execute(_ALONE, (level,))
        return cast("int", self._db.execute("SELECT count(*) FROM alone").fetchone()[0])

    def rows_of(self, usernames: Mapping[str, str]) -> dict[str, object]:
        """Return the rows that belong to records of `usernames` (name to folded name), by name."""
        rows = self._db.execute(
            "SELECT r.username, r.content FROM json_each(?) f JOIN rows r"
            " ON r.folded = f.value AND r.username = f.key"
            " WHERE NOT EXISTS (SELECT 1 FROM alone a WHERE a.position = r.position)",
            (json.dumps(usernames),),
        )
        return {username: json.loads(content) for username, content in rows}

    def rows_alone(self, level: int, start: int, limit: int) -> list[tuple[object, bool]]:
        """Return rows that are alone from number `start`: content, and whether it came before.

        That is: whether the name, ignoring case, stands in the file or in a row before it.
        """
        rows = self._db.execute(_ALONE_FROM, (level, start, limit))
        return [(json.loads(content), bool(known)) for content, known in rows]

    def row(self, folded: str) -> object | None:
        """Return the first row of a name, ignoring case."""
        row = self._db.execute(
            "SELECT content FROM rows WHERE folded = ? ORDER BY position LIMIT 1", (folded,)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def _add(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        remaining: Iterator[tuple[object, ...]] = iter(rows)
        while batch := list(islice(remaining, _BATCH)):
            self._db.execute("BEGIN")
            self._db.executemany(statement, batch)
            self._db.execute("COMMIT")


def _dump(value: object) -> str:
    # ijson reads fractions as Decimal, which json does not write.
    return json.dumps(value, default=str)
