"""Typed access to the variables that settings are made of, and to the files that hold some."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values

from webapp.private_files import TooOpen, is_too_open, read_private

_SECRETS = ("SECRET_KEY", "MASTER_KEYS", "LEGACY_ENCRYPTION_KEYS")
"""What makes `.env` a key file."""

Choice = TypeVar("Choice", bound=str)


class ConfigError(Exception):
    """A setting is missing or invalid; the message is one line that names the variable."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class Reader:
    """Typed access to the environment; an empty value counts as unset."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str) -> str | None:
        value = self._environ.get(name, "").strip()
        if not _is_utf8(value):
            raise ConfigError(f"{name}: is not UTF-8 text")
        return value or None

    def items(self, name: str) -> tuple[str, ...]:
        value = (self.text(name) or "").replace("\n", ",")
        return tuple(part.strip() for part in value.split(",") if part.strip())

    def choice(self, name: str, allowed: tuple[Choice, ...], default: Choice) -> Choice:
        value = (self.text(name) or default).lower()
        for one in allowed:
            if one == value:
                return one
        raise ConfigError(f"{name}: must be one of {', '.join(allowed)}, not {value!r}")

    def flag(self, name: str, *, default: bool) -> bool:
        value = (self.text(name) or ("1" if default else "0")).lower()
        if value not in {"1", "0", "true", "false", "on", "off", "yes", "no"}:
            raise ConfigError(f"{name}: must be 1 or 0, not {value!r}")
        return value in {"1", "true", "on", "yes"}

    def number(self, name: str, default: int, low: int, high: int) -> int:
        value = self.text(name) or str(default)
        if not (re.fullmatch("[0-9]{1,9}", value) and low <= int(value) <= high):
            raise ConfigError(f"{name}: must be a whole number from {low} to {high}, not {value!r}")
        return int(value)

    def path(self, name: str, root: Path) -> Path | None:
        value = self.text(name)
        try:
            return root / Path(value).expanduser() if value else None
        except RuntimeError:
            raise ConfigError(f"{name}: there is no such home folder: {value!r}") from None


def read_env_file(path: Path) -> dict[str, str]:
    """Return the non-empty lines of `.env`, if there is one. Raises ConfigError."""
    try:
        return {k: v for k, v in dotenv_values(path).items() if v and v.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f".env: cannot be read: {reason(error)}") from error


def refuse_open_env_file(environ: Mapping[str, str], path: Path) -> None:
    """Raise ConfigError if a secret of `environ` comes from a `.env` that others can read."""
    if not path.is_file() or not is_too_open(path.stat()):
        return
    for name, value in read_env_file(path).items():
        if name in _SECRETS and environ.get(name) == value:
            raise ConfigError(f"{name}: {TooOpen(path)}")


def from_file(name: str, path: Path, read: Callable[[Path], str] = read_private) -> str:
    """Return what `read` makes of `path`; failures and an empty text are ConfigErrors of `name`."""
    try:
        text = read(path)
    except TooOpen as error:
        raise ConfigError(f"{name}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot read {path}: {reason(error)}") from error
    if not text:
        raise ConfigError(f"{name}: {path} is empty")
    return text


def reason(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file could not be read, without its name."""
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error.strerror)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
