"""A wrong or missing master key is noticed before it does harm, and what it sealed is not lost."""

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select

from tests.conftest import CHEAP_PASSWORDS, MakeSettings
from tests.people import PASSWORD, add_person, signed_in
from tests.visitor import Visitor
from webapp import create_app
from webapp.config import ConfigError, Settings
from webapp.crypto.keyring import MasterKey
from webapp.db import db, dispose_engines
from webapp.models import KeyringCheck
from webapp.services import keys
from webapp.services.keyring import KeyringRefused, check_keyring, current_keyring, keyring_problems
from webapp.services.keys import (
    delete_user_api_key,
    get_user_api_keys,
    reveal_user_api_key,
    save_user_api_key,
)

K1, K2, OTHER_K1 = MasterKey.generate("k1"), MasterKey.generate("k2"), MasterKey.generate("k1")

Installation = Callable[..., Flask]


@pytest.fixture
def start(make_settings: MakeSettings, request: pytest.FixtureRequest) -> Installation:
    """Start the installation anew with other variables: `start(MASTER_KEYS=...)`."""

    def start(**environ: str) -> Flask:
        app = create_app(make_settings(**environ))
        app.config["TESTING"] = True
        app.test_client_class = Visitor
        request.addfinalizer(lambda: dispose_engines(app))
        return app

    return start


def text(*keyring: MasterKey) -> str:
    return ",".join(map(str, keyring))


def seal_under_k1(start: Installation) -> None:
    app = start(MASTER_KEYS=text(K1))
    add_person(app, "amira")
    with app.app_context():
        save_user_api_key("amira", "openai", "sk-sealed-under-k1")
        save_user_api_key("amira", "google", "first of google")
        save_user_api_key("amira", "google", "second of google")
        save_user_api_key("amira", "slack", "slack under k1")


def test_a_missing_master_key_that_rows_need_is_refused_by_name(start: Installation) -> None:
    seal_under_k1(start)
    app = start(MASTER_KEYS=text(K2))
    with app.app_context():
        with pytest.raises(KeyringRefused, match="k1"):
            check_keyring()
        with pytest.raises(KeyringRefused, match="k1"):
            save_user_api_key("amira", "openai", "must not be sealed")
        (problem,) = keyring_problems()
        assert "ACCEPT_MISSING_MASTER_KEYS=k1" in problem
        known = set(db.session.scalars(select(KeyringCheck.master_key_id)))
        assert known == {"k1"}, "a refused start registers nothing"


def test_other_bytes_under_a_known_id_are_refused(start: Installation) -> None:
    seal_under_k1(start)
    for keyring in (text(OTHER_K1), text(K2, OTHER_K1)):
        with start(MASTER_KEYS=keyring).app_context():
            with pytest.raises(KeyringRefused, match="k1") as error:
                check_keyring()
            for key in (OTHER_K1, K2):
                assert str(key).partition(":")[2] not in str(error.value)


def test_accepting_a_loss_does_not_accept_other_bytes(start: Installation) -> None:
    seal_under_k1(start)
    app = start(MASTER_KEYS=text(OTHER_K1), ACCEPT_MISSING_MASTER_KEYS="k1")
    with app.app_context(), pytest.raises(KeyringRefused, match="k1"):
        check_keyring()


def test_a_key_that_nothing_needs_may_go(start: Installation) -> None:
    with start(MASTER_KEYS=text(K1, K2)).app_context():
        check_keyring()
    with start(MASTER_KEYS=text(K1)).app_context():
        check_keyring()
        assert current_keyring().ids == {"k1"}


def test_a_further_key_in_front_seals_and_the_old_one_still_opens(start: Installation) -> None:
    seal_under_k1(start)
    with start(MASTER_KEYS=text(K2, K1)).app_context():
        assert get_user_api_keys("amira")["openai"] == "sk-sealed-under-k1"
        assert save_user_api_key("amira", "openai", "a new value").version == 2


def test_what_a_lost_master_key_sealed_is_locked_and_all_else_works(start: Installation) -> None:
    seal_under_k1(start)
    app = start(MASTER_KEYS=text(K2), ACCEPT_MISSING_MASTER_KEYS="k1")
    with app.app_context():
        found = get_user_api_keys("amira")
        assert dict(found) == {}
        assert set(found.locked) == {"openai", "google", "slack"}
        with pytest.raises(keys.KeyLocked, match="k1"):
            reveal_user_api_key("amira", "openai")
        assert save_user_api_key("amira", "openai", "replaced").version == 2
        assert save_user_api_key("amira", "anthropic", "new under k2").version == 1
        assert delete_user_api_key("amira", "slack") is True
        assert dict(get_user_api_keys("amira")) == {
            "openai": "replaced",
            "anthropic": "new under k2",
        }
    with start(MASTER_KEYS=text(K2, K1)).app_context():
        found = get_user_api_keys("amira")
        assert dict(found) == {
            "openai": "replaced",
            "anthropic": "new under k2",
            "google": "second of google",
        }
        assert not found.locked


def test_locked_keys_are_listed_with_the_id_that_they_need(start: Installation) -> None:
    seal_under_k1(start)
    app = start(MASTER_KEYS=text(K2), ACCEPT_MISSING_MASTER_KEYS="k1")
    amira = signed_in(app, "amira", PASSWORD)
    page = amira.get("/keys")
    assert page.status_code == 200
    assert page.text.count('data-state="locked"') == 3
    assert "k1" in page.text
    answer = amira.post_form("/keys/openai", {"value": "replaced on the page"}, page="/keys")
    assert answer.status_code == 303
    assert amira.post_form("/keys/google/delete", page="/keys").status_code == 303
    page = amira.get("/keys")
    assert page.text.count('data-state="locked"') == 1
    assert amira.post_form("/keys/slack/reveal", page="/keys").status_code == 409


def test_an_accepted_loss_is_told_to_admins(start: Installation) -> None:
    seal_under_k1(start)
    app = start(MASTER_KEYS=text(K2), ACCEPT_MISSING_MASTER_KEYS="k1")
    add_person(app, "root", is_admin=True)
    page = signed_in(app, "root").get("/admin").text
    assert "The master key k1 is missing" in page


def test_no_page_fails_because_something_does_not_open(start: Installation) -> None:
    seal_under_k1(start)
    app = start(MASTER_KEYS=text(K2), ACCEPT_MISSING_MASTER_KEYS="k1")
    add_person(app, "root", is_admin=True)
    for visitor in (signed_in(app, "amira"), signed_in(app, "root")):
        for rule in app.url_map.iter_rules():
            if "GET" in (rule.methods or ()) and not rule.arguments:
                assert visitor.get(rule.rule).status_code < 500, rule.rule


@pytest.mark.environ(MASTER_KEYS="")
def test_development_makes_a_first_key_while_nothing_sealed_exists(
    start: Installation, tmp_path: Path
) -> None:
    made = tmp_path / "master.keys"
    app = start()
    add_person(app, "amira")
    assert not made.exists()
    with app.app_context():
        save_user_api_key("amira", "openai", "sealed")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    content = made.read_text()
    with start().app_context():
        assert get_user_api_keys("amira")["openai"] == "sealed"
    assert made.read_text() == content


@pytest.mark.environ(MASTER_KEYS="")
def test_development_never_makes_another_once_something_is_sealed(
    start: Installation, tmp_path: Path
) -> None:
    app = start()
    add_person(app, "amira")
    with app.app_context():
        save_user_api_key("amira", "openai", "sealed")
    kept = (tmp_path / "master.keys").rename(tmp_path / "kept")
    app = start()
    with app.app_context():
        with pytest.raises(KeyringRefused, match=r"master key k1 .* master\.keys"):
            check_keyring()
        (problem,) = keyring_problems()
        assert "master key k1 is missing" in problem
        assert str(tmp_path) not in problem, "/readyz tells it to everybody"
        with pytest.raises(KeyringRefused):
            save_user_api_key("amira", "google", "must not be sealed")
    assert not (tmp_path / "master.keys").exists()
    kept.rename(tmp_path / "master.keys")
    with start().app_context():
        assert dict(get_user_api_keys("amira")) == {"openai": "sealed"}


@pytest.mark.environ(MASTER_KEYS="")
def test_two_first_starts_agree_on_one_key(start: Installation) -> None:
    first, second = start(), start()
    with first.app_context():
        check_keyring()
    with second.app_context():
        assert keyring_problems() == [], "the file is there, though it was not when this one began"
        check_keyring()
    with first.app_context():
        one = current_keyring().active
        assert db.session.scalar(select(func.count()).select_from(KeyringCheck)) == 1
    with second.app_context():
        assert current_keyring().active == one


def test_malformed_master_keys_are_one_line_without_the_key(settings: Settings) -> None:
    secret = str(K1).partition(":")[2]
    broken = replace(
        settings, master_keys=f"k1:{secret},k1:{secret}", password_cost=CHEAP_PASSWORDS
    )
    with pytest.raises(ConfigError, match="MASTER_KEYS:") as error:
        create_app(broken)
    assert secret not in str(error.value)
    from_file = replace(broken, master_keys_variable="MASTER_KEYS_FILE")
    with pytest.raises(ConfigError, match="MASTER_KEYS_FILE:"):
        create_app(from_file)
    assert secret not in str(error.value)
