"""Fingerprints: equal for equal values of one owner, and for nobody else's."""

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from webapp.crypto.fingerprints import fingerprint

KEY = bytes(range(32))


@given(value=st.binary(max_size=100))
def test_it_is_the_beginning_of_an_hmac(value: bytes) -> None:
    assert fingerprint(KEY, value) == hmac.new(KEY, value, hashlib.sha256).hexdigest()[:12]


def test_it_differs_by_value_and_by_owner() -> None:
    assert fingerprint(KEY, b"one") != fingerprint(KEY, b"two")
    assert fingerprint(KEY, b"one") != fingerprint(KEY[::-1], b"one")
