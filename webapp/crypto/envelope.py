"""Sealing: AES-256-GCM with a fresh nonce and associated data that pins a value to its place.

A sealed value is text: `ks1.<data key number>.<base64url(nonce | ciphertext | tag)>`. The
associated data names format, purpose, owner, name, version and data key, so that a ciphertext
copied to another row, column, user or version does not open (ASVS 11.3.3).
"""

import json
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT = "ks1"
KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_encode = json.JSONEncoder(separators=(",", ":")).encode
_SHAPE = re.compile(r"ks1\.([1-9][0-9]{0,8})\.([A-Za-z0-9_-]+={0,2})")


class DoesNotOpen(Exception):
    """The value was not sealed by this key for this place, or was changed since."""


@dataclass(frozen=True)
class Place:
    """Where a sealed value lives. `version` is 0 for what has no versions."""

    purpose: str
    owner_id: int
    name: str = ""
    version: int = 0


@dataclass(frozen=True)
class DataKey:
    """A user's unwrapped data key: its number, counting from 1, and 32 bytes."""

    number: int
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, number: int) -> "DataKey":
        return cls(number, secrets.token_bytes(KEY_BYTES))


def seal(key: DataKey, place: Place, plaintext: bytes) -> str:
    """Return `plaintext` sealed for `place`."""
    return f"{FORMAT}.{key.number}.{encrypt(key.secret, plaintext, _associated_data(key, place))}"


def open_sealed(key: DataKey, place: Place, sealed: str) -> bytes:
    """Return the plaintext of `sealed`. Raises DoesNotOpen, never returns a part."""
    match = _SHAPE.fullmatch(sealed)
    if match is None or int(match[1]) != key.number:
        raise DoesNotOpen
    return decrypt(key.secret, match[2], _associated_data(key, place))


def data_key_number(sealed: str) -> int:
    """Return which data key sealed this. Raises DoesNotOpen for what is no sealed value."""
    match = _SHAPE.fullmatch(sealed)
    if match is None:
        raise DoesNotOpen
    return int(match[1])


def looks_sealed(text: str) -> bool:
    """Whether `text` has the shape of a sealed value or a wrapped key of ours."""
    return bool(_SHAPE.fullmatch(text)) or text.startswith("ksw1.")


def encrypt(secret: bytes, plaintext: bytes, associated_data: bytes) -> str:
    """Return base64url of nonce, ciphertext and tag, under a fresh random nonce."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    ciphertext = AESGCM(secret).encrypt(nonce, plaintext, associated_data)
    return urlsafe_b64encode(nonce + ciphertext).decode("ascii")


def decrypt(secret: bytes, text: str, associated_data: bytes) -> bytes:
    """Undo `encrypt`. One error for every cause (ASVS 11.2.5): DoesNotOpen."""
    try:
        blob = urlsafe_b64decode(text)
        if len(blob) < _NONCE_BYTES + _TAG_BYTES:
            raise DoesNotOpen
        return AESGCM(secret).decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], associated_data)
    except (InvalidTag, Base64Error, ValueError):
        raise DoesNotOpen from None


def _associated_data(key: DataKey, place: Place) -> bytes:
    parts = [FORMAT, place.purpose, place.owner_id, place.name, place.version, key.number]
    return _encode(parts).encode("ascii")
