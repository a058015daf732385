"""The predecessor's files in one sealed archive, written, read back, and opened again."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from webapp.crypto.archive import ArchiveReader, ArchiveWriter
from webapp.crypto.envelope import DoesNotOpen
from webapp.crypto.keyring import Keyring, MissingMasterKey
from webapp.legacy.files import KEY_FILE, SECOND_FACTORS, USERS, LegacyUnreadable
from webapp.legacy.replace import NotWritten
from webapp.private_files import sync_folder

_CHUNK_BYTES: Final = 1 << 20
_PRIVATE: Final = 0o600


def seal_files(
    folder: Path, archive: Path, keyring: Keyring, tick: Callable[[], None]
) -> dict[str, str]:
    """Seal the files of `folder` into the new file `archive`, mode 0600, and read it back.

    Returns the SHA-256 of each file in hex, by name. The archive appears under its name once it was
    opened and compared byte for byte. Raises LegacyUnreadable, NotWritten. `tick` is called for
    each MiB.
    """
    aside = archive.with_name(f".{archive.name}.new")
    try:
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, _PRIVATE)
        with os.fdopen(descriptor, "w+b") as file:
            _write(folder, file, keyring, tick)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digests = _compare(folder, file, keyring, tick)
        aside.rename(archive)
        sync_folder(folder)
        return digests
    except OSError as error:
        raise NotWritten(archive.name, f"cannot be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


def open_archive(archive: Path, folder: Path, keyring: Keyring) -> list[str]:
    """Write the files of `archive` into the empty `folder`, mode 0600; return their names.

    Raises DoesNotOpen, MissingMasterKey, OSError.
    """
    names = []
    with archive.open("rb") as file, _reading(file, keyring) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is None or member.name not in (USERS, SECOND_FACTORS, KEY_FILE):
                raise DoesNotOpen
            path = folder / member.name
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
            with os.fdopen(descriptor, "wb") as target:
                while chunk := content.read(_CHUNK_BYTES):
                    target.write(chunk)
                target.flush()
                os.fsync(descriptor)
            names.append(member.name)
    return names


def _write(folder: Path, file: IO[bytes], keyring: Keyring, tick: Callable[[], None]) -> None:
    with (
        ArchiveWriter(file, keyring) as writer,
        tarfile.open(fileobj=writer, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in _files(folder):
            with path.open("rb") as source:
                member = tarfile.TarInfo(path.name)
                member.size = os.fstat(source.fileno()).st_size
                member.mode = _PRIVATE
                tar.addfile(member, _Ticking(source, tick))


def _compare(
    folder: Path, file: IO[bytes], keyring: Keyring, tick: Callable[[], None]
) -> dict[str, str]:
    """Return the digests of the files.

    Raises NotWritten unless the archive opens and holds what the folder holds now.
    """
    digests = {}
    expected = {path.name for path in _files(folder)}
    try:
        with _reading(file, keyring) as tar:
            for member in tar:
                content = tar.extractfile(member)
                digest = hashlib.sha256()
                with (folder / member.name).open("rb") as original:
                    while chunk := original.read(_CHUNK_BYTES):
                        tick()
                        digest.update(chunk)
                        if content is None or content.read(len(chunk)) != chunk:
                            raise LegacyUnreadable(member.name, "changed meanwhile")
                    if content is None or content.read(1):
                        raise LegacyUnreadable(member.name, "changed meanwhile")
                expected.discard(member.name)
                digests[member.name] = digest.hexdigest()
    except (DoesNotOpen, MissingMasterKey, tarfile.TarError) as error:
        raise NotWritten("the archive", "does not open after it was written") from error
    if expected:
        raise NotWritten("the archive", f"lacks {', '.join(sorted(expected))}")
    return digests


def _reading(file: IO[bytes], keyring: Keyring) -> tarfile.TarFile:
    reader = io.BufferedReader(ArchiveReader(file, keyring), _CHUNK_BYTES)
    return tarfile.open(fileobj=reader, mode="r|")


def _files(folder: Path) -> list[Path]:
    paths = [folder / name for name in (USERS, SECOND_FACTORS, KEY_FILE)]
    return [path for path in paths if path.exists()]


class _Ticking(io.RawIOBase):
    """Passes reads on, and calls `tick` with each."""

    def __init__(self, source: IO[bytes], tick: Callable[[], None]) -> None:
        super().__init__()
        self._source = source
        self._tick = tick

    def read(self, size: int = -1) -> bytes:
        self._tick()
        return self._source.read(size)
