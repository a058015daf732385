"""Replacing one of the predecessor's files while the predecessor may be reading and writing it.

It truncates files in place and takes no lock. So the copy that changes are made to is checked to be
whole, the file is checked not to have changed right before the rename, and what was written into
the old file all the same is found after it, since the old file is kept open.
"""

import errno
import fcntl
import hashlib
import mmap
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from webapp.legacy.files import CLOCK_TICK_SECONDS, LegacyUnreadable, Torn
from webapp.legacy.json_edit import Text
from webapp.private_files import sync_folder

_CHUNK_BYTES = 1 << 20
_LOCK_FILE = ".keystay.lock"
_LOCK_SECONDS = 30.0
_PAUSE_SECONDS = 0.05
_MARK = ".keystay-"
_PRIVATE = 0o600

State = tuple[int, int, int, int]
"""Device, inode, size and time of a file: what tells that it was written or replaced."""


class NotWritten(LegacyUnreadable):
    """A file cannot be written; what was to be written waits. The message names it and says why."""


class Overtaken(Exception):
    """Somebody wrote the file meanwhile; nothing was replaced. To be done again from the start."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes `begin` to `end` of the original become `new`."""

    begin: int
    end: int
    new: bytes


class Original:
    """A whole copy of the file as it is now, and the file itself, held open.

    `text` begins behind a byte order mark; a file that is not there is `{}`. Raises Torn when it is
    being written, LegacyUnreadable.
    """

    def __init__(self, path: Path, like: "Original | None" = None) -> None:
        """Open and copy `path`. One that is not there is made in the likeness of `like`."""
        self._like = like
        # A link stays: the file that it points to is replaced, in that one's folder.
        self.path = Path(os.path.realpath(path))
        self._copy: IO[bytes] | None = None
        try:
            self._file = self.path.open("rb")
        except FileNotFoundError:
            self.state: State | None = None
            self.text: Text = b"{}"
            return
        except OSError as error:
            raise LegacyUnreadable(path.name, f"cannot be read: {error.strerror}") from error
        try:
            self.state = self._settled_state()
            self._copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
            while chunk := self._file.read(_CHUNK_BYTES):
                self._copy.write(chunk)
            self._copy.flush()
            if self.was_written_to() or _state_of(self.path) != self.state:
                raise Torn(path.name, "is being written")
            self.text = _mapped(self._copy)
        except OSError as error:
            self.close()
            raise LegacyUnreadable(path.name, f"cannot be copied: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.state is not None:
            self._file.close()
        if self._copy is not None:
            self._copy.close()

    @property
    def exists(self) -> bool:
        return self.state is not None

    def state_now(self) -> State:
        """Return the state of the file that was opened, whatever its name refers to by now."""
        return _state(os.fstat(self._file.fileno()))

    def _settled_state(self) -> State:
        """Return the state once its time is old enough for a later write to have another one."""
        if 0 <= time.time() - os.fstat(self._file.fileno()).st_mtime < CLOCK_TICK_SECONDS:
            time.sleep(CLOCK_TICK_SECONDS)
        return self.state_now()

    def was_written_to(self) -> bool:
        """Whether somebody has written to the file itself since it was copied."""
        return self.exists and self.state_now() != self.state

    def is_current(self) -> bool:
        """Whether nobody has written or replaced the file since it was copied."""
        return _state_of(self.path) == self.state

    def read_again(self) -> bytes:
        """Return what the opened file holds now."""
        self._file.seek(0)
        return self._file.read()

    def mode_and_owner(self) -> tuple[int, int, int]:
        if not self.exists:
            return self._like.mode_and_owner() if self._like else (_PRIVATE, -1, -1)
        found = os.fstat(self._file.fileno())
        return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def replace(original: Original, edits: Iterable[Edit], permit: Callable[[], None]) -> bytes:
    """Replace the file by the original with `edits`, which come in their order.

    Returns the SHA-256 of what it now holds.

    A new file beside it, flushed, takes its name; a reader sees the old or the new one, whole.
    `permit` is asked last of all, and what it raises leaves the file as it is. Raises Overtaken,
    NotWritten.
    """
    temporary: str | None = None
    folder = original.path.parent
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f"{original.path.name}{_MARK}", dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            digest = _write(file, original, edits)
            _give(descriptor, original)
            file.flush()
            os.fsync(descriptor)
        permit()
        if _state_of(original.path) != original.state:
            raise Overtaken
        Path(temporary).rename(original.path)
        temporary = None
        sync_folder(folder)
        return digest
    except OSError as error:
        raise NotWritten(original.path.name, f"cannot be written: {_reason(error)}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()


def holds(original: Original, digest: bytes) -> bool:
    """Whether the file that took the place of `original` holds what `replace` has written."""
    try:
        with original.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == digest
    except FileNotFoundError:
        return False


def _give(descriptor: int, original: Original) -> None:
    """Give the new file mode and owner of the old one, which who reads and writes there relies on.

    Raises NotWritten where that is not allowed: the predecessor might be locked out of its file.
    """
    mode, owner, group = original.mode_and_owner()
    for user, its_group in ((-1, group), (owner, -1)):
        with suppress(PermissionError):
            os.fchown(descriptor, user, its_group)
    os.fchmod(descriptor, mode)
    given = os.fstat(descriptor)
    if (owner, group) not in ((-1, -1), (given.st_uid, given.st_gid)):
        raise NotWritten(
            original.path.name,
            f"belongs to user {owner} and group {group}, which the worker cannot give to a new"
            " file; run the worker as that user",
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes of Keystay from writing in `folder`. Raises NotWritten.

    Also removes what one that was killed has left there.
    """
    path = folder / _LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
    except OSError as error:
        raise NotWritten(folder.name, f"cannot be written: {_reason(error)}") from error
    try:
        _wait_for(descriptor, folder)
        for left in folder.glob(f"*{_MARK}*"):
            with suppress(OSError):
                left.unlink()
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                problem = "is locked by another process of Keystay that does not go on"
                raise NotWritten(folder.name, problem) from None
            time.sleep(_PAUSE_SECONDS)


def _write(file: IO[bytes], original: Original, edits: Iterable[Edit]) -> bytes:
    digest = hashlib.sha256()

    def put(piece: bytes) -> None:
        digest.update(piece)
        file.write(piece)

    def copy(begin: int, end: int) -> None:
        for at in range(begin, end, _CHUNK_BYTES):
            put(original.text[at : min(at + _CHUNK_BYTES, end)])

    at = 0
    for edit in edits:
        copy(at, edit.begin)
        put(edit.new)
        at = edit.end
    copy(at, len(original.text))
    return digest.digest()


def _mapped(file: IO[bytes]) -> Text:
    if os.fstat(file.fileno()).st_size == 0:
        return b""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _state(found: os.stat_result) -> State:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _state_of(path: Path) -> State | None:
    try:
        return _state(path.stat())
    except FileNotFoundError:
        return None


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or type(error).__name__
