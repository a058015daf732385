"""Password hashes: Argon2id for our own, bcrypt and unsalted SHA-256 only to read old ones."""

import hashlib
import hmac
import threading

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_BCRYPT_LIMIT = 72
_BCRYPT_PREFIXES = ("$2a$", "$2b$", "$2y$")

# Argon2id fills its memory for every hash; more than one at a time in a process would let a burst
# of sign-ins starve everything else on the host (ASVS 15.2.2). It releases the GIL meanwhile.
_one_at_a_time = threading.Semaphore(1)


class PasswordHashes:
    """Hash and verify passwords at one cost: memory in KiB, passes and lanes."""

    def __init__(self, memory_kib: int, passes: int, lanes: int) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes)
        self._dummy = self.hash("a password that nobody has")

    def hash(self, password: str) -> str:
        """Return the Argon2id hash (PHC string) of `password`."""
        with _one_at_a_time:
            return self._hasher.hash(password)

    def verify(self, stored: str, password: str) -> bool:
        """Whether `password` belongs to `stored`, an Argon2id or bcrypt hash.

        Anything else that is stored is never equal to anything; nothing raises.
        """
        if stored.startswith(_BCRYPT_PREFIXES):
            return _verify_bcrypt(stored, password)
        try:
            with _one_at_a_time:
                return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
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


def verify_sha256(digest: str, password: str) -> bool:
    """Whether `digest` (64 hex digits, the predecessor's unsalted hash) is of `password`."""
    computed = hashlib.sha256(password.encode("utf-8", "surrogatepass")).hexdigest()
    return hmac.compare_digest(digest.lower().encode("utf-8"), computed.encode("ascii"))


def _verify_bcrypt(stored: str, password: str) -> bool:
    # bcrypt itself reads 72 bytes and stops at a NUL; the library raises for more.
    secret = password.encode("utf-8", "surrogatepass")[:_BCRYPT_LIMIT]
    try:
        with _one_at_a_time:
            return bcrypt.checkpw(secret, stored.encode("utf-8"))
    except ValueError:
        return False
