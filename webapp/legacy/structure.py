"""The shape of users.json, found by reading all of it once, in constant memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from webapp.legacy.scratch import Scratch

Events = Iterator[tuple[str, object]]
_BATCH = 1000
_LONG_NAME = 1000
_MAX_DEPTH = 32
_MAX_RECORD = 4 << 20
"""Characters of the texts in one record, and 8 for each other part: what memory holds at once."""


_TOO_LARGE = "has an entry of more than 4 MB, which no account needs"
_TOO_DEEP = "is nested too deeply"


class Malformed(Exception):
    """Well-formed JSON that is no users.json; the message goes on after the name of the file."""


@dataclass(frozen=True, slots=True)
class Structure:
    """Where the accounts are: at the top (level 1) or under `users` (level 2), and how many."""

    level: int
    total: int

    @property
    def prefix(self) -> str:
        return "users" if self.level == 2 else ""


def fold(username: str) -> str:
    """Return the form in which usernames are compared."""
    return username.casefold()


def scan(events: Events, scratch: Scratch, tick: Callable[[], None]) -> Structure:
    """Read all events of a users.json, store its usernames in `scratch` and return its structure.

    `tick` is called every thousand names. A file with an object `users` has the newer shape, unless
    that object is itself a record: then it is the older shape with a user of that name. Raises
    Malformed.
    """
    if next(events, None) != ("start_map", None):
        raise Malformed("does not hold a JSON object")
    reading = _Scan(scratch, tick)
    for event, value in events:
        reading.take(event, value)
    return reading.finish()


def check_entries(events: Events) -> None:
    """Read all events of an object, such as two_fa.json. Raises Malformed, also for one of its
    entries that is too large or nested too deeply to be taken into memory.
    """
    if next(events, None) != ("start_map", None):
        raise Malformed("does not hold a JSON object")
    depth, size = 1, 0
    for event, value in events:
        size = 0 if depth == 1 else size + (len(value) if isinstance(value, str) else 8)
        if event in ("start_map", "start_array"):
            depth += 1
        elif event in ("end_map", "end_array"):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise Malformed(_TOO_DEEP)
        if size > _MAX_RECORD:
            raise Malformed(_TOO_LARGE)


class _Scan:
    def __init__(self, scratch: Scratch, tick: Callable[[], None]) -> None:
        self._scratch = scratch
        self._tick = tick
        self._depth = 1
        self._path = ["", ""]
        """The keys above the current value, the first two levels of them."""
        self._users_are: str | None = None
        self._is_record = False
        self._totals = [0, 0, 0]
        self._names: list[tuple[int, str, str, int]] = []
        self._size = 0
        self._begun = [0, 0, 0]
        self._largest = [0, 0, 0]
        """By level: where in the sum of sizes its current record began, and its largest record."""

    def take(self, event: str, value: object) -> None:
        depth = self._depth
        self._size += len(value) if type(value) is str else 8
        if event == "map_key":
            if depth <= 2:
                self._key(depth, str(value))
            return
        if depth <= 2 and self._path[0] == "users":
            self._inside_users(depth, event)
        if event in ("start_map", "start_array"):
            self._depth = depth + 1
            if depth >= _MAX_DEPTH:
                raise Malformed(_TOO_DEEP)
        elif event in ("end_map", "end_array"):
            self._depth = depth - 1

    def _key(self, depth: int, key: str) -> None:
        if depth == 1 or self._path[0] == "users":
            self._end_record(depth)
        self._path[depth - 1] = key
        if depth == 1 or self._path[0] == "users":
            self._names.append((depth, fold(key), key, self._totals[depth]))
            self._totals[depth] += 1
            if len(self._names) >= _BATCH or len(key) > _LONG_NAME:
                self._store()

    def _end_record(self, depth: int) -> None:
        """Note how large the record before a key at `depth` was."""
        if self._path[0] == "users":
            self._largest[2] = max(self._largest[2], self._size - self._begun[2])
        if depth == 1:
            self._largest[1] = max(self._largest[1], self._size - self._begun[1])
            self._begun[1] = self._size
        self._begun[2] = self._size

    def _inside_users(self, depth: int, event: str) -> None:
        if depth == 1 and not event.startswith("end_"):
            self._users_are = event
        elif depth == 2 and self._path[1] == "password_hash" and event == "string":
            self._is_record = True

    def _store(self) -> None:
        self._scratch.add_names(self._names)
        self._names.clear()
        self._tick()

    def finish(self) -> Structure:
        self._store()
        self._end_record(1)
        level = 1 if self._users_are is None or self._is_record else 2
        if level == 2 and self._users_are != "start_map":
            raise Malformed("has a list or a value under users, not an object")
        if self._largest[level] > _MAX_RECORD:
            raise Malformed(_TOO_LARGE)
        return Structure(level, self._totals[level])
