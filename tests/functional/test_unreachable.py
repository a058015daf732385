"""A database that is away, damaged or not migrated: nothing looks as if there were no keys."""

import logging
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from flask import Flask
from sqlalchemy import text

from tests.conftest import MakeSettings
from tests.people import add_person, browser, signed_in
from tests.visitor import Visitor
from webapp import create_app
from webapp.db import db, dispose_engines, transaction
from webapp.services.keys import save_user_api_key

HTMX = {"HX-Request": "true"}
SECRET = "sk-proj-0123456789abcdef"
PAGES = ("/keys", "/account", "/account/totp", "/admin", "/admin/users", "/admin/runs/1", "/")


@pytest.fixture
def amira(app: Flask) -> Visitor:
    add_person(app, is_admin=True)
    with app.app_context():
        save_user_api_key("amira", "openai", SECRET)
    return signed_in(app)


def _refuse_connections(app: Flask, _: Path) -> None:
    """End every connection to the database of PostgreSQL and let nobody connect again."""
    with app.app_context():
        url = db.engine.url
    with psycopg.connect(
        host=str(url.query["host"]), user=url.username, dbname="postgres", autocommit=True
    ) as server:
        server.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false")
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        server.execute(ended, (url.database,))


def _replace_file(by: Callable[[Path], object]) -> Callable[[Flask, Path], None]:
    def replace(app: Flask, folder: Path) -> None:
        dispose_engines(app)  # a process keeps the file that it has open
        for file in folder.glob("keystay.db*"):
            file.unlink()
        by(folder / "keystay.db")

    return replace


WAYS: dict[str, Callable[[Flask, Path], None]] = {
    "away": _refuse_connections,
    "folder": _replace_file(Path.mkdir),
    "garbage": _replace_file(lambda path: path.write_bytes(b"this is no database" * 999)),
    "gone": _replace_file(lambda path: None),  # SQLite makes an empty one
}
each_way = pytest.mark.parametrize(
    ("database_kind", "way"),
    [("postgresql", "away"), ("sqlite", "folder"), ("sqlite", "garbage"), ("sqlite", "gone")],
    indirect=["database_kind"],
)


@each_way
def test_every_page_says_that_the_keys_are_not_gone(
    app: Flask, amira: Visitor, way: str, tmp_path: Path
) -> None:
    token = amira.csrf_token("/keys")
    WAYS[way](app, tmp_path)
    save = {"csrf_token": token, "value": "another value"}
    for headers in ({}, HTMX):
        same = {"Origin": "http://localhost", **headers}
        answers = [amira.get(path, headers=headers) for path in PAGES]
        answers.append(amira.post("/keys/openai", data=save, headers=same))
        answers.append(amira.post("/keys/openai/reveal", data=save, headers=same))
        for answer in answers:
            assert answer.status_code == 503, answer.request.path
            assert "not gone" in answer.text, answer.request.path
            assert "data-key" not in answer.text
            assert "another value" not in answer.text
            assert answer.headers["X-Request-Id"] in answer.text
            assert answer.text.count("<h1") == (0 if headers else 1)


@each_way
def test_health_says_so_too(app: Flask, amira: Visitor, way: str, tmp_path: Path) -> None:
    WAYS[way](app, tmp_path)
    ready = amira.get("/readyz")
    assert ready.status_code == 503
    assert ready.json is not None
    assert ready.json["problems"] == ["migrations" if way == "gone" else "database"]
    assert str(tmp_path) not in ready.text
    assert amira.get("/healthz").status_code == 200


@each_way
def test_nobody_can_sign_in_and_the_form_stays(
    app: Flask, client: Visitor, way: str, tmp_path: Path
) -> None:
    token = client.csrf_token("/login")
    WAYS[way](app, tmp_path)
    form = {"csrf_token": token, "username": "amira", "password": "tidal marble 9 onions"}
    refused = client.post("/login", data=form, headers={"Origin": "http://localhost", **HTMX})
    assert refused.status_code == 503
    assert "tidal marble" not in refused.text
    assert client.get("/login").status_code == 200


@each_way
def test_a_form_without_a_token_is_no_bug_of_ours(
    app: Flask, client: Visitor, way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is audited, and that needs the database; the path may hold a one-time token."""
    app.config["TESTING"] = False
    WAYS[way](app, tmp_path)
    for headers in ({}, {"Origin": "https://evil.example"}):
        assert client.post("/setup/one-time-token", headers=headers).status_code == 503
    assert "one-time-token" not in caplog.text
    assert "unexpected" not in caplog.text


def test_a_database_without_its_tables_is_not_taken_for_an_empty_one(
    make_settings: MakeSettings, empty_database_url: str
) -> None:
    app = create_app(make_settings(DATABASE_URL=empty_database_url))
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    visitor = browser(app)
    form = {"csrf_token": visitor.csrf_token("/login"), "username": "amira", "password": "x"}
    assert visitor.post("/login", data=form).status_code == 503
    with visitor.session_transaction() as session:
        session["sid"] = "of a session before"
    for path in PAGES:
        answer = visitor.get(path)
        assert answer.status_code == 503, path
        assert "not gone" in answer.text
    dispose_engines(app)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_database_that_became_a_replica_still_reads(app: Flask, amira: Visitor) -> None:
    with app.app_context(), transaction() as session:
        name = db.engine.url.database
        session.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    dispose_engines(app)
    assert 'data-key="openai" data-state="saved"' in amira.get("/keys").text
    saved = amira.post_form("/keys/openai", {"value": "another value"}, page="/keys")
    assert saved.status_code == 503
    assert "not gone" in saved.text


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_bug_is_still_a_bug(app: Flask, amira: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    """What a statement did wrong is not blamed on the database."""
    with app.app_context(), transaction() as session:
        session.execute(
            text("ALTER TABLE audit_events ADD CONSTRAINT never CHECK (id < 0) NOT VALID")
        )
    answer = amira.post_form("/keys/openai", {"value": "another value"}, page="/keys")
    assert answer.status_code == 500
    assert "another value" not in caplog.text
    assert [one.levelno for one in caplog.records if one.levelno >= logging.ERROR]
