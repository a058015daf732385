"""Every answer has its headers, and every failure a page of its own that gives nothing away."""

import io
import json
import logging

import pytest
from flask import Flask
from sqlalchemy import text

from tests.people import add_person, signed_in
from tests.visitor import Visitor
from webapp.db import transaction
from webapp.services.keys import save_user_api_key

HTMX = {"HX-Request": "true"}
SECRET = "sk-proj-0123456789abcdef"


@pytest.fixture
def amira(app: Flask) -> Visitor:
    add_person(app)
    with app.app_context():
        save_user_api_key("amira", "openai", SECRET)
    return signed_in(app)


def broken_function(*_: object, **__: object) -> None:
    raise ZeroDivisionError(f"a bug that quotes {SECRET}")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the page of the keys."""
    monkeypatch.setattr("webapp.blueprints.keys.list_keys", broken_function)


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "fragment"])
def test_each_failure_has_a_designed_answer(amira: Visitor, headers: dict[str, str]) -> None:
    token = amira.csrf_token("/keys")
    same = {"Origin": "http://localhost", **headers}
    form = {"csrf_token": token}
    answers = {
        400: amira.post("/keys/openai", data={"value": "x"}, headers=same),
        403: amira.get("/admin", headers=headers),
        404: amira.get("/nowhere", headers=headers),
        405: amira.get("/logout", headers=headers),
        413: amira.post("/keys/openai", data={**form, "value": "x" * 300_000}, headers=same),
        422: amira.post("/keys/openai", data={**form, "value": ""}, headers=same),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert ("<html" in answer.text) is not bool(headers), status
        if not headers:
            assert answer.text.count("<h1") == 1, status
        assert "Traceback" not in answer.text


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "fragment"])
@pytest.mark.usefixtures("broken")
def test_a_bug_shows_an_id_that_stands_in_the_log_and_nothing_else(
    app: Flask, amira: Visitor, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    app.config["TESTING"] = False
    answer = amira.get("/keys", headers=headers)
    assert answer.status_code == 500
    request_id = answer.headers["X-Request-Id"]
    assert request_id in answer.text
    for inside in ("ZeroDivisionError", "Traceback", SECRET, "list_keys", ".py"):
        assert inside not in answer.text
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert any(request_id in str(record.msg) for record in logged)
    assert any("ZeroDivisionError" in repr(record.msg) for record in logged)


@pytest.mark.parametrize("path", ["/nowhere", "/setup/a-one-time-token", "/login?next=/keys"])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_whatever_fails_and_be_it_the_page_for_failures_the_answer_is_ours(
    app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    app.config["TESTING"] = False
    for place in ("webapp.web.gate.access_of", "webapp.web.errors.render_for_nobody"):
        monkeypatch.setattr(place, broken_function)
    answer = app.test_client().get(path)
    assert answer.status_code == (404 if path == "/nowhere" else 500)
    assert answer.mimetype == "text/plain"
    assert "Content-Security-Policy" in answer.headers
    for inside in ("ZeroDivisionError", SECRET):
        assert inside not in answer.text
    request_id = answer.headers["X-Request-Id"]
    assert request_id in answer.text
    assert any(request_id in str(one.msg) for one in caplog.records if one.levelno >= logging.ERROR)
    assert "one-time-token" not in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        {"value": "a\x00b"},
        {"value": ["one", "two"]},
        {"value": "ok", "user_id": "2", "is_admin": "1"},
    ],
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_hostile_forms_are_refused_or_change_only_what_they_may(
    app: Flask, amira: Visitor, data: dict[str, object]
) -> None:
    answer = amira.post_form("/keys/slack", data, page="/keys")
    saved = data["value"] == "ok"
    assert answer.status_code == (303 if saved else 422)
    state = "saved" if saved else "missing"
    assert f'data-key="slack" data-state="{state}"' in amira.get("/keys").text
    assert amira.get("/admin").status_code == 403


@pytest.mark.parametrize("value", [b"%FF%FE", b"sk-%C3", b"%ED%A0%80", b"sk-%EF%BF%BDabc", b"\xff"])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_bytes_that_are_no_text_are_not_saved_as_something_else(
    amira: Visitor, value: bytes
) -> None:
    token = amira.csrf_token("/keys")
    answer = amira.post(
        "/keys/slack",
        data=b"csrf_token=" + token.encode() + b"&value=" + value,
        content_type="application/x-www-form-urlencoded",
        headers={"Origin": "http://localhost"},
    )
    assert answer.status_code in {400, 422}
    multipart = {"csrf_token": token, "value": (io.BytesIO(value), "")}
    answer = amira.post("/keys/slack", data=multipart, headers={"Origin": "http://localhost"})
    assert answer.status_code in {400, 422}
    assert 'data-key="slack" data-state="missing"' in amira.get("/keys").text


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_json_is_no_form(amira: Visitor) -> None:
    token = amira.csrf_token("/keys")
    answer = amira.post(
        "/keys/slack",
        data=json.dumps({"csrf_token": token, "value": "from json"}),
        content_type="application/json",
        headers={"Origin": "http://localhost"},
    )
    assert answer.status_code == 400
    header = {"Origin": "http://localhost", "X-CSRFToken": token}
    answer = amira.post("/keys/slack", json={"value": "from json"}, headers=header)
    assert answer.status_code == 422
    assert 'data-key="slack" data-state="missing"' in amira.get("/keys").text


@pytest.mark.parametrize("name", ["UPPER", "a b", "a%00b", "..", "%2e%2e", "a" * 65, "ä"])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_name_that_no_key_can_have_is_a_clear_4xx(amira: Visitor, name: str) -> None:
    for act in ("", "/reveal", "/delete"):
        answer = amira.post_form(f"/keys/{name}{act}", {"value": "x"}, page="/keys")
        assert 400 <= answer.status_code < 500


def test_a_failure_in_the_middle_of_a_save_leaves_the_stored_key(
    app: Flask, amira: Visitor
) -> None:
    with app.app_context(), transaction() as session:
        session.execute(text("ALTER TABLE audit_events RENAME TO audit_events_gone"))
    answer = amira.post_form("/keys/openai", {"value": "another value"}, page="/keys")
    assert answer.status_code in {500, 503}
    with app.app_context(), transaction() as session:
        session.execute(text("ALTER TABLE audit_events_gone RENAME TO audit_events"))
    assert SECRET in amira.post_form("/keys/openai/reveal", page="/keys").text
