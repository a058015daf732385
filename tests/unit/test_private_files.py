"""Secret files: created once, complete, for the owner alone."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from webapp.private_files import (
    TooOpen,
    create_once,
    is_too_open,
    make_private_folder,
    read_private,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def status(permissions: int, *, of_us: bool) -> os.stat_result:
    owner = os.geteuid() if of_us else os.geteuid() + 1
    return os.stat_result((stat.S_IFREG | permissions, 1, 1, 1, owner, 1, 1, 0, 0, 0))


@pytest.fixture(params=[0o000, 0o077], ids=["umask 000", "umask 077"])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_what_is_created_is_for_the_owner_alone(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b")
    assert create_once(tmp_path / "a" / "b" / "key", "text") == "text"
    assert mode(tmp_path / "a") == 0o700
    assert mode(tmp_path / "a" / "b") == 0o700
    assert mode(tmp_path / "a" / "b" / "key") == 0o600


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("first\n")
    path.chmod(0o600)
    assert create_once(path, "second") == "first"
    assert path.read_text() == "first\n"


def test_all_who_create_at_once_get_the_same_text(tmp_path: Path) -> None:
    path = tmp_path / "key"
    barrier = threading.Barrier(8)
    found: list[str] = []

    def create(number: int) -> None:
        barrier.wait()
        found.append(create_once(path, f"text {number}"))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {path.read_text().strip()}
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_folder(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="exists"):
        make_private_folder(tmp_path / "taken")


def test_an_open_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret")
    path.chmod(0o640)
    with pytest.raises(TooOpen, match=f"chmod 600 {path}") as refused:
        read_private(path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("permissions", [0o600, 0o400, 0o700])
def test_a_private_file_is_fine_whoever_owns_it(permissions: int) -> None:
    assert not is_too_open(status(permissions, of_us=True))
    assert not is_too_open(status(permissions, of_us=False))


@pytest.mark.parametrize("permissions", [0o604, 0o602, 0o620, 0o644, 0o660])
def test_a_file_for_everybody_or_writable_for_others_is_too_open(permissions: int) -> None:
    assert is_too_open(status(permissions, of_us=True))
    assert is_too_open(status(permissions, of_us=False))


def test_the_group_may_read_what_somebody_else_gave_us() -> None:
    """A systemd credential is root's, with mode 0440."""
    assert not is_too_open(status(0o440, of_us=False))
    assert is_too_open(status(0o440, of_us=True))
