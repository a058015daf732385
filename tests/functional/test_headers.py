"""Every answer has the headers that protect it, and only static files may be kept."""

import re
from typing import Any

import pytest
from flask import Flask
from werkzeug.datastructures import Headers

from tests.conftest import MakeSettings
from tests.deployment import PRODUCTION
from tests.people import add_person, browser, sign_in, signed_in
from tests.visitor import Visitor
from webapp import create_app
from webapp.config import ROOT
from webapp.db import UNREACHABLE, dispose_engines

HTMX = {"HX-Request": "true"}
STYLE = "/static/css/base.css"

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@pytest.fixture
def amira(app: Flask) -> Visitor:
    add_person(app)
    return signed_in(app)


def fail(app: Flask, error: Exception) -> None:
    """Let the page of the account fail."""

    def view() -> str:
        raise error

    app.view_functions["accounts.show"] = view


def all_sorts_of_answers(app: Flask, amira: Visitor) -> dict[str, Headers]:
    found: dict[str, Headers] = {}

    def keep(name: str, method: str, path: str, who: Visitor = amira, **more: Any) -> None:
        with who.open(path, method=method, **more) as answer:
            found[f"{answer.status_code} {name}"] = answer.headers

    keep("page", "GET", "/keys")
    keep("head", "HEAD", "/keys")
    keep("fragment", "GET", "/keys", headers=HTMX)
    keep("sign-in", "GET", "/login", browser(app))
    keep("redirect", "GET", "/keys", browser(app))
    keep("away", "POST", "/keys", browser(app), headers=HTMX)
    keep("token", "POST", "/keys")
    keep("admin", "GET", "/admin")
    keep("nowhere", "GET", "/nowhere")
    keep("nowhere", "GET", "/static/nowhere.css")
    keep("method", "PUT", "/keys")
    keep("method", "OPTIONS", "/keys")
    keep("health", "GET", "/healthz")
    keep("health", "GET", "/readyz")
    keep("static", "GET", STYLE)
    keep("static", "GET", STYLE, headers={"Range": "bytes=0-9"})
    keep("static", "GET", STYLE, headers={"If-None-Match": str(found["200 static"]["ETag"])})
    keep("refused", "POST", "/login", data={"csrf_token": amira.csrf_token("/keys")})
    keep("large", "POST", "/login", data={"username": "x" * 300_000})
    app.config["TESTING"] = False
    for error in (ZeroDivisionError(), UNREACHABLE[0]("", None, Exception())):
        fail(app, error)
        keep("failure", "GET", "/account")
        keep("failed fragment", "GET", "/account", headers=HTMX)
    return found


def test_every_answer_has_the_headers_that_protect_it(app: Flask, amira: Visitor) -> None:
    answers = all_sorts_of_answers(app, amira)
    assert {name[:3] for name in answers} == {
        *("200", "206", "302", "304"),
        *("400", "401", "403", "404", "405", "413", "422", "500", "503"),
    }
    for name, headers in answers.items():
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), name
        for part in ("form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"):
            assert part in policy, name
        assert "unsafe" not in policy, name
        assert headers["X-Content-Type-Options"] == "nosniff", name
        assert headers["X-Frame-Options"] == "DENY", name
        assert headers["Referrer-Policy"] == "same-origin", name
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", name
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin", name
        assert "Access-Control-Allow-Origin" not in headers, name
        assert "Server" not in headers, name
        assert re.fullmatch("[0-9a-f]{16}", headers["X-Request-Id"]), name


def test_only_static_files_may_be_kept(app: Flask, amira: Visitor) -> None:
    for name, headers in all_sorts_of_answers(app, amira).items():
        if name.endswith("static"):
            assert headers["Cache-Control"] == "public, max-age=3600", name
            assert "Vary" not in headers, name
            assert "Set-Cookie" not in headers, name
        else:
            assert headers["Cache-Control"] == "no-store", name
            assert "HX-Request" in headers["Vary"], name
            assert "Cookie" in headers["Vary"], name


def test_pages_name_the_content_of_their_files(client: Visitor) -> None:
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', client.get("/login").text)
    assert len(addresses) == 9
    for address in addresses:
        with client.get(address) as kept:
            assert kept.status_code == 200, address
            assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable", address
            path = address.partition("?")[0]
            assert kept.data == (ROOT / path.removeprefix("/")).read_bytes()
        with client.get(f"{path}?v=of-the-release-before") as other:
            assert other.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["", "css", "css/", "../wsgi.py", "%2e%2e/wsgi.py", "//etc/passwd"]
)
def test_a_folder_is_not_listed_and_nothing_outside_is_served(client: Visitor, path: str) -> None:
    with client.get(f"/static/{path}", follow_redirects=True) as answer:
        assert answer.status_code == 404
        assert answer.headers["Cache-Control"] == "no-store"


def test_over_https_the_browser_is_to_stay_there(make_settings: MakeSettings) -> None:
    app = create_app(make_settings(KEYSTAY_ENV="production", TRUSTED_PROXIES="1", **PRODUCTION))
    ask = app.test_client().get
    host = {"Host": "keys.example.com"}
    for path in ("/login", "/nowhere", STYLE, "/healthz"):
        with ask(path, headers={**host, "X-Forwarded-Proto": "https"}) as secure:
            assert "max-age=63072000" in secure.headers["Strict-Transport-Security"]
        with ask(path, headers=host) as insecure:
            assert "Strict-Transport-Security" not in insecure.headers
    dispose_engines(app)


def test_a_host_that_is_not_ours_gets_no_page(make_settings: MakeSettings) -> None:
    app = create_app(make_settings(KEYSTAY_ENV="production", **PRODUCTION))
    visitor = app.test_client()
    for host in ("evil.example", "keys.example.com.evil.example", "keys.example.com@evil", ""):
        for path in ("/", "/login", "/keys", "/nowhere"):
            answer = visitor.get(path, headers={"Host": host})
            assert answer.status_code == 400
            assert answer.mimetype == "text/plain"
            assert "Content-Security-Policy" in answer.headers
        assert visitor.post("/login", headers={"Host": host}).status_code == 400
    forwarded = {"Host": "keys.example.com", "X-Forwarded-Host": "evil.example"}
    answer = visitor.get("/keys", headers=forwarded)
    assert answer.location == "/login?next=/keys"
    dispose_engines(app)


@pytest.mark.parametrize(
    "path", ["//keys", "///keys", "/keys//openai/reveal", "//evil.example/keys"]
)
def test_an_address_with_too_many_slashes_leads_nowhere_else(client: Visitor, path: str) -> None:
    answer = client.get("/", environ_overrides={"PATH_INFO": path, "REQUEST_URI": path})
    assert answer.status_code in {302, 308, 404, 405}
    assert answer.location in {None, "/login?next=/keys", "http://localhost/keys/openai/reveal"}


COOKIES = ["", "x", "a.b.c", "eyJzaWQiOiJ4In0.aaaa.bbbb", "ä", "." * 4000, '"', "\x7f", "%00"]


@pytest.mark.parametrize("cookie", COOKIES)
def test_a_cookie_that_is_not_ours_is_nobody(app: Flask, client: Visitor, cookie: str) -> None:
    headers = {"Cookie": f"{app.config['SESSION_COOKIE_NAME']}={cookie}"}
    client = app.test_client(use_cookies=False)  # type: ignore[assignment]
    answer = client.get("/keys", headers=headers)
    assert (answer.status_code, answer.location) == (302, "/login?next=/keys")
    assert client.get("/login", headers=headers).status_code == 200
    assert client.get("/nowhere", headers=headers).status_code == 404


@pytest.mark.parametrize("held", [None, 1, [], {"a": 1}, "", "\ud800", "x" * 3000])
def test_a_session_that_holds_something_odd_is_nobody(
    app: Flask, client: Visitor, held: object
) -> None:
    add_person(app)
    with client.session_transaction() as session:
        session["sid"] = held
    assert client.get("/keys").location == "/login?next=/keys"
    assert sign_in(client).status_code == 303
    assert client.get("/keys").status_code == 200
