"""Hostile input of the pages for people: a clear 4xx, and nothing has changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from urllib.parse import urlencode

import pytest
from flask import Flask
from sqlalchemy import func, select

from tests.people import (
    PASSWORD,
    TOTP,
    add_person,
    browser,
    code_at,
    events,
    is_signed_in,
    sign_in,
    signed_in,
    user,
)
from tests.visitor import Visitor
from webapp.clock import frozen, now
from webapp.db import db
from webapp.models import LoginAttempt, LoginSession, User
from webapp.services.second_factor import start_enrolment
from webapp.services.setup import setup_token

WITH_FIELDS = ["login", "verify", "signup", "setup", "enrol", "reauthenticate"]
FORMS = [*WITH_FIELDS, "disable", "logout"]
ORIGIN = {"Origin": "http://localhost"}


@dataclass(frozen=True)
class Form:
    """A form that works as it is: who sends it where, and what is in it, its token included."""

    visitor: Visitor
    path: str
    fields: Mapping[str, str]


@pytest.fixture
def form(request: pytest.FixtureRequest, app: Flask) -> Iterator[Form]:
    """The form of this name, in front of somebody who may send it."""
    kind: str = request.param
    with frozen(now()):
        visitor, path, fields = _at(app, kind)
        token = visitor.csrf_token(path, "/")
        yield Form(visitor, path, {"csrf_token": token, **fields})


def _at(app: Flask, kind: str) -> tuple[Visitor, str, dict[str, str]]:
    chosen = {"username": "zoe", "password": PASSWORD, "confirm": PASSWORD}
    if kind == "setup":
        with app.app_context():
            return browser(app), f"/setup/{setup_token()}", chosen
    user_id = add_person(app, totp=TOTP if kind in {"verify", "disable"} else None)
    if kind == "login":
        return browser(app), "/login", {"username": "amira", "password": PASSWORD}
    if kind == "signup":
        return browser(app), "/signup", {"name": "Zoe Q", **chosen}
    visitor = browser(app)
    sign_in(visitor)
    if kind == "verify":
        return visitor, "/login/verify", {"code": code_at(now())}
    if kind == "disable":
        visitor.post_form("/login/verify", {"code": code_at(now())})
        return visitor, "/account/totp/disable", {}
    if kind == "enrol":
        with app.app_context():
            secret = start_enrolment(user_id, "amira").secret
        return visitor, "/account/totp", {"code": code_at(now(), secret=secret)}
    path, fields = {
        "reauthenticate": ("/reauthenticate", {"password": PASSWORD}),
        "logout": ("/logout", {}),
    }[kind]
    return visitor, path, fields


def state(app: Flask) -> list[object]:
    """Return all that such a form could change."""
    with app.app_context():
        found: list[object] = [
            *db.session.execute(select(User.__table__).order_by(User.id)).all(),
            *db.session.execute(select(LoginSession.digest, LoginSession.stage)).all(),
            db.session.scalar(select(func.count()).select_from(LoginAttempt)),
        ]
    return found + [e.event for e in events(app) if not e.event.startswith("security.")]


def spoilt(form: Form) -> dict[str, tuple[bytes, str]]:
    """Return body and content type of the form in every way in which it should be refused."""
    fields, kind = dict(form.fields), "application/x-www-form-urlencoded"
    good = urlencode(fields).encode()
    bodies: dict[str, tuple[bytes, str]] = {
        "no UTF-8": (good + b"&further=%FF", kind),
        "bytes that are no UTF-8": (good + b"&further=\xff", kind),
        "too much": (good + b"&further=" + b"x" * 1_000_000, kind),
        "no token": (urlencode(fields | {"csrf_token": ""}).encode(), kind),
        "another's token": (urlencode(fields | {"csrf_token": "x" * 90}).encode(), kind),
        "JSON": (b'{"username": "zoe"}', "application/json"),
        "no form": (good, "text/plain"),
    }
    for name in fields.keys() - {"csrf_token"}:
        bodies |= {
            f"NUL in {name}": (urlencode(fields | {name: f"{fields[name]}\0"}).encode(), kind),
            f"{name} twice": (good + b"&" + urlencode({name: fields[name]}).encode(), kind),
            f"1 MB of {name}": (urlencode(fields | {name: "x" * 1_000_000}).encode(), kind),
            f"{name} not given": (urlencode({**fields, name: ""}).encode(), kind),
            f"only {name}": (urlencode({name: fields[name]}).encode(), kind),
        }
    bodies.pop("name not given", None)  # the username stands in for it
    return bodies


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_what_is_no_proper_form_is_refused_and_changes_nothing(app: Flask, form: Form) -> None:
    before = state(app)
    for what, (body, content_type) in spoilt(form).items():
        answer = form.visitor.post(form.path, data=body, content_type=content_type, headers=ORIGIN)
        assert 400 <= answer.status_code < 500, (what, answer.status_code)
        assert PASSWORD not in answer.text, what
        assert state(app) == before, what
    further = {"is_admin": "1", "role": "admin", "stage": "full", "user_id": "1", "totp": "off"}
    answer = form.visitor.post(form.path, data={**form.fields, **further}, headers=ORIGIN)
    assert answer.status_code == 303, "unspoilt it works, whatever else is in it"
    assert state(app) != before
    if form.path.startswith("/signup"):
        assert not user(app, "zoe").is_admin


@pytest.mark.parametrize("form", WITH_FIELDS, indirect=True)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_json_with_the_token_in_a_header_is_no_form_either(app: Flask, form: Form) -> None:
    before = state(app)
    headers = ORIGIN | {"X-CSRFToken": form.fields["csrf_token"]}
    answer = form.visitor.post(form.path, json=dict(form.fields), headers=headers)
    assert answer.status_code == 422
    assert state(app) == before


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_username_with_something_around_it_is_another_one(app: Flask, client: Visitor) -> None:
    add_person(app)
    for username in ("amira\n", "\namira", "ami\r\nra", " amira", "amira\u2028"):
        assert sign_in(client, username).status_code == 422, username
        form = {"username": username, "password": PASSWORD, "confirm": PASSWORD}
        assert client.post_form("/signup", form).status_code == 422, username
    assert not is_signed_in(client)


ELSEWHERE = [
    "//evil",
    "/\\evil",
    "/%09/evil",
    "/\t/evil",
    "https:evil",
    "/e\r\nSet-X: evil",
    "/%5Cevil",
]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_no_step_of_signing_in_leads_to_another_site(app: Flask) -> None:
    add_person(app, totp=TOTP)
    with frozen(now()) as set_clock:
        for target in ELSEWHERE:
            set_clock(now() + timedelta(minutes=1))
            visitor = browser(app)
            assert "evil" not in visitor.get("/login", query_string={"next": target}).text
            half = sign_in(visitor, data={"next": target})
            assert half.location == "/login/verify", target
            code = {"code": code_at(now()), "next": target}
            assert visitor.post_form("/login/verify", code).location == "/keys", target
            assert visitor.get("/login", query_string={"next": target}).location == "/keys"
            again = visitor.get("/reauthenticate", query_string={"next": target})
            assert "evil" not in again.text, target


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_an_address_in_any_script_is_one_that_a_header_can_hold(app: Flask) -> None:
    add_person(app)
    for headers in ({}, {"HX-Request": "true"}):
        answer = sign_in(browser(app), data={"next": "/ключ"}, headers=headers)
        place = answer.headers.get("HX-Redirect") or answer.location
        assert place == "/%D0%BA%D0%BB%D1%8E%D1%87"


NOT_ADDRESSES = [
    "http://[",
    "http://]",
    "http://a:b:c",
    "//",
    "http://localhost:x",
    "\xff",
    "null/",
]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_header_that_is_no_address_is_no_error(app: Flask) -> None:
    add_person(app)
    visitor, stranger = signed_in(app), browser(app)
    token = visitor.csrf_token("/keys")
    for text in NOT_ADDRESSES:
        answer = visitor.post("/keys/openai", data={"csrf_token": token}, headers={"Origin": text})
        assert answer.status_code == 403, text
        for name in ("Referer", "HX-Current-URL"):
            headers = {"Origin": "http://localhost", "HX-Request": "true", name: text}
            assert stranger.post("/keys/openai", headers=headers).status_code == 401, text
            assert stranger.get("/keys", headers=headers).status_code == 401, text


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_query_that_is_no_text_is_refused(app: Flask) -> None:
    add_person(app)
    visitor, raw = signed_in(app), {"QUERY_STRING": "next=\xff&saved=\xff&page=\xff"}
    for path in ("/login", "/signup", "/keys", "/account", "/reauthenticate", "/nowhere"):
        answer = visitor.get(path, environ_overrides=raw)
        assert answer.status_code == (404 if path == "/nowhere" else 400), path
        assert browser(app).get(path, environ_overrides=raw).status_code in {400, 404}, path


HOSTS = ["evil.example", "keys.example.com.evil.example", "evil.example:443", "a b", ""]
PAGES = ["/login", "/signup", "/setup/x", "/login/verify", "/reauthenticate", "/logout"]


@pytest.mark.environ(TRUSTED_HOSTS="keys.example.com")
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_forged_host_reaches_no_form(client: Visitor) -> None:
    for host, path, method in product(HOSTS, PAGES, ["GET", "POST"]):
        answer = client.open(path, method=method, headers={"Host": host})
        assert answer.status_code == 400, (host, path, method)
        assert not host or host not in answer.text
        assert "Location" not in answer.headers
        assert "Set-Cookie" not in answer.headers
    assert client.get("/login", headers={"Host": "keys.example.com"}).status_code == 200
