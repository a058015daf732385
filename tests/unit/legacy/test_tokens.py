"""Telling Fernet tokens from plain values, and opening them."""

import string

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from webapp.legacy.tokens import KeyFileNeeded, TokenKeys, looks_encrypted

KEY = Fernet.generate_key().decode()
OTHER = Fernet.generate_key().decode()
BASE64URL = string.ascii_letters + string.digits + "-_="


@given(st.binary(max_size=500))
def test_every_token_is_recognised(data: bytes) -> None:
    assert looks_encrypted(Fernet(KEY).encrypt(data).decode())


@given(st.text(max_size=200).filter(lambda text: not text.startswith("gAAAA")))
def test_text_without_the_prefix_is_plain(text: str) -> None:
    assert not looks_encrypted(text)


@given(st.text(alphabet=BASE64URL, max_size=54))
def test_a_short_value_with_the_prefix_is_plain(rest: str) -> None:
    assert not looks_encrypted("gAAAA" + rest)


@pytest.mark.parametrize("value", ["gAAAA and more words", "gAAAAB" + "ü" * 80, "gAAAA" + "/" * 80])
def test_a_value_with_other_characters_is_plain(value: str) -> None:
    assert not looks_encrypted(value)


@given(st.text())
def test_a_token_opens_with_any_of_the_keys(text: str) -> None:
    token = Fernet(OTHER).encrypt(text.encode()).decode()
    assert TokenKeys([KEY, OTHER]).open(token) == text


@given(st.integers(min_value=1, max_value=40))
def test_a_cut_token_counts_as_encrypted_and_opens_never(cut: int) -> None:
    token = Fernet(KEY).encrypt(b"x" * 40).decode()[:-cut]
    assert looks_encrypted(token)
    assert TokenKeys([KEY]).open(token) is None


def test_a_token_of_an_unknown_key_does_not_open() -> None:
    assert TokenKeys([KEY]).open(Fernet(OTHER).encrypt(b"x").decode()) is None
    assert TokenKeys([]).open(Fernet(OTHER).encrypt(b"x").decode()) is None


def test_bytes_that_are_no_text_do_not_open() -> None:
    assert TokenKeys([KEY]).open(Fernet(KEY).encrypt(b"\xff\xfe").decode()) is None


def test_without_a_key_file_only_a_token_that_needs_it_is_an_error() -> None:
    keys = TokenKeys([OTHER], problem="is missing")
    assert keys.open(Fernet(OTHER).encrypt(b"old").decode()) == "old"
    with pytest.raises(KeyFileNeeded, match="is missing"):
        keys.open(Fernet(KEY).encrypt(b"x").decode())


@pytest.mark.parametrize("key", ["", "short", "ü" * 44, "A" * 44])
def test_what_is_no_fernet_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the library says
        TokenKeys([key])
