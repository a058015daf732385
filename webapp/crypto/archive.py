"""A file that is sealed piece by piece, so that it may be larger than memory.

A first line names the master key and holds the archive's own key, wrapped by it. Each piece is
AES-256-GCM under associated data that says which one it is and whether it is the last: pieces that
are missing, swapped or cut off do not open.
"""

import io
import os
from typing import IO, Final

from cryptography.exceptions import InvalidTag

from webapp.crypto.envelope import DataKey, DoesNotOpen
from webapp.crypto.keyring import Keyring

_FORMAT: Final = "keystay-archive-1"
_PIECE_BYTES: Final = 1 << 20
_NONCE_BYTES: Final = 12
_LENGTH_BYTES: Final = 4
_MOST_HEADER_BYTES: Final = 1024
_NOBODY: Final = 0
"""An archive belongs to no account."""


class ArchiveWriter(io.RawIOBase):
    """Seals what is written and writes it to `target`; whole only once it was closed."""

    def __init__(self, target: IO[bytes], keyring: Keyring) -> None:
        super().__init__()
        self._target = target
        self._key = DataKey.generate(1)
        self._buffer = bytearray()
        self._number = 0
        wrapped = keyring.wrap(self._key, _NOBODY)
        target.write(f"{_FORMAT} {keyring.active.id} {wrapped}\n".encode("ascii"))

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        self._buffer += data
        while len(self._buffer) > _PIECE_BYTES:
            self._put(bytes(self._buffer[:_PIECE_BYTES]), is_last=False)
            del self._buffer[:_PIECE_BYTES]
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._put(bytes(self._buffer), is_last=True)
            super().close()

    def _put(self, piece: bytes, *, is_last: bool) -> None:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._key.cipher.encrypt(nonce, piece, _place(self._number, is_last))
        self._target.write(len(sealed).to_bytes(_LENGTH_BYTES, "big") + sealed)
        self._number += 1


class ArchiveReader(io.RawIOBase):
    """Reads what an ArchiveWriter wrote to `source`.

    Raises DoesNotOpen for what was changed or cut off, MissingMasterKey.
    """

    def __init__(self, source: IO[bytes], keyring: Keyring) -> None:
        super().__init__()
        self._source = source
        header = source.readline(_MOST_HEADER_BYTES).decode("ascii", "replace").split()
        if len(header) != 3 or header[0] != _FORMAT:
            raise DoesNotOpen
        self._key = keyring.unwrap(header[2], header[1], _NOBODY, 1)
        self._buffer = b""
        self._number = 0
        self._at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, target: "bytearray | memoryview") -> int:  # type: ignore[override]
        while not self._buffer and not self._at_end:
            self._buffer = self._take()
        taken = self._buffer[: len(target)]
        target[: len(taken)] = taken
        self._buffer = self._buffer[len(taken) :]
        return len(taken)

    def _take(self) -> bytes:
        length = int.from_bytes(self._source.read(_LENGTH_BYTES), "big")
        sealed = self._source.read(length) if _NONCE_BYTES < length <= 2 * _PIECE_BYTES else b""
        if len(sealed) != length or not sealed:
            raise DoesNotOpen
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        for is_last in (False, True):
            try:
                piece = self._key.cipher.decrypt(nonce, ciphertext, _place(self._number, is_last))
            except InvalidTag:
                continue
            self._number += 1
            self._at_end = is_last
            return piece
        raise DoesNotOpen


def _place(number: int, is_last: bool) -> bytes:
    return f"{_FORMAT}|{number}|{'last' if is_last else 'more'}".encode("ascii")
