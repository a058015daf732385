"""The keys of one predecessor account."""

import re
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from webapp.legacy.keys import LegacyKey, key_name, parse_keys
from webapp.legacy.tokens import TokenKeys

FERNET_KEY = Fernet.generate_key().decode()
TOKENS = TokenKeys([FERNET_KEY])
LOST = Fernet(Fernet.generate_key()).encrypt(b"nobody opens this").decode()
VALID = re.compile(r"[a-z][a-z0-9_-]{0,63}")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def token(text: str) -> str:
    return Fernet(FERNET_KEY).encrypt(text.encode()).decode()


def parse(raw: dict[str, Any]) -> tuple[dict[str, LegacyKey], list[str]]:
    warnings: list[str] = []
    return parse_keys(raw, TOKENS, warnings), warnings


def test_tokens_are_opened_and_plain_values_stay_as_they_are() -> None:
    keys, warnings = parse({"openai": token("sk-1"), "google": " gAAAA plain ", "custom": 42})
    assert {name: key.parts for name, key in keys.items()} == {
        "openai": {"value": "sk-1"},
        "google": {"value": " gAAAA plain "},
        "custom": {"value": "42"},
    }
    assert warnings == []


@pytest.mark.parametrize(
    "empty",
    ["", None, "  \n", token(""), token(" ")],
    ids=["empty", "null", "blank", "empty token", "blank token"],
)
def test_an_empty_value_is_no_key(empty: str | None) -> None:
    assert parse({"openai": empty, "smtp_host": empty}) == ({}, [])


def test_white_space_around_a_token_does_not_hide_it() -> None:
    keys, _ = parse({"openai": f" {token('sk-1')}\n"})
    assert keys["openai"].parts == {"value": "sk-1"}


def test_a_token_that_no_key_opens_is_locked_and_kept() -> None:
    keys, warnings = parse({"google": LOST})
    assert keys["google"] == LegacyKey("google", {}, {"value": LOST})
    assert keys["google"].is_locked
    assert warnings == []


def test_the_four_smtp_entries_become_one_key() -> None:
    raw = {"smtp_host": "h", "smtp_port": 587, "smtp_user": "u", "smtp_pass": token("p")}
    keys, warnings = parse(raw)
    assert list(keys) == ["smtp"]
    assert keys["smtp"].has_fields
    assert keys["smtp"].parts == {"host": "h", "port": "587", "user": "u", "password": "p"}
    assert warnings == []


def test_a_locked_smtp_password_keeps_the_other_fields() -> None:
    keys, _ = parse({"smtp_host": "h", "smtp_user": "", "smtp_pass": LOST})
    assert keys["smtp"] == LegacyKey("smtp", {"host": "h"}, {"password": LOST})


@pytest.mark.parametrize("value", [True, [], {"a": 1}, ["sk-1"], "\ud800"])
def test_what_is_no_text_is_left_out_with_a_warning_and_the_rest_goes_on(value: object) -> None:
    keys, warnings = parse({"openai": value, "google": "g"})
    assert list(keys) == ["google"]
    assert len(warnings) == 1
    assert "openai" in warnings[0]


def test_a_key_whose_name_is_not_valid_is_stored_under_one_that_is() -> None:
    keys, warnings = parse({"My Key": "a", "OpenAI": "b", "9lives": "c", "ключ": "d"})
    assert {name: key.parts["value"] for name, key in keys.items()} == {
        "my_key": "a",
        "openai": "b",
        "key_9lives": "c",
        "key": "d",
    }
    assert len(warnings) == 4
    assert "'My Key' is stored under the name my_key" in warnings[0]


def test_a_valid_name_is_never_taken_by_another_key() -> None:
    keys, _ = parse({"OpenAI": "other", "openai": "mine", "OPENAI": "third"})
    assert keys["openai"].parts == {"value": "mine"}
    assert sorted(key.parts["value"] for key in keys.values()) == ["mine", "other", "third"]


def test_a_text_under_the_name_smtp_does_not_take_the_place_of_the_fields() -> None:
    keys, warnings = parse({"smtp": "a text", "smtp_host": "h"})
    assert keys["smtp"].parts == {"host": "h"}
    assert [key.parts for name, key in keys.items() if name != "smtp"] == [{"value": "a text"}]
    assert len(warnings) == 1


def test_a_warning_does_not_repeat_a_secret_in_the_place_of_a_name() -> None:
    _, warnings = parse({"sk-proj-0123456789abcdef0123456789": True})
    assert "0123456789abcdef" not in warnings[0]


@given(st.dictionaries(st.text(max_size=80), st.sampled_from(["a", "b", "c"]), max_size=8))
def test_no_key_is_lost_whatever_its_name_and_every_name_is_valid(raw: dict[str, str]) -> None:
    keys, _ = parse(raw)
    fields = {"smtp_host", "smtp_port", "smtp_user", "smtp_pass"}
    assert len([k for k in keys.values() if not k.has_fields]) == len(raw.keys() - fields)
    assert all(VALID.fullmatch(name) for name in keys)


@given(st.permutations(["OpenAI", "OPENAI", "openai", "open ai", "open_ai", "smtp", "SMTP"]))
def test_names_do_not_depend_on_the_order_in_the_file(names: list[str]) -> None:
    expected, _ = parse({name: name for name in sorted(names)})
    found, _ = parse({name: name for name in names})
    assert found == expected


@given(st.dictionaries(st.text(max_size=30), json_values, max_size=6))
def test_nothing_in_api_keys_raises(raw: dict[str, Any]) -> None:
    keys, _ = parse(raw)
    assert all(key.parts or key.locked for key in keys.values())


@given(st.text())
def test_a_made_name_is_valid_and_stays_what_it_is(name: str) -> None:
    made = key_name(name)
    assert VALID.fullmatch(made)
    assert key_name(made) == made
