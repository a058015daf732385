"""PostgreSQL is stopped and started while Keystay runs: everything goes on by itself."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from flask_migrate import upgrade
from sqlalchemy import select, update

from tests import long_job
from tests.http_person import Answer, HttpPerson
from tests.servers import PostgresServer
from tests.stack import Stack
from tests.worker_process import until
from webapp.clock import now
from webapp.db import db, dispose_engines, transaction
from webapp.models import LoginAttempt, Run
from webapp.services import runs
from webapp.services.accounts import create_account
from webapp.services.keys import get_user_api_keys

pytestmark = pytest.mark.durability

PASSWORD = "a long word that nobody guesses"
DATABASE = "keystay"


@pytest.fixture
def stack(tmp_path: Path, own_postgres: PostgresServer) -> Iterator[Stack]:
    with Stack(tmp_path, own_postgres.create(DATABASE)) as stack:
        with stack.app.app_context():
            upgrade()
            create_account("alice", PASSWORD)
        yield stack.start_web().start_worker(["-m", "tests.long_job"])


@pytest.fixture
def alice(stack: Stack) -> HttpPerson:
    return HttpPerson(stack.port).sign_in("alice", PASSWORD)


@pytest.fixture
def long_run(stack: Stack) -> int:
    """A run that is under way."""
    with stack.app.app_context():
        run_id = runs.start(long_job.KIND).id
    until(lambda: run(stack, run_id).cursor >= 3 * long_job.BATCH)
    return run_id


def run(stack: Stack, run_id: int) -> Run:
    with stack.app.app_context():
        return db.session.get_one(Run, run_id)


def let_the_lease_run_out(stack: Stack) -> None:
    with stack.app.app_context(), transaction() as session:
        session.execute(update(Run).values(lease_expires_at=now() - timedelta(seconds=1)))


def numbers_written(stack: Stack) -> list[int]:
    """Return what the long job has written."""
    subjects = select(LoginAttempt.subject).where(LoginAttempt.kind == "number")
    with stack.app.app_context():
        return [int.from_bytes(subject, "big") for subject in db.session.scalars(subjects)]


def assert_says_unavailable(answer: Answer) -> None:
    assert answer.status == 503
    assert "cannot be reached" in answer.text
    assert "data-state" not in answer.text, "it must not look as if there were no keys"


def test_everything_goes_on_by_itself(
    stack: Stack, own_postgres: PostgresServer, alice: HttpPerson, long_run: int
) -> None:
    assert stack.worker is not None
    assert alice.save("openai", "sk-before-the-database-went").version == 1
    processes = {stack.worker.pid, *(process.pid for process in stack.web_workers())}
    dispose_engines(stack.app)
    own_postgres.halt()

    for page in ("/keys", "/account"):
        assert_says_unavailable(alice.get(page))
    assert_says_unavailable(alice.post("/keys/openai", {"value": "sk-while-the-database-was-away"}))
    stranger = HttpPerson(stack.port)
    assert_says_unavailable(stranger.post("/login", {"username": "alice", "password": PASSWORD}))
    assert alice.get("/healthz").status == 200
    ready = alice.get("/readyz")
    assert (ready.status, json.loads(ready.text)["problems"]) == (503, ["database"])
    until(lambda: stack.worker and not stack.worker.horse())

    own_postgres.resume()
    assert 'data-key="openai" data-state="saved"' in alice.get("/keys").text
    assert alice.save("openai", "sk-after-it-came-back").version == 2
    own_postgres.disconnect_all(DATABASE)
    assert alice.save("openai", "sk-after-all-were-cut-off").version == 3
    with stack.app.app_context():
        assert dict(get_user_api_keys("alice")) == {"openai": "sk-after-all-were-cut-off"}
    assert {stack.worker.pid, *(process.pid for process in stack.web_workers())} == processes
    assert "sk-" not in stack.log()

    let_the_lease_run_out(stack)
    until(lambda: run(stack, long_run).finished_at, 60)
    found = run(stack, long_run)
    assert (found.status, found.error, found.cursor) == ("finished", None, long_job.TOTAL)
    assert found.lease_token == 2
    assert sorted(numbers_written(stack)) == list(range(long_job.TOTAL))
