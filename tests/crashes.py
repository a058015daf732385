"""Ending a process at any step of what it does, as far as one process can show that."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.orm import Session

from webapp.db import db
from webapp.legacy import mirror, replace
from webapp.services import (
    consistency,
    imported_rows,
    key_store,
    legacy_accounts,
    legacy_mirror,
    legacy_outbox,
    legacy_repair,
    runs,
)
from webapp.services.legacy_pending import Pending
from webapp.services.runs import Lease

_STEPS: tuple[tuple[Any, str], ...] = (
    (Session, "commit"),
    (replace, "_state_of"),
    (replace, "sync_folder"),
    (mirror, "holds"),
    (mirror, "merge_late_write"),
    (legacy_mirror, "_requeue_reverted"),
    (legacy_mirror._Batch, "_store_before"),
    (legacy_mirror._Batch, "_confirm"),
    (legacy_mirror._Batch, "settle"),
    (consistency, "_progress"),
    (consistency, "_upsert"),
    (consistency, "_close_others"),
    (Pending, "note_reverted"),
    (legacy_repair, "_settle"),
    (imported_rows, "take_back"),
    (legacy_accounts, "write"),
    (key_store, "add_version"),
    (legacy_outbox, "note"),
    (Lease, "checkpoint"),
    (runs, "finish"),
)


class Crash(BaseException):
    """The process ends here, whatever it was about to do."""


class Crashes:
    """Raises Crash at a step that is counted down to; `fired` says that it did."""

    def __init__(self) -> None:
        self._left: int | None = None
        self.fired = False

    @contextmanager
    def at(self, step: int | None) -> Iterator[None]:
        """Let the block die at its step number `step`, if it has so many."""
        self._left, self.fired = step, False
        try:
            yield
        except Crash:
            db.session.remove()
        finally:
            self._left = None

    def step(self) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left < 0:
            self._left, self.fired = None, True
            raise Crash

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Count a step before and behind each of `_STEPS`."""
        for owner, name in _STEPS:
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.step()
            result = real(*arguments, **named)
            self.step()
            return result

        return counted
