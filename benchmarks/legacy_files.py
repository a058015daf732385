"""Writes a folder in the predecessor's formats with as many users as wanted.

    python -m benchmarks.legacy_files FOLDER [USERS]

Every user has three Fernet keys, every tenth a second factor. Memory does not grow with the number.
"""

import hashlib
import json
import sys
from pathlib import Path

from cryptography.fernet import Fernet

_SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


def write_folder(folder: Path, users: int) -> None:
    """Write users.json, two_fa.json and .encryption_key into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    key = Fernet.generate_key()
    (folder / ".encryption_key").write_bytes(key)
    fernet = Fernet(key)
    with (folder / "users.json").open("w", encoding="utf-8") as file:
        file.write('{\n  "users": {\n')
        for number in range(users):
            end = "," if number < users - 1 else ""
            record = json.dumps(_record(number, fernet), indent=2)
            file.write(f'"user{number}": {record}{end}\n')
        file.write("}}\n")
    factors = {f"user{n}": {"secret": _SECRET, "enabled": True} for n in range(0, users, 10)}
    (folder / "two_fa.json").write_text(json.dumps(factors), encoding="utf-8")


def _record(number: int, fernet: Fernet) -> dict[str, object]:
    values = {
        "openai": f"sk-proj-benchmark-{number:048d}",
        "google": f"AIzaSyD-benchmark-{number:021d}",
        "slack": f"https://hooks.slack.com/services/T000BENCH/B000BENCH/{number:024d}",
    }
    return {
        "name": f"User {number}",
        "password_hash": hashlib.sha256(f"password {number}".encode()).hexdigest(),
        "role": "admin" if number % 1000 == 0 else "user",
        "admin_request": False,
        "admin_request_reason": "",
        "created_at": "2025-12-09T21:45:47.940277",
        "last_login": None,
        "email": f"user{number}@example.com",
        "api_keys": {
            name: fernet.encrypt(value.encode()).decode() for name, value in values.items()
        },
        "api_keys_updated": "2025-12-12T10:11:12.000001",
        "api_permissions": {"openai": True, "google": True, "slack": True},
    }


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
