"""What a key may be called and hold; masks above all."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.crypto.envelope import DataKey, Place, seal
from webapp.services.key_rules import (
    MAX_VALUE_LENGTH,
    InvalidKeyName,
    InvalidKeyValue,
    MaskedValue,
    check_name,
    check_value,
    is_masked,
)

KEY_CHARACTERS = string.ascii_letters + string.digits + "-_./:+=~@"
real_keys = st.text(KEY_CHARACTERS, min_size=1, max_size=200).filter(lambda text: "..." not in text)


@pytest.mark.parametrize("name", ["a", "openai", "openai-dev", "k_1", "a" * 64])
def test_valid_names_are_accepted(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "A", "1a", "-a", "a" * 65, "a b", "a.b", "ä", "a\n", "../a", "a\x00", "openai\u200b"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidKeyName):
        check_name(name)


@pytest.mark.parametrize(
    "mask",
    [
        "***", "********", "sk-***abcd", "•••", "●●●●", "sk-…abcd", "sk-...abcd",
        "<hidden>", "[redacted]", "<your key>", "(masked)", "sk-proj-<redacted>", "ab****",
        "[REDACTED]", "{secret}", "sk-.....abcd", "one\n***\ntwo",
    ],
)  # fmt: skip
def test_masks_are_refused_unless_meant_literally(mask: str) -> None:
    with pytest.raises(MaskedValue):
        check_value("openai", mask)
    assert check_value("openai", mask, literal=True) == mask


@pytest.mark.parametrize(
    "value",
    [
        "sk-proj-0123456789", "AIzaSyA-x_y", "https://hooks.slack.com/services/T0/B0/abc",
        "a*b**c", "..", "x..y", '{"type": "service_account", "ids": ["a", "b"]}', "a<b>c", "1",
        "-----BEGIN KEY-----\nMIIB\n-----END KEY-----", "pass word", "ends...", "...begins",
        "…abcd", "sk-…",
        "ä ö ü ✓", "<a href='x'>",
    ],
)  # fmt: skip
def test_values_that_only_resemble_masks_are_accepted(value: str) -> None:
    assert check_value("custom", value) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("openai", None),
        ("openai", 42),
        ("openai", {"value": "x"}),
        ("smtp", "x"),
        ("smtp", ["host"]),
        ("smtp", {"host": "h", "port": 587, "user": "u", "password": "p"}),
        ("smtp", {"host": "h", "port": "587", "user": None, "password": "p"}),
        ("smtp", {"host": "h", "port": "587", "user": "u", "password": "p", "more": "x"}),
    ],
)
def test_what_is_no_text_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidKeyValue):
        check_value(name, value)


def test_what_could_not_be_read_on_its_way_is_refused() -> None:
    for literal in (False, True):
        with pytest.raises(InvalidKeyValue, match="could not be read"):
            check_value("openai", "sk-\N{REPLACEMENT CHARACTER}abc", literal=literal)


@given(real_keys)
def test_no_ordinary_key_is_taken_for_a_mask(key: str) -> None:
    assert not is_masked(key)


@given(
    st.text(KEY_CHARACTERS, min_size=1, max_size=8),
    st.sampled_from(["***", "•••", "●●●", "…", "...", "*" * 20]),
    st.text(KEY_CHARACTERS, min_size=1, max_size=8),
)
def test_every_key_with_its_middle_hidden_is_taken_for_one(head: str, dots: str, tail: str) -> None:
    assert is_masked(head + dots + tail)


@pytest.mark.parametrize("value", ["", " ", "\n\t ", "\r\n"])
def test_empty_values_are_refused(value: str) -> None:
    with pytest.raises(InvalidKeyValue, match="empty"):
        check_value("openai", value)
    with pytest.raises(InvalidKeyValue, match="empty"):
        check_value("openai", value, literal=True)


@pytest.mark.parametrize("value", ["a\x00b", "a\x1bb", "a\rb", "a\x7fb", "a\x85b", "a\ud800b"])
def test_control_characters_are_refused(value: str) -> None:
    with pytest.raises(InvalidKeyValue, match="control"):
        check_value("openai", value)


def test_our_sealed_format_is_always_refused() -> None:
    sealed = seal(DataKey.generate(1), Place("api-key", 1, "openai", 1), b"a secret")
    with pytest.raises(InvalidKeyValue, match="sealed"):
        check_value("openai", sealed, literal=True)


def test_length_counts_after_stripping() -> None:
    longest = "x" * MAX_VALUE_LENGTH
    assert check_value("openai", f"  {longest}\n") == longest
    with pytest.raises(InvalidKeyValue, match="16,385"):
        check_value("openai", longest + "x")


def test_line_ends_of_browsers_become_newlines() -> None:
    assert check_value("tls", "one\r\ntwo\r\n") == "one\ntwo"


SMTP = {"host": "smtp.example.com", "port": "587", "user": "ben", "password": "p w"}


def test_smtp_takes_all_its_fields() -> None:
    assert check_value("smtp", SMTP) == SMTP


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"password": ""}, "password"),
        ({"host": " "}, "host"),
        ({"port": "0"}, "port"),
        ({"port": "65536"}, "port"),
        ({"port": "²"}, "port"),
        ({"password": "********"}, "password"),
    ],
)
def test_a_refused_field_is_named(change: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidKeyValue) as refused:
        check_value("smtp", SMTP | change)
    assert refused.value.field == field


def test_shapes_do_not_mix() -> None:
    with pytest.raises(InvalidKeyValue):
        check_value("smtp", "a text")
    with pytest.raises(InvalidKeyValue):
        check_value("smtp", SMTP | {"extra": "x"})
    with pytest.raises(InvalidKeyValue):
        check_value("openai", SMTP)
