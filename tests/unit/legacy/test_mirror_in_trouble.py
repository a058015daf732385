"""Writing into the predecessor's files while it writes too, or where that cannot go well."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.mirroring import (
    SECRET,
    factors,
    imported,
    key,
    make_folder,
    raw,
    write,
    write_back,
)
from webapp.legacy import files, mirror, replace
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.mirror import Wanted
from webapp.legacy.records import LegacySecondFactor
from webapp.legacy.users_json import open_snapshot
from webapp.private_files import sync_folder


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return make_folder(tmp_path)


def predecessor_saves(folder: LegacyFolder, change: Callable[[dict[str, Any]], None]) -> None:
    """Read all, change, write all in place: without a lock, as the predecessor does."""
    path = folder.path / "users.json"
    everything = json.loads(path.read_text())
    change(everything["users"])
    with path.open("w") as file:
        json.dump(everything, file, indent=2)


def once(act: Callable[[], None]) -> Callable[..., None]:
    """Return something that does `act` the first time it is called."""
    left = [act]

    def call(*_: object) -> None:
        if left:
            left.pop()()

    return call


def test_a_write_before_the_replacement_is_not_overwritten(folder: LegacyFolder) -> None:
    def theirs(users: dict[str, Any]) -> None:
        users["bob"]["name"] = "Robert"
        users["new"] = record()

    write(
        folder,
        Wanted(username="bob", is_admin=True),
        permit=once(lambda: predecessor_saves(folder, theirs)),
    )
    users = raw(folder)
    assert (users["bob"]["name"], users["bob"]["role"]) == ("Robert", "admin")
    assert "new" in users


def test_a_write_into_the_file_that_is_being_replaced_is_kept(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predecessor opens the file before the rename, and writes behind it."""
    opened: list[Any] = []
    real_state = replace._state_of

    def opens_it_right_after_the_look(path: Path) -> replace.State | None:
        state = real_state(path)
        if path.name == "users.json" and not opened and looked:
            everything = json.loads(path.read_text())
            everything["users"]["bob"]["name"] = "Robert"
            everything["users"]["new"] = record()
            opened.append(path.open("w"))
            json.dump(everything, opened[0])
            opened[0].flush()
        return state

    looked: list[bool] = []
    monkeypatch.setattr(replace, "_state_of", opens_it_right_after_the_look)
    (done,) = write(
        folder, Wanted(username="bob", is_admin=True), permit=once(lambda: looked.append(True))
    )
    assert opened
    opened[0].close()
    users = raw(folder)
    assert (users["bob"]["name"], users["bob"]["role"]) == ("Robert", "admin")
    assert "new" in users
    assert done.before is not None
    assert not done.before.is_admin


def test_it_says_which_state_became_which(folder: LegacyFolder) -> None:
    before = files.stamp(folder.path).text
    done = write_back(folder, Wanted(username="bob", is_admin=True))
    assert (done.from_state, done.to_state) == (before, files.stamp(folder.path).text)
    assert before != done.to_state
    disturbed = write_back(
        folder,
        Wanted(username="bob", is_admin=False),
        permit=once(lambda: predecessor_saves(folder, lambda users: users["bob"].update(name="R"))),
    )
    assert disturbed.from_state != done.to_state  # what was overtaken does not count


def test_a_rewrite_of_an_old_copy_is_found_and_done_again(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predecessor has read before, and writes right behind the replacement."""
    old = (folder.path / "users.json").read_bytes()
    rewrite = once(lambda: folder.raw(old))
    real_flush = sync_folder

    def flush(path: Path) -> None:
        real_flush(path)
        rewrite()

    monkeypatch.setattr(replace, "sync_folder", flush)
    write(folder, Wanted(username="bob", is_admin=True))
    assert raw(folder)["bob"]["role"] == "admin"


def test_a_file_that_never_rests_is_given_up(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_PATIENCE_SECONDS", 0.3)
    number = iter(range(1000))
    with pytest.raises(LegacyUnreadable, match="all the time"):
        write(
            folder,
            Wanted(username="bob", is_admin=True),
            permit=lambda: predecessor_saves(
                folder, lambda users: users["bob"].update(name=f"{next(number)}")
            ),
        )
    assert raw(folder)["bob"]["role"] == "user"


def test_what_is_refused_last_of_all_leaves_the_files(folder: LegacyFolder) -> None:
    class Refused(Exception):
        pass

    def refuse() -> None:
        raise Refused

    before = sorted(path.name for path in folder.path.iterdir())
    text = (folder.path / "users.json").read_bytes()
    with pytest.raises(Refused):
        write(folder, Wanted(username="bob", is_admin=True), permit=refuse)
    assert (folder.path / "users.json").read_bytes() == text
    names = {path.name for path in folder.path.iterdir()}
    assert names - {".keystay.lock"} == set(before)


@pytest.mark.parametrize("content", [b"", b'{"users": {"ann": {"name": "An', b"\xff\xfe{}", b"[]"])
def test_a_torn_file_is_not_touched(
    folder: LegacyFolder, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_PATIENCE_SECONDS", 0.3)
    folder.raw(content)
    with pytest.raises(LegacyUnreadable, match=r"users\.json"):
        write(folder, Wanted(username="zoe", record={"password_hash": sha256_of("pw")}))
    assert (folder.path / "users.json").read_bytes() == content


def test_a_missing_file_is_not_made(folder: LegacyFolder) -> None:
    (folder.path / "users.json").unlink()
    with pytest.raises(LegacyUnreadable, match="is missing"):
        write(folder, Wanted(username="bob", is_admin=True))
    assert not (folder.path / "users.json").exists()


def test_without_its_key_no_key_is_written(folder: LegacyFolder) -> None:
    (folder.path / ".encryption_key").unlink()
    text = (folder.path / "users.json").read_bytes()
    with pytest.raises(LegacyUnreadable, match=r"\.encryption_key is missing"):
        write(folder, Wanted(username="bob", keys={"openai": key("openai", "new")}))
    assert (folder.path / "users.json").read_bytes() == text


def test_what_a_killed_writer_left_is_removed(folder: LegacyFolder) -> None:
    (folder.path / "users.json.keystay-abc").write_text("half")
    write(folder, Wanted(username="bob", is_admin=True))
    assert not list(folder.path.glob("*.keystay-*"))


def test_the_file_of_second_factors_is_made(folder: LegacyFolder) -> None:
    (folder.path / "two_fa.json").unlink()
    factor = LegacySecondFactor(SECRET, True)
    write(folder, Wanted(username="bob", sets_second_factor=True, second_factor=factor))
    assert factors(folder) == {"bob": {"secret": SECRET, "enabled": True}}
    mode = (folder.path / "users.json").stat().st_mode
    assert (folder.path / "two_fa.json").stat().st_mode == mode


def test_a_look_up_changes_nothing(folder: LegacyFolder) -> None:
    def state() -> dict[str, tuple[int, float]]:
        found = {path.name: path.stat() for path in folder.path.iterdir()}
        return {name: (one.st_ino, one.st_mtime) for name, one in found.items()}

    before = state()
    found = mirror.look_up(folder.path, (), ["bob", "nobody"])
    assert [one.before and one.before.username for one in found] == ["bob", None]
    assert state() == before


@pytest.mark.parametrize(
    "text",
    [
        '{"users": []}',
        '{"users": null}',
        '{"users": "ann"}',
        '{"users": {"ann": {"name": nope}}}',
        '{"users": {"ann": [1}}}',
        '{"users": {"ann": {}}, "x": [1}',
        '{"users": {"ann": {"name": "a\\qb"}}}',
    ],
)
def test_what_an_import_refuses_is_not_written_either(
    folder: LegacyFolder, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_PATIENCE_SECONDS", 0.3)
    folder.raw(text)
    with pytest.raises(LegacyUnreadable):
        write(folder, Wanted(username="zoe", record={"password_hash": sha256_of("pw")}))
    assert (folder.path / "users.json").read_text() == text
    folder.rest()
    with pytest.raises(LegacyUnreadable), open_snapshot(folder.path):
        pass


def test_an_account_is_never_there_without_its_second_factor(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    replaced: list[str] = []
    real = replace.replace

    def once_and_dead(original: replace.Original, *rest: Any) -> bytes:
        if replaced:
            raise Killed
        replaced.append(original.path.name)
        return real(original, *rest)

    monkeypatch.setattr(mirror, "replace", once_and_dead)
    wanted = Wanted(
        username="zoe",
        record={"password_hash": sha256_of("pw")},
        record_factor=LegacySecondFactor(SECRET, True),
    )
    with pytest.raises(Killed):
        write(folder, wanted)
    assert replaced == ["two_fa.json"]
    assert "zoe" not in raw(folder)
    monkeypatch.undo()
    write(folder, wanted)
    assert imported(folder)["zoe"].second_factor == LegacySecondFactor(SECRET, True)


def test_a_file_that_cannot_keep_its_owner_is_not_replaced(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    path = folder.path / "users.json"
    os.chown(path, 2002, 3000)
    text = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", refuse)
        with pytest.raises(LegacyUnreadable, match="belongs to user 2002 and group 3000"):
            write(folder, Wanted(username="bob", is_admin=True))
    assert path.read_bytes() == text
    write(folder, Wanted(username="bob", is_admin=True))
    assert (path.stat().st_uid, path.stat().st_gid) == (2002, 3000)


def test_a_new_file_of_second_factors_belongs_to_whom_users_json_belongs(
    folder: LegacyFolder,
) -> None:
    (folder.path / "two_fa.json").unlink()
    os.chown(folder.path / "users.json", 2002, 3000)
    (folder.path / "users.json").chmod(0o640)
    factor = LegacySecondFactor(SECRET, True)
    write(folder, Wanted(username="bob", sets_second_factor=True, second_factor=factor))
    made = (folder.path / "two_fa.json").stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (2002, 3000, 0o640)


def test_a_namesake_in_the_file_of_second_factors_is_another_entry(folder: LegacyFolder) -> None:
    entry = {"secret": SECRET, "enabled": True}
    folder.second_factors({"ann": entry, "Ann": entry})
    write(folder, Wanted(username="ann", sets_second_factor=True))
    assert factors(folder) == {"ann": entry, "Ann": {"enabled": False}}


@pytest.mark.parametrize("name", ["smtp_host", "smtp_pass"])
def test_a_custom_key_does_not_pass_for_a_mail_setting(folder: LegacyFolder, name: str) -> None:
    text = (folder.path / "users.json").read_bytes()
    with pytest.raises(ValueError, match="mail setting"):
        write(folder, Wanted(username="ann", keys={name: key(name, "a secret")}))
    assert (folder.path / "users.json").read_bytes() == text
