"""Copies of files that somebody else writes, and what is left of them."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.legacy_folder import LegacyFolder, record
from webapp.legacy import files
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.users_json import open_snapshot


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return LegacyFolder(tmp_path / "legacy")


def test_the_stamp_changes_with_each_file_and_with_the_further_keys(folder: LegacyFolder) -> None:
    stamps = [files.stamp(folder.path).text, files.stamp(folder.path, ["k"]).text]
    for name in ("users.json", "two_fa.json", ".encryption_key"):
        path = folder.path / name
        path.write_text(path.read_text() + " ")
        stamps.append(files.stamp(folder.path).text)
        path.unlink()
        stamps.append(files.stamp(folder.path).text)
    assert len(set(stamps)) == len(stamps)


def test_the_digest_tells_contents_apart_and_survives_a_touch(folder: LegacyFolder) -> None:
    with open_snapshot(folder.path) as first:
        folder.rest()
        with open_snapshot(folder.path) as touched:
            assert touched.digest == first.digest
            assert touched.stamp != first.stamp
    folder.users({"amira": record()})
    with open_snapshot(folder.path) as changed:
        assert changed.digest != first.digest


def test_a_snapshot_does_not_change_with_the_file(folder: LegacyFolder) -> None:
    folder.users({"amira": record()})
    with open_snapshot(folder.path) as snapshot:
        folder.raw("")
        assert [account.username for account in snapshot.accounts()] == ["amira"]


def test_a_copy_leaves_no_file_behind_even_while_it_is_open(
    folder: LegacyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder.users({"amira": record()})
    with open_snapshot(folder.path) as snapshot:
        assert snapshot.find("amira")
        assert list(scratch.iterdir()) == []


def test_a_torn_read_is_tried_again_until_the_file_is_whole(folder: LegacyFolder) -> None:
    whole = json.dumps({"users": {"amira": record()}})
    folder.raw(whole[:40])

    def finish() -> None:
        time.sleep(0.4)
        folder.raw(whole)

    writer = threading.Thread(target=finish)
    writer.start()
    with open_snapshot(folder.path) as snapshot:
        assert snapshot.total == 1
    writer.join()


def test_a_writer_that_never_stops_is_an_error_in_the_end(folder: LegacyFolder) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.01):
            folder.raw('{"users": {')

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(LegacyUnreadable):
            open_snapshot(folder.path, patience_seconds=1)
    finally:
        stop.set()
        writer.join()


def test_every_snapshot_under_a_writer_is_a_state_that_was_written(folder: LegacyFolder) -> None:
    """The predecessor truncates in place: readers of the file itself see half of it."""
    users = {f"user{n}": record() for n in range(300)}
    states = {
        1: json.dumps({"users": {"one": record()}}),
        300: json.dumps({"users": users}, indent=2),
    }
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.02):
            for content in states.values():
                with (folder.path / "users.json").open("w") as file:
                    for start in range(0, len(content), 4096):
                        file.write(content[start : start + 4096])
                        file.flush()

    folder.raw(states[1])
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            with open_snapshot(folder.path) as snapshot:
                assert snapshot.total in states
    finally:
        stop.set()
        writer.join()


def test_a_broken_file_that_rests_is_reported_without_waiting(folder: LegacyFolder) -> None:
    folder.raw("{")
    folder.rest()
    started = time.monotonic()
    with pytest.raises(LegacyUnreadable):
        open_snapshot(folder.path)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("name", ["users.json", "two_fa.json", ".encryption_key"])
@pytest.mark.parametrize(
    ("put", "says"), [(os.mkdir, "Is a directory"), (os.mkfifo, "is not a regular file")]
)
def test_what_is_no_regular_file_is_an_error(
    folder: LegacyFolder, name: str, put: Callable[[Path], None], says: str
) -> None:
    (folder.path / name).unlink()
    put(folder.path / name)
    folder.rest()
    with pytest.raises(LegacyUnreadable, match=says) as caught:
        open_snapshot(folder.path)
    assert str(caught.value).startswith(name)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LegacyUnreadable, match=r"users\.json is missing in"):
        open_snapshot(tmp_path / "nowhere")
