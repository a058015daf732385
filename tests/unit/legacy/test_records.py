"""One account of the predecessor, from JSON to a checked record."""

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from tests.legacy_folder import record, sha256_of
from tests.unit.legacy.test_keys import json_values
from webapp.legacy.records import LegacySecondFactor, LegacyUser, RejectedRecord, parse_user
from webapp.legacy.tokens import KeyFileNeeded, TokenKeys

KEY = Fernet.generate_key()
TOKENS = TokenKeys([KEY.decode()])
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
BCRYPT = "$2b$10$0sDOQAEERQDJis2hRTBev.FKnpNtskbsbQe9t7g2tAzxYWIItMxw2"


def parse(second_factor: object = None, username: str = "amira", **fields: Any) -> LegacyUser:
    return parse_user(username, record(**fields), second_factor, tokens=TOKENS)


def reason_of(second_factor: object = None, username: str = "amira", **fields: Any) -> str:
    with pytest.raises(RejectedRecord) as caught:
        parse(second_factor, username, **fields)
    return str(caught.value)


def test_a_whole_record() -> None:
    user = parse(
        name="Amira",
        email=" amira@example.com ",
        role="admin",
        admin_request=True,
        admin_request_reason="reports",
        api_permissions={"openai": True, "google": False},
        api_keys={"openai": Fernet(KEY).encrypt(b"sk").decode()},
        api_keys_updated="2025-12-12T10:11:12.000001",
        last_login="2025-12-13T16:42:34+02:00",
    )
    assert user.name == "Amira"
    assert user.email == "amira@example.com"
    assert user.password_hash == sha256_of("a password")
    assert user.has_sha256_hash
    assert (user.is_admin, user.admin_request, user.reason) == (True, True, "reports")
    assert user.created_at == datetime(2025, 12, 9, 21, 45, 47, 940277, UTC)
    assert user.last_login == datetime(2025, 12, 13, 14, 42, 34, tzinfo=UTC)
    assert user.api_keys_updated == datetime(2025, 12, 12, 10, 11, 12, 1, UTC)
    assert user.api_permissions == {"openai": True, "google": False}
    assert user.keys["openai"].parts == {"value": "sk"}
    assert user.second_factor is None
    assert user.warnings == ()


def test_the_least_that_an_account_needs_is_a_password_hash() -> None:
    user = parse_user("001", {"password_hash": sha256_of("x")}, tokens=TOKENS)
    assert (user.name, user.email, user.is_admin, user.keys) == ("001", None, False, {})
    assert user.warnings == ()


def test_a_hash_in_upper_case_becomes_lower_case() -> None:
    assert parse(password_hash="AB" * 32).password_hash == "ab" * 32


def test_bcrypt_stays_as_it_is() -> None:
    user = parse(password_hash=BCRYPT)
    assert user.password_hash == BCRYPT
    assert not user.has_sha256_hash


@pytest.mark.parametrize(
    "value",
    [None, "", 1, True, [], {}, "a" * 63, "a" * 65, "g" * 64, "a" * 64 + "\n", "$2b$10$short"],
)
def test_a_record_without_a_valid_hash_is_rejected(value: object) -> None:
    assert "password_hash" in reason_of(password_hash=value)


@pytest.mark.parametrize("raw", [None, 1, "text", [], True])
def test_a_record_that_is_no_object_is_rejected(raw: object) -> None:
    with pytest.raises(RejectedRecord, match="not an object"):
        parse_user("amira", raw, tokens=TOKENS)


@pytest.mark.parametrize("username", ["", "a" * 151, "a\0b", "a\ud800"])
def test_a_username_that_no_account_can_have_is_rejected(username: str) -> None:
    assert "username" in reason_of(username=username)


@pytest.mark.parametrize("username", ["0", "a" * 150, "Ægir Ø", "a/b?c", " "])
def test_any_other_username_is_accepted(username: str) -> None:
    assert parse(username=username).username == username


@pytest.mark.parametrize(
    ("fields", "is_admin", "warned"),
    [
        ({"role": "admin"}, True, False),
        ({"role": "user"}, False, False),
        ({"role": None}, False, False),
        ({"role": None, "is_admin": True}, True, False),
        ({"role": "admin", "is_admin": True}, True, False),
        ({"role": "user", "is_admin": True}, False, True),
        ({"role": "admin", "is_admin": False}, False, True),
        ({"role": "Admin"}, False, True),
        ({"role": ["admin"]}, False, True),
        ({"role": None, "is_admin": "true"}, False, True),
        ({"role": None, "is_admin": 1}, False, True),
    ],
)
def test_only_a_record_without_contradiction_makes_an_admin(
    fields: dict[str, Any], is_admin: bool, warned: bool
) -> None:
    user = parse(**fields)
    assert user.is_admin is is_admin
    assert bool(user.warnings) is warned


@pytest.mark.parametrize(
    "value", ["yesterday", 5, [], "2025-13-01", True, "9999-12-31T23:59-14:00"]
)
def test_a_time_that_is_none_is_left_out_with_a_warning(value: object) -> None:
    user = parse(last_login=value)
    assert user.last_login is None
    assert user.warnings == ("last_login is no time and was left out",)


def test_texts_that_do_not_fit_are_mended_with_a_warning() -> None:
    user = parse(name="n" * 300, admin_request_reason="a\0b", email=["x"], admin_request="yes")
    assert (len(user.name), user.reason, user.email) == (200, "a\N{REPLACEMENT CHARACTER}b", None)
    assert not user.admin_request
    assert len(user.warnings) == 4


def test_an_address_is_not_cut() -> None:
    user = parse(email="a" * 400)
    assert user.email is None
    assert len(user.warnings) >= 1


def test_a_permission_that_is_neither_yes_nor_no_counts_as_no() -> None:
    user = parse(
        api_permissions={"openai": "false", "Google": False, "google": True, "slack": None}
    )
    assert user.api_permissions == {"openai": False, "google": False}


@pytest.mark.parametrize("field", ["api_keys", "api_permissions"])
@pytest.mark.parametrize("value", ["text", [], 5, False])
def test_a_record_whose_keys_or_permissions_cannot_be_read_is_rejected(
    field: str, value: object
) -> None:
    fields: dict[str, Any] = {field: value}
    assert reason_of(**fields) == f"{field} is not an object"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"secret": SECRET, "enabled": True}, LegacySecondFactor(SECRET, True)),
        ({"secret": SECRET, "enabled": False}, LegacySecondFactor(SECRET, False)),
        ({"secret": SECRET}, LegacySecondFactor(SECRET, False)),
        (
            {"secret": "jbsw y3dp-EHPK3PXP====", "enabled": "yes"},
            LegacySecondFactor(SECRET[:16], True),
        ),
        ({"secret": "", "enabled": False}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_second_factor(entry: object, expected: LegacySecondFactor | None) -> None:
    user = parse(entry)
    assert user.second_factor == expected
    assert user.warnings == ()


@pytest.mark.parametrize(
    "entry",
    [
        "text",
        [],
        {"enabled": True},
        {"secret": "not base32!", "enabled": True},
        {"secret": 5, "enabled": 1},
    ],
)
def test_an_account_whose_second_factor_cannot_be_read_is_rejected(entry: object) -> None:
    assert "two_fa.json" in reason_of(entry)


def test_a_prepared_second_factor_without_a_valid_secret_is_left_out() -> None:
    user = parse({"secret": "18", "enabled": False})
    assert user.second_factor is None
    assert len(user.warnings) == 1


def test_no_secret_shows_in_the_representation() -> None:
    user = parse({"secret": SECRET, "enabled": True}, api_keys={"openai": "sk-secret-value"})
    for secret in (SECRET, "sk-secret-value", user.password_hash):
        assert secret not in repr(user)


def test_a_missing_key_file_stops_where_a_token_needs_it() -> None:
    tokens = TokenKeys([], problem="is missing")
    parse_user("amira", record(api_keys={"openai": "plain"}), tokens=tokens)
    raw = record(api_keys={"openai": Fernet(KEY).encrypt(b"x").decode()})
    with pytest.raises(KeyFileNeeded):
        parse_user("amira", raw, tokens=tokens)


FIELDS = [*record(), "email", "is_admin", "api_permissions", "api_keys", "api_keys_updated"]
fields_of_any_type = st.fixed_dictionaries(
    {}, optional={name: json_values for name in FIELDS if name != "password_hash"}
)


@given(st.text(max_size=160), fields_of_any_type, json_values)
def test_whatever_stands_in_the_files_gives_an_account_or_a_reason(
    username: str, fields: dict[str, Any], second_factor: object
) -> None:
    try:
        user = parse_user(username, record(**fields), second_factor, tokens=TOKENS)
    except RejectedRecord:
        return
    for text in (user.username, user.name, user.email or "", user.reason):
        assert "\0" not in text
        text.encode("utf-8")
    assert not user.is_admin or fields.get("role") == "admin" or fields.get("is_admin") is True
