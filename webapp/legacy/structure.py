"""The shape of users.json, found by reading all of it once, in constant memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from webapp.legacy.scratch import Scratch

Events = Iterator[tuple[str, object]]
_BATCH = 1000
_MAX_DEPTH = 32
_BEGINNINGS = ("start_map", "start_array")
_ENDS = ("end_map", "end_array")


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
    reading.read(events)
    return reading.finish()


class _Scan:
    def __init__(self, scratch: Scratch, tick: Callable[[], None]) -> None:
        self._scratch = scratch
        self._tick = tick
        self._path = ["", ""]
        """The keys above the current value, the first two levels of them."""
        self._users_are: str | None = None
        self._is_record = False
        self._totals = [0, 0, 0]
        self._names: list[tuple[int, str, str, int]] = []

    def read(self, events: Events) -> None:
        depth = 1
        for event, value in events:
            if depth <= 2:
                self._above_records(depth, event, value)
            if event in _BEGINNINGS:
                depth += 1
                if depth > _MAX_DEPTH:
                    raise Malformed("is nested too deeply")
            elif event in _ENDS:
                depth -= 1

    def _above_records(self, depth: int, event: str, value: object) -> None:
        if event == "map_key":
            self._key(depth, str(value))
        elif self._path[0] == "users":
            self._inside_users(depth, event)

    def _key(self, depth: int, key: str) -> None:
        self._path[depth - 1] = key
        if depth == 1 or self._path[0] == "users":
            self._names.append((depth, fold(key), key, self._totals[depth]))
            self._totals[depth] += 1
            if len(self._names) >= _BATCH:
                self._store()

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
        if self._users_are is None or self._is_record:
            return Structure(1, self._totals[1])
        if self._users_are != "start_map":
            raise Malformed("has a list or a value under users, not an object")
        return Structure(2, self._totals[2])
