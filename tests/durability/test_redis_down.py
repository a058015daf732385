"""Redis goes away, or forgets everything, while Keystay runs: nothing but jobs waits for it."""

import json
from contextlib import suppress

import psutil
import pytest
import redis

from tests.durability.conftest import StartStack
from tests.http_person import HttpPerson
from tests.stack import LEGACY_SAMPLE, Stack
from tests.worker_process import until
from webapp.db import db
from webapp.models import Run
from webapp.services import runs
from webapp.services.keys import get_user_api_keys

pytestmark = pytest.mark.durability

VALUE = "sk-saved-while-redis-was-down"


def ask_for_import(person: HttpPerson) -> int:
    answer = person.post("/admin/import")
    assert answer.status == 303
    return int(answer.location.rpartition("/")[2])


def status(stack: Stack, run_id: int) -> str:
    with stack.app.app_context():
        return db.session.get_one(Run, run_id).status


def wait_until_finished(stack: Stack, run_id: int) -> None:
    until(lambda: status(stack, run_id) not in {"pending", "running"}, 40)
    assert status(stack, run_id) == "finished"


def readiness(person: HttpPerson) -> tuple[int, str]:
    answer = person.get("/readyz")
    return answer.status, json.loads(answer.text)["status"]


def test_only_jobs_wait_for_redis_and_none_is_lost_with_it(start_stack: StartStack) -> None:
    stack = start_stack(legacy=LEGACY_SAMPLE).start_web().start_worker()
    stack.wait_for_run(runs.LEGACY_IMPORT)
    amira = HttpPerson(stack.port).sign_in("amira", "correct-horse-7")

    stack.kill_redis()
    for page in ("/keys", "/account", "/admin", "/admin/runs"):
        assert amira.get(page).status == 200
    assert amira.save("openai", VALUE).version == 2
    assert readiness(amira) == (200, "degraded")
    waiting = ask_for_import(amira)
    assert 'data-status="pending"' in amira.get(f"/admin/runs/{waiting}").text
    stack.start_redis()
    wait_until_finished(stack, waiting)
    assert readiness(amira) == (200, "ready")
    with stack.app.app_context():
        assert get_user_api_keys("amira")["openai"] == VALUE

    stack.wait_for_run(runs.CONSISTENCY_CHECK)  # nobody is in the middle of a write then
    assert stack.worker is not None
    asleep = [psutil.Process(stack.worker.pid), *stack.worker.children()]
    for process in asleep:
        with suppress(psutil.NoSuchProcess):  # the process of the job that has just ended
            process.suspend()
    forgotten = ask_for_import(amira)
    with redis.Redis.from_url(stack.redis.url) as client:
        assert client.exists(f"rq:job:run-{forgotten}-0")
        client.flushall()
    assert status(stack, forgotten) == "pending"
    for process in asleep:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    wait_until_finished(stack, forgotten)
