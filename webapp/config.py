"""Read the environment once into a frozen, validated settings object.

Names, meanings and defaults are the outside contract of the project (README, "Configuration").
Nothing else in the application reads the environment, except that the provider variables
(`OPENAI_API_KEY`, ...) are carried in `Settings.environment_keys`.
"""

import os
import re
import secrets
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast
from urllib.parse import urlsplit

from flask import current_app
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from webapp.environment import (
    ConfigError,
    Reader,
    from_file,
    read_env_file,
    reason,
    refuse_open_env_file,
)
from webapp.private_files import create_once, make_private_folder
from webapp.providers import PROVIDERS

__all__ = [
    "OWASP_MINIMUM",
    "RFC9106_LOW_MEMORY",
    "ROOT",
    "ConfigError",
    "LegacyMode",
    "LegacyRepair",
    "LogFormat",
    "PasswordCost",
    "SecondFactorPolicy",
    "Settings",
    "SignupMode",
    "current_settings",
    "load_environ",
]

ROOT = Path(__file__).resolve().parent.parent

Environment = Literal["production", "development"]
SignupMode = Literal["open", "closed"]
SecondFactorPolicy = Literal["admins", "everyone", "off"]
LegacyMode = Literal["import", "mirror", "off"]
LegacyRepair = Literal["off", "import"]
LogFormat = Literal["json", "console"]

_MIN_SECRET_KEY_LENGTH = 32
_PLACEHOLDER = re.compile(
    "(change|replace)[-_ ]?(me|this)|your[-_ ]?secret|insecure|placeholder", re.IGNORECASE
)
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*(:[0-9]{1,5})?")
_MASTER_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


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

    env: Environment
    instance_dir: Path
    database_url: URL = field(repr=False)
    redis_url: str | None = field(repr=False)
    secret_key: str = field(repr=False)
    master_keys: str | None = field(repr=False)
    """The text of MASTER_KEYS or of the file; None in development until one is created."""
    master_keys_variable: Literal["MASTER_KEYS", "MASTER_KEYS_FILE"]
    """Which variable an error in that text is about."""
    legacy_dir: Path | None
    legacy_mode: LegacyMode
    legacy_repair: LegacyRepair
    """What is repaired without anybody asking."""
    legacy_encryption_keys: tuple[str, ...] = field(repr=False)
    legacy_database_url: URL | None = field(repr=False)
    """Counts only while `legacy_enabled`."""
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
    def mirrors(self) -> bool:
        """Whether changes made here are written into the predecessor's files too."""
        return self.legacy_dir is not None and self.legacy_mode == "mirror"

    @property
    def master_keys_path(self) -> Path:
        """Where development keeps the master keys that it made."""
        return self.instance_dir / "master.keys"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], root: Path = ROOT) -> "Settings":
        """Build the settings from `environ`, with the defaults of the outside contract.

        Creates the instance folder (0700), and in development the secret key in it (0600). Paths
        are relative to `root`. Raises ConfigError for the first setting that is missing or invalid.
        """
        read = Reader(environ)
        env: Environment = read.choice("KEYSTAY_ENV", ("production", "development"), "production")
        development = env == "development"
        if not development:
            _refuse_debug(read)
            refuse_open_env_file(environ, root / ".env")
        instance_dir = read.path("INSTANCE_DIR", root) or root / "instance"
        _make_instance_dir(instance_dir)
        variable, master_keys = _master_keys(read, root, instance_dir, development=development)
        return cls(
            env=env,
            instance_dir=instance_dir,
            database_url=_database_url(read, root, instance_dir),
            redis_url=_redis_url(read),
            secret_key=_secret_key(read, instance_dir, development=development),
            master_keys=master_keys,
            master_keys_variable=variable,
            legacy_dir=_legacy_dir(read, root),
            legacy_mode=_legacy_mode(read),
            legacy_repair=read.choice("LEGACY_REPAIR", ("off", "import"), "off"),
            legacy_encryption_keys=_legacy_encryption_keys(read),
            legacy_database_url=_legacy_database_url(read, root, instance_dir),
            consistency_interval_minutes=read.number("CONSISTENCY_INTERVAL_MINUTES", 60, 1, 10_080),
            signup=read.choice("SIGNUP", ("open", "closed"), "open" if development else "closed"),
            require_two_factor=read.choice(
                "REQUIRE_TWO_FACTOR",
                ("admins", "everyone", "off"),
                "off" if development else "admins",
            ),
            share_environment_keys=read.flag("SHARE_ENVIRONMENT_KEYS", default=development),
            accept_missing_master_keys=_accepted_ids(read),
            session_idle_minutes=read.number("SESSION_IDLE_MINUTES", 60, 1, 10_080),
            session_max_hours=read.number("SESSION_MAX_HOURS", 24, 1, 720),
            recent_auth_minutes=read.number("RECENT_AUTH_MINUTES", 10, 1, 1_440),
            login_attempt_limit=read.number("LOGIN_ATTEMPT_LIMIT", 5, 1, 1_000),
            login_attempt_window_minutes=read.number("LOGIN_ATTEMPT_WINDOW_MINUTES", 5, 1, 1_440),
            trusted_proxies=read.number("TRUSTED_PROXIES", 0, 0, 10),
            trusted_hosts=_trusted_hosts(read, development=development),
            cookie_secure=read.flag("COOKIE_SECURE", default=not development),
            key_retention_days=read.number("KEY_RETENTION_DAYS", 30, 1, 3_650),
            log_format=_log_format(read, development=development),
            environment_keys=_environment_keys(read),
        )


def _log_format(read: Reader, *, development: bool) -> LogFormat:
    return read.choice("LOG_FORMAT", ("json", "console"), "console" if development else "json")


def load_environ(root: Path = ROOT) -> dict[str, str]:
    """Return the process's environment on top of the `.env` file of the checkout, if there is one.

    Like everywhere, an empty value counts as unset, so it does not hide a line of the file.
    Raises ConfigError when the file cannot be read.
    """
    from_process = {k: v for k, v in os.environ.items() if v.strip()}
    return read_env_file(root / ".env") | from_process


def current_settings() -> Settings:
    """Return the settings of the application that is handling this request, command or job."""
    return cast("Settings", current_app.extensions["keystay_settings"])


def _refuse_debug(read: Reader) -> None:
    if (read.text("FLASK_DEBUG") or "0").lower() not in {"0", "false", "no"}:
        raise ConfigError("FLASK_DEBUG: must be off in production; unset it")


def _make_instance_dir(instance_dir: Path) -> None:
    try:
        make_private_folder(instance_dir)
    except OSError as error:
        raise ConfigError(f"INSTANCE_DIR: cannot create {instance_dir}: {reason(error)}") from error


def _database_url(read: Reader, root: Path, instance_dir: Path) -> URL:
    text = read.text("DATABASE_URL")
    if text is None:
        return URL.create("sqlite", database=str(instance_dir.absolute() / "keystay.db"))
    url = _url("DATABASE_URL", text, root)
    if url.drivername == "sqlite" and not Path(url.database or "").parent.is_dir():
        raise ConfigError(f"DATABASE_URL: there is no folder {Path(url.database or '').parent}")
    return url


def _url(name: str, text: str, root: Path) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"{name}: not a database address; use sqlite:///FILE or postgresql://…"
        ) from None
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite":
        raise ConfigError(
            f"{name}: {url.drivername!r} is not supported; use sqlite:///FILE or postgresql://…"
        )
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ConfigError(f"{name}: sqlite needs a file, such as sqlite:///instance/keystay.db")
    # Not relative to the folder that somebody happens to be in: that would be another, empty one.
    return url.set(database=str(root.absolute() / url.database))


def _redis_url(read: Reader) -> str | None:
    url = read.text("REDIS_URL")
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigError("REDIS_URL: must begin with redis://, rediss:// or unix://")
    try:
        _ = urlsplit(url or "").port
    except ValueError:
        raise ConfigError("REDIS_URL: not an address of a Redis") from None
    return url


def _secret_key(read: Reader, instance_dir: Path, *, development: bool) -> str:
    value = read.text("SECRET_KEY")
    if value is None:
        if not development:
            raise ConfigError(
                "SECRET_KEY: is required in production;"
                ' make one with: python -c "import secrets; print(secrets.token_urlsafe(48))"'
            )
        made = instance_dir / "secret.key"
        return from_file(
            "SECRET_KEY", made, lambda path: create_once(path, secrets.token_urlsafe(48))
        )
    if not development and len(value) < _MIN_SECRET_KEY_LENGTH:
        raise ConfigError(
            f"SECRET_KEY: is too short to be a secret; use at least {_MIN_SECRET_KEY_LENGTH}"
            " random characters"
        )
    if not development and _PLACEHOLDER.search(value):
        raise ConfigError("SECRET_KEY: is a placeholder that others know; use random characters")
    return value


def _master_keys(
    read: Reader, root: Path, instance_dir: Path, *, development: bool
) -> tuple[Literal["MASTER_KEYS", "MASTER_KEYS_FILE"], str | None]:
    """Return the text of the master keys, and the variable that errors in it are about."""
    value, path = read.text("MASTER_KEYS"), read.path("MASTER_KEYS_FILE", root)
    if value and path:
        raise ConfigError("MASTER_KEYS: is set together with MASTER_KEYS_FILE; keep one of them")
    if path:
        return "MASTER_KEYS_FILE", from_file("MASTER_KEYS_FILE", path)
    if value:
        return "MASTER_KEYS", value
    if not development:
        raise ConfigError(
            "MASTER_KEYS: is required in production (or MASTER_KEYS_FILE);"
            " make one with: flask vault generate-key"
        )
    made = instance_dir / "master.keys"
    if not made.exists():
        return "MASTER_KEYS", None
    return "MASTER_KEYS", from_file("MASTER_KEYS", made)


def _accepted_ids(read: Reader) -> frozenset[str]:
    ids = read.items("ACCEPT_MISSING_MASTER_KEYS")
    if not all(_MASTER_KEY_ID.fullmatch(key_id) for key_id in ids):
        # Not quoted: somebody may have put the key itself here.
        raise ConfigError("ACCEPT_MISSING_MASTER_KEYS: must list ids of master keys, such as k1")
    return frozenset(ids)


def _legacy_dir(read: Reader, root: Path) -> Path | None:
    """Return the predecessor's folder. One that is not there yet is fine: a mount can come late.

    The import says so, and the rest of Keystay does not depend on it.
    """
    folder = read.path("LEGACY_DIR", root)
    if folder and folder.exists() and not folder.is_dir():
        raise ConfigError(f"LEGACY_DIR: {folder} is not a folder")
    return folder


def _legacy_encryption_keys(read: Reader) -> tuple[str, ...]:
    keys = read.items("LEGACY_ENCRYPTION_KEYS")
    for position, key in enumerate(keys, 1):
        try:
            usable = len(urlsafe_b64decode(key)) == 32
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError(
                f"LEGACY_ENCRYPTION_KEYS: entry {position} is no Fernet key"
                " (32 bytes in base64url, 44 characters)"
            )
    return keys


def _legacy_database_url(read: Reader, root: Path, instance_dir: Path) -> URL | None:
    """Return the predecessor's database. One that is not there yet is fine, as with its folder."""
    text = read.text("LEGACY_DATABASE_URL")
    if text is None:
        return None
    url = _url("LEGACY_DATABASE_URL", text, root)
    if _place(url) == _place(_database_url(read, root, instance_dir)):
        raise ConfigError("LEGACY_DATABASE_URL: is Keystay's own database, DATABASE_URL")
    if not read.text("LEGACY_DIR") and _legacy_mode(read) != "off":
        raise ConfigError(
            "LEGACY_DATABASE_URL: needs LEGACY_DIR too: roles and the encryption key stand there"
        )
    return url


def _place(url: URL) -> tuple[object, ...]:
    """Return what makes `url` the address of one database and not of another."""
    if url.drivername == "sqlite":
        return ("sqlite", Path(url.database or "").resolve())
    host = url.host or url.query.get("host")
    return ("postgresql", host, url.port or url.query.get("port") or 5432, url.database)


def _legacy_mode(read: Reader) -> LegacyMode:
    mode: LegacyMode = read.choice("LEGACY_MODE", ("import", "mirror", "off"), "import")
    if mode == "mirror" and read.text("LEGACY_DIR") is None:
        raise ConfigError("LEGACY_MODE: mirror needs LEGACY_DIR, the folder that it writes to")
    return mode


def _trusted_hosts(read: Reader, *, development: bool) -> tuple[str, ...]:
    hosts = tuple(host.lower() for host in read.items("TRUSTED_HOSTS"))
    if not hosts and not development:
        raise ConfigError(
            "TRUSTED_HOSTS: is required in production; list the host names that people use,"
            " such as keys.example.com"
        )
    for host in hosts:
        if not _HOST.fullmatch(host.removeprefix(".")):
            raise ConfigError(
                f"TRUSTED_HOSTS: {host!r} is no host name; write keys.example.com, or .example.com"
                " for all names below it"
            )
    return hosts


def _environment_keys(read: Reader) -> Mapping[str, str]:
    variables = [name for provider in PROVIDERS.values() for name in provider.variables]
    found = {name: value for name in variables if (value := read.text(name))}
    return MappingProxyType(found)
