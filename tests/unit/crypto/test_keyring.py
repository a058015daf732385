"""Master keys: their text form, wrapping for one owner, and telling one from another."""

import secrets
from base64 import b64encode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.crypto.envelope import DataKey, DoesNotOpen
from webapp.crypto.keyring import InvalidKeyring, Keyring, MasterKey, MissingMasterKey

# Not random: every test process has to collect the same parameters.
K1 = MasterKey("k1", bytes(range(32)))
K2 = MasterKey("k2", bytes(range(32, 64)))
ids = st.from_regex("[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)


@given(key_id=ids, secret=st.binary(min_size=32, max_size=32))
def test_the_text_form_is_read_back(key_id: str, secret: bytes) -> None:
    assert Keyring.parse(str(MasterKey(key_id, secret))).get(key_id).secret == secret


@pytest.mark.parametrize(
    "text", [f"{K1},{K2}", f"{K1}\n{K2}\n", f"  {K1} ,\n {K2}  ", f"{K1}\r\n{K2}", f",{K1},,{K2},"]
)
def test_the_first_of_several_is_active(text: str) -> None:
    keyring = Keyring.parse(text)
    assert keyring.active == K1
    assert keyring.ids == {"k1", "k2"}


def test_padding_and_the_standard_alphabet_are_accepted() -> None:
    secret = b"\xfb\xff" * 16
    for text in (urlsafe_b64encode(secret), b64encode(secret)):
        for form in (text.decode(), text.decode().rstrip("=")):
            assert Keyring.parse(f"k1:{form}").active.secret == secret


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n,",
        "k1",
        "k1:",
        ":" + str(K1).partition(":")[2],
        str(K1).partition(":")[2],
        "k 1:" + str(K1).partition(":")[2],
        "k1:" + urlsafe_b64encode(b"x" * 31).decode(),
        "k1:" + urlsafe_b64encode(b"x" * 33).decode(),
        "k1:not*base64*at*all*not*base64*at*all*not*ba",
        f"{K1},{K1}",
        f"{K1},k2:{str(K1).partition(':')[2]}",
        f"{K1},k1:{str(K2).partition(':')[2]}",
    ],
)
def test_a_malformed_list_is_refused_without_repeating_a_key(text: str) -> None:
    with pytest.raises(InvalidKeyring) as error:
        Keyring.parse(text)
    for entry in text.split(","):
        secret = entry.strip().partition(":")[2]
        assert not secret or secret not in str(error.value)
    assert str(K1).partition(":")[2] not in str(error.value)


def test_a_data_key_is_wrapped_for_its_owner_and_number() -> None:
    keyring = Keyring((K1, K2))
    data_key = DataKey.generate(3)
    wrapped = keyring.wrap(data_key, 7)
    assert keyring.unwrap(wrapped, "k1", 7, 3) == data_key
    assert keyring.wrap(data_key, 7) != wrapped
    for owner, number in ((8, 3), (7, 4), (73, 0)):
        with pytest.raises(DoesNotOpen):
            keyring.unwrap(wrapped, "k1", owner, number)
    with pytest.raises(DoesNotOpen):
        keyring.unwrap(wrapped, "k2", 7, 3)
    with pytest.raises(MissingMasterKey, match="k3"):
        keyring.unwrap(wrapped, "k3", 7, 3)


@given(position=st.floats(0, 1, exclude_max=True), character=st.characters(codec="utf-8"))
def test_a_changed_wrapped_key_does_not_open(position: float, character: str) -> None:
    keyring = Keyring((K1,))
    wrapped = keyring.wrap(DataKey.generate(1), 7)
    at = int(position * len(wrapped))
    changed = wrapped[:at] + character + wrapped[at + 1 :]
    if changed != wrapped:
        with pytest.raises(DoesNotOpen):
            keyring.unwrap(changed, "k1", 7, 1)


def test_a_further_key_still_opens_what_it_wrapped() -> None:
    data_key = DataKey.generate(1)
    wrapped = Keyring((K1,)).wrap(data_key, 7)
    assert Keyring((K2, K1)).unwrap(wrapped, "k1", 7, 1) == data_key


def test_a_check_value_tells_keys_and_ids_apart_and_no_key() -> None:
    other = MasterKey("k1", secrets.token_bytes(32))
    values = {K1.check_value(), other.check_value(), MasterKey("k2", K1.secret).check_value()}
    assert len(values) == 3
    assert K1.secret.hex() not in K1.check_value()
    assert K1.check_value() == MasterKey("k1", K1.secret).check_value()


def test_the_secret_is_in_no_representation() -> None:
    key = MasterKey("k1", b"0123456789abcdef0123456789abcdef")
    assert "0123456789abcdef" not in repr(key)


@pytest.mark.parametrize("key_id", ["", " ", "k:1", "k,1", "-k", "k" * 65, "ä"])
def test_an_id_that_the_text_form_cannot_hold_is_refused(key_id: str) -> None:
    with pytest.raises(InvalidKeyring):
        MasterKey.generate(key_id)
