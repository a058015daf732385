"""Which passwords may be chosen."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.services.passwords import (
    UnacceptablePassword,
    _common_passwords,
    check_new_password,
)


def _reason(password: str, username: str = "amira") -> str:
    with pytest.raises(UnacceptablePassword) as refused:
        check_new_password(password, username=username)
    return str(refused.value)


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "tidal marble 9 onions",
        "x7#Lq2!vTz9p",
        "пароль для ключей",
        "  spaces at both ends  ",
        "🔑🗝️🚪🏠🧱🪟🌳🌲🍀🌻🌼🌷",
        "quiet-lantern-" * 18,
    ],
)
def test_a_long_and_uncommon_password_is_accepted_as_it_is(password: str) -> None:
    check_new_password(password, username="amira")


def test_length_counts_characters_from_12_to_256() -> None:
    assert "at least 12" in _reason("aX3!kL9#pQz")
    check_new_password("aX3!kL9#pQzü", username="amira")
    fitting = "".join(chr(0x4E00 + n) for n in range(256))
    check_new_password(fitting, username="amira")
    assert "at most 256" in _reason(fitting + "x")


@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "PasswordPassword",
        "password1234",
        "Sunshine2024!",
        "!!superman!!99",
        "qwertyuiop123",
        "letmeinletmein",
        "football-2026",
    ],
)
def test_common_passwords_are_refused_also_with_digits_around_or_repeated(password: str) -> None:
    assert "common" in _reason(password)


@pytest.mark.parametrize("password", ["aaaaaaaaaaaaaaaa", "121212121212", "abababABABAB"])
def test_few_different_characters_are_refused(password: str) -> None:
    assert "different characters" in _reason(password)


@pytest.mark.parametrize(
    ("password", "username"),
    [
        ("keystay-is-mine", "amira"),
        ("My-KeyStay-rules!", "amira"),
        ("the password of Amira", "amira"),
        ("bobbobbobbob", "bob"),
        ("bob-----------1234", "bob"),
    ],
)
def test_the_product_and_the_username_are_refused(password: str, username: str) -> None:
    assert _reason(password, username)


def test_a_short_username_may_occur_in_a_word() -> None:
    check_new_password("the bobsleigh run at dawn", username="bob")


def test_the_list_holds_enough_passwords_that_the_length_would_allow() -> None:
    allowed = [word for word in _common_passwords() if len(word) >= 12]
    assert len(allowed) >= 3000, "ASVS 6.2.4"
    assert all(re.fullmatch(r"[!-~]{8,}", word) for word in _common_passwords())


@given(st.text(max_size=300))
def test_every_text_is_either_accepted_or_refused_with_a_sentence(password: str) -> None:
    refusal = ""
    try:
        check_new_password(password, username="amira")
    except UnacceptablePassword as refused:
        refusal = str(refused)
    assert refusal == "" or refusal.endswith(".")
