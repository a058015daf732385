"""What the predecessor wrote into a file while it was being replaced: found, and kept."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from webapp.legacy.entries import Entries
from webapp.legacy.files import Torn
from webapp.legacy.replace import Edit, Original, Overtaken, replace
from webapp.legacy.structure import fold

_PATIENCE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.2
_SETTLED_SECONDS: Final = 1.0


def merge_late_write(
    original: Original, permit: Callable[[], None], tick: Callable[[], None]
) -> bool:
    """Bring what was written into the file that was just replaced into its successor.

    The predecessor may have opened it a moment before: opening empties it, so that it shows at once
    even if writing takes long. Returns whether there was anything. `permit` and `tick` are as for
    `replace`. Raises LegacyUnreadable.
    """
    if not original.was_written_to():
        return False
    file = original.path.name
    late = _settled(original, tick)
    differing = dict(_differing(Entries(file, original.text), late))
    while differing:
        tick()
        try:
            with Original(original.path) as current:
                entries = Entries(file, current.text, {fold(name) for name in differing})
                replace(current, _merged(entries, differing), permit)
                merge_late_write(current, permit, tick)
                return True
        except (Torn, Overtaken):
            time.sleep(_PAUSE_SECONDS)
    return True


def _settled(original: Original, tick: Callable[[], None]) -> Entries:
    """Return what stands in the replaced file once whoever writes it has finished."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        tick()
        state = original.state_now()
        time.sleep(_SETTLED_SECONDS)
        try:
            entries = Entries(original.path.name, original.read_again())
        except Torn:
            if time.monotonic() > deadline:
                raise
            continue
        if original.state_now() == state:
            return entries


def _differing(before: Entries, late: Entries) -> Iterator[tuple[str, Any]]:
    known = {member.name: member for member in before}
    for member in late:
        raw = late.raw(member)
        old = known.get(member.name)
        if old is None or (
            before.raw(old) != raw and json.loads(before.raw(old)) != json.loads(raw)
        ):
            yield member.name, json.loads(raw)


def _merged(current: Entries, late: Mapping[str, Any]) -> list[Edit]:
    edits: list[Edit] = []
    new: list[tuple[str, Any]] = []
    for name, entry in late.items():
        there = current.found.get(fold(name))
        if there is not None and there.name == name:
            edits.append(Edit(there.value, there.end, json.dumps(entry).encode("ascii")))
        else:
            new.append((name, entry))
    return sorted(edits, key=lambda edit: edit.begin) + current.append(new)
