"""What load balancers, service managers and people at night ask."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import text

from tests.conftest import MakeSettings
from tests.people import add_person, signed_in
from tests.visitor import Visitor
from webapp import create_app
from webapp.crypto.keyring import MasterKey
from webapp.db import dispose_engines, transaction
from webapp.services.keys import get_user_api_keys, save_user_api_key


@pytest.fixture
def silent_redis() -> Iterator[str]:
    """A Redis that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
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


def test_a_redis_that_hangs_does_not_hang_the_pages(
    make_settings: MakeSettings, silent_redis: str, tmp_path: Path
) -> None:
    app = create_app(make_settings(REDIS_URL=silent_redis, LEGACY_DIR=str(tmp_path)))
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    assert ask(app)[1]["status"] == "degraded"
    add_person(app, "root", is_admin=True)
    visitor = signed_in(app, "root")
    saved = visitor.post_form("/keys/openai", {"value": "saved all the same"}, page="/keys")
    assert saved.status_code == 303
    asked = visitor.post_form("/admin/import", page="/admin")
    assert asked.status_code == 303
    assert "Waiting" in visitor.get(asked.location).text
    dispose_engines(app)


def test_a_database_at_another_revision_is_unready(app: Flask) -> None:
    with app.app_context(), transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    status, answer = ask(app)
    assert (status, answer["status"], answer["problems"]) == (503, "unready", ["migrations"])


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
