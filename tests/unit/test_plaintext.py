"""The search of the plaintext hunt finds what it is to find, or the hunt would prove nothing."""

import base64
import html
import json
import os
import zlib
from urllib.parse import quote, quote_plus, urlencode

import pytest

from tests.plaintext import Needles

SECRET = "sk-a/secret+with ünicode & <more>?"
FORMS = {
    "text": SECRET.encode(),
    "utf-16-le": SECRET.encode("utf-16-le"),
    "utf-16-be": SECRET.encode("utf-16-be"),
    "json": json.dumps({"value": SECRET}).encode(),
    "json in json": json.dumps(json.dumps({"value": SECRET}, ensure_ascii=False)).encode(),
    "html": html.escape(SECRET).encode(),
    "percent": quote(SECRET).encode(),
    "percent, all of it": quote(SECRET, safe="").encode(),
    "form": urlencode({"csrf_token": "x", "value": SECRET, "name": "y"}).encode(),
    "form in the form of a form": quote_plus(quote_plus(SECRET)).encode(),
    "hex": SECRET.encode().hex().encode(),
    "hex in capitals": SECRET.encode().hex().upper().encode(),
    "hex behind an odd digit": b"a" + SECRET.encode().hex().encode(),
    "zlib": b"x" * 9 + zlib.compress(b"the secret: " + SECRET.encode()) + b"y" * 9,
    "zlib in base64": base64.b64encode(zlib.compress(SECRET.encode())),
    "hex in utf-16": SECRET.encode().hex().encode("utf-16-le"),
    **{
        f"base64 behind {before} bytes and before {after}": base64.b64encode(
            b"(" * before + SECRET.encode() + b")" * after
        )
        for before in range(3)
        for after in range(3)
    },
    "base64 for addresses": base64.urlsafe_b64encode(SECRET.encode() * 2).rstrip(b"="),
    "base64 behind other letters": b"abc" + base64.b64encode(SECRET.encode()),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_found_in_every_form(form: str) -> None:
    noise = os.urandom(200)
    needles = Needles({"it": SECRET, "another": "sk-another-secret"})
    assert needles.found_in(noise + b'"' + FORMS[form] + b'"' + noise) == {"it"}


def test_bytes_are_found_as_they_are_and_encoded() -> None:
    secret = b"\0\x01\xffraw\0bytes of a key"
    needles = Needles({"it": secret})
    for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
        assert needles.found_in(b"\0\0" + form + b"\0\0") == {"it"}
    assert needles.found_in(os.urandom(1000)) == set()


def test_what_is_too_short_to_mean_anything_is_refused() -> None:
    with pytest.raises(AssertionError, match="port"):
        Needles({"port": "587"})
