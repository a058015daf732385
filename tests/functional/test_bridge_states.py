"""Predecessor and Keystay side by side, in any order, whoever dies when: nothing is lost.

A state machine does what people and workers do on both sides. After each step everything that
either side has acknowledged is there; in the end both sides are equal, but for what a repair says
that it cannot settle. `BRIDGE_EXAMPLES=500 pytest --timeout=0` makes it a long run of new examples
each time, and reduces what fails; the usual run always does the same.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from tests.both_sides import FIELDS, Item, Stored, fits, notes, stored_accounts
from tests.bridge import START, Bridge, When
from tests.conftest import MakeSettings
from tests.legacy_folder import sha256_of
from tests.predecessor import Change, Copy, Place, Predecessor
from webapp import clock, create_app
from webapp.db import db, dispose_engines
from webapp.legacy.compare import Kind
from webapp.models import Run
from webapp.services import consistency, legacy_undo, runs
from webapp.services.accounts import UsernameTaken
from webapp.services.errors import UnknownUser
from webapp.services.keys import delete_user_api_key, save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db, preview_import
from webapp.services.legacy_repair import Choice, NothingChosen, RepairUnderWay, repair
from webapp.services.repair_acts import Winner
from webapp.services.runs import NotAvailable
from webapp.services.second_factor import AlreadyEnabled

LONG = int(os.environ.get("BRIDGE_EXAMPLES", "0"))
NAMES = st.sampled_from(["ann", "bob", "zoe"])
KEYS = st.sampled_from(["openai", "slack"])
WHENS: st.SearchStrategy[When] = st.sampled_from(["before", "late", "behind"])
DEATHS = st.none() | st.integers(0, 40)
SECRETS = ["JBSWY3DPEHPK3PXP", "KRSXG5CTMVRXEZLU", "MFRGGZDFMZTWQ2LK", None]
KINDS = st.sampled_from(["key", "no key", "account", "password", "role", "second factor"])


class Sides(RuleBasedStateMachine):
    """What people and workers do. `expected` is what Keystay has acknowledged and nobody decided
    otherwise since; `owed_there` is what of it the mirror owes the files, until the predecessor
    changes the same; `acknowledged` are all values of keys that it ever has."""

    bridge: Bridge
    copies = Bundle("copies")

    def __init__(self) -> None:
        super().__init__()
        self.predecessor = self.bridge.predecessor
        self.expected: dict[Place, str | None] = {}
        self.owed_there: dict[Place, str | None] = {}
        self.acknowledged: set[tuple[str, str, str]] = set()
        self.accounts: set[str] = set()
        self.number = 0
        self.was_undone = False
        self.bridge.begin_anew()

    @initialize(winner=st.sampled_from(["database", "legacy"]))
    def choose(self, winner: Winner) -> None:
        self.winner: Winner = winner if self.bridge.mirrors else "legacy"

    # What the predecessor does.

    @rule(target=copies)
    def reads(self) -> Copy:
        return self.predecessor.read()

    @rule(kind=KINDS, name=NAMES, key=KEYS)
    def writes(self, kind: str, name: str, key: str) -> None:
        self.predecessor.write(self._change(kind, name, key))

    @rule(held=copies, kind=KINDS, name=NAMES, key=KEYS)
    def writes_an_old_copy(self, held: Copy, kind: str, name: str, key: str) -> None:
        self.predecessor.write(self._change(kind, name, key), held)

    def _change(self, kind: str, name: str, key: str) -> Change:
        """Return a change of the predecessor, which never writes the same value again."""
        self.number += 1
        if kind == "key":
            return Change(name, "key", key, f"there {self.number}")
        if kind == "no key":
            return Change(name, "key", key)
        if kind == "role":
            return Change(name, "role", value="admin" if self.number % 2 else "user")
        if kind == "second factor":
            return Change(name, "second_factor", value=SECRETS[self.number % 4])
        return Change(name, "account" if kind == "account" else "password",
                      value=f"a password of {self.number}")  # fmt: skip

    # What people do in Keystay.

    @rule(name=NAMES, key=KEYS, death=st.none() | st.integers(0, 12))
    def saves(self, name: str, key: str, death: int | None) -> None:
        self.number += 1
        value = f"here {self.number}"
        with self._acting(name, "key", key, death):
            save_user_api_key(name, key, value)
            self.acknowledged.add((name, key, value))
            self.accounts.add(name)
            self._answer((name, "key", key), value)

    @rule(name=NAMES, key=KEYS, death=st.none() | st.integers(0, 12))
    def deletes(self, name: str, key: str, death: int | None) -> None:
        with self._acting(name, "key", key, death):
            if delete_user_api_key(name, key):
                self._answer((name, "key", key), None)

    @rule(by_themselves=st.booleans(), death=DEATHS)
    def signs_up(self, by_themselves: bool, death: int | None) -> None:
        name = "zoe"
        self.number += 1
        password = f"a password of {self.number}"
        self.predecessor.passwords[sha256_of(password)] = password
        with self._acting(name, "password", "", death):
            self.bridge.sign_up(name, password, by_themselves=by_themselves)
            self.accounts.add(name)
            self.expected[name, "password", ""] = password

    @rule(name=NAMES)
    def signs_in(self, name: str) -> None:
        self.bridge.sign_in(name)

    @rule(name=NAMES, on=st.booleans(), death=DEATHS)
    def sets_second_factor(self, name: str, on: bool, death: int | None) -> None:
        sid = self.bridge.sign_in(name)
        stored = stored_accounts().get(name)
        if sid and stored and (on or stored.second_factor):
            with self._acting(name, "second_factor", "", death):
                secret = self.bridge.set_second_factor(sid, stored.row.id, name, on=on)
                self._answer((name, "second_factor", ""), secret)

    @rule(name=NAMES, role=st.sampled_from(["admin", "user"]), death=DEATHS)
    def gets_role(self, name: str, role: str, death: int | None) -> None:
        stored = stored_accounts().get(name)
        if stored:
            with self._acting(name, "role", "", death):
                self.bridge.set_role(stored.row.id, role)
                self._answer((name, "role", ""), role)

    def _answer(self, place: Place, value: str | None) -> None:
        """Keystay says that it is done."""
        self.expected[place] = self.owed_there[place] = value
        self.predecessor.touched.discard(place)

    @contextmanager
    def _acting(self, name: str, field: str, key: str, death: int | None) -> Iterator[None]:
        """Let somebody act; who gets no answer does not know what became of it."""
        self.bridge.wait(1)
        with self.bridge.dying_at(death), suppress(UnknownUser, UsernameTaken, AlreadyEnabled):
            yield
        if self.bridge.crashes.fired:
            self.expected.pop((name, field, key), None)
            self.owed_there.pop((name, field, key), None)

    # What workers do.

    @rule(death=DEATHS)
    def imports(self, death: int | None) -> None:
        self.bridge.wait(1)
        resumes = runs.unfinished(runs.LEGACY_IMPORT) is not None
        foreseen = preview_import()
        with self.bridge.dying_at(death), suppress(NotAvailable):
            report = migrate_api_keys_from_json_to_db()
            assert resumes or report == foreseen
            self.was_undone = False

    @precondition(lambda self: self.bridge.mirrors)
    @rule(death=DEATHS)
    def mirrors(self, death: int | None) -> None:
        self.bridge.wait(1)
        with self.bridge.dying_at(death):
            assert self.bridge.run(runs.LEGACY_MIRROR) == "finished"

    @precondition(lambda self: self.bridge.mirrors)
    @rule(name=NAMES, key=KEYS)
    def an_old_copy_comes_back(self, name: str, key: str) -> None:
        """What it undoes is done again, however it is noticed."""
        held = self.predecessor.read()
        self.saves(name, key, None)
        self.mirrors(None)
        ours = self.expected.get((name, "key", key))
        if self.predecessor.now_says().get((name, "key", key)) == ours is not None:
            self.predecessor.write(Change("cy", "role", value="user"), held)
            self.checks(None)
            self.mirrors(None)
            assert self.predecessor.now_says()[name, "key", key] == ours

    @precondition(lambda self: self.bridge.mirrors)
    @rule(when=WHENS, held=st.none() | copies, kind=KINDS, name=NAMES, key=KEYS, death=DEATHS)
    def mirrors_while_the_predecessor_writes(
        self, when: When, held: Copy | None, kind: str, name: str, key: str, death: int | None
    ) -> None:
        """Of a key that was just saved. A late write ends with the process that could find it."""
        self.saves(name, "openai", None)
        with self.bridge.disturbed_by(self._change(kind, name, key), when, held):
            self.mirrors(None if when == "late" else death)

    @rule(death=DEATHS)
    def checks(self, death: int | None) -> None:
        self.bridge.wait(1)
        differing = self.bridge.differences()
        with self.bridge.dying_at(death):
            report = consistency.check_consistency()
            found: set[Item] = {(i.kind, i.username, i.key_name) for i in report.items}
            assert found <= differing
            assert all(self._waits(item) for item in differing - found)

    def _waits(self, item: Item) -> bool:
        """Whether there is a note that the mirror has not applied, of this place or all of it."""
        kind, name, key = item
        place = (name, FIELDS.get(Kind(kind), "key"), key)
        return any(at in (place, (name, "account", "")) and note.applied_at is None
                   for at, note in self._notes())  # fmt: skip

    @rule(winner=st.sampled_from(["database", "legacy"]), death=DEATHS)
    def repairs(self, winner: Winner, death: int | None) -> None:
        self.bridge.wait(1)
        nothing = suppress(NothingChosen, RepairUnderWay)
        with self._somebody_decides(), self.bridge.dying_at(death), nothing:
            report = repair(Choice(winner=winner))
            assert winner == "legacy" or self.bridge.mirrors or not report.repaired

    @rule(death=DEATHS, number=st.integers(0, 5))
    def undoes(self, death: int | None, number: int) -> None:
        self.bridge.wait(1)
        done = select(Run.id).where(Run.kind == runs.LEGACY_IMPORT, Run.finished_at.is_not(None))
        imports = db.session.scalars(done.order_by(Run.id)).all()
        with self.bridge.dying_at(death), suppress(NotAvailable):
            self.was_undone = True
            legacy_undo.undo_import(imports[number % len(imports)])

    @rule()
    def workers_come_to_rest(self) -> None:
        with self._somebody_decides():
            self.bridge.come_to_rest()
        assert set(db.session.scalars(select(Run.status))) <= {"finished", "failed"}
        assert self.was_undone or not self._missing()
        self._nothing_is_owed_there()

    def _nothing_is_owed_there(self) -> None:
        there = self.predecessor.read()
        said = dict(self.predecessor.says(there))
        for place, ours in self.owed_there.items():
            account = stored_accounts()[place[0]]
            if place[0] in there.users and not account.is_stranger(there):
                overruled = place in self.predecessor.touched or place not in self.expected
                assert overruled or said.get(place) == ours or not self.bridge.mirrors, place

    def _missing(self) -> set[Item]:
        """What an import would still bring."""
        report = preview_import()
        counts = (report.users_created, report.keys_imported, report.two_factor_imported)
        return self.bridge.differences() if any(counts) else set()

    @contextmanager
    def _somebody_decides(self) -> Iterator[None]:
        """Let a repair go on: where the files win, what they say takes the place of ours."""
        there = self.predecessor.now_says()
        yield
        stored = stored_accounts()
        for place, value in list(self.expected.items()):
            found = self._found(stored, place, value)
            if found != value:
                theirs = there.get(place)
                if place[1] == "password":
                    theirs = None
                    assert there[place] in stored[place[0]].hashes
                assert found == theirs, (place, value, found, theirs)
                del self.expected[place]

    # What must be true after every step.

    @invariant()
    def nothing_is_lost(self) -> None:
        stored = stored_accounts()
        assert stored.keys() >= self.accounts
        for name, key, value in self.acknowledged:
            assert value in stored[name].versions[key], (name, key, value)
        for place, expected in self.expected.items():
            assert self._found(stored, place, expected) == expected, (place, expected)
        there = self.predecessor.now_says()
        for place, (theirs, since) in self.predecessor.owed.items():
            if there.get(place) != theirs:
                name, _, key = place
                kept = name in stored and theirs in stored[name].versions[key]
                assert kept or self._was_overruled(place, since), (place, theirs)

    def _found(self, stored: dict[str, Stored], place: Place, expected: str | None) -> str | None:
        name, field, key = place
        account = stored[name]
        if field == "key":
            return account.keys.get(key)
        if field == "password":
            return expected if expected and fits(next(account.hashes, ""), expected) else None
        return account.role if field == "role" else account.second_factor

    def _was_overruled(self, place: Place, since: datetime) -> bool:
        """Whether the mirror wrote this field by somebody's act here; of keys a version stays."""
        return place[1] in ("role", "second_factor") and any(
            at == place and (note.applied_at is None or note.applied_at >= since)
            for at, note in self._notes()
        )

    def _notes(self) -> list[Any]:
        return notes({stored.row.id: name for name, stored in stored_accounts().items()})

    def teardown(self) -> None:
        """Let the writers be quiet and everything be done: then both sides are equal."""
        if sys.exc_info()[0] is not None:
            return  # a step has failed already
        self.bridge.wait(60)
        with self._somebody_decides():
            self.bridge.come_to_rest()
            migrate_api_keys_from_json_to_db()
            consistency.check_consistency()  # finds rewrites of old copies, too late for the mirror
            self.bridge.come_to_rest()
        left = {item for item in self._check() if not self._can_be_settled(item)}
        with self._somebody_decides(), suppress(NothingChosen):
            repair(Choice(winner=self.winner))
        self.bridge.come_to_rest()
        assert self._check() == left
        self.nothing_is_lost()

    def _check(self) -> set[Item]:
        report = consistency.check_consistency()
        assert report.pending == 0
        found: set[Item] = {(i.kind, i.username, i.key_name) for i in report.items}
        assert found == self.bridge.differences()
        return found

    def _can_be_settled(self, item: Item) -> bool:
        kind, name, _ = item
        stored = stored_accounts().get(name)
        if stored and stored.is_stranger(self.predecessor.read()):
            return False
        if self.winner == "legacy":
            return kind != Kind.ONLY_IN_DATABASE
        if kind == Kind.ONLY_IN_DATABASE:
            return stored is not None and stored.can_be_written
        return kind not in (Kind.PASSWORD_DIFFERS, Kind.ONLY_IN_LEGACY)


@pytest.fixture(params=["mirror", "import"])
def bridge(
    request: pytest.FixtureRequest,
    make_settings: MakeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bridge]:
    predecessor = Predecessor(tmp_path / "legacy", Fernet.generate_key().decode())
    mode = {"LEGACY_DIR": str(predecessor.folder), "LEGACY_MODE": request.param}
    app: Flask = create_app(make_settings(**mode))
    with clock.frozen(START) as set_clock, app.app_context():
        made = Bridge(app, predecessor, set_clock, request.param == "mirror")
        made.install(monkeypatch)
        yield made
        made.forget()
    dispose_engines(app)


def test_nothing_is_lost_between_the_two(bridge: Bridge, database_kind: str) -> None:
    class Here(Sides):
        """On this test's database."""

    Here.bridge = bridge
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=LONG or (8 if bridge.mirrors and database_kind == "sqlite" else 3),
            stateful_step_count=50,
            derandomize=not LONG,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if LONG else [Phase.generate],
        ),
    )
