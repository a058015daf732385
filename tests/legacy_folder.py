"""A folder in the predecessor's formats, written by a test."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

SAMPLE = Path(__file__).parent / "data" / "legacy-sample"


def sha256_of(password: str) -> str:
    """Return the predecessor's password hash."""
    return hashlib.sha256(password.encode()).hexdigest()


def record(**fields: Any) -> dict[str, Any]:
    """Return a record that is complete and in order, with `fields` on top."""
    return {
        "name": "Some Body",
        "password_hash": sha256_of("a password"),
        "role": "user",
        "admin_request": False,
        "admin_request_reason": "",
        "created_at": "2025-12-09T21:45:47.940277",
        "last_login": None,
    } | fields


class LegacyFolder:
    """Writes users.json, two_fa.json and .encryption_key as a test wants them."""

    def __init__(self, path: Path, key: str | None = None) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        self.key = key or Fernet.generate_key().decode()
        (path / ".encryption_key").write_text(self.key)
        self.second_factors({})
        self.users({})

    def token(self, text: str, key: str | None = None) -> str:
        """Return a Fernet token of `text`, by default under the folder's own key."""
        return Fernet(key or self.key).encrypt(text.encode()).decode()

    def users(self, users: dict[str, Any], *, flat: bool = False) -> None:
        self.raw(json.dumps(users if flat else {"users": users}, indent=2))

    def second_factors(self, entries: dict[str, Any]) -> None:
        (self.path / "two_fa.json").write_text(json.dumps(entries))

    def raw(self, content: str | bytes) -> None:
        """Write users.json byte for byte."""
        data = content.encode() if isinstance(content, str) else content
        (self.path / "users.json").write_bytes(data)

    def rest(self) -> None:
        """Let the files look as if nobody had written them for an hour."""
        for file in self.path.iterdir():
            at = file.stat().st_mtime - 3600
            os.utime(file, (at, at))
