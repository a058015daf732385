"""Both sides save at the same time, and the worker between them is killed again and again."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import update

from tests.legacy_folder import LegacyFolder, record
from tests.worker_process import StartWorker, until
from webapp.clock import now
from webapp.config import ROOT
from webapp.db import db, transaction
from webapp.legacy.keys import VALUE
from webapp.legacy.records import LegacyUser
from webapp.legacy.users_json import open_snapshot
from webapp.models import Run
from webapp.services import legacy_outbox, runs
from webapp.services.keys import save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db

pytestmark = [pytest.mark.durability, pytest.mark.timeout(180)]

USERS = 1_000
SECONDS = 6.0
KILLS = 4


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "predecessor")
    folder.users({f"user{number}": record() for number in range(USERS)})
    folder.rest()
    return folder


@pytest.fixture
def environ(environ: Mapping[str, str], folder: LegacyFolder) -> dict[str, str]:
    return {**environ, "LEGACY_DIR": str(folder.path), "LEGACY_MODE": "mirror"}


@pytest.fixture(autouse=True)
def _imported(app: Flask) -> Iterator[None]:
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        yield


@pytest.fixture
def predecessor(folder: LegacyFolder) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.predecessor_process", folder.path, folder.key, str(SECONDS)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        yield process
        process.kill()


def let_the_leases_run_out() -> None:
    over = now() - timedelta(seconds=1)
    with transaction() as session:
        session.execute(update(Run).where(Run.status == "running").values(lease_expires_at=over))


def is_drained() -> bool:
    db.session.rollback()
    waits = legacy_outbox.is_waiting()
    last = runs.latest(runs.LEGACY_MIRROR)
    db.session.rollback()
    return not waits and last is not None and last.finished_at is not None


def values(folder: LegacyFolder, name: str) -> dict[str, str]:
    with open_snapshot(folder.path) as snapshot:
        users = [account.user for account in snapshot.accounts()]
    assert len(users) == USERS
    return {
        user.username: user.keys[name].parts[VALUE]
        for user in users
        if isinstance(user, LegacyUser) and name in user.keys
    }


def test_no_save_of_either_side_is_lost(
    folder: LegacyFolder, start_worker: StartWorker, predecessor: "subprocess.Popen[str]"
) -> None:
    chance = random.Random(11)
    ours: dict[str, str] = {}
    worker = start_worker()
    kills = sorted(chance.uniform(1, SECONDS) for _ in range(KILLS))
    began = time.monotonic()
    number = 0
    while predecessor.poll() is None:
        number += 1
        username = f"user{chance.randrange(USERS)}"
        save_user_api_key(username, "ours", f"saved here {number}")
        ours[username] = f"saved here {number}"
        if kills and time.monotonic() - began > kills[0]:
            kills.pop(0)
            worker.kill_everything()
            let_the_leases_run_out()
            worker = start_worker()
        time.sleep(chance.random() / 20)
    assert predecessor.stdout is not None
    theirs = dict(line.rstrip("\n").split("\t") for line in predecessor.stdout)
    assert (predecessor.returncode, kills) == (0, [])
    assert len(theirs) > 10
    let_the_leases_run_out()
    # What a last rewrite of an old copy undid is found by the next look, and written again.
    until(lambda: is_drained() and values(folder, "ours") == ours, 60)
    assert values(folder, "theirs") == theirs
