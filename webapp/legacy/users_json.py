"""Reading users.json and what is beside it in constant memory, all of it or nothing.

A first pass reads the whole copy: it must be one well-formed JSON object in one of the two shapes,
`{"users": {NAME: RECORD}}` or the older `{NAME: RECORD}`. Only then are accounts handed out, in a
second pass. An object without accounts is valid and empty, since the predecessor wrote such a file
before its first signup; an empty file is not.

The predecessor's database, where there is one, says more about the same accounts and has some of
its own, which come after those of the file; see webapp/legacy/merge.py.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import ijson
from ijson.common import JSONError

from webapp.legacy import files
from webapp.legacy.accounts import Account, AccountParser, Unparsed
from webapp.legacy.files import (
    BYTE_ORDER_MARK,
    SECOND_FACTORS,
    USERS,
    Copies,
    LegacyUnreadable,
    Torn,
)
from webapp.legacy.records import LegacyUser, RejectedRecord, printable
from webapp.legacy.rows import Row, RowRecord, Rows, combined_stamp, read_row
from webapp.legacy.scratch import Scratch
from webapp.legacy.structure import Malformed, check_entries, fold, scan
from webapp.legacy.tokens import TokenKeys

_BATCH = 500
_REPEATED_NAMED = 50
_SETTLED_SECONDS = 2.0
"""A file that has not changed for this long is not being written."""
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
# The parser's message goes on with an excerpt of the file, which must not reach a log.
_PARSER_SAYS = re.compile(r"(?:parse|lexical) error: ([A-Za-z][A-Za-z0-9 ,()]*)")


def open_snapshot(
    folder: Path,
    extra_keys: Sequence[str] = (),
    *,
    database: Callable[[], Rows] | None = None,
    patience_seconds: float = 60.0,
    tick: Callable[[], None] = lambda: None,
) -> "Snapshot":
    """Return a consistent state of the files in `folder`; use it as a context manager.

    `database` begins a reading of the predecessor's database, where that counts too.

    What looks torn is tried again: until the file has rested for two seconds, or, while the
    predecessor goes on writing, until the patience ends. `tick` is called often meanwhile, and what
    it raises ends the reading. Raises LegacyUnreadable.
    """
    started = unchanged_since = time.monotonic()
    pause = _FIRST_PAUSE_SECONDS
    tried: str | None = None
    while True:
        before = files.stamp(folder, extra_keys)
        if before.text != tried:
            unchanged_since = time.monotonic()
        try:
            return Snapshot(files.copy(folder, extra_keys, tick), extra_keys, tick, database)
        except Torn:
            # The file server's clock may be off, so what was seen here counts too.
            rested = max(before.age_seconds, time.monotonic() - unchanged_since)
            settled = before.text == tried and rested >= _SETTLED_SECONDS
            if settled or time.monotonic() + pause > started + patience_seconds:
                raise
        tried = before.text
        tick()
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


class Snapshot:
    """One consistent state of the predecessor's files, and one of its database.

    `total` counts the records, and the rows that belong to none. `stamp` and `digest` tell this
    state from others, the first without reading, the second surely. `warnings` are sentences for
    people.
    """

    def __init__(
        self,
        copies: Copies,
        extra_keys: Sequence[str],
        tick: Callable[[], None],
        database: Callable[[], Rows] | None = None,
    ) -> None:
        """Read `copies` through once, and close them in the end. Raises Torn, LegacyUnreadable."""
        self.stamp = copies.stamp.text
        self.digest = copies.digest
        self.warnings: list[str] = []
        self._users = copies.users
        self._lock = threading.Lock()
        self._indexed = False
        self._alone = 0
        with ExitStack() as stack:
            stack.push(copies.closing)
            self.parse = AccountParser(read_token_keys(copies.key_file, extra_keys))
            self._scratch = Scratch()
            stack.callback(self._scratch.close)
            with _reading(USERS):
                events = ijson.basic_parse(_rewound(self._users))
                self._structure = scan(events, self._scratch, tick)
            in_file = self._structure.total
            self._has_duplicates = self._scratch.count_names(self._level) < in_file
            self._warn_of_repeated()
            self._has_rows = database is not None and self._load_rows(database(), tick)
            with _reading(SECOND_FACTORS):
                self._knows_second_factors = copies.second_factors is not None
                self._has_second_factors = self._load_second_factors(copies.second_factors)
            tick()
            self._closing = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closing.close()

    @property
    def total(self) -> int:
        return self._structure.total + self._alone

    @property
    def _level(self) -> int:
        return self._structure.level

    def require_keys(self, tick: Callable[[], None] = lambda: None) -> None:
        """Raise LegacyUnreadable when the key file cannot be used and a token needs it.

        To be called before anything is written. Costs nothing where the key file is fine.
        """
        if self.parse.lacks_key_file:
            for _ in self.accounts():
                tick()

    def accounts(self, start: int = 0) -> Iterator[Account]:
        """Yield the accounts in the order of the file, from record number `start`.

        Then come those that only the database has. Of names that differ by case the first counts
        and the others are rejected; of equal names in the file the last counts, as every JSON
        parser has it, and the others are left out. Raises LegacyUnreadable when a token needs the
        key file and that cannot be used.
        """
        return map(self.parse, self.unparsed(start))

    def unparsed(self, start: int = 0) -> Iterator[Unparsed]:
        """Yield what `parse` makes the accounts of, in the same order."""
        in_file = self._structure.total
        if start < in_file:
            yield from self._accounts_of_file(start)
        if self._alone:
            yield from self._accounts_of_database(max(start - in_file, 0))

    def _accounts_of_file(self, start: int) -> Iterator[Unparsed]:
        remaining = islice(enumerate(self._records()), start, None)
        while batch := list(islice(remaining, _BATCH)):
            names = [username for _, (username, _) in batch]
            factors, rows = self._second_factors(names), self._rows(names)
            for number, (username, record) in batch:
                counts = self._name_of(username) if self._has_duplicates else None
                if counts and counts[0] == username and counts[1] != number:
                    continue
                place = "the file" if counts and counts[0] != username else None
                factor, row = factors.get(username), rows.get(username)
                yield Unparsed(number, username, record, factor, row, False, place)

    def _accounts_of_database(self, start: int) -> Iterator[Unparsed]:
        while found := self._scratch.rows_alone(self._level, start, _BATCH):
            rows = [(RowRecord.restored(content), known) for content, known in found]
            factors = self._second_factors([row.username for row, _ in rows])
            for number, (row, is_known) in enumerate(rows, self._structure.total + start):
                place = "users.json and the database" if is_known else None
                factor = factors.get(row.username)
                yield Unparsed(number, row.username, None, factor, row, True, place)
            start += len(rows)

    def __contains__(self, username: str) -> bool:
        """Whether there is an account of this name, ignoring case."""
        with self._lock:
            in_file = self._name_of(username) is not None
            return in_file or (self._has_rows and self._scratch.row(fold(username)) is not None)

    def absent(self, usernames: Sequence[str]) -> list[str]:
        """Return those of which there is no account, ignoring case."""
        with self._lock:
            known = self._scratch.known_names(self._level, map(fold, usernames))
        return [name for name in usernames if fold(name) not in known and name not in self]

    @property
    def knows_second_factors(self) -> bool:
        """Whether there is a two_fa.json: without one nobody can tell who has a second factor."""
        return self._knows_second_factors

    def index(self, tick: Callable[[], None] = lambda: None) -> None:
        """Make ready what `find` needs, which reads the whole file; `tick` is called meanwhile."""
        with self._lock:
            if not self._indexed:
                self._scratch.add_records(self._foldable(tick))
                self._indexed = True

    def _foldable(self, tick: Callable[[], None]) -> Iterator[tuple[str, str, object]]:
        for number, (name, record) in enumerate(self._records()):
            if number % _BATCH == 0:
                tick()
            yield fold(name), name, record

    def find(self, username: str) -> LegacyUser | RejectedRecord | None:
        """Return the account of this name, ignoring case; safe to call from several threads.

        The first call indexes the whole file. Raises LegacyUnreadable like `accounts`.
        """
        self.index()
        with self._lock:
            found = self._scratch.record(fold(username))
            if found is None:
                return self._find_row(fold(username))
            username, record = found
            factor = self._second_factors([username]).get(username)
            row = self._rows([username]).get(username)
            return self.parse(Unparsed(0, username, record, factor, row)).user

    def _find_row(self, folded: str) -> LegacyUser | RejectedRecord | None:
        content = self._scratch.row(folded) if self._has_rows else None
        if content is None:
            return None
        row = RowRecord.restored(content)
        factor = self._second_factors([row.username]).get(row.username)
        return self.parse(Unparsed(0, row.username, None, factor, row, is_alone=True)).user

    def _name_of(self, username: str) -> tuple[str, int] | None:
        return self._scratch.name_of(self._level, fold(username))

    def _warn_of_repeated(self) -> None:
        repeated = self._scratch.repeated(self._level) if self._has_duplicates else iter(())
        for name, times in islice(repeated, _REPEATED_NAMED):
            self.warnings.append(
                f"{USERS} has the username {printable(name)} {times} times; the last one counts"
            )
        more = sum(1 for _ in repeated)
        if more:
            self.warnings.append(f"{USERS} has {more} more usernames several times")

    def _records(self) -> Iterator[tuple[str, object]]:
        pairs: Iterator[tuple[str, object]] = ijson.kvitems(
            _rewound(self._users), self._structure.prefix
        )
        return pairs

    def _second_factors(self, usernames: Iterable[str]) -> Mapping[str, object]:
        return self._scratch.second_factors(usernames) if self._has_second_factors else {}

    def _rows(self, usernames: Sequence[str]) -> Mapping[str, RowRecord]:
        """Return the rows that belong to records of the file."""
        if not self._has_rows:
            return {}
        found = self._scratch.rows_of({name: fold(name) for name in usernames})
        return {name: RowRecord.restored(content) for name, content in found.items()}

    def _load_rows(self, rows: Rows, tick: Callable[[], None]) -> bool:
        """Store the rows of the database, and let stamp and digest cover it."""
        digest = hashlib.sha256(self.digest.encode())
        self.stamp = combined_stamp(self.stamp, rows.stamp)
        with closing(rows.rows) as source:
            self._scratch.add_rows(_prepared(source, digest, tick))
        tick()
        self._alone = self._scratch.match_rows(self._level)
        self.digest = digest.hexdigest()
        return True

    def _load_second_factors(self, file: IO[bytes] | None) -> bool:
        if file is None:
            self.warnings.append(f"{SECOND_FACTORS} is missing: no second factor is known")
            return False
        check_entries(ijson.basic_parse(_rewound(file)))
        self._scratch.add_second_factors(ijson.kvitems(_rewound(file), ""))
        strangers = self._scratch.count_strangers(self._level)
        if strangers:
            self.warnings.append(
                f"{SECOND_FACTORS} has {strangers} entries whose exact name is not in {USERS}"
            )
        return self._scratch.count_second_factors() > 0


def _prepared(
    rows: Iterable[Row], digest: "hashlib._Hash", tick: Callable[[], None]
) -> Iterator[tuple[str, str, bool, object]]:
    for number, row in enumerate(rows):
        digest.update(b"|" + json.dumps(row, sort_keys=True).encode())
        read = read_row(row)
        yield fold(read.username), read.username, read.reason is not None, read.content()
        if number % _BATCH == 0:
            tick()


def read_token_keys(key_file: bytes | None, extra_keys: Sequence[str]) -> TokenKeys:
    for position, key in enumerate(extra_keys, 1):
        try:
            TokenKeys([key])
        except ValueError:
            raise LegacyUnreadable(
                "LEGACY_ENCRYPTION_KEYS", f"holds as entry {position} what is no Fernet key"
            ) from None
    if key_file is None:
        return TokenKeys(extra_keys, problem="is missing")
    try:
        return TokenKeys([key_file.decode("ascii").strip(), *extra_keys])
    except ValueError:
        return TokenKeys(extra_keys, problem="does not hold a Fernet key")


def _rewound(file: IO[bytes]) -> IO[bytes]:
    """Return `file` at its beginning, behind the mark that some editors put there."""
    file.seek(0)
    if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
        file.seek(0)
    return file


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what the parser says into Torn: half a file and a broken one look the same."""
    try:
        yield
    except Malformed as error:
        raise Torn(name, str(error)) from None
    except (JSONError, ValueError, SystemError) as error:
        # SystemError: ijson 3.6 answers so to a number of more digits than Python converts.
        found = _PARSER_SAYS.search(str(error))
        raise Torn(name, f"is not valid JSON{f': {found[1].strip()}' if found else ''}") from None
