"""The setup link where more than an empty installation is around it. Its use: test_signup.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record
from tests.people import PASSWORD, browser, events, is_signed_in, user
from tests.visitor import Visitor
from webapp import create_app
from webapp.db import db, dispose_engines
from webapp.models import User
from webapp.services import legacy_lookup
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.setup import setup_token

FORM = {"username": "root", "password": PASSWORD, "confirm": PASSWORD}
HTMX = {"HX-Request": "true"}


def link_of(app: Flask) -> str:
    with app.app_context():
        return f"/setup/{setup_token()}"


def accounts(app: Flask) -> int:
    with app.app_context():
        return db.session.query(User).count()


def test_every_process_knows_the_link_and_a_restart_keeps_it(
    app: Flask, make_settings: MakeSettings
) -> None:
    again = create_app(make_settings())
    other = create_app(make_settings(SECRET_KEY="another secret key, of another installation"))
    assert link_of(again) == link_of(app)
    assert link_of(other) != link_of(app)
    assert len(link_of(app)) == len("/setup/") + 43, "256 bits"
    for made in (again, other):
        dispose_engines(made)


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"username": "ro"}, "username", "3 to 50"),
        ({"username": "root\n"}, "username", "3 to 50"),
        ({"password": "too short 1", "confirm": "too short 1"}, "password", "at least 12"),
        ({"password": "password1234", "confirm": "password1234"}, "password", "common"),
        ({"password": "root of it all", "confirm": "root of it all"}, "password", "username"),
        ({"confirm": "something else entirely"}, "confirm", "not the same"),
        ({"password": ""}, "password", "Choose a password"),
    ],
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_is_not_acceptable_is_said_beside_its_field(
    app: Flask, client: Visitor, changed: dict[str, str], field: str, message: str
) -> None:
    link, form = link_of(app), FORM | changed
    for headers in ({}, HTMX):
        answer = client.post_form(link, form, headers=headers)
        assert answer.status_code == 422
        error = answer.text.partition(f'id="{field}-error"')[2].partition("</p>")[0]
        assert message in error
        assert ("<html" in answer.text) is not bool(headers)
        for secret in {form["password"], form["confirm"]} - {""}:
            assert secret not in answer.text
    assert accounts(app) == 0
    assert events(app) == []
    assert client.get(link).status_code == 200, "the link is still good"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_htmx_is_told_where_to_go(app: Flask, client: Visitor) -> None:
    answer = client.post_form(link_of(app), FORM, headers=HTMX)
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["HX-Redirect"] == "/keys"
    assert is_signed_in(client)


@pytest.mark.environ(REQUIRE_TWO_FACTOR="admins", SIGNUP="closed")
def test_as_in_production_the_first_admin_sets_up_a_second_factor_next(
    app: Flask, client: Visitor
) -> None:
    answer = client.post_form(link_of(app), FORM)
    assert (answer.status_code, answer.location) == (303, "/account/totp")
    assert not is_signed_in(client)
    made = [(event.event, event.subject_id) for event in events(app)]
    root = user(app, "root").id
    assert made == [
        ("account.created", root),
        ("account.admin_granted", root),
        ("login.succeeded", root),
    ]
    assert events(app)[-1].detail["stage"] == "enrol"


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users({"Root": record(), "ann": record()})
    folder.rest()
    return folder


@pytest.fixture
def beside_predecessor(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    """An application beside the predecessor's files, which nobody has imported yet."""
    app = create_app(make_settings(LEGACY_DIR=str(folder.path)))
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def test_the_predecessors_names_are_not_for_the_first_admin(beside_predecessor: Flask) -> None:
    visitor, link = browser(beside_predecessor), link_of(beside_predecessor)
    answer = visitor.post_form(link, FORM)
    assert answer.status_code == 422
    assert "taken" in answer.text
    assert accounts(beside_predecessor) == 0
    assert visitor.post_form(link, FORM | {"username": "another_root"}).status_code == 303


def test_without_the_files_nobody_knows_whether_a_name_is_free(
    beside_predecessor: Flask, folder: LegacyFolder
) -> None:
    folder.raw('{"users": {"Root": ')
    visitor, link = browser(beside_predecessor), link_of(beside_predecessor)
    answer = visitor.post_form(link, FORM)
    assert answer.status_code == 503
    assert "cannot be read" in answer.text
    assert 'value="root"' in answer.text, "what was typed stays"
    assert PASSWORD not in answer.text
    assert accounts(beside_predecessor) == 0


def test_the_link_is_gone_after_the_import(beside_predecessor: Flask) -> None:
    link = link_of(beside_predecessor)
    assert browser(beside_predecessor).get(link).status_code == 200
    with beside_predecessor.app_context():
        migrate_api_keys_from_json_to_db()
    assert browser(beside_predecessor).get(link).status_code == 404
