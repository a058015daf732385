"""One's own account: what it says, and what it never says."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from tests.people import (
    PASSWORD,
    TOTP,
    add_person,
    browser,
    code_at,
    sign_in,
    signed_in,
    user,
)
from webapp.clock import frozen, now

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def words(html: str) -> str:
    """Return the text of a page's main part."""
    main = html.partition("<main")[2].partition("</main>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", main).split())


def test_it_says_who_one_is(app: Flask) -> None:
    add_person(
        app,
        name="Amira <b>Haddad</b>",
        email="amira@example.com",
        created_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    )
    page = signed_in(app).get("/account")
    assert page.status_code == 200
    assert "Amira &lt;b&gt;Haddad&lt;/b&gt;" in page.text
    text = words(page.text)
    for fact in ("amira@example.com", "Username amira", "Role Member", "Member since 2 Jan 2026"):
        assert fact in text, fact
    assert "salted hash" in text
    assert "Only this browser is signed in." in text


def test_without_a_name_and_an_email_nothing_says_none(app: Flask) -> None:
    add_person(app)
    assert "None" not in words(signed_in(app).get("/account").text)


def test_an_admin_is_called_one_and_who_asked_is_told_so(app: Flask) -> None:
    add_person(app, "root", is_admin=True, admin_requested=True)
    add_person(app, "amira", admin_requested=True, admin_request_reason="I look after reports.")
    text = words(signed_in(app, "root").get("/account").text)
    assert "Role Administrator" in text
    assert "You asked" not in text
    assert "You asked to become an administrator" in words(signed_in(app).get("/account").text)


def test_it_counts_the_browsers_that_are_signed_in(app: Flask) -> None:
    add_person(app)
    add_person(app, "ben")
    visitor = signed_in(app)
    other = signed_in(app)
    signed_in(app, "ben")
    assert "2 browsers are signed in" in words(visitor.get("/account").text)
    other.post_form("/logout", page="/keys")
    assert "Only this browser" in words(visitor.get("/account").text)


def test_it_says_whether_there_is_a_second_factor(app: Flask) -> None:
    add_person(app, totp=TOTP)
    with frozen(now()):
        visitor = browser(app)
        sign_in(visitor)
        assert visitor.post_form("/login/verify", {"code": code_at(now())}).status_code == 303
        on = visitor.get("/account").text
        assert "Second factor" in words(on)
        assert "On since" in words(on)
        visitor.post_form("/account/totp/disable", page="/account")
        off = visitor.get("/account").text
    assert "Off Set up" in words(off)
    assert 'href="/account/totp"' in off


def test_it_shows_no_secret(app: Flask) -> None:
    add_person(app, totp=TOTP)
    with frozen(now()) as set_clock:
        visitor = browser(app)
        sign_in(visitor)
        visitor.post_form("/login/verify", {"code": code_at(now())})
        set_clock(now() + timedelta(minutes=20))
        text = visitor.get("/account").text + visitor.get("/account/totp").text
    account = user(app)
    assert account.password_hash
    assert account.totp_secret
    for secret in (PASSWORD, TOTP, account.password_hash, account.totp_secret, "$argon2"):
        assert secret not in text


def test_everybody_sees_the_own_one_only(app: Flask) -> None:
    add_person(app, "amira", email="amira@example.com")
    add_person(app, "ben", email="ben@example.com")
    page = signed_in(app, "ben").get("/account?user=amira&username=amira&id=1").text
    assert "ben@example.com" in page
    assert "amira" not in page
