"""The end of users.json as a list of passwords: their hashes are taken out."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from webapp.legacy.entries import Entries
from webapp.legacy.files import SECOND_FACTORS, USERS, LegacyUnreadable
from webapp.legacy.json_edit import REMOVED, NotAnObject, Walk, changed
from webapp.legacy.replace import Edit, Original, holds, replace

_HASH = "password_hash"
_WRITTEN = "was written by the earlier application after it was sealed; stop that, and begin again"


def remove_hashes(folder: Path, sealed: Mapping[str, str], permit: Callable[[], None]) -> int:
    """Take every password_hash out of users.json; return how many there were.

    All else stays byte for byte. `sealed` holds the SHA-256 in hex of each file as it was sealed:
    what was written since is in no archive. Where no hash is left, somebody who was killed has done
    it. Raises LegacyUnreadable, Overtaken when somebody writes there.
    """
    removed = 0

    def edits(entries: Entries) -> Iterator[Edit]:
        nonlocal removed
        for member in entries:
            raw = entries.raw(member)
            try:
                new = changed(raw, {_HASH: REMOVED})
            except NotAnObject:
                continue
            if new != raw:
                removed += 1
                yield Edit(member.value, member.end, new)

    with Original(folder / SECOND_FACTORS) as factors:
        if factors.exists and _digest(factors) != sealed.get(SECOND_FACTORS):
            raise LegacyUnreadable(SECOND_FACTORS, _WRITTEN)
    with Original(folder / USERS) as original:
        _require(original, folder)
        if _digest(original) != sealed.get(USERS):
            if _has_hashes(original):
                raise LegacyUnreadable(USERS, _WRITTEN)
            return 0
        digest = replace(original, edits(Entries(USERS, original.text)), permit)
        if original.was_written_to() or not holds(original, digest):
            raise LegacyUnreadable(USERS, _WRITTEN)
    return removed


def has_hashes(folder: Path) -> bool:
    """Whether any record of users.json has a password_hash. Raises LegacyUnreadable."""
    with Original(folder / USERS) as original:
        _require(original, folder)
        return _has_hashes(original)


def _require(original: Original, folder: Path) -> None:
    """Raise LegacyUnreadable for a file that is not there: it may lie elsewhere, hashes and all."""
    if not original.exists:
        raise LegacyUnreadable(USERS, f"is missing in {folder}")


def _has_hashes(original: Original) -> bool:
    entries = Entries(USERS, original.text)
    return any(_has_hash(entries.raw(member)) for member in entries)


def _has_hash(raw: bytes) -> bool:
    try:
        return any(member.name == _HASH for member in Walk(raw))
    except NotAnObject:
        return False


def _digest(original: Original) -> str:
    digest = hashlib.sha256()
    for at in range(0, len(original.text), 1 << 20):
        digest.update(original.text[at : at + (1 << 20)])
    return digest.hexdigest()
