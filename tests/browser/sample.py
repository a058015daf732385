"""What the made-up folder of the predecessor holds, in clear: its README and its own key say so."""

import json
from functools import cache
from typing import cast

from cryptography.fernet import Fernet

from tests.stack import LEGACY_SAMPLE

PASSWORDS = {
    "amira": "correct-horse-7",
    "ben": "battery-staple-7",
    "chen_li": "paperclip-lamp-7",
    "001": "zero-zero-one-7",
    "dora": "bcrypt-sample-7",
    "emre": "window-river-7",
}


def value(username: str, name: str) -> str:
    """Return a value of the sample as its owner typed it."""
    stored = _users()[username]["api_keys"][name]
    if not stored.startswith("gAAAAA"):
        return stored
    key = (LEGACY_SAMPLE / ".encryption_key").read_bytes()
    return Fernet(key).decrypt(stored).decode()


def totp_secret(username: str) -> str:
    entries = json.loads((LEGACY_SAMPLE / "two_fa.json").read_text(encoding="utf-8"))
    return cast("str", entries[username]["secret"])


@cache
def _users() -> dict[str, dict[str, dict[str, str]]]:
    content = json.loads((LEGACY_SAMPLE / "users.json").read_text(encoding="utf-8"))
    return cast("dict[str, dict[str, dict[str, str]]]", content["users"])
