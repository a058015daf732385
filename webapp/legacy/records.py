"""One account of the predecessor: from what stands in the files to a checked, typed record.

The files were written by hand as well as by the program, so no type is trusted. What makes the
account itself unusable raises RejectedRecord; what can be left out or mended becomes a warning, and
the rest of the account goes on.
"""

import re
from base64 import b32decode
from binascii import Error as Base32Error
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from webapp.legacy.keys import LegacyKey, NotText, key_name, parse_keys, text_of
from webapp.legacy.tokens import TokenKeys

MAX_USERNAME = 150
_MAX_NAME = 200
_MAX_EMAIL = 320
_MAX_REASON = 500
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")


class RejectedRecord(Exception):
    """The record cannot become an account; the message is the reason, for people."""


class DuplicateName(RejectedRecord):
    """The name stands in the file before, ignoring case; the first record counts.

    Or in the predecessor's database: a row whose name differs from another's by case only may be
    another person's, so it is not taken for the same.
    """

    def __init__(self, place: str = "the file") -> None:
        super().__init__(f"the username stands twice in {place}, ignoring case")


@dataclass(frozen=True, slots=True)
class LegacySecondFactor:
    """A TOTP secret in base32 without padding. Not `enabled`: prepared, and not asked for yet."""

    secret: str = field(repr=False)
    enabled: bool


@dataclass(frozen=True, slots=True)
class LegacyUser:
    """One account of the predecessor. All times are aware.

    `password_hash` is bcrypt, or 64 lower-case hex digits of unsalted SHA-256. `warnings` are
    sentences for people about what was mended or left out; they hold no value.
    """

    username: str
    name: str
    email: str | None
    password_hash: str = field(repr=False)
    is_admin: bool
    admin_request: bool
    reason: str
    created_at: datetime | None
    last_login: datetime | None
    api_permissions: Mapping[str, bool]
    keys: Mapping[str, LegacyKey]
    api_keys_updated: datetime | None
    second_factor: LegacySecondFactor | None
    warnings: tuple[str, ...]

    @property
    def has_sha256_hash(self) -> bool:
        return not self.password_hash.startswith("$")


def parse_user(
    username: str, raw: object, second_factor: object = None, *, tokens: TokenKeys
) -> LegacyUser:
    """Return the account that `raw` (of users.json) and `second_factor` (of two_fa.json) describe.

    Raises RejectedRecord, and KeyFileNeeded when a token needs a key file that cannot be used.
    """
    check_username(username)
    if not isinstance(raw, Mapping):
        raise RejectedRecord("the record is not an object")
    warnings: list[str] = []
    read = _Reader(raw, warnings)
    return LegacyUser(
        username=username,
        name=read.text("name", _MAX_NAME) or username,
        email=_email(read, warnings),
        password_hash=_password_hash(raw.get("password_hash")),
        is_admin=_is_admin(raw, warnings),
        admin_request=read.flag("admin_request"),
        reason=read.text("admin_request_reason", _MAX_REASON),
        created_at=read.time("created_at"),
        last_login=read.time("last_login"),
        api_permissions=_permissions(raw.get("api_permissions"), warnings),
        keys=_keys(raw.get("api_keys"), tokens, warnings),
        api_keys_updated=read.time("api_keys_updated"),
        second_factor=_second_factor(second_factor, warnings),
        warnings=tuple(warnings),
    )


def check_username(username: str) -> None:
    """Raise RejectedRecord for a name that no account can have."""
    if not 1 <= len(username) <= MAX_USERNAME:
        raise RejectedRecord(f"the username is not 1 to {MAX_USERNAME} characters long")
    if "\0" in username or not _is_unicode(username):
        raise RejectedRecord("the username contains a character that is not allowed")


def is_password_hash(value: object) -> bool:
    """Whether `value` is a hash of a password in a form that the predecessor wrote."""
    return isinstance(value, str) and bool(_SHA256.fullmatch(value) or _BCRYPT.fullmatch(value))


def written_time(moment: datetime) -> str:
    """Return `moment` as the predecessor writes times: UTC without a zone."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat()


def printable(username: str) -> str:
    """Return `username` in a form that can be stored and shown, whatever stands in the file."""
    text = username[:MAX_USERNAME].encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _is_unicode(text: str) -> bool:
    """Whether `text` has no half of a surrogate pair, which no database stores."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Reader:
    """Reads the fields of one record that can be mended, and says what it mended."""

    def __init__(self, raw: Mapping[str, object], warnings: list[str]) -> None:
        self._raw = raw
        self._warnings = warnings

    def text(self, name: str, limit: int) -> str:
        value = self._raw.get(name)
        if value is None or value == "":
            return ""
        try:
            text = text_of(value)
        except NotText:
            self._warnings.append(f"{name} is no text and was left out")
            return ""
        if "\0" in text:
            self._warnings.append(f"{name} contained a NUL character, which was replaced")
            text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        if len(text) > limit:
            self._warnings.append(f"{name} was cut to {limit} characters")
        return text[:limit]

    def flag(self, name: str) -> bool:
        value = self._raw.get(name)
        if value is not None and not isinstance(value, bool):
            self._warnings.append(f"{name} is neither true nor false and counts as false")
        return value is True

    def time(self, name: str) -> datetime | None:
        """Read an ISO time. One without a zone counts as UTC.

        The predecessor wrote the local time of its host and did not note the zone. Hosts run on UTC
        as a rule, and the times are shown to people but decide nothing.
        """
        value = self._raw.get(name)
        if value is None or value == "":
            return None
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else None
            if moment is not None:
                return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            pass
        self._warnings.append(f"{name} is no time and was left out")
        return None


def _email(read: _Reader, warnings: list[str]) -> str | None:
    email = read.text("email", _MAX_EMAIL + 1).strip()
    if len(email) > _MAX_EMAIL:
        warnings.append("email is too long and was left out")
        return None
    return email or None


def _password_hash(value: object) -> str:
    if value is None or value == "":
        raise RejectedRecord("the record has no password_hash")
    if not isinstance(value, str) or not is_password_hash(value):
        raise RejectedRecord("password_hash is neither SHA-256 in 64 hex digits nor bcrypt")
    return value if value.startswith("$") else value.lower()


def _is_admin(raw: Mapping[str, object], warnings: list[str]) -> bool:
    """Whether the account is an admin: everything that the record says about it must agree."""
    said: set[bool] = set()
    role, flag = raw.get("role"), raw.get("is_admin")
    if role is not None:
        said.add(role == "admin")
        if role not in ("admin", "user"):
            warnings.append("role is neither admin nor user and counts as user")
    if flag is not None:
        said.add(flag is True)
        if not isinstance(flag, bool):
            warnings.append("is_admin is neither true nor false and counts as false")
    if len(said) > 1:
        warnings.append("role and is_admin contradict each other; the account is no admin")
    return said == {True}


def _permissions(value: object, warnings: list[str]) -> dict[str, bool]:
    """Return provider to yes or no. What is neither counts as no: the careful reading."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RejectedRecord("api_permissions is not an object")
    permissions: dict[str, bool] = {}
    for original, allowed in value.items():
        name = key_name(original)
        if allowed is None:
            continue
        if not isinstance(allowed, bool):
            warnings.append(f"the permission for {name} is neither true nor false: no")
        permissions[name] = permissions.get(name, True) and allowed is True
    return permissions


def _keys(value: object, tokens: TokenKeys, warnings: list[str]) -> dict[str, LegacyKey]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RejectedRecord("api_keys is not an object")
    return parse_keys(value, tokens, warnings)


def _second_factor(value: object, warnings: list[str]) -> LegacySecondFactor | None:
    """Return the second factor that two_fa.json has for the account.

    One that is switched on and cannot be read rejects the record: importing the account without it
    would let the password alone in.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RejectedRecord("its entry in two_fa.json is not an object")
    enabled = value.get("enabled")
    # Whatever is not plainly off counts as on, for the same reason.
    is_on = enabled not in (False, None)
    try:
        return LegacySecondFactor(_totp_secret(value.get("secret")), is_on)
    except ValueError:
        if is_on:
            raise RejectedRecord("its second factor in two_fa.json has no valid secret") from None
    if value.get("secret"):
        warnings.append("its prepared second factor has no valid secret and was left out")
    return None


def _totp_secret(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    secret = value.replace(" ", "").replace("-", "").rstrip("=").upper()
    try:
        if b32decode(secret + "=" * (-len(secret) % 8)):
            return secret
    except Base32Error:
        pass
    raise ValueError("not base32")
