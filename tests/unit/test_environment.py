"""The `.env` file."""

import os
from pathlib import Path

import pytest

from tests.deployment import PRODUCTION
from webapp.config import ConfigError, Settings, load_environ


def test_the_environment_wins_over_the_env_file_unless_it_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(
        "SIGNUP=open\nSESSION_MAX_HOURS=8\nRECENT_AUTH_MINUTES=\nREDIS_URL='redis://a'\n"
    )
    monkeypatch.setenv("SIGNUP", "closed")
    monkeypatch.setenv("SESSION_MAX_HOURS", "")
    monkeypatch.setenv("REDIS_URL", " ")
    monkeypatch.delenv("RECENT_AUTH_MINUTES", raising=False)
    found = load_environ(tmp_path)
    assert found["SIGNUP"] == "closed"
    assert found["SESSION_MAX_HOURS"] == "8"
    assert found["REDIS_URL"] == "redis://a"
    assert "RECENT_AUTH_MINUTES" not in found


def test_without_an_env_file_there_is_the_environment(tmp_path: Path) -> None:
    assert load_environ(tmp_path) == {k: v for k, v in os.environ.items() if v.strip()}


def test_an_env_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"SIGNUP=\xff\n")
    with pytest.raises(ConfigError, match=r"^\.env: cannot be read: it is not UTF-8 text$"):
        load_environ(tmp_path)


def test_production_refuses_secrets_in_an_env_file_that_others_can_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"SECRET_KEY={PRODUCTION['SECRET_KEY']}\n")
    (tmp_path / ".env").chmod(0o644)
    with pytest.raises(ConfigError, match=r"^SECRET_KEY: .*\.env can be read by others"):
        Settings.from_environ(PRODUCTION, tmp_path)

    (tmp_path / ".env").chmod(0o600)
    Settings.from_environ(PRODUCTION, tmp_path)
    (tmp_path / ".env").chmod(0o644)
    unused = PRODUCTION | {"SECRET_KEY": "another one, from the process's environment"}
    Settings.from_environ(unused, tmp_path)
