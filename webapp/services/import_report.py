"""What an import did, as counts and as sentences for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

_STORED_REJECTIONS: Final = 1000
_STORED_WARNINGS: Final = 1000
_MOST: Final = 50_000
"""So many entries are held in memory; the counts are of all of them."""

COUNTED: Final = (
    "users_created",
    "users_existing",
    "keys_imported",
    "keys_kept",
    "keys_locked",
    "records_rejected",
    "two_factor_imported",
)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record of the predecessor that did not become an account, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """The counts of `flask legacy import`, the rejected records, and what people should know.

    `keys_kept` are those that the database had already, unchanged or changed here; those that the
    predecessor's keys do not open are under `keys_locked` only. `two_factor_imported` counts
    prepared second factors too, which nobody is asked for yet.
    """

    users_created: int = 0
    users_existing: int = 0
    keys_imported: int = 0
    keys_kept: int = 0
    keys_locked: int = 0
    records_rejected: int = 0
    two_factor_imported: int = 0
    rejected: tuple[Rejected, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def restored(cls, counts: Mapping[str, int], details: Mapping[str, Any]) -> Self:
        """Return the report that `counts()` and `details()` were taken of."""
        return cls(
            rejected=tuple(Rejected(**entry) for entry in details.get("rejected", ())),
            warnings=tuple(details.get("warnings", ())),
            **{name: counts.get(name, 0) for name in COUNTED},
        )

    def plus(
        self, counts: Mapping[str, int], rejected: Sequence[Rejected], warnings: Sequence[str]
    ) -> Self:
        """Return the report with another batch in it."""
        added = {name: getattr(self, name) + counts.get(name, 0) for name in COUNTED}
        added["records_rejected"] += len(rejected)
        return type(self)(
            rejected=(*self.rejected, *rejected)[:_MOST],
            warnings=(*self.warnings, *warnings)[:_MOST],
            **added,
        )

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: getattr(self, name) for name in COUNTED}

    def details(self) -> dict[str, Any]:
        """Return the first of the entries as they are stored with the run."""
        return {
            "rejected": [
                {"name": entry.name, "reason": entry.reason}
                for entry in self.rejected[:_STORED_REJECTIONS]
            ],
            "warnings": [*self.warnings[:_STORED_WARNINGS], *self._left_out()],
        }

    def _left_out(self) -> list[str]:
        more = len(self.warnings) - _STORED_WARNINGS
        return [f"{more:,} more; flask legacy import --dry-run lists them"] if more > 0 else []
