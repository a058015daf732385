"""`flask users`."""

import json

import pytest
from click.testing import Result
from flask import Flask

from tests.people import (
    PASSWORD,
    add_person,
    browser,
    events,
    is_signed_in,
    sign_in,
    signed_in,
    user,
)


def _run(app: Flask, *arguments: str, given: str | bytes = "") -> Result:
    return app.test_cli_runner().invoke(args=["users", *arguments], input=given)


def test_an_account_is_made_with_the_password_of_the_first_line(app: Flask) -> None:
    result = _run(app, "create", "Amira", "--password-stdin", given=f"{PASSWORD}\nignored\n")
    assert (result.exit_code, result.stdout) == (0, "Created the account Amira.\n")
    assert not user(app, "Amira").is_admin
    assert sign_in(browser(app), "amira").status_code == 303
    found = events(app, "account")
    assert [(event.event, event.via, event.actor_id) for event in found] == [
        ("account.created", "cli", None)
    ]


def test_an_admin_is_made_and_the_audit_trail_says_so(app: Flask) -> None:
    result = _run(app, "create", "root_1", "--admin", "--password-stdin", "--json", given=PASSWORD)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"username": "root_1", "is_admin": True}
    assert user(app, "root_1").is_admin
    assert [event.event for event in events(app)] == ["account.created", "account.admin_granted"]


def test_spaces_of_a_password_are_kept(app: Flask) -> None:
    _run(app, "create", "amira", "--password-stdin", given=f"  {PASSWORD} \r\n")
    assert sign_in(browser(app), password=f"  {PASSWORD} ").status_code == 303


def test_without_a_terminal_the_password_has_to_come_from_standard_input(app: Flask) -> None:
    result = _run(app, "create", "amira", given=f"{PASSWORD}\n{PASSWORD}\n")
    assert result.exit_code == 2
    assert "--password-stdin" in result.stderr


@pytest.mark.parametrize(
    ("name", "password", "exit_code", "message"),
    [
        ("am", PASSWORD, 1, "3 to 50"),
        ("a name", PASSWORD, 1, "3 to 50"),
        ("ben", PASSWORD, 1, "taken"),
        ("amira", "short", 1, "at least 12"),
        ("amira", "", 1, "at least 12"),
        ("amira", b"\xff\xfe not utf-8 at all", 2, "UTF-8"),
    ],
)
def test_what_is_not_acceptable_is_one_line_and_makes_nothing(
    app: Flask, name: str, password: str | bytes, exit_code: int, message: str
) -> None:
    add_person(app, "Ben")
    result = _run(app, "create", name, "--password-stdin", given=password)
    assert result.exit_code == exit_code
    assert message in result.stderr
    assert result.stdout == ""
    assert events(app) == []
    if exit_code == 1:
        assert result.stderr.count("\n") == 1
        as_json = _run(app, "create", name, "--password-stdin", "--json", given=password)
        assert (as_json.exit_code, list(json.loads(as_json.stdout))) == (1, ["error"])


def test_the_list_names_every_account_and_no_credential(app: Flask) -> None:
    add_person(app, "ben", totp="JBSWY3DPEHPK3PXP")
    add_person(app, "Amira", is_admin=True)
    add_person(app, "chen\x1b[31m", admin_requested=True)
    assert _run(app, "list").stdout.splitlines() == [
        "Amira  admin",
        "ben  second factor",
        "chen\\x1b[31m  asks to be admin",
    ]
    result = _run(app, "list", "--json")
    assert result.exit_code == 0
    listed = json.loads(result.stdout)["users"]
    assert [entry["username"] for entry in listed] == ["Amira", "ben", "chen\x1b[31m"]
    assert listed[0].keys() == {
        "username",
        "name",
        "is_admin",
        "admin_requested",
        "second_factor",
        "created_at",
        "last_login_at",
        "disabled_at",
    }
    assert listed[0]["created_at"].endswith("+00:00")


def test_a_disabled_account_is_out_at_once_until_it_is_enabled(app: Flask) -> None:
    add_person(app)
    visitor = signed_in(app)
    assert _run(app, "disable", "AMIRA").exit_code == 0
    assert not is_signed_in(visitor)
    assert sign_in(browser(app)).status_code == 422
    again = _run(app, "disable", "amira", "--json")
    assert json.loads(again.stdout) == {"username": "amira", "state": "disabled", "changed": False}
    assert _run(app, "enable", "amira").exit_code == 0
    assert not is_signed_in(visitor), "the sessions of before stay ended"
    assert sign_in(browser(app)).status_code == 303
    assert [event.event for event in events(app, "account")] == [
        "account.disabled",
        "account.enabled",
    ]


def test_the_last_admin_cannot_be_disabled(app: Flask) -> None:
    add_person(app, "amira", is_admin=True)
    add_person(app, "ben", is_admin=True)
    assert _run(app, "disable", "ben").exit_code == 0
    result = _run(app, "disable", "amira")
    assert result.exit_code == 1
    assert "last admin" in result.stderr
    assert user(app, "amira").disabled_at is None


@pytest.mark.parametrize("command", ["disable", "enable"])
def test_an_unknown_account_is_an_error(app: Flask, command: str) -> None:
    result = _run(app, command, "nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no account" in result.stderr
