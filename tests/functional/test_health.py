"""What load balancers, service managers and people at night ask."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import text

from tests.conftest import MakeSettings
from tests.people import add_person, signed_in
from tests.visitor import Visitor
from webapp import create_app
from webapp.config import ROOT
from webapp.crypto.keyring import MasterKey
from webapp.db import dispose_engines, transaction
from webapp.services.keys import get_user_api_keys, save_user_api_key


class SilentRedis:
    """A Redis that takes connections and never answers."""

    def __init__(self, listening: socket.socket) -> None:
        self.url = f"redis://127.0.0.1:{listening.getsockname()[1]}"
        self.taken: list[socket.socket] = []
        self._listening = listening

    def take(self) -> None:
        with suppress(OSError):
            while True:
                self.taken.append(self._listening.accept()[0])


@pytest.fixture
def silent_redis() -> Iterator[SilentRedis]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        redis = SilentRedis(listening)
        thread = threading.Thread(target=redis.take, daemon=True)
        thread.start()
        yield redis
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in redis.taken:
            connection.close()


def ask(app: Flask, path: str = "/readyz") -> tuple[int, dict[str, object]]:
    answer = app.test_client().get(path)
    assert answer.json is not None
    return answer.status_code, answer.json


def test_all_is_well(client: Visitor) -> None:
    live, ready = client.get("/healthz"), client.get("/readyz")
    assert (live.status_code, live.json) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json) == (200, {"status": "ready"})
    assert client.head("/healthz").status_code == client.head("/readyz").status_code == 200


@pytest.mark.environ(TRUSTED_HOSTS="keys.example.com")
def test_probes_may_ask_by_address(client: Visitor) -> None:
    for path in ("/healthz", "/readyz"):
        assert client.get(path, headers={"Host": "10.1.2.3:8000"}).status_code == 200
    assert client.get("/login", headers={"Host": "10.1.2.3:8000"}).status_code == 400


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1:1", "unix:///nowhere/redis.sock"])
def test_without_redis_it_is_degraded_and_serves(make_settings: MakeSettings, url: str) -> None:
    app = create_app(make_settings(REDIS_URL=url))
    status, answer = ask(app)
    assert (status, answer["status"]) == (200, "degraded")
    dispose_engines(app)


@pytest.mark.parametrize("is_silent", [False, True], ids=["away", "silent"])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_without_redis_all_but_the_jobs_works(
    make_settings: MakeSettings, silent_redis: SilentRedis, tmp_path: Path, is_silent: bool
) -> None:
    url = silent_redis.url if is_silent else "redis://127.0.0.1:1"
    app = create_app(make_settings(REDIS_URL=url, LEGACY_DIR=str(tmp_path)))
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    add_person(app, is_admin=True)
    amira = signed_in(app)
    for page in ("/keys", "/account", "/admin/users", "/admin/runs", "/admin/legacy"):
        assert amira.get(page).status_code == 200
    for act, status in (("", 303), ("/reveal", 200), ("/delete", 303)):
        done = amira.post_form(f"/keys/openai{act}", {"value": "saved as ever"}, page="/keys")
        assert done.status_code == status
    assert silent_redis.taken == [], "what is no job has no business with the queue"
    asked = amira.post_form("/admin/import", page="/admin/legacy")
    assert asked.status_code == 303
    assert "Waiting" in amira.get(asked.location).text
    assert "(Redis) does not answer" in amira.get("/admin").text
    assert ask(app)[1]["status"] == "degraded"
    assert len(silent_redis.taken) == (3 if is_silent else 0), (
        "each asks once, for a second at most"
    )
    dispose_engines(app)


@pytest.mark.parametrize("revision", ["0000", "another", None])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_database_that_lacks_a_revision_is_unready(app: Flask, revision: str | None) -> None:
    with app.app_context(), transaction() as session:
        session.execute(
            text("UPDATE alembic_version SET version_num = :it"), {"it": revision or ""}
        )
        if revision is None:
            session.execute(text("DELETE FROM alembic_version"))
    status, answer = ask(app)
    assert (status, answer["status"], answer["problems"]) == (503, "unready", ["migrations"])


def test_the_next_release_may_migrate_before_this_one_is_replaced(app: Flask) -> None:
    """Otherwise every web host would leave the load balancer at the beginning of an update."""
    with app.app_context(), transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert ask(app) == (200, {"status": "ready"})


def test_revisions_are_numbered() -> None:
    files = [path.name for path in (ROOT / "migrations" / "versions").glob("*.py")]
    assert files
    assert [name for name in files if not re.match("[0-9]{4}_", name)] == []


def test_an_empty_database_is_unready(make_settings: MakeSettings, empty_database_url: str) -> None:
    app = create_app(make_settings(DATABASE_URL=empty_database_url))
    assert ask(app)[1]["problems"] == ["migrations"]
    assert app.test_client().get("/login").status_code in {200, 503}
    dispose_engines(app)


def test_another_master_key_is_unready_and_named(app: Flask, make_settings: MakeSettings) -> None:
    add_person(app)
    with app.app_context():
        save_user_api_key("amira", "openai", "sealed under k1")
    other = MasterKey.generate("k2")
    wrong = create_app(make_settings(MASTER_KEYS=str(other)))
    status, answer = ask(wrong)
    assert (status, answer["problems"]) == (503, ["master_keys"])
    assert "k1" in str(answer["detail"])
    assert str(other).partition(":")[2] not in str(answer)
    dispose_engines(wrong)
    with app.app_context():
        assert get_user_api_keys("amira")["openai"] == "sealed under k1"


def test_no_address_and_no_password_is_told(make_settings: MakeSettings, tmp_path: Path) -> None:
    away = f"postgresql://keystay:a-secret-word@127.0.0.1:1/db?connect_timeout=1&x={tmp_path.name}"
    app = create_app(make_settings(DATABASE_URL=away.partition("&")[0]))
    answer = app.test_client().get("/readyz")
    assert answer.status_code == 503
    assert "a-secret-word" not in answer.text
    assert "127.0.0.1" not in answer.text
    dispose_engines(app)


def test_asking_costs_little(app: Flask, client: Visitor, statements: list[str]) -> None:
    client.get("/readyz")
    statements.clear()
    client.get("/healthz")
    assert statements == []
    client.get("/readyz")
    assert len(statements) <= 6
