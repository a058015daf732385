"""The end of users.json as a list of passwords: their hashes are taken out."""

from collections.abc import Callable, Iterator
from pathlib import Path

from webapp.legacy.entries import Entries
from webapp.legacy.files import USERS, LegacyUnreadable
from webapp.legacy.json_edit import REMOVED, NotAnObject, changed
from webapp.legacy.replace import Edit, Original, holds, replace


def remove_hashes(folder: Path, permit: Callable[[], None]) -> int:
    """Take every password_hash out of users.json; return how many there were.

    All else stays byte for byte. Raises LegacyUnreadable, Overtaken when somebody writes there.
    """
    removed = 0

    def edits(entries: Entries) -> Iterator[Edit]:
        nonlocal removed
        for member in entries:
            raw = entries.raw(member)
            try:
                new = changed(raw, {"password_hash": REMOVED})
            except NotAnObject:
                continue
            if new != raw:
                removed += 1
                yield Edit(member.value, member.end, new)

    with Original(folder / USERS) as original:
        digest = replace(original, edits(Entries(USERS, original.text)), permit)
        if original.was_written_to() or not holds(original, digest):
            raise LegacyUnreadable(USERS, "was written by the earlier application; is it stopped?")
    return removed
