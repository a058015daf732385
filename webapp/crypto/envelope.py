"""Sealing: AES-256-GCM with a fresh nonce and associated data that pins a value to its place.

A sealed value is text: `ks1.<data key number>.<base64url(nonce | ciphertext | tag)>`. The
associated data names format, purpose, owner, name, version and data key, so that a ciphertext
copied to another row, column, user or version does not open (ASVS 11.3.3).
"""

import os
import re
from binascii import a2b_base64, b2a_base64
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT = "ks1"
KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
# To the standard alphabet, whose own last two characters are none of ours.
_FROM_URLSAFE = bytes.maketrans(b"-_+/", b"+/!!")
_NUMBER = re.compile("[1-9][0-9]{0,8}")
_SHAPE = re.compile(rf"{FORMAT}\.{_NUMBER.pattern}\.[A-Za-z0-9_-]+={{0,2}}")


class DoesNotOpen(Exception):
    """The value was not sealed by this key for this place, or was changed since."""


class Place(NamedTuple):
    """Where a sealed value lives. `version` is 0 for what has no versions."""

    purpose: str
    owner_id: int
    name: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class DataKey:
    """A user's unwrapped data key: its number, counting from 1, and 32 bytes."""

    number: int
    secret: bytes = field(repr=False)
    cipher: AESGCM = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cipher", AESGCM(self.secret))

    @classmethod
    def generate(cls, number: int) -> "DataKey":
        return cls(number, os.urandom(KEY_BYTES))


def seal(key: DataKey, place: Place, plaintext: bytes) -> str:
    """Return `plaintext` sealed for `place`."""
    return f"{FORMAT}.{key.number}.{encrypt(key.cipher, plaintext, _associated_data(key, place))}"


def open_sealed(key: DataKey, place: Place, sealed: str) -> bytes:
    """Return the plaintext of `sealed`. Raises DoesNotOpen, never returns a part."""
    number, text = parts(sealed)
    if number != key.number:
        raise DoesNotOpen
    return open_text(key, place, text)


def parts(sealed: str) -> tuple[int, str]:
    """Return which data key sealed this, and what `open_text` opens with it.

    Raises DoesNotOpen for what is no sealed value.
    """
    version, _, rest = sealed.partition(".")
    number, _, text = rest.partition(".")
    if version != FORMAT or not _NUMBER.fullmatch(number):
        raise DoesNotOpen
    return int(number), text


def open_text(key: DataKey, place: Place, text: str) -> bytes:
    """Return the plaintext, as `open_sealed` does, for who has taken `parts` to find the key."""
    return decrypt(key.cipher, text, _associated_data(key, place))


def looks_sealed(text: str) -> bool:
    """Whether `text` has the shape of a sealed value or a wrapped key of ours."""
    return bool(_SHAPE.fullmatch(text)) or text.startswith("ksw1.")


def encrypt(cipher: AESGCM, plaintext: bytes, associated_data: bytes) -> str:
    """Return base64url of nonce, ciphertext and tag, under a fresh random nonce."""
    nonce = os.urandom(_NONCE_BYTES)
    ciphertext = cipher.encrypt(nonce, plaintext, associated_data)
    encoded = b2a_base64(nonce + ciphertext, newline=False)
    return encoded.translate(_TO_URLSAFE).decode("ascii")


def decrypt(cipher: AESGCM, text: str, associated_data: bytes) -> bytes:
    """Undo `encrypt`. One error for every cause (ASVS 11.2.5): DoesNotOpen."""
    try:
        encoded = text.encode("ascii").translate(_FROM_URLSAFE)
        blob = a2b_base64(encoded, strict_mode=True)
        # The last character can hold bits that the decoder drops: a sealed value has one form.
        if len(blob) < _NONCE_BYTES + _TAG_BYTES or b2a_base64(blob, newline=False) != encoded:
            raise DoesNotOpen
        return cipher.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], associated_data)
    except (InvalidTag, ValueError):
        raise DoesNotOpen from None


def _associated_data(key: DataKey, place: Place) -> bytes:
    # The name comes last: nothing in it can pass for another part.
    numbers = f"{place.owner_id}|{place.version}|{key.number}"
    return f"{FORMAT}|{place.purpose}|{numbers}|{place.name}".encode()
