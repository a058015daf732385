"""Files that only the owner may read: created once, never overwritten, mode 0600."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


class TooOpen(Exception):
    """A secret file can be read by other users of the host."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} can be read by others; run: chmod 600 {path}")


def read_private(path: Path) -> str:
    """Return the text of `path`, stripped.

    Raises TooOpen when its mode lets others in; OSError or UnicodeDecodeError when unreadable.
    """
    with path.open(encoding="utf-8") as file:
        if is_too_open(os.fstat(file.fileno())):
            raise TooOpen(path)
        return file.read().strip()


def is_too_open(status: os.stat_result) -> bool:
    """Whether the mode of a secret file lets in more than who must read it.

    Its group may read it when it belongs to somebody else, who gave it to us that way: systemd
    hands out credentials so (the group bits show the mask of their access list).
    """
    allowed = stat.S_IRWXU
    if status.st_uid != os.geteuid():
        allowed |= stat.S_IRGRP
    return bool(stat.S_IMODE(status.st_mode) & ~allowed)


def create_once(path: Path, text: str) -> str:
    """Create `path` with `text` unless it exists, and return what the file then holds.

    However many processes do this at once, all of them return the same text: the file appears
    complete under its name (write aside, fsync, link) or not at all. Raises as `read_private`.
    """
    if not path.exists():
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(aside, path)
            sync_folder(path.parent)
        finally:
            aside.unlink()
    return read_private(path)


def make_private_folder(folder: Path) -> None:
    """Create `folder` and what is missing above it, each with mode 0700. Raises OSError."""
    if not folder.is_dir():
        if folder.parent != folder:
            make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a new or renamed entry of `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
