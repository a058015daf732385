"""Looking for secrets in bytes, whichever way they may have been written down."""

import html
import json
import re
import zlib
from binascii import a2b_base64, unhexlify
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from urllib.parse import unquote_to_bytes

_SHORTEST = 8
_HEX = re.compile(rb"[0-9A-Fa-f]{16,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{12,}")
_PERCENT = re.compile(rb"[^\s\"'<>&;=?]*%[0-9A-Fa-f]{2}[^\s\"'<>&;=?]*")
_ZLIB = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
# Behind one character of a group stands nothing: an A makes it whole.
_PADDING = {0: b"", 1: b"A==", 2: b"==", 3: b"="}
_LARGEST = 1 << 20
_DEPTH = 2


class Needles:
    """Secrets by a label that may be printed. Text of at least eight characters, or bytes."""

    def __init__(self, secrets: Mapping[str, str | bytes]) -> None:
        short = [label for label, secret in secrets.items() if len(secret) < _SHORTEST]
        assert not short, f"{short} would be found everywhere"
        self._written = {label: _written(secret) for label, secret in secrets.items()}

    def found_in(self, data: bytes) -> set[str]:
        """Return the labels of those that stand in `data`.

        As they are, in UTF-16, escaped for JSON or HTML, percent-encoded, in hex or in base64, also
        compressed by zlib, or two of these upon each other.
        """
        found: set[str] = set()
        for clear in _readings(data):
            found |= {
                label
                for label, forms in self._written.items()
                if label not in found and any(form in clear for form in forms)
            }
        return found


def _written(secret: str | bytes) -> set[bytes]:
    """Return how it looks once everything that `_readings` undoes is undone."""
    if isinstance(secret, bytes):
        return {_without_nul(secret)}
    forms = {
        secret.encode(),
        json.dumps(secret)[1:-1].encode(),
        html.escape(secret).encode(),
        secret.encode("utf-16-le"),
        secret.encode("utf-16-be"),
    }
    return {_without_nul(form) for form in forms}


def _readings(data: bytes) -> Iterator[bytes]:
    """Yield `data` without NUL bytes, which is how UTF-16 is read, and what is encoded in it."""
    layer = [data]
    for depth in range(_DEPTH + 1):
        decoded: list[bytes] = []
        for part in layer:
            clear = _without_nul(part)
            yield clear
            if depth < _DEPTH:
                decoded += [decode(clear) for decode in _DECODERS]
                decoded.append(_from_zlib(part))
        layer = [part for part in decoded if part]


def _without_nul(data: bytes) -> bytes:
    return data.replace(b"\0", b"")


def _from_hex(clear: bytes) -> bytes:
    return b"\n".join(
        unhexlify(run[start : start + (len(run) - start) // 2 * 2])
        for run in _HEX.findall(clear)
        for start in (0, 1)
    )


def _from_base64(clear: bytes) -> bytes:
    """Decode whatever may be base64, from each of the places where it may begin."""
    return b"\n".join(
        a2b_base64(run[start:] + _PADDING[len(run[start:]) % 4])
        for run in _BASE64.findall(clear.replace(b"-", b"+").replace(b"_", b"/"))
        for start in range(4)
    )


def _from_percent(clear: bytes) -> bytes:
    return b"\n".join(
        unquote_to_bytes(form)
        for run in _PERCENT.findall(clear)
        for form in (run, run.replace(b"+", b" "))
    )


def _from_zlib(data: bytes) -> bytes:
    parts: list[bytes] = []
    for begin in _ZLIB.finditer(data):
        with suppress(zlib.error):
            stream = data[begin.start() : begin.start() + _LARGEST]
            parts.append(zlib.decompressobj().decompress(stream, _LARGEST))
    return b"\n".join(parts)


_DECODERS: tuple[Callable[[bytes], bytes], ...] = (_from_hex, _from_base64, _from_percent)
