"""LEGACY_REPAIR=import: what only the files have comes over by itself, and nothing else does."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record
from tests.people import add_person
from webapp import clock, create_app
from webapp.clock import now
from webapp.db import db, dispose_engines
from webapp.models import Run, User
from webapp.services import consistency, legacy_lookup, legacy_migration, runs
from webapp.services.accounts import create_account
from webapp.services.due_runs import start_due_runs
from webapp.services.keys import delete_user_api_key, get_user_api_keys, save_user_api_key
from webapp.services.legacy_repair import Choice, repair, request_repair, run_repair
from webapp.services.legacy_undo import undo_import
from webapp.services.runs import CONSISTENCY_CHECK, LEGACY_IMPORT, LEGACY_REPAIR

ACTS: dict[str, Callable[[int], object]] = {
    LEGACY_IMPORT: legacy_migration.run_import,
    CONSISTENCY_CHECK: consistency.run_check,
    LEGACY_REPAIR: run_repair,
}


class Folder(LegacyFolder):
    """The predecessor's files, whose state on disk looks the same whatever is in them.

    So an import takes them for what it has seen already, and only a check finds the difference.
    """

    def has(self, *names: str, **keys: str) -> None:
        """Let there be these accounts, and ann with `keys`."""
        tokens = {name: self.token(value) for name, value in keys.items()}
        users = {"ann": record(api_keys=tokens)} | {name: record() for name in names}
        self.raw(json.dumps({"users": users}).ljust(4_000))
        self.touch(hours=0)

    def touch(self, hours: int) -> None:
        at = 1_767_225_600 + 3600 * hours
        os.utime(self.path / "users.json", (at, at))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "legacy")
    folder.has("bob", openai="first")
    return folder


@pytest.fixture
def policy() -> str:
    return "import"


@pytest.fixture
def app(make_settings: MakeSettings, folder: Folder, policy: str) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path), LEGACY_REPAIR=policy))
    with app.app_context():
        yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


class Worker:
    """A worker with its schedule, and a clock that stands."""

    def __init__(self, set_clock: Callable[[datetime], None]) -> None:
        self._set = set_clock

    def passes(self, **parts: float) -> None:
        self._set(now() + timedelta(**parts))

    def works(self) -> list[str]:
        """Do all that is due; return the kinds of the runs that were done."""
        done: list[str] = []
        while True:
            start_due_runs()
            run = db.session.scalars(select(Run).filter_by(status="pending")).first()
            if run is None:
                return done
            assert len(done) < 10, done
            ACTS[run.kind](run.id)
            done.append(run.kind)


@pytest.fixture
def worker(app: Flask) -> Iterator[Worker]:
    """A worker that has imported and checked the files."""
    with clock.frozen(now()) as set_clock:
        worker = Worker(set_clock)
        assert worker.works() == [LEGACY_IMPORT, CONSISTENCY_CHECK]
        worker.passes(hours=1)
        yield worker


def accounts() -> set[str]:
    """Return who has an account here."""
    db.session.rollback()
    return set(db.session.scalars(select(User.username)))


def stored(username: str) -> dict[str, str]:
    """Return the keys that are stored here, whatever the files have."""
    found = get_user_api_keys(username)
    return {n: str(value) for n, value in found.items() if found.sources[n] == "database"}


def last() -> Run:
    run = runs.latest(LEGACY_REPAIR)
    assert run is not None
    return run


def test_what_only_the_files_have_comes_over_after_a_check(worker: Worker, folder: Folder) -> None:
    folder.has("bob", "new", openai="first", google="only there")
    assert worker.works() == [CONSISTENCY_CHECK, LEGACY_REPAIR]
    assert stored("ann")["google"] == "only there"
    assert "new" in accounts()
    run = last()
    assert (run.counts, run.requested_by_id) == ({"repaired": 2, "gone": 0, "left": 0}, None)
    assert worker.works() == []
    worker.passes(hours=1)
    assert worker.works() == [CONSISTENCY_CHECK]


@pytest.mark.parametrize("policy", ["off", ""])
def test_it_is_off_unless_somebody_wants_it(worker: Worker, folder: Folder) -> None:
    folder.has("bob", "new", openai="first", google="only there")
    assert worker.works() == [CONSISTENCY_CHECK]
    assert "new" not in accounts()


def test_nothing_else_is_settled(worker: Worker, folder: Folder) -> None:
    save_user_api_key("ann", "openai", "of the database")
    save_user_api_key("ann", "github", "only here")
    create_account("zoe", "seven quiet lanterns")
    folder.has("bob", openai="of the files")
    assert worker.works() == [CONSISTENCY_CHECK]
    folder.has("bob", openai="of the files", google="only there")
    worker.passes(hours=1)
    assert worker.works() == [CONSISTENCY_CHECK, LEGACY_REPAIR]
    assert stored("ann") == {
        "openai": "of the database",
        "github": "only here",
        "google": "only there",
    }
    assert last().counts == {"repaired": 1, "gone": 0, "left": 0}


def test_a_key_that_was_deleted_here_does_not_come_back(worker: Worker, folder: Folder) -> None:
    delete_user_api_key("ann", "openai")
    assert worker.works() == [CONSISTENCY_CHECK, LEGACY_REPAIR]
    assert "openai" not in stored("ann")
    (step,) = last().report["steps"]
    assert step["key_name"] == "openai"
    assert "deleted here" in step["says"]
    worker.passes(hours=1)
    assert worker.works() == [CONSISTENCY_CHECK], "it is not tried again each hour"
    folder.has("bob", openai="first", google="only there")
    worker.passes(hours=1)
    assert worker.works() == [CONSISTENCY_CHECK, LEGACY_REPAIR]
    assert stored("ann") == {"google": "only there"}
    assert last().counts == {"repaired": 1, "gone": 0, "left": 0}
    assert repair(Choice(winner="legacy")).repaired == 1, "somebody asks for it"
    assert stored("ann")["openai"] == "first"


def test_nor_one_that_was_deleted_between_check_and_repair(worker: Worker, folder: Folder) -> None:
    folder.has("bob", openai="first", google="only there")
    start_due_runs()
    check = runs.unfinished(CONSISTENCY_CHECK)
    assert check is not None
    consistency.run_check(check.id)
    save_user_api_key("ann", "google", "saved and deleted")
    delete_user_api_key("ann", "google")
    assert worker.works() == [LEGACY_REPAIR]
    assert "google" not in stored("ann")
    assert last().counts == {"repaired": 0, "gone": 0, "left": 1}


def test_nor_what_an_undo_took_away(worker: Worker, folder: Folder) -> None:
    imported = runs.latest(LEGACY_IMPORT)
    assert imported is not None
    undo_import(imported.id)
    assert worker.works() == [CONSISTENCY_CHECK]
    assert "ann" not in accounts()
    worker.passes(hours=1)
    folder.touch(hours=1)
    assert worker.works() == [CONSISTENCY_CHECK], "files that changed are no reason"
    assert "ann" not in accounts()


def test_a_stranger_receives_nothing(app: Flask, worker: Worker, folder: Folder) -> None:
    add_person(app, "new", self_registered=True)
    tokens = {"openai": folder.token("of another")}
    users = {"ann": record(api_keys={"openai": folder.token("first")}), "bob": record()}
    folder.raw(json.dumps({"users": users | {"new": record(api_keys=tokens)}}).ljust(4_000))
    folder.touch(hours=0)
    assert worker.works() == [CONSISTENCY_CHECK, LEGACY_REPAIR]
    assert "openai" not in stored("new")
    assert "another person" in last().report["steps"][0]["says"]


def test_one_that_failed_is_tried_after_the_next_check(worker: Worker, folder: Folder) -> None:
    folder.has("bob", "new", openai="first")
    start_due_runs()
    check = runs.unfinished(CONSISTENCY_CHECK)
    assert check is not None
    consistency.run_check(check.id)
    start_due_runs()
    runs.fail(runs.take(last().id), "The files could not be read.")
    assert worker.works() == []
    worker.passes(hours=1)
    assert worker.works() == [CONSISTENCY_CHECK, LEGACY_REPAIR]
    assert "new" in accounts()


def test_it_waits_for_a_repair_that_somebody_asked_for(worker: Worker, folder: Folder) -> None:
    save_user_api_key("ann", "openai", "of the database")
    folder.has("bob", "new", openai="first")
    start_due_runs()
    check = runs.unfinished(CONSISTENCY_CHECK)
    assert check is not None
    consistency.run_check(check.id)
    asked = request_repair(Choice(winner="legacy", kinds=["key_differs"]))
    start_due_runs()
    assert last().id == asked.id
    assert worker.works() == [LEGACY_REPAIR, LEGACY_REPAIR]
    assert "new" in accounts()


def test_a_check_that_failed_starts_none(worker: Worker, folder: Folder) -> None:
    folder.has("bob", "new", openai="first")
    runs.fail(runs.begin(CONSISTENCY_CHECK), "The files could not be read.")
    assert worker.works() == []
