"""What taking an import back did, as counts and as sentences for people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

_STORED: Final = 1000
_MOST: Final = 50_000
"""So many entries are held in memory; the counts are of all of them."""

COUNTED: Final = ("users_removed", "users_kept", "keys_removed", "keys_restored", "keys_kept")


@dataclass(frozen=True, slots=True)
class Kept:
    """What the import had made and is still there, and why. Without `key_name`: the account."""

    username: str
    key_name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class UndoReport:
    """The counts of `flask legacy undo`, and what was kept.

    Keys of accounts that went or stayed are counted too; of an account that stayed, `kept` has one
    entry and none for its keys. `keys_restored` are those that have their version from before.
    """

    users_removed: int = 0
    users_kept: int = 0
    keys_removed: int = 0
    keys_restored: int = 0
    keys_kept: int = 0
    kept: tuple[Kept, ...] = ()

    @classmethod
    def restored(cls, counts: Mapping[str, int], details: Mapping[str, Any]) -> Self:
        """Return the report that `counts()` and `details()` were taken of."""
        return cls(
            kept=tuple(Kept(**entry) for entry in details.get("kept", ())),
            **{name: counts.get(name, 0) for name in COUNTED},
        )

    def plus(self, counts: Mapping[str, int], kept: Sequence[Kept]) -> Self:
        """Return the report with another batch in it."""
        added = {name: getattr(self, name) + counts.get(name, 0) for name in COUNTED}
        return type(self)(kept=(*self.kept, *kept)[:_MOST], **added)

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: getattr(self, name) for name in COUNTED}

    def details(self) -> dict[str, Any]:
        """Return the first of the entries as they are stored with the run."""
        return {"kept": [asdict(entry) for entry in self.kept[:_STORED]]}
