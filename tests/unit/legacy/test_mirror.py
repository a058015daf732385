"""Writing into the predecessor's files, while the predecessor does what it likes."""

import json
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.legacy_folder import LegacyFolder, record, sha256_of
from webapp.legacy import files, mirror, replace
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.keys import VALUE, LegacyKey
from webapp.legacy.mirror import Guard, Wanted, Written, WrittenBack
from webapp.legacy.records import LegacySecondFactor, LegacyUser
from webapp.legacy.users_json import open_snapshot

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
BORN = datetime(2026, 3, 4, 5, 6, 7, 8, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
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


def test_a_key_is_written_as_the_predecessor_writes_it(folder: LegacyFolder) -> None:
    before = raw(folder)
    (done,) = write(folder, Wanted(username="ann", keys={"openai": key("openai", "new")}))
    assert done.problem == ""
    assert done.before is not None
    assert done.after is not None
    assert done.before.keys["openai"].parts == {VALUE: "old"}
    after = raw(folder)
    assert after["Ann"]["api_keys"]["openai"].startswith("gAAAA")
    assert imported(folder)["Ann"].keys["openai"].parts == {VALUE: "new"}
    assert imported(folder)["Ann"] == done.after
    for name in ("Ann", "bob"):
        for field in ("api_keys", "api_keys_updated"):
            before[name].pop(field, None)
            after[name].pop(field, None)
    assert after == before


def test_what_is_not_mentioned_stays_byte_for_byte(folder: LegacyFolder) -> None:
    text = (folder.path / "users.json").read_bytes()
    write(folder, Wanted(username="bob", is_admin=True))
    assert (folder.path / "users.json").read_bytes() == text[::-1].replace(
        b'"resu"', b'"nimda"', 1
    )[::-1]


def test_nothing_is_written_where_all_is_there(folder: LegacyFolder) -> None:
    state = (folder.path / "users.json").stat()
    for _ in range(2):
        write(
            folder,
            Wanted(username="ann", keys={"openai": key("openai", "old"), "google": None}),
            Wanted(username="bob", is_admin=False, sets_second_factor=True,
                   second_factor=LegacySecondFactor(SECRET, True)),
        )  # fmt: skip
    assert (folder.path / "users.json").stat().st_ino == state.st_ino


def test_every_field_of_an_account(folder: LegacyFolder) -> None:
    smtp = LegacyKey("smtp", {"host": "h", "port": "25", "password": "p"}, {})
    hashed = "$2b$12$" + "a" * 53
    write(
        folder,
        Wanted(
            username="ann",
            password_hash=hashed,
            is_admin=True,
            keys={"smtp": smtp, "odd_name": key("odd_name", "y"), "openai": None},
            sets_second_factor=True,
            second_factor=LegacySecondFactor(SECRET, True),
        ),
        Wanted(username="bob", sets_second_factor=True),
    )
    ann = imported(folder)["Ann"]
    assert (ann.password_hash, ann.is_admin) == (hashed, True)
    assert ann.keys["smtp"] == smtp
    assert ann.keys["odd_name"].parts == {VALUE: "y"}
    assert set(ann.keys) == {"smtp", "odd_name"}
    assert set(raw(folder)["Ann"]["api_keys"]) == {
        "odd name",
        "smtp_host",
        "smtp_port",
        "smtp_pass",
    }
    assert ann.second_factor == LegacySecondFactor(SECRET, True)
    assert imported(folder)["bob"].second_factor is None
    assert factors(folder)["bob"] == {"enabled": False, "since": "2020"}


def test_a_new_account_works_there(folder: LegacyFolder) -> None:
    wanted = Wanted(
        username="zoe",
        record={"name": "Zoe", "password_hash": sha256_of("pw"), "role": "user"},
        keys={"openai": key("openai", "hers"), "gone": None},
        sets_second_factor=True,
        second_factor=LegacySecondFactor(SECRET, True),
    )
    (done,) = write(folder, wanted)
    assert done.before is None
    zoe = imported(folder)["zoe"]
    assert zoe == done.after
    assert zoe.keys["openai"].parts == {VALUE: "hers"}
    assert zoe.second_factor == LegacySecondFactor(SECRET, True)
    assert list(raw(folder)) == ["Ann", "bob", "zoe"]


@pytest.mark.parametrize("text", ['{"users": {}}', "{}", '{"users": {\n  }\n}\n', "\ufeff{}"])
def test_into_a_file_without_accounts(folder: LegacyFolder, text: str) -> None:
    folder.raw(text)
    write(folder, Wanted(username="zoe", record={"password_hash": sha256_of("pw")}))
    assert list(imported(folder)) == ["zoe"]


def test_into_the_older_shape_with_a_user_named_users(folder: LegacyFolder) -> None:
    folder.users({"users": record(), "ann": record()}, flat=True)
    write(folder, Wanted(username="users", is_admin=True), Wanted(username="ann", is_admin=True))
    assert [user.is_admin for user in imported(folder).values()] == [True, True]


def test_a_namesake_is_left_alone(folder: LegacyFolder) -> None:
    stranger = Wanted(username="ann", born_at=BORN, keys={"openai": key("openai", "mine")})
    text = (folder.path / "users.json").read_bytes()
    (done,) = write(folder, stranger)
    assert "another account" in done.problem
    assert (folder.path / "users.json").read_bytes() == text
    folder.users({"Ann": record(created_at="2026-03-04T05:06:07.000008")})
    assert write(folder, stranger)[0].problem == ""


def test_one_bad_record_does_not_keep_others_back(folder: LegacyFolder) -> None:
    folder.users({"ann": record(password_hash="?"), "bob": record()})
    ann, bob, zoe = write(
        folder,
        Wanted(username="ann", is_admin=True),
        Wanted(username="bob", is_admin=True),
        Wanted(username="zoe", why_not="no hash is left"),
    )
    assert "password_hash" in ann.problem
    assert bob.problem == ""
    assert zoe.problem == "no hash is left"
    assert raw(folder)["bob"]["role"] == "admin"


def test_mode_link_and_folder_stay(folder: LegacyFolder) -> None:
    path = folder.path / "users.json"
    real = folder.path.parent / "real.json"
    path.rename(real)
    path.symlink_to(real)
    real.chmod(0o640)
    write(folder, Wanted(username="bob", is_admin=True))
    assert path.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert raw(folder)["bob"]["role"] == "admin"
    assert not list(folder.path.parent.glob("*.keystay-*"))
    assert not list(folder.path.glob("*.keystay-*"))


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
    real_flush = replace._flush_folder

    def flush(path: Path) -> None:
        real_flush(path)
        rewrite()

    monkeypatch.setattr(replace, "_flush_folder", flush)
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


def test_the_file_of_second_factors_is_made_private(folder: LegacyFolder) -> None:
    (folder.path / "two_fa.json").unlink()
    factor = LegacySecondFactor(SECRET, True)
    write(folder, Wanted(username="bob", sets_second_factor=True, second_factor=factor))
    assert factors(folder) == {"bob": {"secret": SECRET, "enabled": True}}
    assert stat.S_IMODE((folder.path / "two_fa.json").stat().st_mode) == 0o600


def test_a_look_up_changes_nothing(folder: LegacyFolder) -> None:
    def state() -> dict[str, tuple[int, float]]:
        found = {path.name: path.stat() for path in folder.path.iterdir()}
        return {name: (one.st_ino, one.st_mtime) for name, one in found.items()}

    before = state()
    found = mirror.look_up(folder.path, (), ["bob", "nobody"])
    assert [one.before and one.before.username for one in found] == ["bob", None]
    assert state() == before
