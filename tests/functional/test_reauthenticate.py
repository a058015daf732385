"""The password again, for what needs it given within the last minutes."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import update

from tests.people import PASSWORD, add_person, events, is_signed_in, sessions, signed_in, user
from tests.visitor import Visitor
from webapp.clock import frozen, now
from webapp.db import transaction
from webapp.models import User
from webapp.services.keys import save_user_api_key

SECRET = "sk-proj-0123456789abcdef"
KEYS = "http://localhost/keys"


@pytest.fixture
def began() -> Iterator[datetime]:
    """When amira signed in, at a stopped clock."""
    with frozen(now()):
        yield now()


@pytest.fixture
def amira(app: Flask, began: datetime) -> Visitor:
    add_person(app)
    with app.app_context():
        save_user_api_key("amira", "openai", SECRET)
    return signed_in(app)


def reveal(visitor: Visitor, **headers: str) -> tuple[int, bool]:
    answer = visitor.post_form("/keys/openai/reveal", page="/keys", headers=headers)
    return answer.status_code, SECRET in answer.text


def test_signing_in_counts_for_ten_minutes(amira: Visitor, began: datetime) -> None:
    with frozen(began + timedelta(minutes=9, seconds=59)):
        assert reveal(amira) == (200, True)
    with frozen(began + timedelta(minutes=10)):
        assert reveal(amira) == (403, False)


@pytest.mark.environ(RECENT_AUTH_MINUTES="2")
def test_how_long_it_counts_is_a_setting(amira: Visitor, began: datetime) -> None:
    with frozen(began + timedelta(minutes=2)):
        assert reveal(amira) == (403, False)


def test_use_of_the_session_does_not_count(amira: Visitor, began: datetime) -> None:
    for minutes in range(2, 12, 2):
        with frozen(began + timedelta(minutes=minutes)):
            assert is_signed_in(amira)
    with frozen(began + timedelta(minutes=11)):
        assert reveal(amira) == (403, False)


def test_it_counts_in_the_session_in_which_it_was_given(
    app: Flask, amira: Visitor, began: datetime
) -> None:
    elsewhere = signed_in(app)
    with frozen(began + timedelta(minutes=11)):
        assert amira.post_form("/reauthenticate", {"password": PASSWORD}).status_code == 303
        assert reveal(amira) == (200, True)
        assert reveal(elsewhere) == (403, False)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_the_form_leads_back_to_the_page_that_asked(amira: Visitor, began: datetime) -> None:
    with frozen(began + timedelta(minutes=11)):
        for headers in ({"Referer": KEYS}, {"Referer": KEYS, "HX-Request": "true"}, {}):
            asked = amira.post_form("/keys/openai/reveal", page="/keys", headers=headers)
            assert 'name="next" value="/keys"' in asked.text, headers
            assert SECRET not in asked.text
        elsewhere = {"Referer": "http://evil.example/keys?x=1"}
        asked = amira.post_form("/keys/openai/reveal", page="/keys", headers=elsewhere)
        assert 'name="next" value="/keys"' in asked.text
        form = {"password": PASSWORD, "next": "/keys?saved=openai"}
        assert amira.post_form("/reauthenticate", form).location == "/keys?saved=openai"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_in_place_the_page_is_loaded_anew_with_its_new_tokens(
    amira: Visitor, began: datetime
) -> None:
    form = {"password": PASSWORD, "next": "/keys"}
    shown = {"HX-Request": "true", "HX-Current-URL": KEYS}
    with frozen(began + timedelta(minutes=11)):
        wrong = amira.post_form("/reauthenticate", form | {"password": "wrong"}, headers=shown)
        assert wrong.status_code == 422
        assert "<html" not in wrong.text
        assert 'id="reauthenticate-password-error"' in wrong.text
        assert 'name="next" value="/keys"' in wrong.text
        there = amira.post_form("/reauthenticate", form, headers=shown)
        assert (there.status_code, there.headers["HX-Refresh"]) == (200, "true")
        shown["HX-Current-URL"] = "http://localhost/account"
        other = amira.post_form("/reauthenticate", form, headers=shown)
        assert other.headers["HX-Redirect"] == "/keys"


def test_a_wrong_password_changes_nothing_and_counts_once(
    app: Flask, amira: Visitor, began: datetime
) -> None:
    before = sessions(app)
    with frozen(began + timedelta(minutes=11)):
        for _ in range(5):
            wrong = amira.post_form("/reauthenticate", {"password": "a guess"})
            assert wrong.status_code == 422
            assert "a guess" not in wrong.text
        answer = amira.post_form("/reauthenticate", {"password": PASSWORD})
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 300
        assert is_signed_in(amira)
        assert reveal(amira) == (403, False)
    after = sessions(app)
    assert [s.digest for s in after] == [s.digest for s in before]
    assert [s.authenticated_at for s in after] == [s.authenticated_at for s in before]
    found = events(app, "reauthentication.failed")
    assert [(e.actor_id, e.subject_id, e.address) for e in found] == [
        (user(app).id, user(app).id, "127.0.0.1")
    ] * 5


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_the_password_is_the_own_one_of_now(app: Flask, amira: Visitor) -> None:
    other = "another marble 9 onions"
    add_person(app, "ben", password=other)
    assert amira.post_form("/reauthenticate", {"password": other}).status_code == 422
    with app.app_context(), transaction() as session:
        hashed = user(app, "ben").password_hash
        session.execute(update(User).where(User.username == "amira").values(password_hash=hashed))
    assert amira.post_form("/reauthenticate", {"password": PASSWORD}).status_code == 422
    assert amira.post_form("/reauthenticate", {"password": other}).status_code == 303


@pytest.mark.environ(SESSION_MAX_HOURS="2")
def test_giving_it_again_does_not_move_the_absolute_limit(
    app: Flask, amira: Visitor, began: datetime
) -> None:
    for minutes in (50, 100):
        with frozen(began + timedelta(minutes=minutes)):
            answer = amira.post_form("/reauthenticate", {"password": PASSWORD})
            assert answer.status_code == 303
    with frozen(began + timedelta(minutes=119)):
        assert is_signed_in(amira)
    with frozen(began + timedelta(minutes=120)):
        assert not is_signed_in(amira)
