"""The predecessor's Fernet tokens: telling them from plain values, and opening them."""

import re
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken

_PREFIX = "gAAAA"
# Version byte 0x80 and the upper half of a 64-bit time, which is zero until the year 2106.
_TOKEN = re.compile(r"gAAAA[A-Za-z0-9_-]+={0,2}")
_DAMAGED = re.compile(r"gAAAA[A-Za-z0-9_=-]{55,}")
_FRAME_BYTES = 1 + 8 + 16 + 32
"""Version, time, initialisation vector and HMAC: all of a token but its ciphertext."""
_BLOCK_BYTES = 16


class KeyFileNeeded(Exception):
    """A token needs the key file, which is missing or unusable; the message says which and why."""


def looks_encrypted(text: str) -> bool:
    """Whether `text` is a Fernet token, or one that was damaged.

    Early values were saved unencrypted, so a value must not count as a token by accident: a token
    has the right prefix, alphabet and length. A value of 60 characters or more with prefix and
    alphabet of a token, but not its length, is a token that was cut or overwritten: nobody's key
    looks like that, and serving it as a key would help nobody.
    """
    return text.startswith(_PREFIX) and (_is_token(text) or _DAMAGED.fullmatch(text) is not None)


def _is_token(text: str) -> bool:
    if len(text) % 4 or not _TOKEN.fullmatch(text):
        return False
    ciphertext = len(text) // 4 * 3 - text.count("=") - _FRAME_BYTES
    return ciphertext > 0 and ciphertext % _BLOCK_BYTES == 0


class TokenKeys:
    """The Fernet keys that open the predecessor's tokens, the key file's first.

    Without a usable key file (`problem` says why), a token that no other key opens raises
    KeyFileNeeded: it may well be fine, so nothing may be concluded about it.
    """

    def __init__(self, keys: Iterable[str], problem: str | None = None) -> None:
        """Take the keys in their text form. Raises ValueError for one that is no Fernet key."""
        self._fernets = [Fernet(key) for key in keys]
        self.problem = problem

    def open(self, token: str) -> str | None:
        """Return the text in `token`; None when no key opens it, or when it holds no text."""
        if not token.startswith(_PREFIX):
            return None
        for fernet in self._fernets:
            try:
                return fernet.decrypt(token).decode("utf-8")
            except UnicodeDecodeError:
                return None
            except (InvalidToken, ValueError):
                continue
        if self.problem and _is_token(token):
            raise KeyFileNeeded(self.problem)
        return None

    def seal(self, text: str) -> str:
        """Return a token of `text` under the key file's key. Raises KeyFileNeeded without one."""
        if self.problem:
            raise KeyFileNeeded(self.problem)
        return self._fernets[0].encrypt(text.encode("utf-8")).decode("ascii")
