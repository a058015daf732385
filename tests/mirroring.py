"""Writing into a predecessor's folder, for the tests of that."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.legacy_folder import LegacyFolder, record
from webapp.legacy import files, mirror
from webapp.legacy.keys import VALUE, LegacyKey
from webapp.legacy.mirror import Guard, Wanted, Written, WrittenBack
from webapp.legacy.records import LegacyUser
from webapp.legacy.users_json import open_snapshot

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
BORN = datetime(2026, 3, 4, 5, 6, 7, 8, tzinfo=UTC)


def make_folder(tmp_path: Path) -> LegacyFolder:
    """Return a folder with `Ann`, who has keys, and `bob`, who has a second factor."""
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users(
        {
            "Ann": record(
                api_keys={"openai": folder.token("old"), "smtp_host": "mail", "odd name": "x"},
                unknown={"kept": [1, 2.50]},
            ),
            "bob": record(role="user"),
        }
    )
    folder.second_factors({"bob": {"secret": SECRET, "enabled": True, "since": "2020"}})
    folder.rest()
    return folder


def nothing(*_: object) -> None:
    pass


def write(
    folder: LegacyFolder,
    *wanted: Wanted,
    permit: Callable[[], None] = nothing,
    before: Callable[[Sequence[Written]], None] = nothing,
) -> list[Written]:
    return list(write_back(folder, *wanted, permit=permit, before=before).accounts)


def write_back(
    folder: LegacyFolder,
    *wanted: Wanted,
    permit: Callable[[], None] = nothing,
    before: Callable[[Sequence[Written]], None] = nothing,
) -> WrittenBack:
    guard = Guard(before, permit, nothing, lambda: files.stamp(folder.path).text)
    return mirror.write_back(folder.path, (), wanted, guard)


def raw(folder: LegacyFolder) -> dict[str, Any]:
    users: dict[str, Any] = json.loads((folder.path / "users.json").read_bytes())["users"]
    return users


def factors(folder: LegacyFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder.path / "two_fa.json").read_bytes())
    return found


def imported(folder: LegacyFolder) -> dict[str, LegacyUser]:
    """What an import reads."""
    with open_snapshot(folder.path) as snapshot:
        return {a.username: a.user for a in snapshot.accounts() if isinstance(a.user, LegacyUser)}


def key(name: str, value: str) -> LegacyKey:
    return LegacyKey(name, {VALUE: value}, {})
