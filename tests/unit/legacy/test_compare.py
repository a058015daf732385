"""Comparing one account on both sides."""

import pytest

from tests.legacy_folder import record
from webapp.legacy.compare import Difference, Kind, StoredUser, differences
from webapp.legacy.keys import LegacyKey
from webapp.legacy.records import LegacyUser, parse_user
from webapp.legacy.structure import fold
from webapp.legacy.tokens import TokenKeys
from webapp.models.users import fold as stored_fold

OPEN = LegacyKey("openai", {"value": "a"}, {})
OTHER = LegacyKey("openai", {"value": "b"}, {})
LOCKED = LegacyKey("openai", {}, {"value": "gAAAA…"})


def legacy(key: LegacyKey | None = None, *, admin: bool = False) -> LegacyUser:
    raw = record(role="admin" if admin else "user")
    user = parse_user("amira", raw, tokens=TokenKeys([]))
    user.keys.update({key.name: key} if key else {})  # type: ignore[attr-defined]
    return user


def kinds(user: LegacyUser, **keys: LegacyKey | None) -> list[Kind]:
    return [found.kind for found in differences(user, StoredUser("amira", False, keys))]


def test_equal_accounts_do_not_differ() -> None:
    assert kinds(legacy()) == []
    assert kinds(legacy(OPEN), openai=OPEN) == []


def test_the_role() -> None:
    assert kinds(legacy(admin=True)) == [Kind.ROLE_DIFFERS]


def test_a_difference_names_user_and_key_and_no_value() -> None:
    found = differences(legacy(OPEN), StoredUser("amira", False, {"openai": OTHER}))
    assert found == [Difference(Kind.KEY_DIFFERS, "amira", "openai")]


def test_keys_of_one_side_only() -> None:
    assert kinds(legacy(OPEN)) == [Kind.KEY_ONLY_IN_LEGACY]
    assert kinds(legacy(), openai=OPEN) == [Kind.KEY_ONLY_IN_DATABASE]
    assert kinds(legacy(), openai=None) == [Kind.KEY_ONLY_IN_DATABASE]


@pytest.mark.parametrize(
    ("there", "here", "expected"),
    [
        (OPEN, None, [Kind.LOCKED_IN_DATABASE]),
        (OPEN, LOCKED, [Kind.LOCKED_IN_DATABASE]),
        (LOCKED, OPEN, [Kind.LOCKED_IN_LEGACY]),
        (LOCKED, LOCKED, [Kind.LOCKED_IN_LEGACY]),
        (LOCKED, None, [Kind.LOCKED_IN_LEGACY, Kind.LOCKED_IN_DATABASE]),
    ],
)
def test_what_does_not_open_is_locked_and_does_not_differ(
    there: LegacyKey, here: LegacyKey | None, expected: list[Kind]
) -> None:
    assert kinds(legacy(there), openai=here) == expected


@pytest.mark.parametrize("name", ["Amira", "STRASSE", "Straße", "İ", "ſ", "001"])
def test_both_sides_compare_usernames_alike(name: str) -> None:
    assert fold(name) == stored_fold(name)
