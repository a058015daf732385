"""The keys page: every act as a plain form and as an htmx fragment, CSRF on."""

import re
from collections.abc import Mapping
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import text, update
from werkzeug.test import TestResponse

from tests.legacy_folder import SAMPLE
from tests.visitor import Visitor
from webapp.clock import frozen, now
from webapp.db import db, transaction
from webapp.models import ApiKeyVersion, AuditEvent
from webapp.services.accounts import create_account
from webapp.services.keys import get_user_api_keys, save_user_api_key

PASSWORD = "seven quiet lanterns"
SECRET = "sk-proj-0123456789abcdef"
SMTP = {
    "host": "mail.hidden.example",
    "port": "587",
    "user": "mail_user",
    "password": "mail password",
}
HTMX = {"HX-Request": "true"}


@pytest.fixture
def alice(app: Flask, client: Visitor) -> Visitor:
    with app.app_context():
        create_account("alice", PASSWORD)
    return sign_in(client)


def sign_in(client: Visitor, username: str = "alice") -> Visitor:
    answer = client.post_form("/login", {"username": username, "password": PASSWORD})
    assert answer.status_code == 303
    return client


def state(answer: TestResponse, name: str) -> str:
    """Return the one state that the page shows for a key."""
    found = re.findall(rf'data-key="{name}"\s+data-state="([a-z]+)"', answer.text)
    assert len(found) == 1
    return str(found[0])


def post(
    client: Visitor,
    path: str,
    data: Mapping[str, str] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> TestResponse:
    return client.post_form(path, data, page="/keys", headers=headers or {})


def test_a_first_visit_lists_every_known_provider_as_missing(alice: Visitor) -> None:
    page = alice.get("/keys")
    assert page.status_code == 200
    for name in ("openai", "anthropic", "google", "slack", "github", "smtp"):
        assert state(page, name) == "missing"


def test_saving_redirects_to_the_receipt(app: Flask, alice: Visitor) -> None:
    answer = post(alice, "/keys/openai", {"value": SECRET})
    assert answer.status_code == 303
    page = alice.get(answer.location)
    assert state(page, "openai") == "saved"
    assert "Saved as version 1" in page.text
    with app.app_context():
        assert get_user_api_keys("alice")["openai"] == SECRET
    fingerprint = re.search(r"fingerprint <code>([0-9a-f]{12})</code>", page.text)
    assert fingerprint is not None
    assert SECRET not in page.text
    assert "cdef" in page.text


def test_saving_the_stored_value_again_says_so(alice: Visitor) -> None:
    post(alice, "/keys/openai", {"value": SECRET})
    page = alice.get(post(alice, "/keys/openai", {"value": SECRET}).location)
    assert "Unchanged, still version 1" in page.text
    assert "Saved as version" not in page.text


def test_a_receipt_is_shown_for_the_current_version_only(alice: Visitor) -> None:
    first = post(alice, "/keys/openai", {"value": SECRET}).location
    post(alice, "/keys/openai", {"value": SECRET + "2"})
    for path in (first, "/keys?saved=openai", "/keys?saved=openai&version=9", "/keys?version=2"):
        assert "receipt" not in alice.get(path).text


def test_saving_with_htmx_answers_the_one_key_with_its_receipt(alice: Visitor) -> None:
    answer = post(alice, "/keys/openai", {"value": SECRET}, headers=HTMX)
    assert answer.status_code == 200
    assert "<html" not in answer.text
    assert answer.text.count("data-key=") == 1
    assert state(answer, "openai") == "saved"
    assert re.search(r"fingerprint <code>[0-9a-f]{12}</code>", answer.text)
    assert "HX-Request" in answer.headers["Vary"]


@pytest.mark.parametrize(
    ("value", "word"), [("", "empty"), ("sk-…abcd", "masked"), ("ks1.1." + "A" * 60, "sealed")]
)
@pytest.mark.parametrize("headers", [{}, HTMX], ids=["plain", "htmx"])
def test_a_refused_save_says_why_beside_the_field(
    app: Flask, alice: Visitor, value: str, word: str, headers: dict[str, str]
) -> None:
    with app.app_context():
        save_user_api_key("alice", "openai", SECRET)
    answer = post(alice, "/keys/openai", {"value": value}, headers=headers)
    assert answer.status_code == 422
    assert word in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert state(answer, "openai") == "saved"
    assert not value or value not in answer.text
    with app.app_context():
        assert get_user_api_keys("alice")["openai"] == SECRET


def test_a_mask_can_be_meant(app: Flask, alice: Visitor) -> None:
    refused = post(alice, "/keys/openai", {"value": "pass***word"}, headers=HTMX)
    assert 'name="literal"' in refused.text
    assert 'name="literal"' not in alice.get("/keys").text
    answer = post(alice, "/keys/openai", {"value": "pass***word", "literal": "1"}, headers=HTMX)
    assert answer.status_code == 200
    with app.app_context():
        assert get_user_api_keys("alice")["openai"] == "pass***word"


def test_smtp_is_one_key_with_fields(app: Flask, alice: Visitor) -> None:
    assert post(alice, "/keys/smtp", SMTP).status_code == 303
    page = alice.get("/keys")
    assert state(page, "smtp") == "saved"
    for part in ("host", "user", "password"):
        assert SMTP[part] not in page.text
    refused = post(alice, "/keys/smtp", SMTP | {"password": ""}, headers=HTMX)
    assert refused.status_code == 422
    assert SMTP["host"] in refused.text, "what was just typed stays"
    assert SMTP["password"] not in refused.text
    with app.app_context():
        assert get_user_api_keys("alice")["smtp"] == SMTP


def test_a_custom_key_is_added_once(alice: Visitor) -> None:
    assert post(alice, "/keys", {"name": "stripe", "value": SECRET}).status_code == 303
    assert state(alice.get("/keys"), "stripe") == "saved"
    again = post(alice, "/keys", {"name": "stripe", "value": "another"})
    assert again.status_code == 422
    assert "already" in again.text


@pytest.mark.parametrize("name", ["", "Stripe", "1st", "a b", "a" * 65, "../etc", "a\nb"])
def test_a_custom_key_needs_a_valid_name(alice: Visitor, name: str) -> None:
    answer = post(alice, "/keys", {"name": name, "value": SECRET}, headers=HTMX)
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text


def test_any_valid_name_can_be_saved_to(alice: Visitor) -> None:
    assert post(alice, "/keys/something-new", {"value": SECRET}).status_code == 303
    assert post(alice, "/keys/Not-Valid", {"value": SECRET}).status_code == 422


def test_an_expiry_is_kept_and_a_bad_date_refused(alice: Visitor) -> None:
    post(alice, "/keys/openai", {"value": SECRET, "expires_on": "2027-03-01"})
    assert "2027-03-01" in alice.get("/keys").text
    answer = post(alice, "/keys/openai", {"value": SECRET, "expires_on": "soon"}, headers=HTMX)
    assert answer.status_code == 422


def test_reveal_shows_the_value_in_this_answer_only(alice: Visitor) -> None:
    post(alice, "/keys/openai", {"value": SECRET})
    fragment = post(alice, "/keys/openai/reveal", headers=HTMX)
    assert fragment.status_code == 200
    assert SECRET in fragment.text
    assert "<html" not in fragment.text
    page = post(alice, "/keys/openai/reveal")
    assert page.status_code == 200
    assert SECRET in page.text
    assert page.headers["Cache-Control"] == "no-store"
    assert SECRET not in alice.get("/keys").text


def test_reveal_asks_for_the_password_when_it_was_given_long_ago(alice: Visitor) -> None:
    post(alice, "/keys/openai", {"value": SECRET})
    with frozen(now() + timedelta(minutes=11)):
        for headers in (None, HTMX):
            answer = post(alice, "/keys/openai/reveal", headers=headers)
            assert answer.status_code == 403
            assert 'name="password"' in answer.text
            assert SECRET not in answer.text


def test_nothing_to_reveal_is_not_found(alice: Visitor) -> None:
    assert post(alice, "/keys/openai/reveal").status_code == 404


def test_delete_puts_the_key_into_the_trash(app: Flask, alice: Visitor) -> None:
    post(alice, "/keys/openai", {"value": SECRET})
    answer = post(alice, "/keys/openai/delete", headers=HTMX)
    assert state(answer, "openai") == "deleted"
    assert post(alice, "/keys/openai/delete").status_code == 303
    assert state(alice.get("/keys"), "openai") == "deleted"
    with app.app_context():
        assert dict(get_user_api_keys("alice")) == {}


def test_a_locked_key_stays_listed_and_can_be_replaced(app: Flask, alice: Visitor) -> None:
    post(alice, "/keys/openai", {"value": SECRET})
    with app.app_context(), transaction() as session:
        session.execute(update(ApiKeyVersion).values(sealed_value="ks1.1." + "A" * 60))
    assert state(alice.get("/keys"), "openai") == "locked"
    assert post(alice, "/keys/openai/reveal").status_code == 409
    assert post(alice, "/keys/openai", {"value": SECRET}).status_code == 303
    assert state(alice.get("/keys"), "openai") == "saved"


@pytest.mark.environ(OPENAI_API_KEY="environment-0123456789", SHARE_ENVIRONMENT_KEYS="1")
def test_an_environment_key_is_named_and_not_shown(alice: Visitor) -> None:
    page = alice.get("/keys")
    assert state(page, "openai") == "environment"
    assert "OPENAI_API_KEY" in page.text
    assert "6789" not in page.text
    assert post(alice, "/keys/openai/reveal").status_code == 403


def test_what_one_person_saves_another_does_not_see(app: Flask, alice: Visitor) -> None:
    post(alice, "/keys/openai", {"value": SECRET})
    with app.app_context():
        create_account("bob", PASSWORD)
    bob = app.test_client()
    assert isinstance(bob, Visitor)
    page = sign_in(bob, "bob").get("/keys")
    assert state(page, "openai") == "missing"
    assert post(bob, "/keys/openai/reveal").status_code == 404
    assert post(bob, "/keys/openai/delete").status_code == 303
    assert state(alice.get("/keys"), "openai") == "saved"


@pytest.mark.parametrize(
    "path", ["/keys", "/keys/openai", "/keys/openai/reveal", "/keys/openai/delete"]
)
def test_every_act_needs_a_session_and_a_token(client: Visitor, alice: Visitor, path: str) -> None:
    without_token = alice.post(path, data={"value": SECRET, "name": "x"})
    assert without_token.status_code == 400
    alice.post_form("/logout", page="/keys")
    answer = client.post(path, data={"value": SECRET, "name": "x"})
    assert answer.status_code in {302, 303}
    assert "/login" in answer.location


def test_every_read_is_fresh(app: Flask, alice: Visitor) -> None:
    """What a second process saved is on the next page: nothing is kept in the session."""
    assert state(alice.get("/keys"), "openai") == "missing"
    with app.app_context():
        save_user_api_key("alice", "openai", SECRET)
    assert state(alice.get("/keys"), "openai") == "saved"
    with app.app_context(), transaction() as session:
        session.execute(text("DELETE FROM api_key_versions"))
        session.execute(text("DELETE FROM api_keys"))
    assert state(alice.get("/keys"), "openai") == "missing"


# A predecessor whose files were not imported yet, and a session that was not used for a while: what
# a request can cost besides. One write tells when a session was used, once a minute.
WORST = pytest.mark.environ(LEGACY_DIR=str(SAMPLE))


@WORST
def test_the_page_costs_at_most_four_statements_however_many_keys(
    app: Flask, alice: Visitor, statements: list[str]
) -> None:
    with app.app_context():
        for number in range(30):
            save_user_api_key("alice", f"key-{number}", SECRET)
    alice.get("/keys")
    with frozen(now() + timedelta(minutes=2)):
        statements.clear()
        assert alice.get("/keys").status_code == 200
    assert len(statements) <= 4, statements


@WORST
@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "fragment"])
def test_a_reveal_costs_at_most_six_statements(
    alice: Visitor, statements: list[str], headers: dict[str, str]
) -> None:
    post(alice, "/keys/openai", {"value": SECRET})
    token = alice.csrf_token("/keys")
    statements.clear()
    answer = alice.post("/keys/openai/reveal", data={"csrf_token": token}, headers=headers)
    assert answer.status_code == 200
    assert SECRET in answer.text
    assert len(statements) <= 6, statements


@pytest.mark.environ(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
def test_an_unreachable_database_never_looks_like_no_keys(client: Visitor) -> None:
    with client.session_transaction() as session:
        session["sid"] = "any"
    answer = client.get("/keys")
    assert answer.status_code == 503
    assert "data-key" not in answer.text
    assert "not gone" in answer.text


def test_acts_are_audited_without_values(app: Flask, alice: Visitor) -> None:
    post(alice, "/keys/openai", {"value": SECRET})
    post(alice, "/keys/openai/reveal")
    post(alice, "/keys/openai/delete")
    with app.app_context():
        events = [e for e in db.session.scalars(db.select(AuditEvent)) if "key." in e.event]
    assert [event.event for event in events] == ["key.saved", "key.revealed", "key.deleted"]
    for event in events:
        assert event.via == "web"
        assert event.actor_id == event.subject_id
        assert event.address == "127.0.0.1"
        assert event.request_id
        assert SECRET not in str(event.detail)
