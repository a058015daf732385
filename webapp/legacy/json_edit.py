"""Changing single members of a JSON text; all the rest of it stays as it is, byte for byte.

Works on anything that regular expressions read, also a mapped file of any size, in one pass and in
constant memory. It looks at shape alone: a text that is cut off or unbalanced is refused.
"""

import json
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Text: TypeAlias = bytes | mmap.mmap
Changes: TypeAlias = Mapping[str, Any]
"""New values by member name: JSON, `REMOVED`, or `Inside` for a change within an object."""

_MAX_DEPTH: Final = 32
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR: Final = rb'[^\s,:\[\]{}"]++'


def _value_pattern(depth: int) -> bytes:
    """Return a pattern of a value whose containers are nested up to `depth`.

    Possessive all through, so that no text makes it slow.
    """
    inside = rb'[^\[\]{}"]++|' + _STRING
    container = rb"[\[{](?:" + inside + rb")*+[\]}]"
    for _ in range(depth - 1):
        container = rb"[\[{](?:" + inside + rb"|" + container + rb")*+[\]}]"
    return rb"(?:" + _STRING + rb"|" + _SCALAR + rb"|" + container + rb")"


_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_NAME: Final = re.compile(rb"[ \t\r\n]*+(" + _STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+", re.DOTALL)
_VALUE: Final = re.compile(_value_pattern(8), re.DOTALL)
_PIECE: Final = re.compile(rb'[\[{]|[\]}]|[^\[\]{}"]++|' + _STRING, re.DOTALL)
_END: Final = re.compile(rb"[ \t\r\n]*+([,}])")


class NotAnObject(Exception):
    """The text is no JSON object, is cut off, or is nested too deeply."""


class _Removed:
    def __repr__(self) -> str:
        return "REMOVED"


REMOVED: Final = _Removed()


@dataclass(frozen=True)
class Inside:
    """Change members of the object that stands there; one is made where there is none."""

    changes: Changes


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object: its name, and where it, its value and the value's end stand."""

    name: str
    begin: int
    value: int
    end: int


class Walk:
    """Goes through the members of the object that begins at `begin`, in their order.

    Behind the last one `end` is where the object ends, and `lead` is the white space in front of
    the first member's name. Raises NotAnObject.
    """

    def __init__(self, text: Text, begin: int = 0) -> None:
        self._text = text
        self.begin = begin
        self.end = begin
        self.lead = b""

    def __iter__(self) -> Iterator[Member]:
        text = self._text
        at = first = self._open()
        while at:
            found = _NAME.match(text, at)
            if found is None:
                raise NotAnObject
            begin, value = found.start(1), found.end()
            if at == first:
                self.lead = text[at:begin]
            end = value_end(text, value)
            yield Member(_decoded(found[1]), begin, value, end)
            at = self._behind(end)

    def _open(self) -> int:
        """Return where the first member begins; 0 when there is none."""
        text, begin = self._text, self.begin
        if text[begin : begin + 1] != b"{":
            raise NotAnObject
        space = _SPACE.match(text, begin + 1)
        if space and text[space.end() : space.end() + 1] == b"}":
            self.end = space.end() + 1
            return 0
        return begin + 1

    def _behind(self, at: int) -> int:
        """Return where the next member begins; 0 behind the last."""
        found = _END.match(self._text, at)
        if found is None:
            raise NotAnObject
        if found[1] == b",":
            return found.end()
        self.end = found.end()
        return 0


def value_end(text: Text, begin: int) -> int:
    """Return where the value that begins at `begin` ends. Raises NotAnObject."""
    found = _VALUE.match(text, begin)
    if found:
        return found.end()
    depth, at = 0, begin
    while True:  # nested more deeply than the pattern knows
        piece = _PIECE.match(text, at)
        if piece is None:
            raise NotAnObject
        at = piece.end()
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(piece[0][:1], 0)
        if depth > _MAX_DEPTH:
            raise NotAnObject
        if depth == 0:
            return at


def value_of(text: Text, name: str, begin: int = 0) -> int | None:
    """Return where the value of the first member of this name begins. Raises NotAnObject.

    Looks no further, so that a long value costs nothing.
    """
    if text[begin : begin + 1] != b"{":
        raise NotAnObject
    at = begin + 1
    while found := _NAME.match(text, at):
        if _decoded(found[1]) == name:
            return found.end()
        behind = _END.match(text, value_end(text, found.end()))
        if behind is None:
            raise NotAnObject
        if behind[1] == b"}":
            return None
        at = behind.end()
    return None


def check_rest(text: Text, at: int) -> None:
    """Raise NotAnObject unless the object around a value that ends at `at` ends the text."""
    while True:
        behind = _END.match(text, at)
        if behind is None:
            raise NotAnObject
        if behind[1] == b"}":
            break
        found = _NAME.match(text, behind.end())
        if found is None:
            raise NotAnObject
        at = value_end(text, found.end())
    check_end(text, behind.end())


def check_end(text: Text, at: int) -> None:
    """Raise NotAnObject unless only white space stands behind `at`."""
    space = _SPACE.match(text, at)
    if space is None or space.end() != len(text):
        raise NotAnObject


def changed(text: bytes, changes: Changes) -> bytes:
    """Return the object `text` with `changes` in it.

    What is new comes last, in the layout of the members that are there. Of equal names the last
    counts, as it does for whoever reads it. Raises NotAnObject.
    """
    walk = Walk(text)
    members = list(walk)
    last = {member.name: number for number, member in enumerate(members)}
    parts = []
    for number, member in enumerate(members):
        new = changes.get(member.name, member)
        if new is REMOVED:
            continue
        piece = text[member.begin : member.end]
        if new is not member and last[member.name] == number:
            old = text[member.value : member.end]
            piece = text[member.begin : member.value] + _replaced(old, new, walk.lead)
        parts.append(piece)
    lead = walk.lead if members else _SPACE.match(text, 1)[0] + b"  "  # type: ignore[index]
    if not members and b"\n" not in lead:
        lead = b""
    parts += [
        _dumped(name) + b": " + _replaced(b"{}", new, lead)
        for name, new in changes.items()
        if name not in last and new is not REMOVED
    ]
    if not parts:
        return b"{}"
    tail = text[members[-1].end : walk.end - 1] if members else _outdented(lead)
    return b"{" + lead + (b"," + (lead or b" ")).join(parts) + tail + b"}" + text[walk.end :]


def appended(walk: Walk, entries: Sequence[tuple[str, Any]], *, is_empty: bool) -> bytes:
    """Return what is to stand behind the last member of an object that was walked through."""
    lead = walk.lead or b" "
    new = [_dumped(name) + b": " + _dumped(value, lead) for name, value in entries]
    return (b"" if is_empty else b"," + lead) + (b"," + lead).join(new)


def _replaced(old: bytes, new: Any, lead: bytes) -> bytes:
    if not isinstance(new, Inside):
        return _dumped(new, lead)
    if not old.startswith(b"{") or (old == b"{}" and b"\n" in lead):
        plain = {n: v.changes if isinstance(v, Inside) else v for n, v in new.changes.items()}
        return _dumped({n: v for n, v in plain.items() if v is not REMOVED}, lead)
    return changed(old, new.changes)


def _dumped(value: Any, lead: bytes = b"") -> bytes:
    """Return `value` as JSON in ASCII, laid out as members that stand behind `lead`."""
    if b"\n" not in lead:
        return json.dumps(value).encode("ascii")
    return json.dumps(value, indent=2).encode("ascii").replace(b"\n", lead[lead.rindex(b"\n") :])


def _outdented(lead: bytes) -> bytes:
    return lead[:-2] if lead.endswith(b"  ") else lead


def _decoded(string: bytes) -> str:
    if b"\\" not in string:
        try:
            return string[1:-1].decode("utf-8")
        except UnicodeDecodeError:
            raise NotAnObject from None
    try:
        return str(json.loads(string))
    except ValueError:
        raise NotAnObject from None
