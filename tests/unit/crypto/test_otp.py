"""One-time codes."""

from datetime import UTC, datetime, timedelta

import pyotp
import pytest

from webapp.crypto.otp import STEP_SECONDS, generate_secret, matching_step, provisioning_uri

RFC_SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
"""RFC 6238, appendix B: the ASCII digits 12345678901234567890."""


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_the_vectors_of_rfc_6238_match(seconds: int, code: str) -> None:
    at = datetime.fromtimestamp(seconds, UTC)
    assert matching_step(RFC_SECRET, code, at) == seconds // STEP_SECONDS


def test_the_current_and_the_previous_step_match_and_no_other() -> None:
    secret, at = generate_secret(), datetime(2026, 1, 1, tzinfo=UTC)
    now = int(at.timestamp()) // STEP_SECONDS
    found = {
        step: matching_step(secret, pyotp.TOTP(secret).generate_otp(step), at)
        for step in range(now - 2, now + 2)
    }
    assert found == {now - 2: None, now - 1: now - 1, now: now, now + 1: None}


@pytest.mark.parametrize("code", ["", "28708", "2870822", "２８７０８２", "abcdef", " 287082"])
def test_anything_else_is_no_code(code: str) -> None:
    assert matching_step(RFC_SECRET, code, datetime.fromtimestamp(59, UTC)) is None


def test_a_secret_has_160_bits_and_is_new_each_time() -> None:
    secrets = {generate_secret() for _ in range(20)}
    assert len(secrets) == 20
    assert all(len(pyotp.TOTP(secret).byte_secret()) == 20 for secret in secrets)


def test_a_secret_that_is_not_base32_raises() -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - in whichever words
        matching_step("not base32!", "123456", datetime(2026, 1, 1, tzinfo=UTC))


def test_codes_change_with_the_step() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    code = pyotp.TOTP(RFC_SECRET).at(at)
    assert matching_step(RFC_SECRET, code, at + timedelta(seconds=STEP_SECONDS)) is not None
    assert matching_step(RFC_SECRET, code, at + timedelta(seconds=2 * STEP_SECONDS)) is None


def test_the_address_of_the_qr_code_names_product_and_account() -> None:
    address = provisioning_uri(RFC_SECRET, "amira & ben")
    assert address.startswith("otpauth://totp/Keystay:amira%20%26%20ben?")
    assert f"secret={RFC_SECRET}" in address
    assert "issuer=Keystay" in address
