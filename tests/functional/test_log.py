"""The log: one line of JSON for each request, with an id, and nothing secret whatever happens."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from tests.people import PASSWORD, TOTP, add_person, browser, code_at, sign_in
from webapp import log
from webapp.clock import now
from webapp.db import transaction
from webapp.services.actor import NOBODY, current_actor
from webapp.services.setup import setup_token

SECRET = "sk-proj-0123456789abcdef"
OTHER = "another-secret-value-4711"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the application writes as JSON."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    log.configure("json")
    (handler,) = [
        h for h in root.handlers if h not in before and isinstance(h, logging.StreamHandler)
    ]
    stream = io.StringIO()
    handler.setStream(stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def parsed(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_a_request_is_one_line(app: Flask, lines: io.StringIO) -> None:
    answer = app.test_client().get("/login?next=/keys&token=in-the-query")
    (line,) = [line for line in parsed(lines) if line["logger"] == "keystay.request"]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/login", 200)
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert line["timestamp"].endswith("Z")
    assert line["level"] == "info"
    assert line["milliseconds"] >= 0
    assert "in-the-query" not in lines.getvalue()


def test_a_line_says_who_asked_and_from_where(app: Flask, lines: io.StringIO) -> None:
    number = add_person(app)
    visitor = browser(app)
    visitor.get("/login")
    sign_in(visitor)
    visitor.get("/keys", environ_base={"REMOTE_ADDR": "198.51.100.7"})
    requests = [line for line in parsed(lines) if line["event"] == "request"]
    assert (requests[0]["user_id"], requests[0]["address"]) == (None, "127.0.0.1")
    assert (requests[-1]["user_id"], requests[-1]["address"]) == (number, "198.51.100.7")
    assert "amira" not in lines.getvalue()


def test_what_comes_after_a_request_is_not_taken_for_a_part_of_it(
    app: Flask, lines: io.StringIO
) -> None:
    app.test_client().get("/login")
    logging.getLogger("gunicorn.error").info("about the next connection")
    assert "request_id" not in parsed(lines)[-1]
    assert current_actor() == NOBODY


def test_ids_are_our_own_and_differ(app: Flask) -> None:
    client = app.test_client()
    ids = {
        client.get("/login", headers={"X-Request-Id": "forged"}).headers["X-Request-Id"]
        for _ in range(5)
    }
    assert len(ids) == 5
    assert "forged" not in ids


def test_a_name_with_line_breaks_stays_one_line(app: Flask, lines: io.StringIO) -> None:
    visitor = browser(app)
    sign_in(visitor, 'x\n{"event": "forged", "level": "error"}\r\n', "guess")
    visitor.get("/nowhere%0A%7B%22event%22:%22forged%22%7D")
    assert "forged" not in [line["event"] for line in parsed(lines)]


def test_health_checks_and_static_files_are_not_logged(app: Flask, lines: io.StringIO) -> None:
    client = app.test_client()
    for path in ("/healthz", "/readyz", "/static/favicon.svg"):
        client.get(path).close()
    assert parsed(lines) == []


def test_libraries_log_in_the_same_form(lines: io.StringIO) -> None:
    logging.getLogger("some.library").warning("a message with %s", "an argument")
    (line,) = parsed(lines)
    assert (line["event"], line["logger"], line["level"]) == (
        "a message with an argument",
        "some.library",
        "warning",
    )


def test_nothing_secret_is_written_whatever_happens(
    app: Flask, lines: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app.config["TESTING"] = False
    with app.app_context():
        link = f"/setup/{setup_token()}"
    setup = {"username": "root", "password": PASSWORD, "confirm": PASSWORD}
    browser(app).post_form(link, setup)
    add_person(app, totp=TOTP)
    visitor = browser(app)
    sign_in(visitor, "amira", "a wrong password 77")
    sign_in(visitor)
    code = code_at(now())
    visitor.post_form("/login/verify", {"code": code})
    visitor.post_form("/keys/openai", {"value": SECRET}, page="/keys")
    visitor.post_form("/keys/openai", {"value": f"{OTHER}***"}, page="/keys")
    visitor.post_form("/keys/smtp", {"host": OTHER, "password": OTHER}, page="/keys")
    assert SECRET in visitor.post_form("/keys/openai/reveal", page="/keys").text
    visitor.post_form("/keys", {"name": OTHER.upper(), "value": OTHER}, page="/keys")
    visitor.get(f"/keys?value={OTHER}")
    form = {"csrf_token": visitor.csrf_token("/keys"), "value": OTHER}
    with app.app_context(), transaction() as session:
        session.execute(text("ALTER TABLE api_key_versions RENAME TO gone"))
    failed = visitor.post("/keys/openai", data=form, headers={"Origin": "http://localhost"})
    assert failed.status_code >= 500
    written = lines.getvalue() + caplog.text
    assert "unexpected error" in written or "database unreachable" in written
    cookie = visitor.get_cookie(app.config["SESSION_COOKIE_NAME"])
    assert cookie is not None
    secrets = (SECRET, OTHER, PASSWORD, "a wrong password 77", TOTP, code, link, cookie.value)
    for secret in (*secrets, app.config["SECRET_KEY"]):
        assert secret not in written
