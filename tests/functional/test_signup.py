"""New accounts: the setup link of the first admin, and signing up."""

import threading

import pytest
from flask import Flask
from sqlalchemy import select

from tests.people import browser, events, is_signed_in, sessions, signed_in, user
from tests.visitor import Visitor
from webapp.db import db
from webapp.models import User
from webapp.services.accounts import create_account
from webapp.services.setup import setup_token

PASSWORD = "seven quiet lanterns"
FORM = {"name": "Zoe Q", "username": "zoe", "password": PASSWORD, "confirm": PASSWORD}


@pytest.fixture
def link(app: Flask) -> str:
    with app.app_context():
        return f"/setup/{setup_token()}"


def usernames(app: Flask) -> list[str]:
    with app.app_context():
        return list(db.session.scalars(select(User.username).order_by(User.id)))


def set_up(visitor: Visitor, link: str, **changed: str) -> int:
    form = {"username": "root", "password": PASSWORD, "confirm": PASSWORD} | changed
    return visitor.post_form(link, form).status_code


def test_the_link_makes_an_admin_once_and_signs_in(app: Flask, link: str, client: Visitor) -> None:
    assert client.get(link).status_code == 200
    assert set_up(client, link) == 303
    assert is_signed_in(client)
    assert user(app, "root").is_admin is True
    assert browser(app).get(link).status_code == 404
    with app.app_context():
        assert setup_token() is None
    made = [event.event for event in events(app, "account")]
    assert made == ["account.created", "account.admin_granted"]


def test_a_wrong_link_is_not_found(app: Flask, link: str, client: Visitor) -> None:
    for token in ("x", link.removeprefix("/setup/")[:-1], "ä" * 10):
        assert client.get(f"/setup/{token}").status_code == 404
    assert usernames(app) == []


def test_the_link_is_gone_when_any_account_exists(app: Flask, link: str, client: Visitor) -> None:
    client.get(link)
    with app.app_context():
        create_account("somebody", PASSWORD)
    data = {"username": "root", "password": PASSWORD, "confirm": PASSWORD}
    token = client.csrf_token("/login")
    answer = client.post(
        link, data={"csrf_token": token, **data}, headers={"Origin": "http://localhost"}
    )
    assert answer.status_code == 404
    assert usernames(app) == ["somebody"]


def test_of_two_at_once_one_becomes_the_first_admin(app: Flask, link: str) -> None:
    visitors = [browser(app), browser(app)]
    for visitor in visitors:
        visitor.get(link)
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda v=v, n=n: answers.append(set_up(v, link, username=n)))
        for v, n in zip(visitors, ("one", "two"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [303, 404]
    assert len(usernames(app)) == 1


def test_the_link_stands_in_no_log(
    app: Flask, link: str, client: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    set_up(client, link)
    assert "/setup/<token>" in caplog.text
    assert link not in caplog.text


def test_who_signs_up_is_signed_in_and_no_admin(app: Flask, client: Visitor) -> None:
    answer = client.post_form("/signup", FORM | {"is_admin": "1", "role": "admin", "user_id": "1"})
    assert answer.status_code == 303
    assert is_signed_in(client)
    zoe = user(app, "zoe")
    assert (zoe.name, zoe.is_admin, zoe.admin_requested) == ("Zoe Q", False, False)
    assert [event.event for event in events(app, "login")] == ["login.succeeded"]


def test_asking_to_be_an_admin_is_stored_and_gives_nothing(app: Flask, client: Visitor) -> None:
    asked = FORM | {"request_admin": "y", "admin_reason": "admin: true, role=admin"}
    client.post_form("/signup", asked)
    zoe = user(app, "zoe")
    assert (zoe.is_admin, zoe.admin_requested) == (False, True)
    assert zoe.admin_request_reason == "admin: true, role=admin"
    assert client.get("/admin").status_code == 403
    assert len(events(app, "account.admin_requested")) == 1


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"username": "ab"}, "username", "3 to 50"),
        ({"username": "with space"}, "username", "3 to 50"),
        ({"username": "naïve"}, "username", "3 to 50"),
        ({"username": "zoe\nroot"}, "username", "3 to 50"),
        ({"password": "short", "confirm": "short"}, "password", "12"),
        ({"password": "password1234", "confirm": "password1234"}, "password", "common"),
        ({"password": "zoe zoe zoe zoe", "confirm": "zoe zoe zoe zoe"}, "password", ""),
        ({"password": "keystay keystay", "confirm": "keystay keystay"}, "password", ""),
        ({"password": "x" * 257, "confirm": "x" * 257}, "password", "256"),
        ({"confirm": "something else here"}, "confirm", ""),
        ({"name": "two\nlines"}, "name", "one line"),
        ({"name": "x" * 201}, "name", "200"),
    ],
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_is_not_acceptable_is_said_beside_its_field(
    app: Flask, client: Visitor, changed: dict[str, str], field: str, words: str
) -> None:
    form = FORM | changed
    answer = client.post_form("/signup", form)
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert words in answer.text
    assert form["password"] not in answer.text, "what is secret is not repeated"
    assert usernames(app) == []
    assert sessions(app) == []


@pytest.mark.environ(REQUIRE_TWO_FACTOR="everyone")
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_where_everybody_needs_a_second_factor_it_comes_next(app: Flask, client: Visitor) -> None:
    assert client.post_form("/signup", FORM).location == "/account/totp"
    assert not is_signed_in(client)
    assert client.get("/keys").location == "/account/totp"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_reason_without_the_request_is_no_request(app: Flask, client: Visitor) -> None:
    assert client.post_form("/signup", FORM | {"admin_reason": "because"}).status_code == 303
    zoe = user(app, "zoe")
    assert (zoe.admin_requested, zoe.admin_request_reason) == (False, "")


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_with_htmx_the_form_or_the_place_to_go_is_answered(app: Flask, client: Visitor) -> None:
    headers = {"HX-Request": "true"}
    refused = client.post_form("/signup", FORM | {"confirm": "another"}, headers=headers)
    assert refused.status_code == 422
    assert "<html" not in refused.text
    assert 'value="Zoe Q"' in refused.text
    done = client.post_form("/signup", FORM | {"name": ""}, headers=headers)
    assert (done.status_code, done.headers["HX-Redirect"]) == (200, "/keys")
    assert user(app, "zoe").name == "zoe", "the username stands in for a name"


def test_spaces_and_any_characters_make_a_password(app: Flask, client: Visitor) -> None:
    password = "  пароль と 🔑 spaces  "
    form = FORM | {"password": password, "confirm": password}
    assert client.post_form("/signup", form).status_code == 303
    assert is_signed_in(signed_in(app, "zoe", password))


def test_a_name_in_use_is_refused_in_any_case(app: Flask, client: Visitor) -> None:
    with app.app_context():
        create_account("Zoe", PASSWORD)
    answer = client.post_form("/signup", FORM)
    assert answer.status_code == 422
    assert 'id="username-error"' in answer.text
    assert usernames(app) == ["Zoe"]


def test_two_at_once_make_one_account(app: Flask) -> None:
    visitors = [browser(app) for _ in range(3)]
    for visitor in visitors:
        visitor.get("/signup")
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda v=v, n=n: answers.append(
                v.post_form("/signup", FORM | {"username": n}).status_code
            )
        )
        for v, n in zip(visitors, ("zoe", "ZOE", "Zoe"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [303, 422, 422]
    assert len(usernames(app)) == 1


@pytest.mark.environ(SIGNUP="closed")
def test_where_it_is_closed_nobody_gets_in(app: Flask, client: Visitor) -> None:
    page = client.get("/signup")
    assert page.status_code == 403
    assert "<form" not in page.text.partition("<main")[2]
    assert client.post_form("/signup", FORM, page="/login").status_code == 403
    assert "/signup" not in client.get("/login").text
    assert usernames(app) == []
