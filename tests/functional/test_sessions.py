"""Sessions on the server: what the cookie is, how they end, and the password given again."""

import threading
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import update

from tests.conftest import MakeSettings
from tests.deployment import PRODUCTION
from tests.people import (
    PASSWORD,
    TOTP,
    add_person,
    browser,
    code_at,
    cookie_of,
    events,
    is_signed_in,
    sessions,
    sign_in,
    signed_in,
)
from tests.visitor import Visitor
from webapp import create_app
from webapp.clock import frozen, now
from webapp.db import dispose_engines, transaction
from webapp.models import User
from webapp.services.admin import disable_account
from webapp.services.keys import save_user_api_key
from webapp.services.second_factor import start_enrolment
from webapp.services.sessions import MAX_SESSIONS, SessionEnded, digest_of, find, renew, touch

SECRET = "sk-proj-0123456789abcdef"


@pytest.fixture
def amira(app: Flask) -> Visitor:
    add_person(app)
    with app.app_context():
        save_user_api_key("amira", "openai", SECRET)
    return signed_in(app)


def cookie_header(answer_headers: list[str]) -> str:
    (header,) = [header for header in answer_headers if "keystay" in header]
    return header


def copied(app: Flask, visitor: Visitor, elsewhere: Flask | None = None) -> Visitor:
    """Return another browser with the same cookie, of `elsewhere` where that is given."""
    name = app.config["SESSION_COOKIE_NAME"]
    cookie = visitor.get_cookie(name)
    assert cookie is not None
    thief = browser(elsewhere or app)
    thief.set_cookie(name, cookie.value)
    return thief


def test_in_production_the_cookie_is_bound_to_the_host_and_hidden(
    make_settings: MakeSettings,
) -> None:
    app = create_app(make_settings(KEYSTAY_ENV="production", **PRODUCTION))
    answer = app.test_client().get("/login", base_url="https://keys.example.com")
    header = cookie_header(answer.headers.getlist("Set-Cookie"))
    assert header.startswith("__Host-keystay=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(header.split("; "))
    assert "Domain" not in header
    assert "Expires" not in header, "it ends with the browser"
    dispose_engines(app)


def test_in_production_one_signs_in_over_https(make_settings: MakeSettings) -> None:
    production = {**PRODUCTION, "TRUSTED_HOSTS": "localhost"}
    app = create_app(make_settings(KEYSTAY_ENV="production", **production))
    app.test_client_class = Visitor
    app.config["PREFERRED_URL_SCHEME"] = "https"
    add_person(app)
    same_site = {"Origin": "https://localhost", "Sec-Fetch-Site": "same-origin"}
    visitor = browser(app)
    assert sign_in(visitor, headers=same_site).status_code == 400, "without a Referer"
    page = {**same_site, "Referer": "https://localhost/login"}
    answer = sign_in(visitor, headers=page)
    assert answer.status_code == 303
    header = cookie_header(answer.headers.getlist("Set-Cookie"))
    assert header.startswith("__Host-keystay=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(header.split("; "))
    assert is_signed_in(visitor)
    assert "max-age=" in visitor.get("/keys").headers["Strict-Transport-Security"]
    visitor.post_form("/logout", page="/keys", headers=page)
    assert not is_signed_in(visitor)
    dispose_engines(app)


def test_the_database_holds_only_the_digest_of_the_id(app: Flask, amira: Visitor) -> None:
    held = cookie_of(app, amira)
    (session,) = sessions(app)
    (sid,) = [value for value in held.values() if digest_of(str(value)) == session.digest]
    assert len(sid) == 43, "256 random bits"
    assert set(held) <= {"sid", "csrf_token", "_flashes"}
    assert sid not in amira.get("/account").text


def test_signing_out_ends_it_on_the_server(app: Flask, amira: Visitor) -> None:
    thief = copied(app, amira)
    assert is_signed_in(thief)
    answer = amira.post_form("/logout", page="/keys")
    assert answer.status_code == 303
    assert answer.headers["Clear-Site-Data"] == '"cache", "storage"'
    assert not is_signed_in(thief)
    assert not is_signed_in(amira)
    assert sessions(app) == []
    assert [event.event for event in events(app, "logout")] == ["logout"]


def test_an_idle_session_ends(app: Flask, amira: Visitor) -> None:
    with frozen(now()) as set_clock:
        for _ in range(3):
            set_clock(now() + timedelta(minutes=59))
            assert is_signed_in(amira)
        set_clock(now() + timedelta(minutes=61))
        assert not is_signed_in(amira)


def test_a_session_in_use_ends_after_a_day(app: Flask, amira: Visitor) -> None:
    with frozen(now()) as set_clock:
        for _ in range(24):
            set_clock(now() + timedelta(minutes=59))
            assert is_signed_in(amira)
        set_clock(now() + timedelta(minutes=31))
        assert not is_signed_in(amira)


def test_a_disabled_account_is_out_at_once(app: Flask, amira: Visitor) -> None:
    add_person(app, "root", is_admin=True)
    with app.app_context():
        disable_account("amira")
    assert not is_signed_in(amira)
    assert sign_in(browser(app)).status_code == 422


def test_a_disabled_account_is_out_whoever_disabled_it(app: Flask, amira: Visitor) -> None:
    with app.app_context(), transaction() as session:
        session.execute(update(User).values(disabled_at=now()))
    assert len(sessions(app)) == 1
    assert not is_signed_in(amira)


def test_a_role_counts_from_the_next_request(app: Flask, amira: Visitor) -> None:
    assert amira.get("/admin").status_code == 403
    with app.app_context(), transaction() as session:
        session.execute(update(User).values(is_admin=True))
    assert amira.get("/admin").status_code == 200
    with app.app_context(), transaction() as session:
        session.execute(update(User).values(is_admin=False))
    assert amira.get("/admin").status_code == 403


def test_the_oldest_of_too_many_ends(app: Flask, amira: Visitor) -> None:
    others = [signed_in(app) for _ in range(MAX_SESSIONS)]
    assert not is_signed_in(amira)
    assert all(map(is_signed_in, others))
    assert len(sessions(app)) == MAX_SESSIONS


@pytest.mark.environ(SESSION_IDLE_MINUTES="1")
def test_a_short_idle_limit_does_not_end_a_session_in_use(app: Flask, amira: Visitor) -> None:
    with frozen(now()) as set_clock:
        for _ in range(3):
            set_clock(now() + timedelta(seconds=50))
            assert is_signed_in(amira)
        set_clock(now() + timedelta(seconds=61))
        assert not is_signed_in(amira)


def test_a_limit_that_is_lowered_holds_for_open_sessions(
    app: Flask, amira: Visitor, make_settings: MakeSettings
) -> None:
    lowered = create_app(make_settings(SESSION_MAX_HOURS="1"))
    lowered.test_client_class = app.test_client_class
    with frozen(now() + timedelta(minutes=59)):
        assert is_signed_in(copied(app, amira, lowered))
    with frozen(now() + timedelta(minutes=61)):
        assert not is_signed_in(copied(app, amira, lowered))
        assert is_signed_in(amira)
    dispose_engines(lowered)


def test_half_a_sign_in_does_not_wait_for_long(app: Flask, amira: Visitor) -> None:
    add_person(app, "ben", totp=TOTP)
    half = browser(app)
    sign_in(half, "ben")
    with frozen(now() + timedelta(minutes=9)):
        assert half.get("/login/verify").status_code == 200
    with frozen(now() + timedelta(minutes=11)):
        assert half.get("/login/verify").location.startswith("/login?")
        code = {"code": code_at(now())}
        assert half.post_form("/login/verify", code, page="/login").location.startswith("/login")
        assert not is_signed_in(half)


STEPS = ["the code", "the password again", "a second factor", "none of it"]


@pytest.mark.parametrize("step", STEPS)
def test_after_each_step_the_id_of_before_is_worth_nothing(app: Flask, step: str) -> None:
    has_factor = step in {"the code", "none of it"}
    user_id = add_person(app, totp=TOTP if has_factor else None)
    with frozen(now()) as set_clock:
        visitor = browser(app)
        sign_in(visitor)
        if step == "none of it":
            visitor.post_form("/login/verify", {"code": code_at(now())})
        thief, opened = copied(app, visitor), sessions(app)[0]
        set_clock(now() + timedelta(minutes=1))
        if step == "the code":
            answer = visitor.post_form("/login/verify", {"code": code_at(now())})
        elif step == "the password again":
            answer = visitor.post_form("/reauthenticate", {"password": PASSWORD})
        elif step == "a second factor":
            with app.app_context():
                secret = start_enrolment(user_id, "amira").secret
            answer = visitor.post_form("/account/totp", {"code": code_at(now(), secret=secret)})
        else:
            answer = visitor.post_form("/account/totp/disable", page="/account")
        assert answer.status_code == 303
        assert is_signed_in(visitor)
        assert thief.get("/keys").location.startswith("/login?")
        (renewed,) = sessions(app)
        assert renewed.digest != opened.digest
        assert renewed.created_at == opened.created_at, "the absolute limit stays where it was"


def test_a_form_of_before_a_step_is_worth_nothing_after_it(app: Flask) -> None:
    add_person(app)
    visitor = browser(app)
    token = visitor.csrf_token("/login")
    sign_in(visitor)
    form = {"csrf_token": token, "value": SECRET}
    answer = visitor.post("/keys/openai", data=form, headers={"Origin": "http://localhost"})
    assert answer.status_code == 400
    assert visitor.post_form("/keys/openai", {"value": SECRET}, page="/keys").status_code == 303


@pytest.mark.parametrize("act", ["touch", "renew"])
def test_a_request_in_flight_does_not_revive_a_session_that_ended(
    app: Flask, amira: Visitor, act: str
) -> None:
    sid = cookie_of(app, amira)["sid"]
    with app.app_context():
        before = find(sid)
        assert before is not None
        amira.post_form("/logout", page="/keys")
        if act == "touch":
            with frozen(now() + timedelta(minutes=5)):
                touch(before.session_digest, before.last_seen_at)
        else:
            with pytest.raises(SessionEnded):
                renew(sid, "full", authenticated=True)
    assert sessions(app) == []


def test_a_session_whose_time_is_over_is_not_renewed(app: Flask, amira: Visitor) -> None:
    sid = cookie_of(app, amira)["sid"]
    with app.app_context(), frozen(now() + timedelta(minutes=61)), pytest.raises(SessionEnded):
        renew(sid, authenticated=True)


def test_of_two_renewals_at_once_one_has_the_session(app: Flask, amira: Visitor) -> None:
    sid, outcomes = cookie_of(app, amira)["sid"], []
    ready = threading.Barrier(3)

    def run() -> None:
        with app.app_context():
            ready.wait()
            try:
                renew(sid, authenticated=True)
                outcomes.append("renewed")
            except SessionEnded:
                outcomes.append("ended")

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["ended", "ended", "renewed"]
    assert len(sessions(app)) == 1


@pytest.mark.parametrize("name", ["remember_token", "session", "_user_id"])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_cookies_of_other_applications_on_the_host_do_no_harm(amira: Visitor, name: str) -> None:
    amira.set_cookie(name, "1|0123456789abcdef")
    assert is_signed_in(amira)


@pytest.mark.parametrize("value", ["", "x", "a.b.c", "ä", "eyJzaWQiOiJ4In0.aaaa.bbbb", "x" * 4000])
def test_a_cookie_that_is_none_is_nobody(app: Flask, value: str) -> None:
    visitor = browser(app)
    visitor.set_cookie(app.config["SESSION_COOKIE_NAME"], value)
    assert visitor.get("/keys").location.startswith("/login")
    assert visitor.get("/login").status_code == 200


def test_a_session_that_ended_leads_back_to_where_one_was(app: Flask, amira: Visitor) -> None:
    thief = copied(app, amira)
    amira.post_form("/logout", page="/keys")
    assert thief.get("/account").location == "/login?next=/account"
    shown = {"HX-Request": "true", "HX-Current-URL": "http://localhost/keys"}
    fragment = thief.post("/keys/openai", headers=shown)
    assert fragment.status_code == 401
    assert fragment.headers["HX-Retarget"] == "#alerts", "what was typed stays on the page"
    assert "HX-Redirect" not in fragment.headers
    assert 'href="/login?next=/keys"' in fragment.text


def test_nothing_behind_the_sign_in_is_kept_by_a_cache(app: Flask, amira: Visitor) -> None:
    for path in ("/keys", "/account", "/account/totp", "/reauthenticate", "/admin"):
        assert amira.get(path).headers["Cache-Control"] == "no-store", path


@pytest.mark.parametrize("fragment", [False, True])
def test_the_password_is_asked_for_again_and_the_act_goes_on(
    app: Flask, amira: Visitor, fragment: bool
) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://localhost/keys"} if fragment else {}
    before = cookie_of(app, amira)
    with frozen(now() + timedelta(minutes=11)):
        asked = amira.post_form("/keys/openai/reveal", page="/keys", headers=headers)
        assert asked.status_code == 403
        assert 'name="password"' in asked.text
        assert ("<html" in asked.text) is not fragment
        wrong = amira.post_form("/reauthenticate", {"password": "not it"}, headers=headers)
        assert wrong.status_code == 422
        assert "The password is wrong." in wrong.text
        right = amira.post_form(
            "/reauthenticate", {"password": PASSWORD, "next": "/keys"}, headers=headers
        )
        assert right.status_code in {200, 303}
        assert cookie_of(app, amira) != before, "the session has a new id"
        shown = amira.post_form("/keys/openai/reveal", page="/keys", headers=headers)
        assert SECRET in shown.text
    assert [event.event for event in events(app, "reauthentication")] == [
        "reauthentication.failed",
        "reauthentication.succeeded",
    ]


def test_giving_the_password_again_shares_the_budget_of_signing_in(
    app: Flask, amira: Visitor
) -> None:
    for _ in range(5):
        amira.post_form("/reauthenticate", {"password": "not it"})
    answer = amira.post_form("/reauthenticate", {"password": PASSWORD})
    assert answer.status_code == 429
    assert sign_in(browser(app)).status_code == 429


@pytest.mark.parametrize(
    "place", ["//evil", "/\\evil", "/%09/evil", "https:evil", "/x\r\nSet-X: 1"]
)
def test_giving_the_password_again_leads_to_no_other_site(
    app: Flask, amira: Visitor, place: str
) -> None:
    answer = amira.post_form("/reauthenticate", {"password": PASSWORD, "next": place})
    assert answer.status_code == 303
    assert answer.location == "/keys"
