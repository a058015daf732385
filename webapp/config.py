"""Read the environment once into a frozen, validated settings object.

Names, meanings and defaults are the outside contract of the project (README, "Configuration").
Nothing else in the application reads the environment, except that the provider variables
(`OPENAI_API_KEY`, ...) are carried in `Settings.environment_keys`.
"""

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from dotenv import dotenv_values
from flask import current_app
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from webapp.private_files import TooOpen, create_once, read_private
from webapp.providers import PROVIDERS

ROOT = Path(__file__).resolve().parent.parent

SignupMode = Literal["open", "closed"]
SecondFactorPolicy = Literal["admins", "everyone", "off"]
LegacyMode = Literal["import", "mirror", "off"]
LogFormat = Literal["json", "console"]

_MIN_SECRET_KEY_LENGTH = 32
_WEAK_SECRET_KEYS = frozenset({"dev", "development", "secret", "changeme", "change-me", "password"})


class ConfigError(Exception):
    """A setting is missing or invalid; the message is one line that names the variable."""


@dataclass(frozen=True)
class PasswordCost:
    """Argon2id parameters: memory in KiB, passes, lanes."""

    memory_kib: int
    passes: int
    lanes: int


RFC9106_LOW_MEMORY = PasswordCost(memory_kib=64 * 1024, passes=3, lanes=4)
OWASP_MINIMUM = PasswordCost(memory_kib=19 * 1024, passes=2, lanes=1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a deployment decides. Minutes, hours and days are whole numbers."""

    env: Literal["production", "development"]
    instance_dir: Path
    database_url: URL = field(repr=False)
    redis_url: str | None = field(repr=False)
    secret_key: str = field(repr=False)
    master_keys: str | None = field(repr=False)
    """The text of MASTER_KEYS or of the file; None in development until one is created."""
    legacy_dir: Path | None
    legacy_mode: LegacyMode
    legacy_encryption_keys: tuple[str, ...] = field(repr=False)
    consistency_interval_minutes: int
    signup: SignupMode
    require_two_factor: SecondFactorPolicy
    share_environment_keys: bool
    accept_missing_master_keys: frozenset[str]
    session_idle_minutes: int
    session_max_hours: int
    recent_auth_minutes: int
    login_attempt_limit: int
    login_attempt_window_minutes: int
    trusted_proxies: int
    trusted_hosts: tuple[str, ...]
    cookie_secure: bool
    key_retention_days: int
    log_format: LogFormat
    environment_keys: Mapping[str, str] = field(repr=False)
    """Non-empty provider variables, by variable name."""
    password_cost: PasswordCost = RFC9106_LOW_MEMORY

    @property
    def development(self) -> bool:
        return self.env == "development"

    @property
    def legacy_enabled(self) -> bool:
        return self.legacy_dir is not None and self.legacy_mode != "off"

    @property
    def master_keys_path(self) -> Path:
        """Where development keeps the master keys that it made."""
        return self.instance_dir / "master.keys"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], root: Path = ROOT) -> "Settings":
        """Build the settings from `environ`, with the defaults of the outside contract.

        Creates the instance folder (0700), and in development the secret key in it (0600).
        Raises ConfigError for the first setting that is missing or invalid.
        """
        read = _Reader(environ)
        env = read.choice("KEYSTAY_ENV", ("production", "development"), "production")
        development = env == "development"
        if not development and read.text("FLASK_DEBUG") not in (None, "0", "false"):
            raise ConfigError("FLASK_DEBUG: must be off in production; unset it")
        instance_dir = read.path("INSTANCE_DIR", root) or root / "instance"
        _make_instance_dir(instance_dir)
        return cls(
            env=cast('Literal["production", "development"]', env),
            instance_dir=instance_dir,
            database_url=_database_url(read, instance_dir),
            redis_url=_redis_url(read),
            secret_key=_secret_key(read, instance_dir, development=development),
            master_keys=_master_keys(read, root, instance_dir, development=development),
            legacy_dir=read.path("LEGACY_DIR", root),
            legacy_mode=cast("LegacyMode", _legacy_mode(read)),
            legacy_encryption_keys=read.items("LEGACY_ENCRYPTION_KEYS"),
            consistency_interval_minutes=read.number("CONSISTENCY_INTERVAL_MINUTES", 60, 1, 10_080),
            signup=cast(
                "SignupMode",
                read.choice("SIGNUP", ("open", "closed"), "open" if development else "closed"),
            ),
            require_two_factor=cast(
                "SecondFactorPolicy",
                read.choice(
                    "REQUIRE_TWO_FACTOR",
                    ("admins", "everyone", "off"),
                    "off" if development else "admins",
                ),
            ),
            share_environment_keys=read.flag("SHARE_ENVIRONMENT_KEYS", default=development),
            accept_missing_master_keys=frozenset(read.items("ACCEPT_MISSING_MASTER_KEYS")),
            session_idle_minutes=read.number("SESSION_IDLE_MINUTES", 60, 1, 10_080),
            session_max_hours=read.number("SESSION_MAX_HOURS", 24, 1, 720),
            recent_auth_minutes=read.number("RECENT_AUTH_MINUTES", 10, 1, 1_440),
            login_attempt_limit=read.number("LOGIN_ATTEMPT_LIMIT", 5, 1, 1_000),
            login_attempt_window_minutes=read.number("LOGIN_ATTEMPT_WINDOW_MINUTES", 5, 1, 1_440),
            trusted_proxies=read.number("TRUSTED_PROXIES", 0, 0, 10),
            trusted_hosts=_trusted_hosts(read, development=development),
            cookie_secure=read.flag("COOKIE_SECURE", default=not development),
            key_retention_days=read.number("KEY_RETENTION_DAYS", 30, 1, 3_650),
            log_format=cast(
                "LogFormat",
                read.choice(
                    "LOG_FORMAT", ("json", "console"), "console" if development else "json"
                ),
            ),
            environment_keys=_environment_keys(read),
        )


def load_environ(root: Path = ROOT) -> dict[str, str]:
    """Return the process's environment on top of the `.env` file of the checkout, if there is one.

    Like everywhere, an empty value counts as unset, so it does not hide a line of the file.
    """
    from_file = {k: v for k, v in dotenv_values(root / ".env").items() if v}
    return from_file | {k: v for k, v in os.environ.items() if v}


def current_settings() -> Settings:
    """Return the settings of the application that is handling this request, command or job."""
    return cast("Settings", current_app.extensions["keystay_settings"])


class _Reader:
    """Typed access to the environment; an empty value counts as unset."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str) -> str | None:
        return self._environ.get(name, "").strip() or None

    def items(self, name: str) -> tuple[str, ...]:
        value = (self.text(name) or "").replace("\n", ",")
        return tuple(part.strip() for part in value.split(",") if part.strip())

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value = (self.text(name) or default).lower()
        if value not in allowed:
            raise ConfigError(f"{name}: must be one of {', '.join(allowed)}, not {value!r}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        value = (self.text(name) or ("1" if default else "0")).lower()
        if value not in {"1", "0", "true", "false", "on", "off", "yes", "no"}:
            raise ConfigError(f"{name}: must be 1 or 0, not {value!r}")
        return value in {"1", "true", "on", "yes"}

    def number(self, name: str, default: int, low: int, high: int) -> int:
        value = self.text(name) or str(default)
        if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
            raise ConfigError(f"{name}: must be a whole number from {low} to {high}, not {value!r}")
        return int(value)

    def path(self, name: str, root: Path) -> Path | None:
        value = self.text(name)
        return root / Path(value).expanduser() if value else None


def _make_instance_dir(instance_dir: Path) -> None:
    try:
        instance_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"INSTANCE_DIR: cannot create {instance_dir}: {error.strerror}"
        ) from error


def _database_url(read: _Reader, instance_dir: Path) -> URL:
    text = read.text("DATABASE_URL")
    if text is None:
        return URL.create("sqlite", database=str(instance_dir / "keystay.db"))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "DATABASE_URL: not a database address; use sqlite:///FILE or postgresql://…"
        ) from None
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigError(
                "DATABASE_URL: sqlite needs a file, such as sqlite:///instance/keystay.db"
            )
        return url.set(database=str(Path(url.database).absolute()))
    raise ConfigError(
        f"DATABASE_URL: {url.drivername!r} is not supported; use sqlite:///FILE or postgresql://…"
    )


def _redis_url(read: _Reader) -> str | None:
    url = read.text("REDIS_URL")
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigError("REDIS_URL: must begin with redis://, rediss:// or unix://")
    return url


def _secret_key(read: _Reader, instance_dir: Path, *, development: bool) -> str:
    value = read.text("SECRET_KEY")
    if value is None:
        if not development:
            raise ConfigError(
                "SECRET_KEY: is required in production;"
                ' make one with: python -c "import secrets; print(secrets.token_urlsafe(48))"'
            )
        path = instance_dir / "secret.key"
        return _from_file("SECRET_KEY", lambda: create_once(path, secrets.token_urlsafe(48)))
    if not development and (
        len(value) < _MIN_SECRET_KEY_LENGTH or value.lower() in _WEAK_SECRET_KEYS
    ):
        raise ConfigError(
            f"SECRET_KEY: is too short to be a secret; use at least {_MIN_SECRET_KEY_LENGTH}"
            " random characters"
        )
    return value


def _master_keys(read: _Reader, root: Path, instance_dir: Path, *, development: bool) -> str | None:
    value, path = read.text("MASTER_KEYS"), read.path("MASTER_KEYS_FILE", root)
    if value and path:
        raise ConfigError("MASTER_KEYS: is set together with MASTER_KEYS_FILE; keep one of them")
    if path:
        return _from_file("MASTER_KEYS_FILE", lambda: read_private(path))
    if value:
        return value
    if not development:
        raise ConfigError(
            "MASTER_KEYS: is required in production (or MASTER_KEYS_FILE);"
            " make one with: flask vault generate-key"
        )
    made = instance_dir / "master.keys"
    return _from_file("MASTER_KEYS", lambda: read_private(made)) if made.exists() else None


def _from_file(name: str, read: Callable[[], str]) -> str:
    try:
        return read()
    except TooOpen as error:
        raise ConfigError(f"{name}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise ConfigError(
            f"{name}: cannot read {getattr(error, 'filename', None) or 'the file'}: {reason}"
        ) from error


def _legacy_mode(read: _Reader) -> str:
    mode = read.choice("LEGACY_MODE", ("import", "mirror", "off"), "import")
    if mode == "mirror":
        # Writing back comes with the bridge; refusing beats pretending that changes are mirrored.
        raise ConfigError("LEGACY_MODE: mirror is not available in this version; use import or off")
    return mode


def _trusted_hosts(read: _Reader, *, development: bool) -> tuple[str, ...]:
    hosts = read.items("TRUSTED_HOSTS")
    if not hosts and not development:
        raise ConfigError(
            "TRUSTED_HOSTS: is required in production; list the host names that people use,"
            " such as keys.example.com"
        )
    return hosts


def _environment_keys(read: _Reader) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for provider in PROVIDERS.values():
        for variable in provider.variables:
            value = read.text(variable)
            if value:
                found[variable] = value
    return found
