"""Time-based one-time passwords (RFC 6238) as apps make them: SHA-1, 6 digits, 30 seconds."""

import hmac
from datetime import datetime

import pyotp

STEP_SECONDS = 30
DIGITS = 6
_ISSUER = "Keystay"


def generate_secret() -> str:
    """Return a new secret: 160 random bits in base32."""
    return pyotp.random_base32(length=32)


def step_at(at: datetime) -> int:
    """Return the number of the time step at `at`."""
    return int(at.timestamp()) // STEP_SECONDS


def matching_step(secret: str, code: str, at: datetime) -> int | None:
    """Return the time step whose code is `code`: the current one or the one before, else None.

    Both are always computed, whichever matches. Raises ValueError for a secret that is not base32.
    """
    current = step_at(at)
    totp = pyotp.TOTP(secret)
    found = None
    for step in (current - 1, current):
        if hmac.compare_digest(totp.generate_otp(step).encode(), code.encode("utf-8")):
            found = step
    return found


def provisioning_uri(secret: str, username: str) -> str:
    """Return the `otpauth://` address that a QR code carries."""
    return pyotp.TOTP(secret).provisioning_uri(name=username, issuer_name=_ISSUER)
