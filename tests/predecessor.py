"""The earlier application as it writes its files, and what it may count on finding again.

It reads a whole file, changes one thing and writes the whole file in place, without a lock. Whoever
writes an old copy loses what was changed since: that is its own doing, and only that is forgiven.
"""

import copy
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal

from cryptography.fernet import Fernet

from tests.legacy_folder import record, sha256_of
from webapp.clock import now

USERS, FACTORS = "users.json", "two_fa.json"
Place = tuple[str, str, str]
"""Username, field and key name; the last is empty but for `key`."""
Field = Literal["account", "password", "role", "key", "second_factor"]
_A_DAY = 24 * 3600


@dataclass(frozen=True)
class Change:
    """One thing that somebody does there; `value` is None for taking it away."""

    username: str
    field: Field
    key_name: str = ""
    value: str | None = None

    @property
    def file(self) -> str:
        return FACTORS if self.field == "second_factor" else USERS


@dataclass
class Copy:
    """Both files as one of its processes has read them."""

    users: dict[str, Any]
    factors: dict[str, Any]

    def of(self, file: str) -> Mapping[str, Any]:
        return {"users": self.users} if file == USERS else self.factors


@dataclass
class Predecessor:
    """Writes in `folder`. `owed` is what it has written and not overwritten itself, and since when.

    `touched` are the places of which a write changed what the files said. `passwords` are those in
    clear that were ever chosen there, by their hash.
    """

    folder: Path
    key: str
    owed: dict[Place, tuple[str, datetime]] = field(default_factory=dict)
    touched: set[Place] = field(default_factory=set)
    passwords: dict[str, str] = field(default_factory=dict)
    writes: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / ".encryption_key").write_text(self.key)
        self._fernet = Fernet(self.key)

    def read(self) -> Copy:
        users = json.loads((self.folder / USERS).read_bytes())["users"]
        path = self.folder / FACTORS
        return Copy(users, json.loads(path.read_bytes()) if path.exists() else {})

    def begin(self, users: dict[str, Any]) -> None:
        """Write the files for the first time."""
        for said in users.values():
            said["api_keys"] = {
                name: self._fernet.encrypt(value.encode()).decode()
                for name, value in said.get("api_keys", {}).items()
            }
        everything = Copy(users, {})
        for file in (USERS, FACTORS):
            with (self.folder / file).open("w") as target:
                self._put(target, everything.of(file))
        self.owed = {place: (value, now()) for place, value in self.says(everything)}
        self.touched.clear()

    def write(
        self, change: Change, held: Copy | None = None, *, by_an_editor: bool = False
    ) -> None:
        """Do `change` in `held`, an older copy, or in the file as it is, and write all of it.

        Editors put a new file in the place of the old one.
        """
        before = self.now_says()
        held = held or self.read()
        if self._apply(change, held):
            path = self.folder / change.file
            written = path.with_name("edited") if by_an_editor else path
            with written.open("w") as target:
                self._put(target, held.of(change.file))
            if by_an_editor:
                written.rename(path)
            self._remember(change, held)
            after = dict(self.says(held))
            self.touched |= {at for at in before | after if before.get(at) != after.get(at)}

    def says(self, held: Copy) -> Iterator[tuple[Place, str]]:
        """Yield what a copy says of each place."""
        for name, said in held.users.items():
            yield (name, "password", ""), said["password_hash"]
            yield (name, "role", ""), said["role"]
            for key, token in said.get("api_keys", {}).items():
                yield (name, "key", key), self._fernet.decrypt(token.encode()).decode()
        for name, entry in held.factors.items():
            if entry["enabled"]:
                yield (name, "second_factor", ""), entry["secret"]

    def now_says(self) -> dict[Place, str]:
        return dict(self.says(self.read()))

    def _apply(self, change: Change, held: Copy) -> bool:
        """Change the copy; return whether there was anything to change."""
        if change.field == "account":
            if change.username in held.users:
                return False
            born = f"2026-01-01T00:00:00.{self.writes + 1:06}"
            made = record(password_hash=self._hash(change), created_at=born, api_keys={})
            held.users[change.username] = made
            return True
        said = held.users.get(change.username)
        if said is None:
            return False
        if change.field == "password":
            said["password_hash"] = self._hash(change)
        elif change.field == "role":
            said["role"] = change.value
        elif change.field == "key":
            keys = said.setdefault("api_keys", {})
            if change.value is None:
                return keys.pop(change.key_name, None) is not None
            keys[change.key_name] = self._fernet.encrypt(change.value.encode()).decode()
        elif change.value is None:
            held.factors[change.username] = {"enabled": False}
        else:
            held.factors[change.username] = {"secret": change.value, "enabled": True}
        return True

    def _hash(self, change: Change) -> str:
        assert change.value is not None
        hashed = sha256_of(change.value)
        self.passwords[hashed] = change.value
        return hashed

    def _put(self, target: IO[str], content: Mapping[str, Any]) -> None:
        json.dump(content, target, indent=2)
        target.flush()
        # No two writes have one time, and the file looks as if it rested.
        self.writes += 1
        at = int(time.time() - _A_DAY) * 10**9 + self.writes * 10**6
        os.utime(target.fileno(), ns=(at, at))

    def _remember(self, change: Change, held: Copy) -> None:
        said = dict(self.says(copy.deepcopy(held)))
        factors = change.file == FACTORS
        for place, (value, _) in list(self.owed.items()):
            if (place[1] == "second_factor") == factors and said.get(place) != value:
                del self.owed[place]  # its own later write does not have it
        places = [(change.username, change.field, change.key_name)]
        if change.field == "account":
            places = [(change.username, "password", ""), (change.username, "role", "")]
        for place in places:
            if place in said:
                self.owed[place] = (said[place], now())
