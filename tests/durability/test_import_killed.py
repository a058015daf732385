"""A real import of many users by real workers that are killed in the middle, again and again."""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, update

from tests.legacy_folder import LegacyFolder, record
from tests.worker_process import StartWorker, until
from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import ApiKey, ApiKeyVersion, AuditEvent, Run, User
from webapp.services import runs
from webapp.services.keys import get_user_api_keys

pytestmark = [pytest.mark.durability, pytest.mark.timeout(300)]

USERS = 10_000


def username(number: int) -> str:
    return f"user{number:05}"


def value(number: int) -> str:
    return f"sk-proj-of-user-{number:05}"


@pytest.fixture(scope="module")
def legacy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = LegacyFolder(tmp_path_factory.mktemp("predecessor"))
    folder.users(
        {
            username(number): record(api_keys={"openai": folder.token(value(number))})
            for number in range(USERS)
        }
    )
    folder.rest()
    return folder.path


@pytest.fixture
def environ(environ: Mapping[str, str], legacy_dir: Path) -> dict[str, str]:
    return {**environ, "LEGACY_DIR": str(legacy_dir)}


@pytest.fixture(autouse=True)
def _context(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def the_run(kind: str) -> Run | None:
    db.session.rollback()
    run = runs.latest(kind)
    db.session.rollback()
    return run


def cursor() -> int:
    run = the_run(runs.LEGACY_IMPORT)
    return run.cursor if run else 0


def is_beyond(done: int) -> bool:
    return cursor() > done


def ended(kind: str) -> Callable[[], Any]:
    return lambda: (run := the_run(kind)) and run.finished_at


def let_the_lease_run_out() -> None:
    over = now() - timedelta(seconds=1)
    with transaction() as session:
        session.execute(update(Run).where(Run.status == "running").values(lease_expires_at=over))


def count(model: type[Any]) -> int:
    return db.session.scalar(select(func.count()).select_from(model)) or 0


def test_an_import_that_is_killed_again_and_again_is_done_once(start_worker: StartWorker) -> None:
    killed_at = 0
    for kill in ("everything", "worker", "everything"):
        worker = start_worker()
        let_the_lease_run_out()
        until(partial(is_beyond, killed_at), 40)
        if kill == "everything":
            worker.kill_everything()
        else:
            worker.kill_worker()
            until(lambda: (run := the_run(runs.LEGACY_IMPORT)) and run.status == "pending", 10)
        killed_at = cursor()
        assert killed_at < USERS
    let_the_lease_run_out()
    start_worker()
    until(ended(runs.LEGACY_IMPORT), 100)
    run = the_run(runs.LEGACY_IMPORT)
    assert run is not None
    assert (run.status, run.error, run.cursor, run.lease_token) == ("finished", None, USERS, 4)
    assert (run.counts["users_created"], run.counts["keys_imported"]) == (USERS, USERS)
    assert (run.counts["users_existing"], run.counts["keys_kept"]) == (0, 0)
    assert (count(User), count(ApiKey), count(ApiKeyVersion)) == (USERS, USERS, USERS)
    imported = select(func.count()).where(AuditEvent.event == "account.imported")
    assert db.session.scalar(imported) == USERS
    for number in range(0, USERS, 997):
        assert get_user_api_keys(username(number))["openai"] == value(number)
    until(ended(runs.CONSISTENCY_CHECK), 100)
    check = the_run(runs.CONSISTENCY_CHECK)
    assert check is not None
    assert (check.status, check.counts["equal"]) == ("finished", USERS)
    assert sum(check.counts.values()) == USERS
