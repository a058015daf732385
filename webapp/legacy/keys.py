"""The keys of one predecessor account: names, the four smtp_* entries, plain values and tokens."""

import hashlib
import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from webapp.legacy.tokens import TokenKeys, looks_encrypted

VALUE = "value"
"""The one part of a key that has no fields."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9_-]+")
_SMTP = "smtp"
_SMTP_FIELDS = {
    "smtp_host": "host",
    "smtp_port": "port",
    "smtp_user": "user",
    "smtp_pass": "password",
}


class NotText(Exception):
    """Text was expected and something else stands there."""


class LegacyKey(NamedTuple):
    """One key: `parts` holds `value`, or the fields that are set.

    `locked` holds the tokens of the parts that no Fernet key opens; a key with any is locked.
    `older` is another value that the predecessor had for it at another place, to be kept as the
    version before.
    """

    name: str
    parts: Mapping[str, str]
    locked: Mapping[str, str]
    older: "LegacyKey | None" = None

    def __repr__(self) -> str:
        """Return the name; no value belongs into a message."""
        return f"LegacyKey({self.name!r})"

    @property
    def has_fields(self) -> bool:
        return self.name == _SMTP

    @property
    def is_locked(self) -> bool:
        return bool(self.locked)


def parse_keys(
    raw: Mapping[str, object], tokens: TokenKeys, warnings: list[str]
) -> dict[str, LegacyKey]:
    """Return the keys in `raw` (`api_keys` of a record) by name. Empty values are none.

    The four `smtp_*` become one key `smtp` with fields. Every other entry becomes a key, also one
    whose name is not valid here: see `_names`. Only what is no text is left out, with a warning.
    """
    texts: dict[str, str] = {}
    for original, value in raw.items():
        try:
            text = text_of(value)
        except NotText:
            warnings.append(f"the value of key {_shown(original)} is no text; it was left out")
            continue
        if text.strip():
            texts[original] = text
    names = _names([original for original in texts if original not in _SMTP_FIELDS], warnings)
    grouped: dict[str, dict[str, str]] = {}
    for original, text in texts.items():
        if original in _SMTP_FIELDS:
            grouped.setdefault(_SMTP, {})[_SMTP_FIELDS[original]] = text
        else:
            grouped[names[original]] = {VALUE: text}
    keys = {name: _open(name, parts, tokens) for name, parts in grouped.items()}
    return {name: key for name, key in keys.items() if key.parts or key.locked}


def has_place(name: str) -> bool:
    """Whether the predecessor can hold a key of this name: four are its mail settings."""
    return name not in _SMTP_FIELDS


def written(key: LegacyKey, tokens: TokenKeys) -> dict[str, str]:
    """Return the entries of `api_keys` that hold `key`, as the predecessor writes them.

    Raises KeyFileNeeded, and ValueError for a name without a place there.
    """
    if not has_place(key.name):
        raise ValueError("a custom key would pass for a mail setting")
    if not key.has_fields:
        return {key.name: tokens.seal(key.parts[VALUE])}
    entries = {entry: key.parts[part] for entry, part in _SMTP_FIELDS.items() if part in key.parts}
    if "smtp_pass" in entries:
        entries["smtp_pass"] = tokens.seal(entries["smtp_pass"])
    return entries


def entries_of(raw: Mapping[str, object], name: str) -> list[str]:
    """Return the names of the entries in `raw` (`api_keys` of a record) that make up key `name`."""
    if name == _SMTP:
        return [entry for entry in _SMTP_FIELDS if entry in raw]
    texts = [entry for entry, value in raw.items() if isinstance(value, str) and value.strip()]
    names = _names([entry for entry in texts if entry not in _SMTP_FIELDS], [])
    return [entry for entry, stored in names.items() if stored == name]


def _open(name: str, parts: Mapping[str, str], tokens: TokenKeys) -> LegacyKey:
    opened: dict[str, str] = {}
    locked: dict[str, str] = {}
    for part, text in parts.items():
        token = text.strip()
        plain = tokens.open(token)
        if plain is None and not looks_encrypted(token):
            plain = text
        if plain is None:
            locked[part] = token
        elif plain.strip():
            opened[part] = plain
    return LegacyKey(name, opened, locked)


def text_of(value: object) -> str:
    """Return a text or a number as text, null as "". Raises NotText for anything else."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise NotText from None
        return value
    if value is None:
        return ""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    raise NotText


@lru_cache(maxsize=1024)
def key_name(original: str) -> str:
    """Return `original` if it is a valid name, else its lower-case form with `_` for the rest."""
    if _NAME.fullmatch(original):
        return original
    name = _NOT_IN_NAMES.sub("_", original.strip().lower()).strip("_-")
    if not name:
        return "key"
    return (name if name[0].isalpha() else f"key_{name}")[:64]


def _names(originals: Collection[str], warnings: list[str]) -> dict[str, str]:
    """Return the name under which each key is stored.

    A name that is not valid here would lose the key, so it is stored as `key_name` has it; where
    that is taken, with a digest of the original behind it. The outcome depends on the set of names
    only, not on their order, so that every run finds the same. `smtp` belongs to the fields.
    """
    names = {original: key_name(original) for original in originals}
    if _SMTP not in names and all(original == name for original, name in names.items()):
        return names
    claims: dict[str, int] = {}
    for name in names.values():
        claims[name] = claims.get(name, 0) + 1
    for original, name in names.items():
        if name == _SMTP or (name != original and claims[name] > 1):
            digest = hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            names[original] = f"{name[:55]}-{digest}"
        if names[original] != original:
            warnings.append(f"key {_shown(original)} is stored under the name {names[original]}")
    return names


def _shown(original: str) -> str:
    """Return a key name for a message: people paste secrets into the wrong field."""
    return repr(original if len(original) <= 24 else f"{original[:12]}…")
