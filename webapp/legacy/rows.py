"""Rows of the predecessor's own database, as far as they say what users.json says.

Whoever reads the database hands rows in as plain mappings of column to text; see
services/legacy_database.py.
"""

import hashlib
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from webapp.legacy.records import RejectedRecord, printable

DATABASE = "LEGACY_DATABASE_URL"
"""What messages call the source, since an operator knows it by this name."""
REQUIRED_COLUMNS = ("username", "password_hash")
COLUMNS = (
    *REQUIRED_COLUMNS,
    "email",
    "is_admin",
    "api_keys",
    "api_keys_updated_at",
    "smtp_settings",
    "created_at",
)
"""What is read of the table `users`; older schemas lack some of what is not required."""
_SMTP = ("host", "port", "user", "pass")
_TRUE = {"1", "t", "true", "yes", "on"}

Row = Mapping[str, str | None]
"""Column to text; a column that the table does not have is missing."""


@dataclass(frozen=True)
class Rows:
    """The table `users` in one consistent state, in an order that is the same each time.

    `stamp` tells the state from others without reading and was taken before `rows` begins, whose
    iteration raises LegacyUnreadable. To be closed.
    """

    stamp: str
    rows: Generator[Row, None, None]


@dataclass(frozen=True, slots=True)
class RowRecord:
    """What a row says: a record as users.json would hold it, without a role.

    `is_admin` is what the database says about that, None where it says nothing. It comes from the
    free text of a signup, so it is compared and never followed. A row that cannot be read has a
    `reason` and no record.
    """

    username: str
    record: Mapping[str, object]
    is_admin: bool | None
    reason: str | None = None

    def content(self) -> list[object]:
        """Return what `restored` takes, as JSON has it."""
        return [self.username, self.record, self.is_admin, self.reason]

    @classmethod
    def restored(cls, content: object) -> "RowRecord":
        return cls(*cast("list[Any]", content))


def combined_stamp(of_files: str, of_database: str | None) -> str:
    """Return the stamp of the files and, where there is one, the database together."""
    if of_database is None:
        return of_files
    return hashlib.sha256(f"{of_files}|{of_database}".encode()).hexdigest()[:32]


def read_row(row: Row) -> RowRecord:
    """Return what `row` says."""
    username = row.get("username") or ""
    try:
        return RowRecord(username, _record(row), _flag(row.get("is_admin")))
    except RejectedRecord as rejected:
        return RowRecord(printable(username), {}, None, str(rejected))


def _record(row: Row) -> dict[str, object]:
    if any(value is not None and not _is_unicode(value) for value in row.values()):
        raise RejectedRecord("its row in the database holds text that is not UTF-8")
    keys = _object(row, "api_keys")
    smtp = _object(row, "smtp_settings")
    if not any(keys.get(f"smtp_{part}") for part in _SMTP):
        keys |= {f"smtp_{part}": smtp[part] for part in _SMTP if part in smtp}
    return {
        "password_hash": row.get("password_hash"),
        "email": row.get("email"),
        "api_keys": keys,
        "api_keys_updated": row.get("api_keys_updated_at"),
        "created_at": row.get("created_at"),
    }


def _object(row: Row, column: str) -> dict[str, object]:
    """Return the JSON object in `column`; empty where there is none. Raises RejectedRecord."""
    text = (row.get(column) or "").strip()
    try:
        value = json.loads(text, **_AS_WRITTEN) if text else None
    except (ValueError, RecursionError):
        raise RejectedRecord(f"{column} in the database is not valid JSON") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RejectedRecord(f"{column} in the database is not an object")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)


# Numbers keep their digits, and NaN is no JSON.
_AS_WRITTEN: dict[str, Any] = {"parse_int": str, "parse_float": str, "parse_constant": _refuse}


def _flag(text: str | None) -> bool | None:
    return None if text is None else text.strip().lower() in _TRUE


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
