"""Signing in with a password."""

import io
import threading
from collections.abc import Callable

import bcrypt
import pytest
from argon2 import PasswordHasher
from flask import Flask

from tests.legacy_folder import sha256_of
from tests.people import (
    PASSWORD,
    add_person,
    browser,
    cookie_of,
    events,
    is_signed_in,
    sessions,
    sign_in,
    signed_in,
    user,
)
from tests.visitor import Visitor
from webapp.crypto.hashing import PasswordHashes
from webapp.db import db, transaction
from webapp.services import credentials, login
from webapp.services.login import LoginRefused
from webapp.services.passwords import password_hashes

OLD_PASSWORD = "old one"
BCRYPT = bcrypt.hashpw(OLD_PASSWORD.encode(), bcrypt.gensalt(4)).decode()
GUESS = "some other words"
MESSAGE = "The username or the password is wrong."


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts what costs time: every Argon2id computation, however it is asked for."""
    counted: list[str] = []

    def counting(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            counted.append(name)
            return original(*args)

        return call

    for name in ("hash", "verify"):
        original = getattr(PasswordHasher, name)
        monkeypatch.setattr(PasswordHasher, name, counting(name, original))
    return counted


def _people(app: Flask) -> None:
    add_person(app, "amira")
    add_person(app, "disabled", disabled_at=user(app).created_at)
    weak = PasswordHashes(memory_kib=32, passes=1, lanes=1).hash(PASSWORD)
    add_person(app, "retired", password_hash=weak, disabled_at=user(app).created_at)
    add_person(app, "imported", imported_password=OLD_PASSWORD)
    add_person(app, "hashed", password=None, password_hash=BCRYPT)
    add_person(app, "nobody", password=None)


def test_the_right_password_signs_in(app: Flask, client: Visitor) -> None:
    add_person(app)
    answer = sign_in(client)
    assert answer.status_code == 303
    assert answer.location == "/keys"
    assert is_signed_in(client)
    assert user(app).last_login_at is not None
    assert [event.event for event in events(app)] == ["login.succeeded"]


def test_the_username_is_found_in_any_case(app: Flask, client: Visitor) -> None:
    add_person(app, "Straße_Ö")
    assert sign_in(client, "STRASSE_ö").status_code == 303


def test_the_password_is_compared_as_it_was_typed(app: Flask, client: Visitor) -> None:
    add_person(app, password=" Spaces and CASE ")
    assert sign_in(client, password="Spaces and CASE").status_code == 422
    assert sign_in(client, password=" spaces and case ").status_code == 422
    assert sign_in(client, password=" Spaces and CASE ").status_code == 303


FAILURES = [
    ("unknown", PASSWORD),
    ("amira", GUESS),
    ("disabled", PASSWORD),
    ("disabled", GUESS),
    ("retired", PASSWORD),
    ("imported", sha256_of(OLD_PASSWORD)),
    ("imported", GUESS),
    ("hashed", GUESS),
    ("hashed", BCRYPT),
    ("nobody", PASSWORD),
]


def test_every_failed_sign_in_reads_and_costs_the_same(
    app: Flask, client: Visitor, verifications: list[str]
) -> None:
    _people(app)
    reference = sign_in(client, "somebody_else", "something").text
    for username, password in FAILURES:
        verifications.clear()
        answer = sign_in(client, username, password)
        assert (answer.status_code, verifications) == (422, ["verify"]), username
        assert MESSAGE in answer.text
        assert password not in answer.text
        assert _comparable(answer.text, username) == _comparable(reference, "somebody_else")
    assert not is_signed_in(client)
    assert sessions(app) == []


def _comparable(text: str, username: str) -> list[str]:
    return [line.replace(username, "") for line in text.splitlines() if "csrf_token" not in line]


def test_a_failure_is_audited_with_its_reason_and_without_what_was_typed(
    app: Flask, client: Visitor
) -> None:
    _people(app)
    for username in ("unknown", "amira", "disabled", "nobody"):
        sign_in(client, username, "my secret guess" if username != "disabled" else PASSWORD)
    found = events(app, "login.failed")
    assert [event.detail["reason"] for event in found] == [
        "unknown_user",
        "wrong_password",
        "disabled",
        "no_password",
    ]
    assert [event.subject_id is not None for event in found] == [False, True, True, True]
    assert all(event.address == "127.0.0.1" and event.request_id for event in found)
    assert "my secret guess" not in str([vars(event) for event in found])
    assert "unknown" not in str([event.detail.get("username") for event in found])


@pytest.mark.parametrize("username", ["imported", "hashed"])
def test_an_old_hash_is_replaced_at_the_first_sign_in(
    app: Flask, client: Visitor, username: str
) -> None:
    _people(app)
    assert sign_in(client, username, OLD_PASSWORD).status_code == 303
    account = user(app, username)
    assert account.imported_digest is None
    assert account.password_hash is not None
    assert account.password_hash.startswith("$argon2id$")
    assert [event.event for event in events(app)] == ["password.upgraded", "login.succeeded"]
    assert events(app)[0].detail == {"was": "sha256" if username == "imported" else "bcrypt"}
    assert sign_in(browser(app), username, OLD_PASSWORD).status_code == 303
    assert len(events(app, "password.upgraded")) == 1


def test_a_hash_of_an_older_cost_is_replaced_too(app: Flask, client: Visitor) -> None:
    weak = PasswordHashes(memory_kib=32, passes=1, lanes=1).hash(PASSWORD)
    add_person(app, password_hash=weak)
    assert sign_in(client).status_code == 303
    with app.app_context():
        assert password_hashes().is_current(user(app).password_hash or "")


def test_a_digest_is_no_password_before_and_after_the_upgrade(app: Flask, client: Visitor) -> None:
    _people(app)
    digest = sha256_of(OLD_PASSWORD)
    assert sign_in(client, "imported", digest).status_code == 422
    assert sign_in(client, "imported", OLD_PASSWORD).status_code == 303
    other = browser(app)
    assert sign_in(other, "imported", digest).status_code == 422
    assert sign_in(other, "imported", digest.upper()).status_code == 422


def test_simultaneous_first_sign_ins_upgrade_once_and_all_succeed(app: Flask) -> None:
    add_person(app, imported_password=OLD_PASSWORD)
    ready = threading.Barrier(4)
    outcomes: list[str] = []

    def run() -> None:
        with app.app_context():
            ready.wait()
            try:
                outcomes.append(login.sign_in("amira", OLD_PASSWORD).stage)
            except LoginRefused:
                outcomes.append("refused")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["full"] * 4
    assert len(events(app, "password.upgraded")) == 1


def test_a_password_that_was_changed_meanwhile_neither_signs_in_nor_overwrites(app: Flask) -> None:
    add_person(app, imported_password=OLD_PASSWORD)
    with app.app_context():
        found = credentials.find("amira")
        assert found is not None
        verdict = credentials.check(found, OLD_PASSWORD)
        with transaction() as session:
            changed = session.get(type(user(app)), found.user_id)
            assert changed is not None
            changed.password_hash, changed.imported_digest = "$argon2id$new", None
        with transaction():
            assert credentials.confirm(found, verdict) is None
        assert user(app).password_hash == "$argon2id$new"


def test_no_transaction_is_open_while_a_password_is_hashed(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    _people(app)
    open_transactions: list[bool] = []
    original = PasswordHasher.verify

    def verify(*args: object) -> object:
        open_transactions.append(db.session().in_transaction())
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    with app.app_context():
        for username in ("amira", "imported", "hashed", "unknown"):
            with pytest.raises(LoginRefused):
                login.sign_in(username, GUESS)
    assert open_transactions == [False] * 4


def test_a_digest_whose_master_key_is_gone_does_not_let_in_and_is_kept(
    app: Flask, client: Visitor
) -> None:
    add_person(app, imported_password=OLD_PASSWORD)
    with app.app_context(), transaction() as session:
        account = session.get(type(user(app)), user(app).id)
        assert account is not None
        account.data_keys[0].master_key_id = "gone"
    answer = sign_in(client, password=OLD_PASSWORD)
    assert answer.status_code == 422
    assert MESSAGE in answer.text
    assert user(app).imported_digest is not None
    assert events(app, "login.failed")[0].detail == {"reason": "locked"}


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "https:evil.example"])
def test_after_the_sign_in_one_stays_on_this_site(app: Flask, client: Visitor, target: str) -> None:
    add_person(app)
    assert sign_in(client, data={"next": target}).location == "/keys"


def test_after_the_sign_in_one_is_where_one_wanted_to_be(app: Flask, client: Visitor) -> None:
    add_person(app)
    sent_away = client.get("/account?x=1")
    assert sent_away.location == "/login?next=/account?x%3D1"
    form = client.get(sent_away.location)
    assert 'name="next" value="/account?x=1"' in form.text
    assert sign_in(client, data={"next": "/account?x=1"}).location == "/account?x=1"
    assert client.get("/login?next=/account").location == "/account"


def test_htmx_is_told_where_to_go(app: Flask, client: Visitor) -> None:
    add_person(app)
    headers = {"HX-Request": "true"}
    wrong = sign_in(client, password=GUESS, headers=headers)
    assert wrong.status_code == 422
    assert MESSAGE in wrong.text
    assert "<html" not in wrong.text
    answer = sign_in(client, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["HX-Redirect"] == "/keys"
    assert answer.text == ""
    assert is_signed_in(client)


MALFORMED: list[dict[str, object]] = [
    {},
    {"username": "amira"},
    {"password": PASSWORD},
    {"username": "a" * 151, "password": PASSWORD},
    {"username": "amira", "password": "x" * 4097},
    {"username": "am\0ira", "password": PASSWORD},
    {"username": "amira", "password": f"{PASSWORD}\0"},
    {"username": ["amira", "ben"], "password": PASSWORD},
    {"username": "amira", "password": [PASSWORD, PASSWORD]},
]


def test_malformed_input_is_refused_and_not_counted(app: Flask, client: Visitor) -> None:
    add_person(app)
    for data in MALFORMED:
        answer = client.post_form("/login", data)
        assert answer.status_code == 422, data
        assert 'class="error"' in answer.text
        assert PASSWORD not in answer.text
    assert events(app) == []


def test_a_file_in_place_of_a_text_is_refused(app: Flask, client: Visitor) -> None:
    token = client.csrf_token("/login")
    answer = client.post(
        "/login",
        data={"csrf_token": token, "username": (io.BytesIO(b"x"), "x.txt"), "password": "x"},
    )
    assert answer.status_code == 422


def test_a_form_without_its_token_is_refused(app: Flask, client: Visitor) -> None:
    add_person(app)
    answer = client.post("/login", data={"username": "amira", "password": PASSWORD})
    assert answer.status_code == 400
    assert not is_signed_in(client)


def test_signing_in_again_replaces_the_session(app: Flask) -> None:
    add_person(app, "amira")
    add_person(app, "ben")
    visitor = signed_in(app, "amira")
    assert sign_in(visitor, "ben", page="/account").status_code == 303
    assert "ben" in visitor.get("/account").text
    assert len(sessions(app)) == 1
    assert cookie_of(app, visitor).keys() <= {"sid", "csrf_token", "_flashes"}
