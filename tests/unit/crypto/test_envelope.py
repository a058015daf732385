"""Sealing: what was sealed opens in its place, with its key, unchanged, and nowhere else."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.crypto.envelope import (
    DataKey,
    DoesNotOpen,
    Place,
    looks_sealed,
    open_sealed,
    parts,
    seal,
)
from webapp.services.key_rules import InvalidKeyValue, check_value

KEY = DataKey.generate(1)
PLACE = Place("api-key", 7, "openai", 3)

places = st.builds(
    Place,
    st.sampled_from(["api-key", "totp-secret", "password-digest", "fingerprint-key"]),
    st.integers(1, 2**63 - 1),
    st.from_regex("[a-z][a-z0-9_-]{0,63}", fullmatch=True),
    st.integers(0, 2**31 - 1),
)
numbers = st.integers(1, 999_999_999)


@given(plaintext=st.binary(max_size=500), place=places, number=numbers)
def test_what_was_sealed_opens(plaintext: bytes, place: Place, number: int) -> None:
    key = DataKey.generate(number)
    sealed = seal(key, place, plaintext)
    assert open_sealed(key, place, sealed) == plaintext
    assert parts(sealed)[0] == number
    assert looks_sealed(sealed)


@given(plaintext=st.binary(max_size=50), place=places, other=places)
def test_it_opens_in_no_other_place(plaintext: bytes, place: Place, other: Place) -> None:
    sealed = seal(KEY, place, plaintext)
    if other != place:
        with pytest.raises(DoesNotOpen):
            open_sealed(KEY, other, sealed)


@pytest.mark.parametrize(
    "other",
    [
        PLACE._replace(purpose="totp-secret"),
        PLACE._replace(owner_id=8),
        PLACE._replace(name="google"),
        PLACE._replace(name=""),
        PLACE._replace(version=4),
        # The same text once the parts stand side by side, if they were not kept apart.
        Place("api-key", 73, "openai", 0),
        Place("api-key", 7, "3|1|openai", 3),
    ],
)
def test_every_part_of_the_place_counts(other: Place) -> None:
    with pytest.raises(DoesNotOpen):
        open_sealed(KEY, other, seal(KEY, PLACE, b"value"))


def test_it_opens_with_no_other_key_and_under_no_other_number() -> None:
    sealed = seal(KEY, PLACE, b"value")
    with pytest.raises(DoesNotOpen):
        open_sealed(DataKey.generate(1), PLACE, sealed)
    with pytest.raises(DoesNotOpen):
        open_sealed(DataKey(2, KEY.secret), PLACE, sealed)
    renumbered = sealed.replace("ks1.1.", "ks1.2.")
    with pytest.raises(DoesNotOpen):
        open_sealed(DataKey(2, KEY.secret), PLACE, renumbered)


@given(
    plaintext=st.binary(max_size=40),
    position=st.floats(0, 1, exclude_max=True),
    character=st.sampled_from(string.printable + "ä"),
)
def test_a_changed_character_does_not_open(
    plaintext: bytes, position: float, character: str
) -> None:
    sealed = seal(KEY, PLACE, plaintext)
    at = int(position * len(sealed))
    changed = sealed[:at] + character + sealed[at + 1 :]
    if changed != sealed:
        with pytest.raises(DoesNotOpen):
            open_sealed(KEY, PLACE, changed)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_sealed_value_has_one_form(length: int) -> None:
    """Base64 alone would let the last character vary in the bits that nothing reads."""
    sealed = seal(KEY, PLACE, b"x" * length)
    last = len(sealed.rstrip("=")) - 1
    for character in string.ascii_letters + string.digits + "-_":
        if character != sealed[last]:
            with pytest.raises(DoesNotOpen):
                open_sealed(KEY, PLACE, sealed[:last] + character + sealed[last + 1 :])
    for other in (sealed.rstrip("="), sealed + "=", sealed + "\n"):
        if other != sealed:
            with pytest.raises(DoesNotOpen):
                open_sealed(KEY, PLACE, other)


@given(text=st.text(max_size=80))
def test_whatever_is_no_sealed_value_is_refused_with_the_one_error(text: str) -> None:
    for sealed in (text, f"ks1.1.{text}", f"ks1.{text}"):
        with pytest.raises(DoesNotOpen):
            open_sealed(KEY, PLACE, sealed)


@pytest.mark.parametrize("number", ["0", "01", "-1", "+1", "1_0", "²", "9" * 10, "9" * 5000, ""])
def test_a_number_has_one_form(number: str) -> None:
    with pytest.raises(DoesNotOpen):
        parts(f"ks1.{number}.AAAA")


def test_no_two_sealed_values_are_equal() -> None:
    sealed = {seal(KEY, PLACE, b"the same") for _ in range(2000)}
    assert len(sealed) == 2000
    nonces = {value.split(".")[2][:16] for value in sealed}
    assert len(nonces) == 2000


def test_the_secret_is_in_no_representation() -> None:
    key = DataKey(1, b"0123456789abcdef0123456789abcdef")
    assert "0123456789abcdef" not in repr(key)


@given(plaintext=st.binary(max_size=200), place=places)
def test_a_sealed_value_is_never_accepted_as_a_key(plaintext: bytes, place: Place) -> None:
    sealed = seal(KEY, place, plaintext)
    for literal in (False, True):
        with pytest.raises(InvalidKeyValue):
            check_value("openai", sealed, literal=literal)
