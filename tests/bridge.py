"""One installation beside the predecessor, for a test that does whatever comes to its mind.

Who works for it may end at any step, and the predecessor may write at the worst moments.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import bcrypt
import pyotp
import pytest
from flask import Flask
from sqlalchemy import delete, select

from tests.both_sides import Item, differences, stored_accounts
from tests.crashes import Crashes
from tests.legacy_folder import record, sha256_of
from tests.predecessor import Change, Copy, Predecessor
from webapp.clock import now
from webapp.db import Base, db, transaction
from webapp.legacy import files, late_writes, mirror, replace
from webapp.models import KeyringCheck, Run
from webapp.private_files import sync_folder
from webapp.services import (
    accounts,
    admin,
    consistency,
    credentials,
    legacy_lookup,
    legacy_migration,
    legacy_mirror,
    legacy_outbox,
    legacy_repair,
    legacy_undo,
    runs,
    second_factor,
    sessions,
)
from webapp.services.due_runs import start_due_runs
from webapp.services.runs import NotAvailable

When = Literal["before", "late", "behind"]
"""Right before a file is replaced; into the file that is being replaced; right behind it."""
START = datetime(2026, 5, 1, 12, tzinfo=UTC)
_JOBS: dict[str, Callable[[int], object]] = {
    runs.LEGACY_IMPORT: legacy_migration.run_import,
    runs.CONSISTENCY_CHECK: consistency.run_check,
    runs.LEGACY_MIRROR: legacy_mirror.run_mirror,
    runs.LEGACY_REPAIR: legacy_repair.run_repair,
    runs.LEGACY_UNDO: legacy_undo.run_undo,
}
_BATCHES = (legacy_migration, consistency, legacy_mirror, legacy_repair, legacy_undo)


@dataclass
class Interloper:
    """A process of the predecessor that writes during the replacement of a file, once."""

    predecessor: Predecessor
    when: When
    change: Change
    held: Copy | None
    is_asked: bool = False
    has_written: bool = False

    def permit(self) -> None:
        if self.when == "before":
            self._write()
        self.is_asked = True

    def look(self, path: Path) -> None:
        """Called behind the last look at the file before it is replaced, among others."""
        if self.is_asked and self.when == "late" and path.name == self.change.file:
            self._write()

    def flushed(self) -> None:
        if self.is_asked and self.when == "behind":
            self._write()

    def _write(self) -> None:
        if not self.has_written:
            self.has_written = True
            by_an_editor = self.when == "before"
            self.predecessor.write(self.change, self.held, by_an_editor=by_an_editor)


@dataclass
class Bridge:
    """The application, the predecessor beside it, and whoever writes at the wrong moment."""

    app: Flask
    predecessor: Predecessor
    set_clock: Callable[[datetime], None]
    mirrors: bool
    crashes: Crashes = field(default_factory=Crashes)
    interloper: Interloper | None = None

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Make batches small, pauses short, and let interlopers and crashes in."""
        for module in _BATCHES:
            patch.setattr(module, "BATCH", 2)
        for module in (files, replace):
            patch.setattr(module, "CLOCK_TICK_SECONDS", 0.0)
        patch.setattr(late_writes, "_SETTLED_SECONDS", 0.0)
        for paused in (late_writes, mirror, replace):
            patch.setattr(paused, "_PAUSE_SECONDS", 0.0)
        patch.setattr(accounts, "hash_bcrypt", _cheap_bcrypt)
        self._let_interlopers_in(patch)
        self.crashes.install(patch)

    def _let_interlopers_in(self, patch: pytest.MonkeyPatch) -> None:
        confirm, state_of, flush = (
            legacy_mirror._Batch._confirm, replace._state_of, sync_folder,
        )  # fmt: skip

        def confirm_and_write(batch: Any) -> None:
            confirm(batch)
            if self.interloper:
                self.interloper.permit()

        def look_and_write(path: Path) -> Any:
            found = state_of(path)
            if self.interloper:
                self.interloper.look(path)
            return found

        def flush_and_write(path: Path) -> None:
            flush(path)
            if self.interloper:
                self.interloper.flushed()

        patch.setattr(legacy_mirror._Batch, "_confirm", confirm_and_write)
        patch.setattr(replace, "_state_of", look_and_write)
        patch.setattr(replace, "sync_folder", flush_and_write)

    def begin_anew(self) -> None:
        """Empty the database, write the first files and import them."""
        with transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                if table.name != KeyringCheck.__tablename__:
                    session.execute(delete(table))
        self.forget()
        self.set_clock(START)
        self.interloper = None
        (self.predecessor.folder / "two_fa.json").unlink(missing_ok=True)
        self.predecessor.begin(
            {
                "root": record(role="admin"),
                "ann": record(api_keys={"openai": "first", "slack": "second"}),
                "bob": record(api_keys={"openai": "third"}),
                "cy": record(),
            }
        )
        self.predecessor.passwords[sha256_of("a password")] = "a password"
        legacy_migration.migrate_api_keys_from_json_to_db()
        self.sign_in("root")  # so that an admin is left, whatever is undone

    def forget(self) -> None:
        """What a process remembers is gone when it ends."""
        db.session.remove()
        legacy_lookup.forget(self.app)

    def wait(self, seconds: float) -> None:
        self.set_clock(now() + timedelta(seconds=seconds))

    @contextmanager
    def dying_at(self, step: int | None) -> Iterator[None]:
        """Do something in a process that ends at this step; its leases run out then."""
        with self.crashes.at(step):
            yield
        if self.crashes.fired:
            self.forget()
            self.wait(runs.LEASE.total_seconds() + 1)

    @contextmanager
    def disturbed_by(self, change: Change, when: When, held: Copy | None) -> Iterator[None]:
        """Let the predecessor write, perhaps an old copy, when a file is replaced in the block."""
        self.interloper = Interloper(self.predecessor, when, change, held)
        try:
            yield
        finally:
            self.interloper = None

    def work(self) -> None:
        """Do what the queue would bring, in order; only an import and an undo refuse each other."""
        db.session.rollback()
        due = db.session.execute(
            select(Run.id, Run.kind).where(Run.finished_at.is_(None)).order_by(Run.id)
        ).all()
        for run in due:
            try:
                _JOBS[run.kind](run.id)
            except NotAvailable:
                assert run.kind in (runs.LEGACY_IMPORT, runs.LEGACY_UNDO)

    def run(self, kind: str) -> str:
        """Let a worker do a run of this kind, and return how it stands then."""
        run = runs.start(kind)
        _JOBS[kind](run.id)
        last = runs.latest(kind)
        assert last is not None
        return last.status

    def come_to_rest(self) -> None:
        """Let schedule and worker do whatever is due, until nothing is."""
        for _ in range(12):
            self.wait(11 * 60)
            start_due_runs()
            self.work()
            due = select(Run.id).where(Run.finished_at.is_(None))
            if db.session.scalar(due) is None and not legacy_outbox.is_waiting():
                return
        raise AssertionError("it does not come to rest")

    def differences(self) -> set[Item]:
        return differences(self.predecessor, stored_accounts())

    def sign_in(self, username: str) -> str | None:
        """Sign in, with whichever password fits, and return the new session's id."""
        for password in self.predecessor.passwords.values():
            found = credentials.find(username)
            verdict = credentials.check(found, password)
            if found and not verdict.refusal and credentials.confirm(found, verdict):
                return sessions.open_session(found.user_id, "full")
        return None

    def sign_up(self, username: str, password: str, *, by_themselves: bool) -> None:
        """Make an account. Raises UsernameTaken."""
        account = accounts.new_account(username, password)
        account.user.self_registered = by_themselves
        account.user.created_at = now()
        accounts.add_account(account)

    def set_role(self, user_id: int, role: str) -> None:
        with transaction() as session:
            admin.set_role(session, user_id, is_admin=role == "admin")

    def set_second_factor(self, sid: str, user_id: int, username: str, *, on: bool) -> str | None:
        """Switch a second factor on or off; return its secret. Raises AlreadyEnabled."""
        if not on:
            second_factor.disable(sid, user_id)
            return None
        secret = second_factor.start_enrolment(user_id, username).secret
        second_factor.confirm_enrolment(sid, user_id, pyotp.TOTP(secret).at(now()))
        return secret


def _cheap_bcrypt(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode("ascii")
