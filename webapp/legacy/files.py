"""Private, consistent copies of the predecessor's files.

The predecessor truncates a file in place and then writes it, without a lock, and it may be at it
now. So the files are copied first, and a copy counts only when none of them changed meanwhile.
"""

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

USERS = "users.json"
SECOND_FACTORS = "two_fa.json"
KEY_FILE = ".encryption_key"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some editors put at the beginning of a file."""
_CHUNK_BYTES = 1 << 20
_MAX_KEY_FILE_BYTES = 4096
_LONGEST_TEXT_BYTES = _CHUNK_BYTES
"""A parser holds a text whole, and looks through it anew with each piece that it is given."""
CLOCK_TICK_SECONDS = 0.05
"""Two writes closer together than this can leave the same modification time."""


class LegacyUnreadable(Exception):
    """A file of the predecessor cannot be read; the message names it and says why.

    Nothing may be concluded from it, least of all that there are no users.
    """

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file} {problem}")
        self.file = file
        self.problem = problem


class Torn(LegacyUnreadable):
    """What was read may be half of a write that is going on, so that another try is worth it."""


@dataclass(frozen=True)
class Stamp:
    """The state of the files as the file system tells it, without reading them."""

    text: str
    """Changes with inode, size or time of any file, and with the further Fernet keys."""
    changed_at: float
    """When the newest of them changed, in seconds since 1970 by the file system's clock."""

    @property
    def age_seconds(self) -> float:
        return time.time() - self.changed_at


@dataclass(frozen=True)
class Copies:
    """Copies that have no name, so that nothing is left behind however the process ends."""

    users: IO[bytes]
    second_factors: IO[bytes] | None
    key_file: bytes | None
    stamp: Stamp
    digest: str
    """SHA-256 over the three files and the further Fernet keys, in hex."""
    closing: ExitStack


def stamp(folder: Path, extra_keys: Sequence[str] = ()) -> Stamp:
    """Return the state of the files in `folder`, any of which may be missing.

    `extra_keys` belong to it: another key may open what was locked. Raises LegacyUnreadable when
    the file system does not tell.
    """
    digest = _digest_of_keys(extra_keys)
    newest = 0.0
    for name in (USERS, SECOND_FACTORS, KEY_FILE):
        try:
            found = (folder / name).stat()
        except FileNotFoundError:
            digest.update(b"|missing")
            continue
        except OSError as error:
            raise LegacyUnreadable(name, f"cannot be read: {error.strerror}") from error
        digest.update(f"|{found.st_ino}:{found.st_size}:{found.st_mtime_ns}".encode())
        newest = max(newest, found.st_mtime)
    return Stamp(digest.hexdigest()[:32], newest)


def size(folder: Path) -> int:
    """Return how many bytes users.json has; 0 where there is none to look at."""
    try:
        return (folder / USERS).stat().st_size
    except OSError:
        return 0


def copy(folder: Path, extra_keys: Sequence[str], tick: Callable[[], None]) -> Copies:
    """Copy the files; whoever calls closes `closing`. `tick` is called for each MiB.

    Raises Torn, and LegacyUnreadable for what no second try mends.
    """
    before = stamp(folder, extra_keys)
    if 0 <= before.age_seconds < CLOCK_TICK_SECONDS:
        time.sleep(CLOCK_TICK_SECONDS)
        before = stamp(folder, extra_keys)
    digest = _digest_of_keys(extra_keys)
    with ExitStack() as closing:
        users = _copy(folder / USERS, digest, closing, tick)
        second_factors = _copy(folder / SECOND_FACTORS, digest, closing, tick)
        key_file = _copy(folder / KEY_FILE, digest, closing, tick)
        if stamp(folder, extra_keys) != before:
            raise Torn(USERS, "or a file beside it is being written")
        if users is None:
            raise LegacyUnreadable(USERS, f"is missing in {folder}")
        key_text = key_file.read(_MAX_KEY_FILE_BYTES) if key_file else None
        return Copies(
            users, second_factors, key_text, before, digest.hexdigest(), closing.pop_all()
        )


def _copy(
    path: Path, digest: "hashlib._Hash", closing: ExitStack, tick: Callable[[], None]
) -> IO[bytes] | None:
    """Copy `path` into a temporary file without a name; None when there is no such file."""
    try:
        # O_NONBLOCK: a pipe in the place of the file must not block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as source:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise LegacyUnreadable(path.name, "is not a regular file")
            target = closing.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closing does
            content, texts = hashlib.sha256(), _Texts()
            while chunk := source.read(_CHUNK_BYTES):
                content.update(chunk)
                texts.take(chunk)
                if texts.longest > _LONGEST_TEXT_BYTES:
                    raise Torn(path.name, "holds a text of more than 1 MB, which no account has")
                target.write(chunk)
                tick()
    except FileNotFoundError:
        digest.update(b"|missing")
        return None
    except OSError as error:
        raise LegacyUnreadable(path.name, f"cannot be copied: {error.strerror}") from error
    digest.update(b"|" + content.digest())
    target.seek(0)
    return target


class _Texts:
    """Finds the longest stretch without a quotation mark that comes in several pieces.

    Shorter ones, that lie within a piece, are not looked at. A quotation mark behind a backslash
    does not end a text.
    """

    def __init__(self) -> None:
        self.longest = 0
        self._length = 0
        self._begun_escape = b""

    def take(self, chunk: bytes) -> None:
        text = self._begun_escape + chunk
        self._begun_escape = b""
        if b"\\" in text:
            if (len(text) - len(text.rstrip(b"\\"))) % 2:
                text, self._begun_escape = text[:-1], b"\\"
            text = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        first = text.find(b'"')
        if first < 0:
            self._length += len(text)
        else:
            self.longest = max(self.longest, self._length + first)
            self._length = len(text) - text.rfind(b'"') - 1
        self.longest = max(self.longest, self._length)


def _digest_of_keys(extra_keys: Sequence[str]) -> "hashlib._Hash":
    return hashlib.sha256("\n".join(extra_keys).encode())
