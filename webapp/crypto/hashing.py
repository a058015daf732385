"""Password hashes: Argon2id for our own, bcrypt and unsalted SHA-256 only to read old ones."""

import hashlib
import hmac
import re
import threading
import time

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_BCRYPT_LIMIT = 72
_BCRYPT_COST = 12
_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
# Each step doubles the time: 16 is some four seconds, 31 more than a day.
_BCRYPT_MAX_COST = 16

# Argon2id fills its memory for every hash; more than one at a time in a process would let a burst
# of sign-ins starve everything else on the host (ASVS 15.2.2). It releases the GIL meanwhile.
_one_at_a_time = threading.Semaphore(1)


class PasswordHashes:
    """Hash and verify passwords at one cost: memory in KiB, passes and lanes."""

    def __init__(self, memory_kib: int, passes: int, lanes: int) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes)
        with _one_at_a_time:
            began = time.perf_counter()
            self._dummy = self._hasher.hash("a password that nobody has")
            self.seconds = time.perf_counter() - began
        """What one hash took on this host when this was made."""

    def hash(self, password: str) -> str:
        """Return the Argon2id hash (PHC string) of `password`, whatever its characters."""
        with _one_at_a_time:
            return self._hasher.hash(_encode(password))

    def verify(self, stored: str, password: str) -> bool:
        """Whether `password` belongs to `stored`, one of our Argon2id hashes.

        Anything else that is stored is never equal to anything; nothing raises.
        """
        try:
            with _one_at_a_time:
                return self._hasher.verify(stored, _encode(password))
        except (VerificationError, InvalidHashError, UnicodeEncodeError):
            return False

    def verify_dummy(self, password: str) -> None:
        """Spend what a verification costs, where there is nothing to verify."""
        self.verify(self._dummy, password)

    def is_current(self, stored: str) -> bool:
        """Whether `stored` is an Argon2id hash of today's cost, so that it need not be upgraded."""
        if not stored.startswith("$argon2id$"):
            return False
        try:
            return not self._hasher.check_needs_rehash(stored)
        except InvalidHashError:
            return False


def is_bcrypt(stored: str) -> bool:
    """Whether `stored` has the form of a bcrypt hash."""
    return _BCRYPT.fullmatch(stored) is not None


def is_sha256(stored: str) -> bool:
    """Whether `stored` has the form of the predecessor's hash: 64 hex digits."""
    return re.fullmatch("[0-9a-fA-F]{64}", stored) is not None


def verify_bcrypt(stored: str, password: str) -> bool:
    """Whether `password` belongs to the bcrypt hash `stored`. Nothing raises.

    bcrypt reads the first 72 bytes of a password, and the library raises for more. A hash that
    would keep the process busy for longer than seconds never matches.
    """
    match = _BCRYPT.fullmatch(stored)
    if match is None or int(match[1]) > _BCRYPT_MAX_COST:
        return False
    try:
        with _one_at_a_time:
            return bcrypt.checkpw(_encode(password)[:_BCRYPT_LIMIT], stored.encode("ascii"))
    except ValueError:
        return False


def hash_bcrypt(password: str) -> str | None:
    """Return the bcrypt hash of `password` for the predecessor, which reads no better one.

    None for a password that bcrypt cannot hash whole: longer than 72 bytes, or with a NUL.
    """
    encoded = _encode(password)
    if len(encoded) > _BCRYPT_LIMIT or b"\0" in encoded:
        return None
    with _one_at_a_time:
        return bcrypt.hashpw(encoded, bcrypt.gensalt(_BCRYPT_COST)).decode("ascii")


def verify_sha256(digest: str, password: str) -> bool:
    """Whether `digest` (64 hex digits, the predecessor's unsalted hash) is of `password`."""
    computed = hashlib.sha256(_encode(password)).hexdigest()
    return hmac.compare_digest(digest.lower().encode("utf-8"), computed.encode("ascii"))


def _encode(password: str) -> bytes:
    # Half a surrogate pair (undecodable bytes on standard input) has no UTF-8 form of its own.
    return password.encode("utf-8", "surrogatepass")
