"""Writing into the predecessor's files, while the predecessor does what it likes."""

import stat
from pathlib import Path

import pytest

from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.mirroring import BORN, SECRET, factors, imported, key, make_folder, raw, write
from webapp.legacy.keys import VALUE, LegacyKey
from webapp.legacy.mirror import Wanted
from webapp.legacy.records import LegacySecondFactor


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return make_folder(tmp_path)


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
