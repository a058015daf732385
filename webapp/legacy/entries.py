"""The entries of users.json and two_fa.json by username: where in the text each of them stands."""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from webapp.legacy.files import BYTE_ORDER_MARK, SECOND_FACTORS, USERS, Torn
from webapp.legacy.json_edit import (
    Member,
    NotAnObject,
    Text,
    Walk,
    appended,
    check_end,
    check_rest,
    value_of,
)
from webapp.legacy.replace import Edit
from webapp.legacy.structure import fold

_ENOUGH_OF_A_RECORD: Final = 1 << 16


class Entries:
    """The object that holds one entry per username, in the text of either file."""

    def __init__(self, file: str, text: Text, wanted: Collection[str] = ()) -> None:
        """Go through `text`, the content of `file`, and find the entries of `wanted`.

        Those are names as they are in two_fa.json, and folded ones in users.json. Raises Torn.
        """
        self.text = text
        self.exact = file == SECOND_FACTORS
        self.found: dict[str, Member] = {}
        self.count = 0
        self.last_end = 0
        try:
            begin = _beginning(text)
            users = _users_in(text, begin) if file == USERS else None
            self.walk = Walk(text, begin if users is None else users)
            self._go(frozenset(wanted))
            if users is None:
                check_end(text, self.walk.end)
            else:
                check_rest(text, self.walk.end)
        except NotAnObject:
            raise Torn(file, "is not valid JSON") from None

    def _go(self, wanted: frozenset[str]) -> None:
        for member in self.walk:
            self._check(member)
            self.count += 1
            self.last_end = member.end
            if not self.exact:
                folded = fold(member.name)
                there = self.found.get(folded) if folded in wanted else None
                # Of equal names the last counts, of names that differ by case the first.
                if folded in wanted and (there is None or there.name == member.name):
                    self.found[folded] = member
            elif member.name in wanted:
                self.found[member.name] = member

    def _check(self, member: Member) -> None:
        """Raise NotAnObject unless the value is JSON: the walk has looked at its shape alone."""
        try:
            json.loads(self.text[member.value : member.end])
        except (ValueError, RecursionError):
            raise NotAnObject from None

    def __iter__(self) -> Iterator[Member]:
        """Go through all entries once more."""
        return iter(Walk(self.text, self.walk.begin))

    def raw(self, member: Member) -> bytes:
        """Return the text of an entry's value."""
        return self.text[member.value : member.end]

    def append(self, entries: Sequence[tuple[str, Any]]) -> list[Edit]:
        """Return the edit that puts new entries behind the last one."""
        if not entries:
            return []
        at = self.last_end or self.walk.begin + 1
        return [Edit(at, at, appended(self.walk, entries, is_empty=not self.count))]


def _beginning(text: Text) -> int:
    at = len(BYTE_ORDER_MARK) if text[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK else 0
    found = text.find(b"{", at)
    if found < 0 or text[at:found].strip():
        raise NotAnObject
    return found


def _users_in(text: Text, begin: int) -> int | None:
    """Return where the object `users` begins, unless the accounts stand at the top.

    See structure.scan: an object `users` that is itself a record is a user of that name.
    """
    users = value_of(text, "users", begin)
    if users is None:
        return None
    if text[users : users + 1] != b"{":
        raise NotAnObject  # as the import has it: nothing is concluded from a list of users
    try:
        inner = value_of(text[users : users + _ENOUGH_OF_A_RECORD], "password_hash")
    except NotAnObject:
        return users
    return users if inner is None or text[users + inner : users + inner + 1] != b'"' else None
