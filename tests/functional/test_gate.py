"""Default deny: every route is listed here with whom it lets in, and lets nobody else in."""

from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from flask import Flask

from tests.people import TOTP, add_person, browser, events, sign_in, signed_in
from tests.visitor import Visitor
from webapp.clock import frozen, now

# Everybody; who owes the code; who must enrol; who is signed in; admins.
PUBLIC, HALF, ENROL, USER, ADMIN = "public", "half", "enrol", "user", "admin"
ROUTES = {
    ("GET", "/static/<path:filename>"): PUBLIC,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/"): PUBLIC,
    ("GET", "/setup/<token>"): PUBLIC,
    ("POST", "/setup/<token>"): PUBLIC,
    ("GET", "/signup"): PUBLIC,
    ("POST", "/signup"): PUBLIC,
    ("GET", "/login"): PUBLIC,
    ("POST", "/login"): PUBLIC,
    ("POST", "/logout"): PUBLIC,
    ("GET", "/login/verify"): HALF,
    ("POST", "/login/verify"): HALF,
    ("GET", "/reauthenticate"): ENROL,
    ("POST", "/reauthenticate"): ENROL,
    ("GET", "/account/totp"): ENROL,
    ("POST", "/account/totp"): ENROL,
    ("POST", "/account/totp/disable"): USER,
    ("GET", "/account"): USER,
    ("GET", "/keys"): USER,
    ("POST", "/keys"): USER,
    ("POST", "/keys/<name>"): USER,
    ("POST", "/keys/<name>/reveal"): USER,
    ("POST", "/keys/<name>/delete"): USER,
    ("GET", "/admin"): ADMIN,
    ("GET", "/admin/users"): ADMIN,
    ("GET", "/admin/runs"): ADMIN,
    ("GET", "/admin/runs/<int:run_id>"): ADMIN,
    ("GET", "/admin/consistency"): ADMIN,
    ("POST", "/admin/runs/<int:run_id>/undo"): ADMIN,
    ("GET", "/admin/legacy"): ADMIN,
    ("POST", "/admin/legacy/repair/preview"): ADMIN,
    ("GET", "/admin/legacy/repair/preview"): ADMIN,
    ("POST", "/admin/legacy/repair"): ADMIN,
    ("GET", "/admin/legacy/cutover"): ADMIN,
    ("POST", "/admin/legacy/cutover"): ADMIN,
    ("POST", "/admin/import"): ADMIN,
    ("POST", "/admin/check"): ADMIN,
}
_VALUES = {
    "<path:filename>": "favicon.svg",
    "<token>": "x",
    "<name>": "openai",
    "<int:run_id>": "1",
}
AWAY = {
    "anonymous": "/login",
    "half": "/login/verify",
    "enrol": "/account/totp",
    "user": "/keys",
    "admin": "/keys",
}
"""Where each is sent who asks for what is not for them."""
REACHES = {
    "anonymous": {PUBLIC},
    "half": {PUBLIC, HALF},
    "enrol": {PUBLIC, ENROL},
    "user": {PUBLIC, ENROL, USER},
    "admin": {PUBLIC, ENROL, USER, ADMIN},
}


def path_of(rule: str) -> str:
    for placeholder, value in _VALUES.items():
        rule = rule.replace(placeholder, value)
    return rule


@pytest.fixture
def visitor(request: pytest.FixtureRequest, app: Flask) -> Visitor:
    """Somebody of each sort."""
    sort: str = request.param
    if sort == "half":
        add_person(app, totp=TOTP)
        visitor = browser(app)
        sign_in(visitor)
        return visitor
    if sort == "anonymous":
        return browser(app)
    add_person(app, is_admin=sort in {"admin", "enrol"})
    if sort == "enrol":
        visitor = browser(app)
        assert sign_in(visitor).location == "/account/totp"
        return visitor
    return signed_in(app)


def test_every_route_is_listed_and_every_listed_one_exists(app: Flask) -> None:
    found = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }
    assert found == set(ROUTES)


sorts = [
    pytest.param(
        sort,
        sort,
        marks=[pytest.mark.environ(REQUIRE_TWO_FACTOR="admins")] if sort == "enrol" else [],
        id=sort,
    )
    for sort in REACHES
]


@pytest.mark.parametrize(("visitor", "sort"), sorts, indirect=["visitor"])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_who_reaches_what(visitor: Visitor, sort: str) -> None:
    for (method, rule), access in ROUTES.items():
        if rule in {"/", "/login", "/logout"}:
            continue  # they send people elsewhere, or end the session that is tested
        answer = visitor.open(
            path_of(rule),
            method=method,
            data={"csrf_token": visitor.csrf_token("/login", "/")} if method == "POST" else None,
            headers={"Origin": "http://localhost"},
        )
        place = urlsplit(answer.location or "").path
        for_admins = answer.status_code == 403 and "Only admins" in answer.text
        case = (method, rule, answer.status_code, place)
        if access in REACHES[sort]:
            assert not for_admins, case
            assert place in {"", "/keys", "/account", "/admin/legacy"}, case
        else:
            assert for_admins or place == AWAY[sort], case
        answer.close()
        if method == "GET":
            head = visitor.head(path_of(rule))
            assert (head.status_code, head.data) == (answer.status_code, b""), case
            head.close()


def test_a_refused_admin_page_is_audited(app: Flask) -> None:
    add_person(app)
    signed_in(app).get("/admin/users")
    (event,) = events(app, "security.access_denied")
    assert event.detail == {"endpoint": "admin.users"}


POSTS = sorted(rule for method, rule in ROUTES if method == "POST")


@pytest.mark.parametrize("rule", POSTS)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_every_form_needs_its_token(app: Flask, rule: str) -> None:
    add_person(app, is_admin=True)
    visitor = signed_in(app)
    if ROUTES["POST", rule] == HALF:
        add_person(app, "ben", totp=TOTP)
        visitor = browser(app)
        sign_in(visitor, "ben")
    for data in ({}, {"csrf_token": "forged"}):
        answer = visitor.post(path_of(rule), data=data, headers={"Origin": "http://localhost"})
        assert answer.status_code == 400, rule
        assert "out of date" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_cannot_send_a_form(app: Flask, headers: dict[str, str]) -> None:
    add_person(app)
    visitor = signed_in(app)
    token = visitor.csrf_token("/keys")
    answer = visitor.post(
        "/keys/openai", data={"csrf_token": token, "value": "x" * 20}, headers=headers
    )
    assert answer.status_code == 403
    assert 'data-key="openai" data-state="missing"' in visitor.get("/keys").text
    assert len(events(app, "security.cross_site_rejected")) == 1


def test_refused_forms_do_not_fill_the_audit_trail(app: Flask, client: Visitor) -> None:
    """They cost a stranger nothing, and rows are kept."""
    names = ("security.csrf_rejected", "security.cross_site_rejected")
    for _ in range(5):
        client.post("/login")
        client.post("/login", headers={"Origin": "https://evil.example"})
    assert [len(events(app, name)) for name in names] == [1, 1]
    assert events(app, names[0])[0].detail == {"endpoint": "login.sign_in"}
    client.post("/login", environ_base={"REMOTE_ADDR": "198.51.100.7"})
    assert [len(events(app, name)) for name in names] == [2, 1]
    with frozen(now() + timedelta(minutes=2)):
        client.post("/login")
    assert [len(events(app, name)) for name in names] == [3, 1]


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"]
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_only_declared_methods_work(app: Flask, method: str) -> None:
    add_person(app, is_admin=True)
    for visitor in (browser(app), signed_in(app)):
        for rule in {rule for _, rule in ROUTES}:
            answer = visitor.open(path_of(rule), method=method)
            assert answer.status_code == 405, rule
            declared = {allowed for allowed, listed in ROUTES if listed == rule}
            head = {"HEAD"} if "GET" in declared else set()
            assert set(answer.headers["Allow"].split(", ")) == declared | head


def is_write(statement: str) -> bool:
    return statement.split(maxsplit=1)[0] in {"INSERT", "UPDATE", "DELETE"}


def test_reading_changes_nothing(app: Flask, statements: list[str]) -> None:
    add_person(app, is_admin=True)
    visitor = signed_in(app)
    for method, rule in ROUTES:
        if method == "GET" and rule != "/account/totp":  # that one makes the secret that it shows
            visitor.get(path_of(rule)).close()
            statements.clear()
            visitor.get(path_of(rule)).close()
            assert not any(map(is_write, statements)), rule
