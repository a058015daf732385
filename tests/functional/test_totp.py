"""The second factor: setting it up, being asked for it, and a code that works once."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import segno
from _pytest.mark import ParameterSet
from flask import Flask
from sqlalchemy import delete, update

from tests.conftest import MakeSettings
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
    user,
)
from tests.visitor import Visitor
from webapp import create_app
from webapp.clock import frozen, now
from webapp.db import db, dispose_engines, transaction
from webapp.models import DataKey, KeyringCheck
from webapp.services import login
from webapp.services.admin import disable_account
from webapp.services.errors import ServiceError
from webapp.services.login import WrongCode
from webapp.services.sessions import SessionEnded


@pytest.fixture
def amira(app: Flask) -> Iterator[Visitor]:
    """Half signed in, at a stopped clock: the password was right, the code is owed."""
    add_person(app, totp=TOTP)
    with frozen(now()):
        visitor = browser(app)
        assert sign_in(visitor).location == "/login/verify"
        yield visitor


def verify(visitor: Visitor, code: str) -> int:
    return visitor.post_form("/login/verify", {"code": code}).status_code


def half_signed_in(app: Flask) -> Visitor:
    visitor = browser(app)
    assert sign_in(visitor).location == "/login/verify"
    return visitor


def test_half_signed_in_reaches_the_code_and_nothing_else(app: Flask, amira: Visitor) -> None:
    open_to_all = {"/healthz", "/readyz", "/login", "/login/verify", "/signup", "/"}
    for rule in app.url_map.iter_rules():
        if "GET" in (rule.methods or ()) and not rule.arguments and rule.rule not in open_to_all:
            answer = amira.get(rule.rule)
            assert answer.status_code == 302, rule.rule
            assert answer.location.startswith("/login/verify"), rule.rule
    assert amira.post_form("/keys/openai", {"value": "x"}, page="/login/verify").status_code == 303
    assert not is_signed_in(amira)


@pytest.mark.parametrize("steps", [0, -1])
def test_the_current_and_the_previous_code_are_accepted(amira: Visitor, steps: int) -> None:
    assert verify(amira, code_at(now(), steps=steps)) == 303
    assert is_signed_in(amira)


@pytest.mark.parametrize("steps", [-2, 1, 2])
def test_older_and_later_codes_are_not(amira: Visitor, steps: int) -> None:
    assert verify(amira, code_at(now(), steps=steps)) == 422
    assert not is_signed_in(amira)


def test_a_code_is_accepted_as_apps_show_it(amira: Visitor) -> None:
    code = code_at(now())
    assert verify(amira, f" {code[:3]} {code[3:]} ") == 303


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "١٢٣٤٥٦", "12345\x00"])
def test_what_is_no_code_is_refused_and_not_counted(app: Flask, amira: Visitor, code: str) -> None:
    for _ in range(7):
        assert verify(amira, code) in {400, 422}
    assert verify(amira, code_at(now())) == 303


def test_a_code_works_once_in_any_session(app: Flask, amira: Visitor) -> None:
    other = half_signed_in(app)
    code = code_at(now())
    assert verify(amira, code) == 303
    assert verify(other, code) == 422
    assert not is_signed_in(other)
    assert [event.event for event in events(app, "second_factor")] == [
        "second_factor.succeeded",
        "second_factor.failed",
    ]


def test_an_earlier_code_is_spent_with_a_later_one(app: Flask, amira: Visitor) -> None:
    other = half_signed_in(app)
    assert verify(amira, code_at(now())) == 303
    assert verify(other, code_at(now(), steps=-1)) == 422


def test_in_many_requests_at_once_a_code_works_once(app: Flask, amira: Visitor) -> None:
    visitors = [amira, *(half_signed_in(app) for _ in range(4))]
    for visitor in visitors:
        visitor.get("/login/verify")
    code, answers = code_at(now()), []
    threads = [
        threading.Thread(target=lambda v=v: answers.append(verify(v, code))) for v in visitors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [303, 422, 422, 422, 422]
    assert sum(map(is_signed_in, visitors)) == 1


def test_the_budget_is_the_accounts_and_not_the_sessions(app: Flask, amira: Visitor) -> None:
    wrong = code_at(now(), steps=10)
    for number in range(5):
        visitor = amira if number % 2 else half_signed_in(app)
        assert verify(visitor, wrong) == 422
    answer = amira.post_form("/login/verify", {"code": code_at(now())})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) <= 300
    with frozen(now() + timedelta(minutes=6)):
        assert verify(amira, code_at(now())) == 303


def test_a_secret_that_does_not_open_lets_nobody_past(app: Flask, amira: Visitor) -> None:
    with app.app_context(), transaction() as session:
        session.execute(delete(DataKey))
        session.execute(delete(KeyringCheck))
    for _ in range(7):  # that is no guess
        answer = amira.post_form("/login/verify", {"code": code_at(now())})
        assert answer.status_code == 503
        assert "Tell an admin" in answer.text
    assert not is_signed_in(amira)


def test_a_disabled_account_is_not_let_in_by_a_right_code(app: Flask, amira: Visitor) -> None:
    with app.app_context():
        disable_account("amira")
        with pytest.raises(WrongCode):
            login.verify_code("an ended session", user(app).id, code_at(now()))
    assert amira.post_form("/login/verify", {"code": code_at(now())}, page="/login").location == (
        "/login"
    )
    assert sessions(app) == []


def test_a_session_that_ended_meanwhile_does_not_spend_the_code(app: Flask, amira: Visitor) -> None:
    code = code_at(now())
    with app.app_context(), pytest.raises(SessionEnded):
        login.verify_code("an ended session", user(app).id, code)
    assert verify(amira, code) == 303


def test_both_factors_have_budgets_of_their_own(app: Flask, amira: Visitor) -> None:
    for _ in range(5):
        verify(amira, code_at(now(), steps=10))
    assert verify(amira, code_at(now())) == 429
    assert sign_in(browser(app)).location == "/login/verify", "the password is not locked"
    add_person(app, "ben", totp=TOTP)
    ben = browser(app)
    sign_in(ben, "ben")
    assert verify(ben, code_at(now())) == 303, "nor is anybody else"


def test_guesses_that_come_at_once_are_no_more_than_the_budget(app: Flask, amira: Visitor) -> None:
    amira.get("/login/verify")
    user_id, outcomes = user(app).id, []

    def run(number: int) -> None:
        with app.app_context():
            try:
                login.verify_code("", user_id, code_at(now(), steps=10 + number))
            except ServiceError as error:
                outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["Throttled"] * 4 + ["WrongCode"] * 5


def enrolment(visitor: Visitor) -> str:
    """Return the secret that the page shows."""
    page = visitor.get("/account/totp")
    assert page.status_code == 200
    assert "<svg" in page.text
    shown = page.text.partition('id="totp-secret"')[2].partition(">")[2].partition("<")[0]
    return shown.replace(" ", "")


def test_setting_it_up(app: Flask) -> None:
    add_person(app)
    visitor, elsewhere = signed_in(app), signed_in(app)
    secret = enrolment(visitor)
    assert len(secret) == 32
    assert enrolment(visitor) == secret, "a reload shows the same one"
    assert user(app).totp_enabled_at is None
    with frozen(now() + timedelta(minutes=1)):
        wrong = visitor.post_form("/account/totp", {"code": code_at(now(), steps=5, secret=secret)})
        assert wrong.status_code == 422
        sid = cookie_of(app, visitor)
        right = visitor.post_form("/account/totp", {"code": code_at(now(), secret=secret)})
        assert right.status_code == 303
        assert cookie_of(app, visitor) != sid, "the session has a new id"
        assert is_signed_in(visitor)
        assert not is_signed_in(elsewhere), "every other session has ended"
        half = browser(app)
        assert sign_in(half).location == "/login/verify"
        assert verify(half, code_at(now(), secret=secret)) == 422, "that code is spent"
    assert secret not in (user(app).totp_secret or "")
    page = visitor.get("/account/totp").text
    assert secret not in page


def test_turning_it_off_needs_the_password_given_a_short_while_ago(app: Flask) -> None:
    add_person(app, totp=TOTP)
    with frozen(now()) as set_clock:
        visitor = half_signed_in(app)
        verify(visitor, code_at(now()))
        set_clock(now() + timedelta(minutes=11))
        assert visitor.post_form("/account/totp/disable", page="/account").status_code == 403
        assert user(app).totp_enabled_at is not None
        visitor.post_form("/reauthenticate", {"password": PASSWORD})
        assert visitor.post_form("/account/totp/disable", page="/account").status_code == 303
        assert user(app).totp_enabled_at is None
        assert user(app).totp_secret is None
    assert len(events(app, "second_factor.disabled")) == 1


def test_the_qr_code_holds_the_secret_and_brings_no_style(app: Flask) -> None:
    add_person(app)
    visitor = signed_in(app)
    secret = enrolment(visitor)
    uri = f"otpauth://totp/Keystay:amira?secret={secret}&issuer=Keystay"
    drawing = segno.make(uri, error="m").svg_inline(scale=4, omitsize=True, light="white")
    page = visitor.get("/account/totp").text
    assert drawing in page
    assert "style=" not in page


def test_a_secret_waits_an_hour_for_its_first_code(app: Flask) -> None:
    add_person(app)
    with frozen(now()) as set_clock:
        visitor = signed_in(app)
        secret = enrolment(visitor)
        set_clock(now() + timedelta(minutes=59))
        visitor.post_form("/reauthenticate", {"password": PASSWORD})
        assert enrolment(visitor) == secret
        set_clock(now() + timedelta(minutes=2))
        late = visitor.post_form("/account/totp", {"code": code_at(now(), secret=secret)})
        assert late.status_code == 422
        assert enrolment(visitor) != secret
    assert user(app).totp_enabled_at is None


def test_a_secret_that_does_not_open_before_its_first_code_is_made_anew(app: Flask) -> None:
    add_person(app)
    with frozen(now()):
        visitor = signed_in(app)
        secret = enrolment(visitor)
        with app.app_context(), transaction() as session:
            session.execute(update(DataKey).values(master_key_id="gone"))
        answer = visitor.post_form("/account/totp", {"code": code_at(now(), secret=secret)})
        assert answer.status_code == 422
        again = enrolment(visitor)
        assert again != secret
        answer = visitor.post_form("/account/totp", {"code": code_at(now(), secret=again)})
        assert answer.status_code == 303


def test_of_two_confirmations_at_once_one_turns_it_on(app: Flask) -> None:
    add_person(app)
    with frozen(now()):
        visitors = [signed_in(app), signed_in(app)]
        code = {"code": code_at(now(), secret=enrolment(visitors[0]))}
        assert [v.get("/account/totp").status_code for v in visitors] == [200, 200]
        answers: list[str] = []
        threads = [
            threading.Thread(
                target=lambda v=v: answers.append(v.post_form("/account/totp", code).location)
            )
            for v in visitors
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(events(app, "second_factor.enabled")) == 1
    assert sum(map(is_signed_in, visitors)) == 1
    assert "/account" in answers


def test_turning_it_off_where_it_is_required_leads_to_a_new_one(
    app: Flask, make_settings: MakeSettings
) -> None:
    strict = create_app(make_settings(REQUIRE_TWO_FACTOR="everyone"))
    strict.test_client_class = app.test_client_class
    add_person(strict, totp=TOTP)
    with frozen(now()):
        visitor = half_signed_in(strict)
        verify(visitor, code_at(now()))
        visitor.post_form("/account/totp/disable", page="/account")
        assert visitor.get("/keys").location == "/account/totp"
        assert enrolment(visitor) != TOTP
    dispose_engines(strict)


def policy(name: str, *, is_admin: bool, must: bool) -> ParameterSet:
    return pytest.param(
        is_admin, must, marks=pytest.mark.environ(REQUIRE_TWO_FACTOR=name), id=f"{name}-{is_admin}"
    )


@pytest.mark.parametrize(
    ("is_admin", "must"),
    [
        policy("off", is_admin=True, must=False),
        policy("admins", is_admin=False, must=False),
        policy("admins", is_admin=True, must=True),
        policy("everyone", is_admin=False, must=True),
    ],
)
def test_who_must_have_one(app: Flask, is_admin: bool, must: bool) -> None:
    add_person(app, is_admin=is_admin)
    visitor = browser(app)
    answer = sign_in(visitor)
    assert answer.location == ("/account/totp" if must else "/keys")
    assert is_signed_in(visitor) is not must
    if must:
        for path in ("/keys", "/account", "/admin"):
            assert visitor.get(path).location.startswith("/account/totp"), path
        secret = enrolment(visitor)
        with frozen(now()):
            visitor.post_form("/account/totp", {"code": code_at(now(), secret=secret)})
        assert is_signed_in(visitor)


def test_a_prepared_factor_of_the_predecessor_is_not_asked_for(app: Flask) -> None:
    add_person(app, totp=TOTP)
    with app.app_context(), transaction():
        db.session.merge(user(app)).totp_enabled_at = None
    assert is_signed_in(signed_in(app))
    assert len(sessions(app)) == 1
