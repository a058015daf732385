"""What starts by itself, and when."""

import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select

from tests.legacy_folder import LegacyFolder
from webapp import clock, create_app
from webapp.clock import now
from webapp.config import Settings
from webapp.db import db, dispose_engines, transaction
from webapp.models import Run
from webapp.services import runs
from webapp.services.due_runs import start_due_runs
from webapp.services.runs import CONSISTENCY_CHECK, LEGACY_IMPORT

HOUR = timedelta(hours=1)


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return LegacyFolder(tmp_path / "legacy")


@pytest.fixture
def app(make_settings: Callable[..., Settings], folder: LegacyFolder) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path)))
    yield app
    dispose_engines(app)


class Time:
    """A stopped clock, and what the schedule started since the last look."""

    def __init__(self, set_clock: Callable[[datetime], None]) -> None:
        self._set = set_clock
        self._seen = 0

    def passes(self, **parts: float) -> None:
        self._set(now() + timedelta(**parts))

    def started(self) -> list[Run]:
        start_due_runs()
        start_due_runs()  # once more changes nothing
        found = db.session.scalars(select(Run).where(Run.id > self._seen).order_by(Run.id)).all()
        self._seen = max((run.id for run in found), default=self._seen)
        return list(found)

    def kinds(self) -> list[str]:
        return [run.kind for run in self.started()]


@pytest.fixture
def time(app: Flask) -> Iterator[Time]:
    with app.app_context(), clock.frozen(now()) as set_clock:
        yield Time(set_clock)


def finish(kind: str) -> None:
    lease = runs.begin(kind)
    with transaction() as session:
        lease.checkpoint(session, source=lease.source)
        runs.finish(lease)


def fail(kind: str) -> None:
    runs.fail(runs.begin(kind), "It went wrong.")


def change(folder: LegacyFolder) -> None:
    file = folder.path / "users.json"
    at = file.stat().st_mtime_ns + 1_000_000
    os.utime(file, ns=(at, at))


def test_the_first_import_starts_by_itself_and_the_first_check_follows(time: Time) -> None:
    assert time.kinds() == [LEGACY_IMPORT]
    assert time.kinds() == []
    finish(LEGACY_IMPORT)
    assert time.kinds() == [CONSISTENCY_CHECK]
    finish(CONSISTENCY_CHECK)
    assert time.kinds() == []


def test_changed_files_are_imported_again(time: Time, folder: LegacyFolder) -> None:
    first = time.started()[0]
    finish(LEGACY_IMPORT)
    time.kinds()
    finish(CONSISTENCY_CHECK)
    time.passes(minutes=1)
    changes: list[Callable[[], None]] = [
        lambda: change(folder),
        lambda: folder.second_factors({"ben": {"secret": "", "enabled": False}}),
        (folder.path / ".encryption_key").unlink,
    ]
    for change_something in changes:
        change_something()
        (run,) = time.started()
        assert (run.kind, run.source != first.source) == (LEGACY_IMPORT, True)
        finish(LEGACY_IMPORT)
        assert time.kinds() == []
        time.passes(minutes=1)


def test_files_that_keep_changing_are_imported_half_of_the_time(
    time: Time, folder: LegacyFolder
) -> None:
    time.kinds()
    lease = runs.begin(LEGACY_IMPORT)
    time.passes(minutes=4)
    runs.finish(lease)
    time.kinds()
    finish(CONSISTENCY_CHECK)
    change(folder)
    time.passes(minutes=3)
    assert time.kinds() == []
    time.passes(minutes=1)
    assert time.kinds() == [LEGACY_IMPORT]


def test_a_failed_import_is_tried_again_after_growing_pauses(time: Time) -> None:
    time.kinds()
    for minutes in (1, 5, 30, 30):
        fail(LEGACY_IMPORT)
        time.passes(minutes=minutes, seconds=-1)
        assert LEGACY_IMPORT not in time.kinds()
        time.passes(seconds=1)
        assert LEGACY_IMPORT in time.kinds()


def test_a_failed_import_is_tried_soon_when_the_files_changed(
    time: Time, folder: LegacyFolder
) -> None:
    time.kinds()
    fail(LEGACY_IMPORT)
    change(folder)
    time.passes(seconds=19)
    assert LEGACY_IMPORT not in time.kinds()
    time.passes(seconds=1)
    assert LEGACY_IMPORT in time.kinds()


def test_missing_and_unreadable_files_are_for_the_import_to_complain_about(
    time: Time, folder: LegacyFolder
) -> None:
    (folder.path / "users.json").unlink()
    assert time.kinds() == [LEGACY_IMPORT]


def test_no_check_before_or_during_an_import(time: Time, folder: LegacyFolder) -> None:
    time.kinds()
    runs.begin(LEGACY_IMPORT)
    time.passes(hours=5)
    assert time.kinds() == []


def test_the_check_is_repeated_at_its_interval(time: Time) -> None:
    time.kinds()
    finish(LEGACY_IMPORT)
    for _ in range(3):
        assert time.kinds() == [CONSISTENCY_CHECK]
        time.passes(seconds=30)
        finish(CONSISTENCY_CHECK)
        time.passes(minutes=59, seconds=29)
        assert time.kinds() == []
        time.passes(seconds=1)


def test_a_check_that_failed_is_repeated_after_the_import_that_succeeds(
    time: Time, folder: LegacyFolder
) -> None:
    time.kinds()
    fail(LEGACY_IMPORT)
    assert time.kinds() == [CONSISTENCY_CHECK]
    fail(CONSISTENCY_CHECK)
    assert time.kinds() == []
    time.passes(minutes=1)
    assert time.kinds() == [LEGACY_IMPORT]
    time.passes(seconds=1)
    finish(LEGACY_IMPORT)
    assert time.kinds() == [CONSISTENCY_CHECK]


def test_without_legacy_files_nothing_starts(make_settings: Callable[..., Settings]) -> None:
    for more in ({}, {"LEGACY_DIR": "legacy", "LEGACY_MODE": "off"}):
        app = create_app(make_settings(**more))
        with app.app_context():
            start_due_runs()
            assert db.session.scalars(select(Run)).all() == []
        dispose_engines(app)
