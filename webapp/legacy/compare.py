"""Comparing one account of the predecessor with the same account in the database."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from webapp.legacy.keys import LegacyKey
from webapp.legacy.records import LegacyUser


class Kind(StrEnum):
    """What can differ."""

    ONLY_IN_LEGACY = "only_in_legacy"
    ONLY_IN_DATABASE = "only_in_database"
    ROLE_DIFFERS = "role_differs"
    KEY_ONLY_IN_LEGACY = "key_only_in_legacy"
    KEY_ONLY_IN_DATABASE = "key_only_in_database"
    KEY_DIFFERS = "key_differs"
    LOCKED_IN_LEGACY = "locked_in_legacy"
    LOCKED_IN_DATABASE = "locked_in_database"
    PASSWORD_DIFFERS = "password_differs"  # noqa: S105 - the name of a difference
    SECOND_FACTOR_DIFFERS = "second_factor_differs"
    DUPLICATE_USERNAME = "duplicate_username"
    REJECTED_RECORD = "rejected_record"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. `key_name` is empty where the whole account differs."""

    kind: Kind
    username: str
    key_name: str = ""


class StoredUser(NamedTuple):
    """The database's side. A key that does not open with the master keys at hand is None.

    Keys in the trash are not there. `same_password` and `same_second_factor` are None where nobody
    can tell: a hash that was upgraded cannot be compared, nor a secret that does not open.
    """

    username: str
    is_admin: bool
    keys: Mapping[str, LegacyKey | None]
    same_password: bool | None = None
    same_second_factor: bool | None = None


def differences(legacy: LegacyUser, stored: StoredUser) -> list[Difference]:
    """Return in what the two sides of one account differ, in the order of key names."""
    found: list[Difference] = []
    if legacy.is_admin != stored.is_admin:
        found.append(Difference(Kind.ROLE_DIFFERS, legacy.username))
    if stored.same_password is False:
        found.append(Difference(Kind.PASSWORD_DIFFERS, legacy.username))
    if stored.same_second_factor is False:
        found.append(Difference(Kind.SECOND_FACTOR_DIFFERS, legacy.username))
    for name in sorted(legacy.keys.keys() | stored.keys.keys()):
        if name not in stored.keys:
            kinds = [Kind.KEY_ONLY_IN_LEGACY]
        elif name not in legacy.keys:
            kinds = [Kind.KEY_ONLY_IN_DATABASE]
        else:
            kinds = list(_between(legacy.keys[name], stored.keys[name]))
        found.extend(Difference(kind, legacy.username, name) for kind in kinds)
    return found


def _between(legacy: LegacyKey, stored: LegacyKey | None) -> Iterator[Kind]:
    """Yield how one key differs. Values are compared where both sides open.

    A token that was imported locked is the file's trouble, and the database's only when the file
    meanwhile opens.
    """
    if legacy.is_locked:
        yield Kind.LOCKED_IN_LEGACY
    if stored is None or (stored.is_locked and not legacy.is_locked):
        yield Kind.LOCKED_IN_DATABASE
    elif not legacy.is_locked and legacy.parts != stored.parts:
        yield Kind.KEY_DIFFERS
