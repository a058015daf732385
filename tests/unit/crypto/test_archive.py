"""A file sealed piece by piece."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.crypto import archive
from webapp.crypto.archive import ArchiveReader, ArchiveWriter
from webapp.crypto.envelope import DoesNotOpen
from webapp.crypto.keyring import Keyring, MasterKey, MissingMasterKey

KEYRING = Keyring((MasterKey.generate("k1"),))
LARGE = bytes(range(256)) * 12_000


def sealed(*parts: bytes) -> bytes:
    target = io.BytesIO()
    with ArchiveWriter(target, KEYRING) as writer:
        for part in parts:
            writer.write(part)
    return target.getvalue()


def opened(data: bytes, keyring: Keyring = KEYRING) -> bytes:
    return io.BufferedReader(ArchiveReader(io.BytesIO(data), keyring)).read()


@given(st.lists(st.binary(max_size=100), max_size=4))
def test_what_was_written_is_read(parts: list[bytes]) -> None:
    assert opened(sealed(*parts)) == b"".join(parts)


@pytest.mark.parametrize(
    "length", [0, 1, archive._PIECE_BYTES, archive._PIECE_BYTES + 1, 3_000_000]
)
def test_any_length(length: int) -> None:
    assert opened(sealed(LARGE[:length])) == LARGE[:length]


def test_nothing_is_in_clear() -> None:
    assert b"a secret of the files" not in sealed(b"a secret of the files")


@pytest.mark.parametrize("length", [0, 10, 200, 1_048_700, 2_500_000])
def test_what_is_cut_off_does_not_open(length: int) -> None:
    with pytest.raises(DoesNotOpen):
        opened(sealed(LARGE)[:length])


def test_without_its_last_piece_it_does_not_open() -> None:
    data = sealed(LARGE)
    header = data.index(b"\n") + 1
    piece = 4 + int.from_bytes(data[header : header + 4], "big")
    with pytest.raises(DoesNotOpen):
        opened(data[: header + piece])
    swapped = data[:header] + data[header + piece : header + 2 * piece] + data[header:][:piece]
    with pytest.raises(DoesNotOpen):
        opened(swapped)


@pytest.mark.parametrize("at", [0, 20, 120, 500, 1_500_000, -1])
def test_what_was_changed_does_not_open(at: int) -> None:
    data = bytearray(sealed(LARGE))
    data[at] ^= 1
    with pytest.raises((DoesNotOpen, MissingMasterKey)):
        opened(bytes(data))


def test_it_names_the_master_key_that_it_needs() -> None:
    with pytest.raises(MissingMasterKey, match="k1"):
        opened(sealed(b"x"), Keyring((MasterKey.generate("k2"),)))
