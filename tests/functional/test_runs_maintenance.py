"""What is removed when it has had its time, and what stays."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import select

from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import Discrepancy, LoginAttempt, LoginSession, Run, User
from webapp.services import maintenance
from webapp.services.runs import CONSISTENCY_CHECK, LEGACY_IMPORT

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _context(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def test_sessions_that_ended_are_removed() -> None:
    at, minute = now(), timedelta(minutes=1)
    with transaction() as session:
        user = User(username="alice")
        session.add(user)
        session.flush()
        for number, (last_seen, expires) in enumerate(
            [
                (at, at + DAY),
                (at - 59 * minute, at + minute),
                (at - 61 * minute, at + DAY),
                (at, at - minute),
            ]
        ):
            session.add(
                LoginSession(
                    digest=bytes([number]) * 32,
                    user_id=user.id,
                    stage="full",
                    last_seen_at=last_seen,
                    expires_at=expires,
                )
            )
    assert maintenance.purge()["sessions"] == 2
    assert {digest[0] for digest in db.session.scalars(select(LoginSession.digest))} == {0, 1}


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_what_somebody_holds_is_left_for_the_next_time(app: Flask) -> None:
    with transaction() as session:
        for _ in range(2):
            session.add(LoginAttempt(kind="password", subject=b"s" * 32, at=now() - 9 * DAY))
    with app.app_context():
        held = select(LoginAttempt.id).order_by(LoginAttempt.id).limit(1).with_for_update()
        db.session.execute(held)
        assert_purged(app, 1)
    assert_purged(app, 1)


def assert_purged(app: Flask, attempts: int) -> None:
    with app.app_context():
        assert maintenance.purge()["login_attempts"] == attempts


def test_attempts_outside_of_every_window_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_BATCH", 2)
    with transaction() as session:
        for days in (0, 1, 3, 4, 5, 6, 7):
            session.add(LoginAttempt(kind="password", subject=b"s" * 32, at=now() - days * DAY))
    assert maintenance.purge()["login_attempts"] == 5
    assert maintenance.purge()["login_attempts"] == 0


def run(kind: str, status: str, days: int) -> Run:
    ended = now() - days * DAY if status in {"finished", "failed"} else None
    return Run(kind=kind, status=status, created_at=now() - days * DAY, finished_at=ended)


def test_old_runs_are_removed_but_the_last_ones_and_those_that_are_referred_to() -> None:
    with transaction() as session:
        old = [run(CONSISTENCY_CHECK, "finished", 300) for _ in range(3)]
        imports = [
            run(LEGACY_IMPORT, "finished", 200),
            run(LEGACY_IMPORT, "finished", 180),
            run(LEGACY_IMPORT, "failed", 170),
            run(LEGACY_IMPORT, "failed", 160),
        ]
        kept = [run(CONSISTENCY_CHECK, "finished", 80), run(CONSISTENCY_CHECK, "running", 300)]
        session.add_all([*old, *imports, *kept])
        session.flush()
        for number, closed in enumerate([None, now() - 100 * DAY]):
            session.add(
                Discrepancy(
                    kind="key_differs",
                    username=f"user{number}",
                    first_run_id=old[number].id,
                    last_run_id=kept[0].id,
                    closed_at=closed,
                )
            )
    removed = maintenance.purge()
    assert (removed["discrepancies"], removed["runs"]) == (1, 4)
    left = set(db.session.scalars(select(Run.id)))
    assert left == {old[0].id, imports[1].id, imports[3].id, kept[0].id, kept[1].id}
