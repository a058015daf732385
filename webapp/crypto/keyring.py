"""Master keys: they wrap data keys and nothing else.

Text form, one key an entry, comma or newline separated, the first is active:
`id:base64url-of-32-bytes`.
"""

import hashlib
import hmac
import re
import secrets
from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from webapp.crypto.envelope import KEY_BYTES, DataKey, DoesNotOpen, decrypt, encrypt

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_WRAPPED_FORMAT = "ksw1"


class InvalidKeyring(Exception):
    """The text is no list of master keys; the message says which entry and why, never a key."""


class MissingMasterKey(Exception):
    """The keyring has no master key of this id."""

    def __init__(self, master_key_id: str) -> None:
        super().__init__(f"master key {master_key_id} is missing")
        self.master_key_id = master_key_id


@dataclass(frozen=True)
class MasterKey:
    """A key-encryption key: its id and 32 bytes."""

    id: str
    secret: bytes = field(repr=False)
    cipher: AESGCM = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cipher", AESGCM(self.secret))

    @classmethod
    def generate(cls, key_id: str) -> "MasterKey":
        if not _ID.fullmatch(key_id):
            raise InvalidKeyring(f"{key_id!r} is not a valid id of a master key")
        return cls(key_id, secrets.token_bytes(KEY_BYTES))

    def check_value(self) -> str:
        """Return what tells this key from another of the same id, and reveals nothing of it."""
        label = f"keystay master key check 1 {self.id}".encode()
        return hmac.new(self.secret, label, hashlib.sha256).hexdigest()

    def __str__(self) -> str:
        """Return the entry of the text form. Secret: for the key file only."""
        return f"{self.id}:{urlsafe_b64encode(self.secret).decode('ascii')}"


class Keyring:
    """The master keys of this process; the first wraps, every one unwraps."""

    def __init__(self, keys: tuple[MasterKey, ...]) -> None:
        if not keys:
            raise InvalidKeyring("there is no master key")
        self.active = keys[0]
        self._by_id = {key.id: key for key in keys}
        if len(self._by_id) != len(keys):
            raise InvalidKeyring("two master keys have the same id")
        if len({key.secret for key in keys}) != len(keys):
            raise InvalidKeyring("the same master key stands under two ids")

    @classmethod
    def parse(cls, text: str) -> "Keyring":
        """Read the text form. Raises InvalidKeyring."""
        entries = [part.strip() for part in text.replace(",", "\n").splitlines()]
        return cls(tuple(_parse_entry(n, e) for n, e in enumerate(entries, 1) if e))

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._by_id)

    def get(self, key_id: str) -> MasterKey:
        """Return a master key. Raises MissingMasterKey."""
        try:
            return self._by_id[key_id]
        except KeyError:
            raise MissingMasterKey(key_id) from None

    def wrap(self, data_key: DataKey, owner_id: int) -> str:
        """Return `data_key` wrapped by the active master key for its owner."""
        data = _associated_data(self.active.id, owner_id, data_key.number)
        return f"{_WRAPPED_FORMAT}.{encrypt(self.active.cipher, data_key.secret, data)}"

    def unwrap(self, wrapped: str, master_key_id: str, owner_id: int, number: int) -> DataKey:
        """Undo `wrap`. Raises MissingMasterKey, or DoesNotOpen for the wrong key or owner."""
        master = self.get(master_key_id)
        version, _, text = wrapped.partition(".")
        if version != _WRAPPED_FORMAT:
            raise DoesNotOpen
        data = _associated_data(master_key_id, owner_id, number)
        secret = decrypt(master.cipher, text, data)
        if len(secret) != KEY_BYTES:
            raise DoesNotOpen
        return DataKey(number, secret)


def _parse_entry(position: int, entry: str) -> MasterKey:
    key_id, colon, text = entry.partition(":")
    if not colon or not _ID.fullmatch(key_id):
        raise InvalidKeyring(f"entry {position} does not have the form id:base64url-of-32-bytes")
    try:
        padded = text + "=" * (-len(text) % 4)
        secret = b64decode(padded.replace("+", "-").replace("/", "_"), b"-_", validate=True)
    except (Base64Error, ValueError):
        raise InvalidKeyring(f"master key {key_id} is not base64url") from None
    if len(secret) != KEY_BYTES:
        raise InvalidKeyring(f"master key {key_id} has {len(secret)} bytes instead of {KEY_BYTES}")
    return MasterKey(key_id, secret)


def _associated_data(master_key_id: str, owner_id: int, number: int) -> bytes:
    return f"{_WRAPPED_FORMAT}|{owner_id}|{number}|{master_key_id}".encode()
