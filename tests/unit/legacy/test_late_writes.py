"""What is written into a file while it is being replaced reaches its successor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.legacy_folder import LegacyFolder, record
from webapp.legacy import late_writes
from webapp.legacy.files import Torn
from webapp.legacy.late_writes import merge_late_write
from webapp.legacy.replace import Edit, Original, replace


class Ending(Exception):
    """The process was asked to end."""


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users({"ann": record(), "bob": record()})
    folder.rest()
    return folder


def replace_and_write(folder: LegacyFolder, tick: Callable[[], None]) -> None:
    """Replace users.json while the predecessor, which has opened it, renames bob."""
    path = folder.path / "users.json"
    with Original(path) as original, path.open("r+") as opened:
        theirs = json.loads(path.read_bytes())
        theirs["users"]["bob"]["name"] = "Robert"
        at = original.text.find(b'"Some Body"')
        replace(original, [Edit(at, at + 11, b'"Ann"')], lambda: None)
        opened.truncate(0)
        json.dump(theirs, opened)
        opened.flush()
        merge_late_write(original, tick)


def names(folder: LegacyFolder) -> dict[str, Any]:
    users = json.loads((folder.path / "users.json").read_bytes())["users"]
    return {username: user["name"] for username, user in users.items()}


def test_it_is_brought_over(folder: LegacyFolder) -> None:
    replace_and_write(folder, lambda: None)
    assert names(folder) == {"ann": "Ann", "bob": "Robert"}


def test_who_is_asked_to_end_brings_it_over_before(folder: LegacyFolder) -> None:
    def end() -> None:
        raise Ending

    with pytest.raises(Ending):
        replace_and_write(folder, end)
    assert names(folder) == {"ann": "Ann", "bob": "Robert"}


def test_a_file_that_was_taken_away_meanwhile_is_not_made_of_it(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_writes, "_PATIENCE_SECONDS", 0.3)
    path = folder.path / "users.json"

    with pytest.raises(Torn, match="is missing"):
        replace_and_write(folder, lambda: path.unlink(missing_ok=True))
    assert not path.exists()
