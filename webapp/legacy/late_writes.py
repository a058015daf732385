"""What the predecessor wrote into a file while it was being replaced: found, and kept."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from webapp.legacy.entries import Entries
from webapp.legacy.files import SECOND_FACTORS, Torn
from webapp.legacy.replace import Edit, Original, Overtaken, replace
from webapp.legacy.structure import fold

_PATIENCE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.2
_SETTLED_SECONDS: Final = 1.0


class _HeldBack:
    """Calls something as long as it does not raise; `error` is what it raised."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self.error: Exception | None = None

    def __call__(self) -> None:
        if self.error is None:
            try:
                self._act()
            except Exception as error:
                self.error = error


def merge_late_write(original: Original, tick: Callable[[], None]) -> bool:
    """Bring what was written into the file that was just replaced into its successor.

    The predecessor may have opened it a moment before: opening empties it, so that it shows at once
    even if writing takes long. Returns whether there was anything. `tick` is called meanwhile; what
    it raises is raised behind all of it, since the replaced file has no name any more and nobody
    else can do this. A process that is killed here loses such a write. Raises LegacyUnreadable.
    """
    if not original.was_written_to():
        return False
    held_back = _HeldBack(tick)
    file = original.path.name
    late = _settled(original, held_back)
    differing = dict(_differing(Entries(file, original.text), late))
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while differing:
        held_back()
        try:
            _merge(original.path, differing, held_back)
            break
        except (Torn, Overtaken):
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
    if held_back.error:
        raise held_back.error
    return True


def _merge(path: Path, differing: Mapping[str, Any], tick: Callable[[], None]) -> None:
    with Original(path) as current:
        if not current.exists:
            raise Torn(path.name, "is missing")
        exact = path.name == SECOND_FACTORS
        wanted = {name if exact else fold(name) for name in differing}
        entries = Entries(path.name, current.text, wanted)
        replace(current, _merged(entries, differing), lambda: None)
        merge_late_write(current, tick)


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
        there = current.found.get(name if current.exact else fold(name))
        if there is not None and there.name == name:
            edits.append(Edit(there.value, there.end, json.dumps(entry).encode("ascii")))
        else:
            new.append((name, entry))
    return sorted(edits, key=lambda edit: edit.begin) + current.append(new)
