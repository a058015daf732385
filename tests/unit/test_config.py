"""The settings: what each variable may be, what production refuses, what development makes."""

import dataclasses
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.deployment import MASTER_KEYS, PRODUCTION
from webapp.config import ROOT, ConfigError, Settings

FERNET_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
DEVELOPMENT = {"KEYSTAY_ENV": "development"}

Read = Callable[..., Settings]


@pytest.fixture
def production(tmp_path: Path) -> Read:
    """Settings of a complete production environment, with more variables or without some."""
    return lambda **more: Settings.from_environ({**PRODUCTION, **more}, tmp_path)


@pytest.fixture
def development(tmp_path: Path) -> Read:
    return lambda **more: Settings.from_environ({**DEVELOPMENT, **more}, tmp_path)


def refusal(read: Read, **more: str) -> str:
    with pytest.raises(ConfigError) as refused:
        read(**more)
    message = str(refused.value)
    assert message.splitlines() == [message]
    return message


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


DEFAULTS: list[tuple[str, str, Any, Any]] = [
    # variable, field, in production, in development
    ("KEYSTAY_ENV", "env", "production", "development"),
    ("REDIS_URL", "redis_url", None, None),
    ("LEGACY_DIR", "legacy_dir", None, None),
    ("LEGACY_MODE", "legacy_mode", "import", "import"),
    ("LEGACY_REPAIR", "legacy_repair", "off", "off"),
    ("LEGACY_ENCRYPTION_KEYS", "legacy_encryption_keys", (), ()),
    ("LEGACY_DATABASE_URL", "legacy_database_url", None, None),
    ("CONSISTENCY_INTERVAL_MINUTES", "consistency_interval_minutes", 60, 60),
    ("SIGNUP", "signup", "closed", "open"),
    ("REQUIRE_TWO_FACTOR", "require_two_factor", "admins", "off"),
    ("SHARE_ENVIRONMENT_KEYS", "share_environment_keys", False, True),
    ("ACCEPT_MISSING_MASTER_KEYS", "accept_missing_master_keys", frozenset(), frozenset()),
    ("SESSION_IDLE_MINUTES", "session_idle_minutes", 60, 60),
    ("SESSION_MAX_HOURS", "session_max_hours", 24, 24),
    ("RECENT_AUTH_MINUTES", "recent_auth_minutes", 10, 10),
    ("LOGIN_ATTEMPT_LIMIT", "login_attempt_limit", 5, 5),
    ("LOGIN_ATTEMPT_WINDOW_MINUTES", "login_attempt_window_minutes", 5, 5),
    ("TRUSTED_PROXIES", "trusted_proxies", 0, 0),
    ("COOKIE_SECURE", "cookie_secure", True, False),
    ("KEY_RETENTION_DAYS", "key_retention_days", 30, 30),
    ("LOG_FORMAT", "log_format", "json", "console"),
]


@pytest.mark.parametrize(("variable", "field", "in_production", "in_development"), DEFAULTS)
def test_a_variable_that_is_unset_or_empty_has_its_default(
    production: Read,
    development: Read,
    variable: str,
    field: str,
    in_production: object,
    in_development: object,
) -> None:
    empty = {} if variable == "KEYSTAY_ENV" else {variable: "  "}
    assert getattr(production(), field) == in_production
    assert getattr(production(**empty), field) == in_production
    assert getattr(development(**empty), field) == in_development


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("KEYSTAY_ENV", "Production", "env", "production"),
        ("REDIS_URL", "rediss://:pw@cache:6380/1", "redis_url", "rediss://:pw@cache:6380/1"),
        ("REDIS_URL", "unix:///run/redis.sock", "redis_url", "unix:///run/redis.sock"),
        ("LEGACY_DIR", "/srv/old", "legacy_dir", Path("/srv/old")),
        ("LEGACY_MODE", "OFF", "legacy_mode", "off"),
        ("LEGACY_REPAIR", "import", "legacy_repair", "import"),
        ("LEGACY_ENCRYPTION_KEYS", FERNET_KEY, "legacy_encryption_keys", (FERNET_KEY,)),
        ("CONSISTENCY_INTERVAL_MINUTES", "5", "consistency_interval_minutes", 5),
        ("SIGNUP", "open", "signup", "open"),
        ("REQUIRE_TWO_FACTOR", "everyone", "require_two_factor", "everyone"),
        ("SHARE_ENVIRONMENT_KEYS", "1", "share_environment_keys", True),
        (
            "ACCEPT_MISSING_MASTER_KEYS",
            "k1, old.key",
            "accept_missing_master_keys",
            frozenset({"k1", "old.key"}),
        ),
        ("SESSION_IDLE_MINUTES", "15", "session_idle_minutes", 15),
        ("SESSION_MAX_HOURS", "8", "session_max_hours", 8),
        ("RECENT_AUTH_MINUTES", "3", "recent_auth_minutes", 3),
        ("LOGIN_ATTEMPT_LIMIT", "10", "login_attempt_limit", 10),
        ("LOGIN_ATTEMPT_WINDOW_MINUTES", "15", "login_attempt_window_minutes", 15),
        ("TRUSTED_PROXIES", "2", "trusted_proxies", 2),
        ("TRUSTED_HOSTS", "A.example.com, .b.org", "trusted_hosts", ("a.example.com", ".b.org")),
        ("COOKIE_SECURE", "0", "cookie_secure", False),
        ("KEY_RETENTION_DAYS", "90", "key_retention_days", 90),
        ("LOG_FORMAT", "console", "log_format", "console"),
    ],
)
def test_a_valid_value_is_taken(
    production: Read, variable: str, text: str, field: str, value: object
) -> None:
    assert getattr(production(**{variable: text}), field) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("KEYSTAY_ENV", "staging"),
        ("DATABASE_URL", "mysql://root@localhost/keystay"),
        ("DATABASE_URL", "no address at all"),
        ("DATABASE_URL", "postgresql://host:port/keystay"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("DATABASE_URL", "sqlite:///file:keystay.db?uri=true"),
        ("DATABASE_URL", "sqlite:////no/such/folder/keystay.db"),
        ("INSTANCE_DIR", "/dev/null/instance"),
        ("INSTANCE_DIR", "~nobody-of-this-name/instance"),
        ("REDIS_URL", "http://cache"),
        ("REDIS_URL", "redis://cache:port"),
        ("SECRET_KEY", "too short"),
        ("LEGACY_DIR", "/dev/null"),
        ("LEGACY_MODE", "copy"),
        ("LEGACY_REPAIR", "database"),
        ("LEGACY_MODE", "mirror"),
        ("LEGACY_ENCRYPTION_KEYS", f"{FERNET_KEY},c2hvcnQ="),
        ("LEGACY_DATABASE_URL", "mysql://root@localhost/old"),
        ("LEGACY_DATABASE_URL", "sqlite://"),
        ("LEGACY_DATABASE_URL", "sqlite:///old.db"),
        ("CONSISTENCY_INTERVAL_MINUTES", "0"),
        ("CONSISTENCY_INTERVAL_MINUTES", "hourly\n60"),
        ("SIGNUP", "maybe"),
        ("REQUIRE_TWO_FACTOR", "yes"),
        ("SHARE_ENVIRONMENT_KEYS", "2"),
        ("ACCEPT_MISSING_MASTER_KEYS", "k1:MDEyMzQ1"),
        ("SESSION_IDLE_MINUTES", "-5"),
        ("SESSION_MAX_HOURS", "1.5"),
        ("RECENT_AUTH_MINUTES", "٣"),
        ("LOGIN_ATTEMPT_LIMIT", "many"),
        ("LOGIN_ATTEMPT_WINDOW_MINUTES", "9" * 5000),
        ("TRUSTED_PROXIES", "all"),
        ("TRUSTED_HOSTS", "https://keys.example.com"),
        ("TRUSTED_HOSTS", "*"),
        ("COOKIE_SECURE", "perhaps"),
        ("KEY_RETENTION_DAYS", "0"),
        ("LOG_FORMAT", "xml"),
        ("OPENAI_API_KEY", "undecodable \udcff"),
    ],
)
def test_an_invalid_value_is_one_line_that_names_the_variable(
    production: Read, variable: str, text: str
) -> None:
    assert refusal(production, **{variable: text}).startswith(f"{variable}: ")


@pytest.mark.parametrize(
    ("variable", "text", "secret"),
    [
        ("SECRET_KEY", "hunter2", "hunter2"),
        ("DATABASE_URL", "postgresql://keystay:hunter2@host:port/keystay", "hunter2"),
        ("DATABASE_URL", "mysql://keystay:hunter2@host/keystay", "hunter2"),
        ("LEGACY_DATABASE_URL", "mysql://keystay:hunter2@host/keystay", "hunter2"),
        ("REDIS_URL", "redis://:hunter2@cache:port", "hunter2"),
        ("LEGACY_ENCRYPTION_KEYS", "hunter2", "hunter2"),
        ("ACCEPT_MISSING_MASTER_KEYS", MASTER_KEYS, MASTER_KEYS.removeprefix("k1:")),
    ],
)
def test_a_refusal_does_not_quote_a_secret(
    production: Read, variable: str, text: str, secret: str
) -> None:
    assert secret not in refusal(production, **{variable: text})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://keystay@db/keys", "postgresql+psycopg://keystay@db/keys"),
        ("postgresql://keystay@db/keys", "postgresql+psycopg://keystay@db/keys"),
        ("postgresql+psycopg://keystay@db/keys", "postgresql+psycopg://keystay@db/keys"),
        ("sqlite:////tmp/keys.db", "sqlite:////tmp/keys.db"),
    ],
)
def test_database_addresses_are_those_of_psycopg_and_sqlite(
    production: Read, text: str, expected: str
) -> None:
    assert str(production(DATABASE_URL=text).database_url) == expected


def test_paths_are_relative_to_the_checkout_wherever_one_stands(
    production: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    settings = production(
        INSTANCE_DIR="var", DATABASE_URL="sqlite:///keys.db", LEGACY_DIR="../old-app"
    )
    assert settings.instance_dir == tmp_path / "var"
    assert settings.database_url.database == str(tmp_path / "keys.db")
    assert settings.legacy_dir == tmp_path / "../old-app"


def test_the_default_database_is_in_the_instance_folder(production: Read, tmp_path: Path) -> None:
    expected = str(tmp_path / "elsewhere" / "keystay.db")
    assert production(INSTANCE_DIR="elsewhere").database_url.database == expected


def test_a_legacy_folder_may_come_later(production: Read, tmp_path: Path) -> None:
    settings = production(LEGACY_DIR="not-mounted-yet")
    assert settings.legacy_enabled
    assert not (tmp_path / "not-mounted-yet").exists()


def test_the_predecessors_database_may_come_later(production: Read, tmp_path: Path) -> None:
    settings = production(LEGACY_DIR="old", LEGACY_DATABASE_URL="sqlite:///not-mounted/yet.db")
    assert settings.legacy_database_url is not None
    assert settings.legacy_database_url.database == str(tmp_path / "not-mounted" / "yet.db")
    assert not (tmp_path / "not-mounted").exists()
    switched_off = production(LEGACY_MODE="off", LEGACY_DATABASE_URL="sqlite:///old.db")
    assert not switched_off.legacy_enabled


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("", "sqlite:///instance/keystay.db"),
        ("sqlite:///keys.db", "sqlite:///instance/../keys.db"),
        ("postgresql://keystay:hunter2@db/keys", "postgres://other@db:5432/keys"),
        ("postgresql:///keys?host=/run", "postgresql:///keys?host=/run"),
    ],
)
def test_the_predecessors_database_is_not_our_own(production: Read, ours: str, theirs: str) -> None:
    message = refusal(production, DATABASE_URL=ours, LEGACY_DATABASE_URL=theirs, LEGACY_DIR="old")
    assert message == "LEGACY_DATABASE_URL: is Keystay's own database, DATABASE_URL"


def test_the_predecessors_database_needs_its_folder(production: Read) -> None:
    assert "needs LEGACY_DIR" in refusal(production, LEGACY_DATABASE_URL="postgresql://old/old")


def test_provider_variables_are_carried_unless_empty(production: Read) -> None:
    settings = production(OPENAI_API_KEY=" sk-abc ", GOOGLE_API_KEY="", UNRELATED="x")
    assert settings.environment_keys == {"OPENAI_API_KEY": "sk-abc"}


def test_settings_cannot_be_changed(production: Read) -> None:
    settings = production()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.signup = "open"  # type: ignore[misc]
    assert isinstance(settings.environment_keys, MappingProxyType)


def test_settings_print_without_their_secrets(production: Read) -> None:
    settings = production(
        DATABASE_URL="postgresql://keystay:hunter2@db/keys",
        REDIS_URL="redis://:hunter3@cache",
        OPENAI_API_KEY="sk-hunter4",
        LEGACY_ENCRYPTION_KEYS=FERNET_KEY,
    )
    shown = repr(settings)
    assert "hunter" not in shown
    for secret in (PRODUCTION["SECRET_KEY"], MASTER_KEYS, FERNET_KEY):
        assert secret not in shown


# What production refuses (SECURITY.md, decision 14).


@pytest.mark.parametrize("variable", PRODUCTION)
def test_production_needs_what_cannot_be_guessed(production: Read, variable: str) -> None:
    assert refusal(production, **{variable: ""}).startswith(f"{variable}: is required")


@pytest.mark.parametrize(
    "value", ["change-me-change-me-change-me-change-me", "django-insecure-abcdefghijklmnopqrstuvw"]
)
def test_production_refuses_a_placeholder_as_secret_key(production: Read, value: str) -> None:
    assert "placeholder" in refusal(production, SECRET_KEY=value)


@pytest.mark.parametrize("value", ["1", "true", "on"])
def test_production_refuses_debug(production: Read, value: str) -> None:
    assert refusal(production, FLASK_DEBUG=value).startswith("FLASK_DEBUG: ")


def test_debug_is_for_development(production: Read, development: Read) -> None:
    production(FLASK_DEBUG="0")
    development(FLASK_DEBUG="1")


@pytest.mark.parametrize("others", [0o640, 0o604, 0o620, 0o644])
def test_a_key_file_that_others_can_read_is_refused(
    production: Read, tmp_path: Path, others: int
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(MASTER_KEYS)
    keys.chmod(others)
    message = refusal(production, MASTER_KEYS="", MASTER_KEYS_FILE="keys")
    assert message == f"MASTER_KEYS_FILE: {keys} can be read by others; run: chmod 600 {keys}"

    keys.chmod(0o400)
    assert production(MASTER_KEYS="", MASTER_KEYS_FILE="keys").master_keys == MASTER_KEYS


def test_a_key_file_that_is_not_there_is_refused(production: Read) -> None:
    message = refusal(production, MASTER_KEYS="", MASTER_KEYS_FILE="/no/such/file")
    assert message == "MASTER_KEYS_FILE: cannot read /no/such/file: No such file or directory"


def test_both_master_key_variables_at_once_are_refused(production: Read, tmp_path: Path) -> None:
    assert "MASTER_KEYS_FILE" in refusal(production, MASTER_KEYS_FILE=str(tmp_path / "keys"))


@pytest.mark.parametrize(("content", "reason"), [(b"", "is empty"), (b"\xff", "UTF-8")])
def test_a_key_file_without_text_is_refused(
    production: Read, tmp_path: Path, content: bytes, reason: str
) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(content)
    keys.chmod(0o600)
    assert reason in refusal(production, MASTER_KEYS="", MASTER_KEYS_FILE="keys")


# What development makes.


def test_development_makes_a_secret_key_once_and_keeps_it(
    development: Read, tmp_path: Path
) -> None:
    first = development().secret_key
    assert len(first) >= 43
    assert development().secret_key == first
    assert mode(tmp_path / "instance") == 0o700
    assert mode(tmp_path / "instance" / "secret.key") == 0o600


def test_every_folder_that_is_made_is_private(development: Read, tmp_path: Path) -> None:
    development(INSTANCE_DIR="a/b/c")
    assert {mode(tmp_path / "a"), mode(tmp_path / "a/b"), mode(tmp_path / "a/b/c")} == {0o700}


def test_an_empty_or_open_secret_key_file_is_refused(development: Read, tmp_path: Path) -> None:
    development()
    made = tmp_path / "instance" / "secret.key"
    made.chmod(0o644)
    assert refusal(development).startswith("SECRET_KEY: ")
    made.write_text("")
    made.chmod(0o600)
    assert "is empty" in refusal(development)


def test_master_keys_are_not_made_before_the_database_was_asked(
    development: Read, tmp_path: Path
) -> None:
    assert development().master_keys is None
    assert not (tmp_path / "instance" / "master.keys").exists()


def test_processes_that_start_at_once_agree_on_the_secret_key(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from webapp.config import Settings
sys.stdin.read()
print(Settings.from_environ({"KEYSTAY_ENV": "development"}, Path(sys.argv[1])).secret_key)
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1
    assert [path.name for path in (tmp_path / "instance").iterdir()] == ["secret.key"]
