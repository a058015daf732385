"""Files that nobody should have written, and files that change while they are read."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.legacy_folder import LegacyFolder, record
from webapp.config import ROOT
from webapp.legacy import files
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.users_json import Snapshot, open_snapshot

FILES = ("users.json", "two_fa.json", ".encryption_key")
SECRET = "JBSWY3DPEHPK3PXP"
MEGABYTE = 1_000_000


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users({"amira": record(api_keys={"openai": folder.token("sk")}), "ben": record()})
    folder.second_factors({"ben": {"secret": SECRET, "enabled": True}})
    folder.rest()
    return folder


def read(folder: LegacyFolder) -> Snapshot:
    folder.rest()
    return open_snapshot(folder.path, patience_seconds=0)


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None
)
@given(name=st.sampled_from(FILES), cut=st.floats(min_value=0, max_value=1, exclude_max=True))
@example(name="users.json", cut=0.999)
@example(name="two_fa.json", cut=0.999)
@example(name=".encryption_key", cut=0.999)
def test_no_beginning_of_any_file_passes_for_the_whole(
    folder: LegacyFolder, name: str, cut: float
) -> None:
    path = folder.path / name
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: int(len(whole) * cut)])
        with pytest.raises(LegacyUnreadable) as caught, read(folder) as snapshot:
            snapshot.require_keys()
        assert str(caught.value).startswith(name)
    finally:
        path.write_bytes(whole)


def test_no_byte_of_a_small_file_can_be_missing_at_the_end(folder: LegacyFolder) -> None:
    whole = b'{"users": {"a\\"": {"password_hash": "\xc3\xa9", "n": [-1.5e3, true, null]}}}'
    for length in range(len(whole)):
        folder.raw(whole[:length])
        with pytest.raises(LegacyUnreadable):
            read(folder)
    folder.raw(whole)
    with read(folder) as snapshot:
        assert snapshot.total == 1


@pytest.mark.parametrize("name", ["users.json", "two_fa.json"])
@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_an_error(folder: LegacyFolder, name: str, coding: str) -> None:
    path = folder.path / name
    path.write_bytes(path.read_text().encode(coding))
    with pytest.raises(LegacyUnreadable, match=rf"^{name} (is not valid JSON|does not hold)"):
        read(folder)


def test_a_byte_order_mark_is_skipped_in_both_files(folder: LegacyFolder) -> None:
    for name in FILES[:2]:
        path = folder.path / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with read(folder) as snapshot:
        assert [account.username for account in snapshot.accounts()] == ["amira", "ben"]
        assert snapshot.warnings == []


NESTED = {
    "lists": "[" * 10_000 + "]" * 10_000,
    "objects": '{"a": ' * 10_000 + "1" + "}" * 10_000,
    "lists that do not end": "[" * 10_000,
    "both": '[{"a": ' * 5_000 + "1" + "}]" * 5_000,
}


@pytest.mark.parametrize("name", ["users.json", "two_fa.json"])
@pytest.mark.parametrize("nested", NESTED)
def test_nesting_of_ten_thousand_levels_is_an_error(
    folder: LegacyFolder, name: str, nested: str
) -> None:
    text = f'{{"ben": {{"password_hash": {NESTED[nested]}}}}}'
    (folder.path / name).write_text(text)
    with pytest.raises(LegacyUnreadable, match=rf"^{name} is nested too deeply"):
        read(folder)
    (folder.path / name).write_text(NESTED[nested])
    with pytest.raises(LegacyUnreadable, match=rf"^{name} "):
        read(folder)


def write_100_mb(path: Path, kind: str) -> None:
    """Write one line of 100 MB."""
    one = ('"password_hash": "' + "a" * 64 + '", "note": "' + "x" * 20_000 + '"').encode()
    with path.open("wb") as file:
        file.write(b'{"users": {')
        if kind == "many records":
            entries = (b'"user%d": {%s}' % (number, one) for number in range(5000))
            file.writelines(b", " * (n > 0) + entry for n, entry in enumerate(entries))
        elif kind == "one record":
            file.write(b'"ann": {')
            file.writelines(b'"f%d": "%s", ' % (n, b"x" * MEGABYTE) for n in range(100))
            file.write(one + b"}")
        else:
            piece = {"one text": b"x", "escapes": b'\\"', "spaces": b" ", "digits": b"9"}[kind]
            file.write(b'"ann": "' if kind in {"one text", "escapes"} else b'"ann": ')
            file.writelines([piece * (MEGABYTE // len(piece))] * 100)
            file.write(b'"' if kind in {"one text", "escapes"} else b"1")
        file.write(b"}}")


_CHILD = """
import resource, sys
from pathlib import Path
from webapp.legacy.users_json import open_snapshot

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with open_snapshot(Path(sys.argv[1])) as snapshot:
        print(sum(1 for _ in snapshot.accounts()))
except Exception as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("many records", "5000"),
        ("one record", "users.json has an entry of more than 4 MB, which no account needs"),
        ("one text", "users.json holds a text of more than 1 MB, which no account has"),
        ("escapes", "users.json holds a text of more than 1 MB, which no account has"),
        ("spaces", "users.json holds a text of more than 1 MB, which no account has"),
        ("digits", "users.json holds a text of more than 1 MB, which no account has"),
    ],
)
def test_a_line_of_100_mb_takes_no_memory(folder: LegacyFolder, kind: str, says: str) -> None:
    write_100_mb(folder.path / "users.json", kind)
    folder.rest()
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answer, megabytes = done.stdout.splitlines()
    assert answer == says
    assert int(megabytes) < 40
    assert time.monotonic() - started < 20


@given(
    st.lists(st.sampled_from(['"', "\\\\", '\\"', "x", "xxxxx", "\\u0022"]), max_size=30),
    st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=10),
)
def test_a_long_text_is_found_in_whatever_pieces_it_comes(
    tokens: list[str], sizes: list[int]
) -> None:
    parts, longest = "".join(tokens), 0
    length = 0
    for token in tokens:
        length = 0 if token == '"' else length + len(token)
        longest = max(longest, length)
    found = files._Texts()
    at = 0
    while at < len(parts):
        size = sizes[at % len(sizes)]
        found.take(parts[at : at + size].encode())
        at += size
    # What lies within a piece is not looked at, and no longer than one.
    assert found.longest == longest if longest > max(sizes) + 1 else found.longest <= longest


def once(act: Callable[[], object]) -> Callable[[], None]:
    """Return a tick that does `act` in the middle of the first reading."""
    left = [act]

    def tick() -> None:
        if left:
            left.pop()()

    return tick


def large(folder: LegacyFolder, word: str) -> bytes:
    """Return a users.json of some MB, which is copied in several pieces."""
    folder.users({f"{word}{number}": record(note="x" * 1000) for number in range(2500)})
    return (folder.path / "users.json").read_bytes()


def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(folder: LegacyFolder) -> None:
    newer = large(folder, "newer")
    large(folder, "older")

    def replace() -> None:
        (folder.path / "new").write_bytes(newer)
        (folder.path / "new").replace(folder.path / "users.json")

    with open_snapshot(folder.path, tick=once(replace)) as snapshot:
        assert {account.username[:5] for account in snapshot.accounts()} == {"newer"}
        assert snapshot.total == 2500


@pytest.mark.parametrize("length", [0, 1, 1_000_000, 2_000_000])
def test_a_file_that_is_shortened_while_it_is_read_is_an_error(
    folder: LegacyFolder, length: int
) -> None:
    large(folder, "user")

    def shorten() -> None:
        os.truncate(folder.path / "users.json", length)
        folder.rest()

    with pytest.raises(LegacyUnreadable, match=r"^users\.json is not valid JSON"):
        open_snapshot(folder.path, tick=once(shorten))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_deleted_while_it_is_read_is_missing(
    folder: LegacyFolder, name: str
) -> None:
    large(folder, "user")
    folder.users({"amira": record(api_keys={"a": folder.token("b")}, note="x" * 900_000)})
    folder.rest()
    delete = once((folder.path / name).unlink)
    if name == "two_fa.json":
        with open_snapshot(folder.path, tick=delete) as snapshot:
            assert snapshot.warnings == ["two_fa.json is missing: no second factor is known"]
        return
    says = pytest.raises(LegacyUnreadable, match=rf"^{name} is missing")
    with says, open_snapshot(folder.path, tick=delete) as snapshot:
        snapshot.require_keys()


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "legacy").write_text("{}")
    with pytest.raises(LegacyUnreadable, match=r"^users\.json cannot be read: Not a directory"):
        open_snapshot(tmp_path / "legacy")


@pytest.mark.parametrize("name", ["", *FILES])
def test_a_link_to_itself_is_an_error(folder: LegacyFolder, tmp_path: Path, name: str) -> None:
    path = folder.path / name if name else tmp_path / "loop"
    path.unlink(missing_ok=True)
    path.symlink_to(path)
    with pytest.raises(LegacyUnreadable, match="symbolic links"):
        open_snapshot(folder.path if name else path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "  \n", ""])
def test_white_space_behind_the_key_does_no_harm(folder: LegacyFolder, end: str) -> None:
    (folder.path / ".encryption_key").write_bytes((folder.key + end).encode())
    with read(folder) as snapshot:
        snapshot.require_keys()
        user = snapshot.find("amira")
        assert user
        assert user.keys["openai"].parts == {"value": "sk"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbf" + b"A" * 44, b"\0" * 44, b"k" * 5000, b"\xff\xfe", b"A" * 43]
)
def test_a_key_file_that_holds_something_else_is_an_error(
    folder: LegacyFolder, content: bytes
) -> None:
    (folder.path / ".encryption_key").write_bytes(content)
    says = pytest.raises(LegacyUnreadable, match=r"^\.encryption_key does not hold a Fernet key")
    with says, read(folder) as snapshot:
        snapshot.require_keys()
