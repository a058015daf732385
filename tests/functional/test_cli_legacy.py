"""`flask legacy import` and `flask legacy check`, as deploy scripts use them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from tests.legacy_folder import SAMPLE, LegacyFolder, record
from webapp.services.keys import save_user_api_key

IMPORT_FIELDS = {
    "users_created",
    "users_existing",
    "keys_imported",
    "keys_kept",
    "keys_locked",
    "records_rejected",
    "two_factor_imported",
    "rejected",
}


def flask(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["legacy", *arguments])


def answer(result: Result, exit_code: int = 0) -> dict[str, Any]:
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.environ(LEGACY_DIR=str(SAMPLE))
def test_import_then_check(app: Flask) -> None:
    foreseen = answer(flask(app, "import", "--dry-run", "--json"))
    imported = answer(flask(app, "import", "--json"))
    assert imported == foreseen
    assert set(imported) >= IMPORT_FIELDS
    assert (imported["users_created"], imported["keys_imported"]) == (6, 9)
    again = answer(flask(app, "import", "--json"))
    assert (again["users_existing"], again["keys_kept"], again["keys_locked"]) == (6, 9, 1)
    checked = answer(flask(app, "check", "--json"), exit_code=1)
    assert set(checked) == {"equal", "discrepancies", "items"}
    assert checked["equal"] == 5
    assert {"kind": "locked_in_legacy", "username": "emre", "key_name": "google"} in checked[
        "items"
    ]


def test_the_folder_can_be_named(app: Flask) -> None:
    assert answer(flask(app, "import", "--dir", str(SAMPLE), "--json"))["users_created"] == 6


def test_for_people_it_prints_counts_and_reasons(app: Flask, tmp_path: Path) -> None:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users({"ann": record(), "bob": record(password_hash="?")})
    result = flask(app, "import", "--dir", str(folder.path))
    assert result.exit_code == 0
    assert "users created" in result.stdout
    assert "rejected: bob: password_hash" in result.stdout


@pytest.mark.parametrize("as_json", [True, False])
def test_files_that_cannot_be_read_are_one_line_and_1(
    app: Flask, tmp_path: Path, as_json: bool
) -> None:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.raw('{"users": {"ann"')
    folder.rest()
    options = ["--json"] if as_json else []
    result = flask(app, "import", "--dir", str(folder.path), *options)
    assert result.exit_code == 1
    assert "users.json" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    if as_json:
        assert "users.json" in json.loads(result.stdout)["error"]


def test_a_folder_that_is_not_there_is_an_error(app: Flask, tmp_path: Path) -> None:
    result = flask(app, "import", "--dir", str(tmp_path / "nowhere"), "--json")
    assert result.exit_code == 1
    assert "users.json" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("command", ["import", "check"])
def test_without_a_folder_it_says_what_to_set(app: Flask, command: str) -> None:
    result = flask(app, command)
    assert result.exit_code == 1
    assert "LEGACY_DIR" in result.stderr


def test_a_wrong_option_is_2(app: Flask) -> None:
    assert flask(app, "import", "--nonsense").exit_code == 2


@pytest.mark.environ(LEGACY_DIR=str(SAMPLE))
def test_a_check_names_differences_and_no_value(app: Flask) -> None:
    flask(app, "import")
    with app.app_context():
        save_user_api_key("amira", "openai", "sk-changed-in-the-database")
    for options in ((), ("--json",)):
        result = flask(app, "check", *options)
        assert result.exit_code == 1
        assert "key_differs" in result.stdout
        assert "amira" in result.stdout
        assert "sk-changed-in-the-database" not in result.output
        assert "sample" not in result.output
