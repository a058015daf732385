"""Files that only the owner may read: created once, never overwritten, mode 0600."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

_OTHERS = 0o077


class TooOpen(Exception):
    """A secret file can be read by other users of the host."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} can be read by others; run: chmod 600 {path}")


def read_private(path: Path) -> str:
    """Return the text of `path`, stripped.

    Raises TooOpen when its mode lets others in; OSError or UnicodeDecodeError when unreadable.
    """
    with path.open(encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS:
            raise TooOpen(path)
        return file.read().strip()


def create_once(path: Path, text: str) -> str:
    """Create `path` with `text` unless it exists, and return what the file then holds.

    However many processes do this at once, all of them return the same text: the file appears
    complete under its name (write aside, fsync, link) or not at all.
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


def sync_folder(folder: Path) -> None:
    """Make a new or renamed entry of `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
