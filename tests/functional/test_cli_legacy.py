"""`flask legacy import` and `flask legacy check`, as deploy scripts use them."""

import json
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from tests.legacy_folder import SAMPLE, LegacyFolder, record, sha256_of
from webapp.legacy.compare import Kind
from webapp.services import runs
from webapp.services.accounts import ensure_user_in_database
from webapp.services.keys import save_user_api_key


@pytest.fixture
def legacy(tmp_path: Path) -> LegacyFolder:
    """What LEGACY_DIR of `environ` names."""
    return LegacyFolder(tmp_path / "legacy")


@pytest.fixture
def environ(environ: Mapping[str, str], request: pytest.FixtureRequest) -> Mapping[str, str]:
    if "legacy" not in request.fixturenames:
        return environ
    folder: LegacyFolder = request.getfixturevalue("legacy")
    return {**environ, "LEGACY_DIR": str(folder.path)}


def flask(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["legacy", *arguments])


def answer(result: Result, exit_code: int = 0) -> dict[str, Any]:
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.environ(LEGACY_DIR=str(SAMPLE))
def test_import_then_check(app: Flask) -> None:
    foreseen = answer(flask(app, "import", "--dry-run", "--json"))
    assert foreseen == {
        "users_created": 6,
        "users_existing": 0,
        "keys_imported": 9,
        "keys_kept": 0,
        "keys_locked": 1,
        "records_rejected": 0,
        "two_factor_imported": 2,
        "rejected": [],
        "warnings": [],
    }
    assert answer(flask(app, "import", "--json")) == foreseen
    assert answer(flask(app, "import", "--json")) == {
        **foreseen,
        "users_created": 0,
        "users_existing": 6,
        "keys_imported": 0,
        "keys_kept": 9,
        "two_factor_imported": 0,
    }
    with app.app_context():
        ensure_user_in_database("dan", sha256_of("a password"))
    kinds = dict.fromkeys([kind.value for kind in Kind], 0)
    assert answer(flask(app, "check", "--json"), exit_code=1) == {
        "equal": 5,
        "pending": 0,
        "discrepancies": {**kinds, "locked_in_legacy": 1, "only_in_database": 1},
        "items": [
            {"kind": "locked_in_legacy", "username": "emre", "key_name": "google"},
            {"kind": "only_in_database", "username": "dan"},
        ],
    }


def test_a_check_that_finds_nothing_is_0(app: Flask, tmp_path: Path, legacy: LegacyFolder) -> None:
    legacy.users({"ann": record(api_keys={"openai": "plain"})})
    assert flask(app, "import").exit_code == 0
    result = flask(app, "check")
    assert (result.exit_code, result.stdout) == (0, "1 users are equal on both sides.\n")


def test_a_record_that_is_rejected_is_no_failure(app: Flask, legacy: LegacyFolder) -> None:
    legacy.users({"ann": record(), "bob": record(password_hash="?")})
    (legacy.path / "two_fa.json").unlink()
    found = answer(flask(app, "import", "--json"))
    assert found["records_rejected"] == 1
    assert found["rejected"] == [
        {
            "name": "bob",
            "reason": "password_hash is neither SHA-256 in 64 hex digits nor bcrypt",
        }
    ]
    assert found["warnings"] == ["two_fa.json is missing: no second factor is known"]
    (error,) = flask(app, "import").stderr.splitlines()
    assert error.startswith("warning: two_fa.json is missing")


def test_names_cannot_command_the_terminal(app: Flask, legacy: LegacyFolder) -> None:
    legacy.users({"one\x1b[31m\nline": record(password_hash="?")})
    for result in (flask(app, "import"), flask(app, "check")):
        assert "one\\x1b[31m\\nline" in result.stdout


def test_it_waits_for_the_worker_that_is_at_it(
    app: Flask, legacy: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy.users({"ann": record()})
    with app.app_context():
        lease = runs.begin(runs.LEGACY_IMPORT)
    command = import_module("webapp.cli.legacy")
    with monkeypatch.context() as impatient:
        impatient.setattr(command, "_WAIT_SECONDS", -1.0)
        result = flask(app, "import")
        assert result.exit_code == 1
        assert result.stderr.splitlines() == [runs.NotAvailable.message]

    def sleep(_: float) -> None:
        with app.app_context():
            runs.release(lease)

    monkeypatch.setattr(command, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    result = flask(app, "import", "--json")
    assert answer(result)["users_created"] == 1
    assert result.stderr.splitlines() == ["A worker is doing this right now; waiting for it."]


def test_the_folder_can_be_named(app: Flask) -> None:
    assert answer(flask(app, "import", "--dir", str(SAMPLE), "--json"))["users_created"] == 6


def test_for_people_it_prints_counts_and_reasons(app: Flask, legacy: LegacyFolder) -> None:
    legacy.users({"ann": record(), "bob": record(password_hash="?")})
    foreseen = flask(app, "import", "--dry-run")
    result = flask(app, "import")
    assert result.exit_code == foreseen.exit_code == 0
    assert foreseen.stdout == "Nothing was written. An import would report:\n" + result.stdout
    assert "users created                1" in result.stdout
    assert "rejected: bob: password_hash" in result.stdout


@pytest.mark.parametrize("as_json", [True, False])
def test_files_that_cannot_be_read_are_one_line_and_1(
    app: Flask, legacy: LegacyFolder, as_json: bool
) -> None:
    legacy.raw('{"users": {"ann"')
    legacy.rest()
    for command in (["import"], ["import", "--dry-run"], ["check"]):
        result = flask(app, *command, *(["--json"] if as_json else []))
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("users.json is not valid JSON")
        assert (json.loads(result.stdout) if as_json else result.stdout) == (
            {"error": line} if as_json else ""
        )


def test_a_folder_that_is_not_there_is_an_error(app: Flask, tmp_path: Path) -> None:
    result = flask(app, "import", "--dir", str(tmp_path / "nowhere"), "--json")
    assert result.exit_code == 1
    assert "users.json" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("command", ["import", "check"])
def test_without_a_folder_it_says_what_to_set(app: Flask, command: str) -> None:
    result = flask(app, command)
    assert result.exit_code == 1
    assert "LEGACY_DIR" in result.stderr


@pytest.mark.parametrize(
    "words", [["import", "--nonsense"], ["import", "--dir"], ["check", "--dir", "x"], ["chek"]]
)
def test_a_wrong_option_is_2(app: Flask, words: list[str]) -> None:
    assert flask(app, *words).exit_code == 2


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
