"""Guessing is slowed down, per account and per address, and nobody else pays for it."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.people import PASSWORD, add_person, browser, events, is_signed_in, sign_in
from webapp import create_app
from webapp.clock import frozen, now
from webapp.db import db, dispose_engines
from webapp.models import LoginAttempt
from webapp.services import login
from webapp.services.errors import ServiceError


@pytest.fixture(autouse=True)
def _people(app: Flask) -> Iterator[None]:
    for name in ("amira", "ben"):
        add_person(app, name)
    with frozen(now()):
        yield


def guess(
    app: Flask,
    username: str = "amira",
    password: str = "a guess",
    *,
    address: str = "127.0.0.1",
    forwarded: str = "",
) -> int:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    answer = sign_in(
        browser(app),
        username,
        password,
        environ_base={"REMOTE_ADDR": address},
        headers=headers,
    )
    return answer.status_code


def test_after_five_failures_even_the_right_password_waits(app: Flask) -> None:
    assert [guess(app) for _ in range(6)] == [422] * 5 + [429]
    answer = sign_in(browser(app))
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 300
    assert "Too many attempts" in answer.text
    with frozen(now() + timedelta(minutes=5, seconds=1)):
        assert guess(app, password=PASSWORD) == 303


def test_the_name_counts_in_any_case_and_an_unknown_one_too(app: Flask) -> None:
    assert [guess(app, name) for name in ("amira", "AMIRA", "Amira") * 2] == [422] * 5 + [429]
    assert [guess(app, "nobody") for _ in range(6)] == [422] * 5 + [429]


def test_nobody_else_is_locked_out(app: Flask) -> None:
    for _ in range(7):
        guess(app, address="192.0.2.1")
    assert guess(app, "ben", PASSWORD, address="192.0.2.2") == 303
    assert guess(app, "ben", PASSWORD, address="192.0.2.1") == 303


def test_who_is_signed_in_already_goes_on(app: Flask) -> None:
    visitor = browser(app)
    sign_in(visitor)
    for _ in range(7):
        guess(app)
    assert is_signed_in(visitor)


def test_a_right_password_costs_nothing_of_the_budget(app: Flask) -> None:
    assert [guess(app, password=PASSWORD) for _ in range(8)] == [303] * 8
    assert [guess(app) for _ in range(5)] == [422] * 5


def test_one_address_that_tries_many_names_is_stopped(app: Flask) -> None:
    answers = [guess(app, f"user{n}", address="192.0.2.1") for n in range(21)]
    assert answers == [422] * 20 + [429]
    assert guess(app, "ben", PASSWORD, address="192.0.2.1") == 429
    assert guess(app, "ben", PASSWORD, address="192.0.2.2") == 303


def test_an_ipv6_network_is_one_address(app: Flask) -> None:
    answers = [guess(app, f"user{n}", address=f"2001:db8::{n:x}") for n in range(1, 22)]
    assert answers == [422] * 20 + [429]
    assert guess(app, "ben", PASSWORD, address="2001:db8:0:1::1") == 303


def test_a_forged_address_is_not_believed(app: Flask) -> None:
    answers = [guess(app, f"user{n}", forwarded=f"198.51.100.{n}") for n in range(21)]
    assert answers == [422] * 20 + [429]


@pytest.mark.environ(TRUSTED_PROXIES="1")
def test_a_trusted_proxy_is_believed_and_what_stands_before_it_is_not(app: Flask) -> None:
    answers = [guess(app, f"user{n}", forwarded=f"10.0.0.{n}, 192.0.2.1") for n in range(21)]
    assert answers == [422] * 20 + [429]
    assert guess(app, "user22", forwarded="192.0.2.1, 192.0.2.2") == 422


def test_a_restart_forgets_nothing(app: Flask, make_settings: MakeSettings) -> None:
    for _ in range(5):
        guess(app)
    restarted = create_app(make_settings())
    restarted.test_client_class = app.test_client_class
    assert guess(restarted) == 429
    dispose_engines(restarted)


def test_guesses_that_come_at_once_are_no_more_than_the_budget(app: Flask) -> None:
    outcomes: list[str] = []

    def run() -> None:
        with app.app_context():
            try:
                login.sign_in("amira", "a guess")
            except ServiceError as error:
                outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=run) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["LoginRefused"] * 5 + ["Throttled"] * 4


ADDRESSES = {
    "192.0.2.1:49152": "192.0.2.1",
    "[2001:db8::1]:49152": "2001:db8::1",
    "::ffff:192.0.2.1": "192.0.2.1",
    "fe80::1%" + "e" * 60: "fe80::1",
    "unknown": "",
    "x" * 300: "",
    "[": "",
}


@pytest.mark.environ(TRUSTED_PROXIES="1")
def test_the_address_is_what_a_proxy_meant(app: Flask) -> None:
    for number, sent in enumerate(ADDRESSES):
        assert guess(app, f"user{number}", forwarded=sent) == 422
    assert [event.address for event in events(app, "login.failed")] == list(ADDRESSES.values())


@pytest.mark.environ(TRUSTED_PROXIES="1")
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_other_forms_of_an_address_are_the_same_one(app: Flask) -> None:
    forms = ["192.0.2.1", "192.0.2.1:{}", "::ffff:192.0.2.1", "[::ffff:192.0.2.1]:{}"]
    sent = [forms[n % 4].format(40_000 + n) for n in range(21)]
    answers = [guess(app, f"user{n}", forwarded=form) for n, form in enumerate(sent)]
    assert answers == [422] * 20 + [429]


@pytest.mark.environ(LOGIN_ATTEMPT_LIMIT="2", LOGIN_ATTEMPT_WINDOW_MINUTES="60")
def test_the_limits_are_settings(app: Flask) -> None:
    assert [guess(app) for _ in range(3)] == [422, 422, 429]
    with frozen(now() + timedelta(minutes=59)):
        assert guess(app) == 429
    with frozen(now() + timedelta(minutes=61)):
        assert guess(app) == 422


def test_refusals_are_audited_once_a_minute(app: Flask) -> None:
    for _ in range(9):
        guess(app)
    assert len(events(app, "login.throttled")) == 1
    assert len(events(app, "login.failed")) == 5


def test_who_signs_up_is_not_counted(app: Flask) -> None:
    form = {"username": "zoe", "password": PASSWORD, "confirm": PASSWORD}
    assert browser(app).post_form("/signup", form).status_code == 303
    with app.app_context():
        assert db.session.scalars(select(LoginAttempt.succeeded)).all() == [True]


def test_asking_for_names_in_use_counts(app: Flask) -> None:
    form = {"username": "amira", "password": PASSWORD + " x", "confirm": PASSWORD + " x"}
    answers = [browser(app).post_form("/signup", form).status_code for _ in range(6)]
    assert answers == [422] * 5 + [429]
