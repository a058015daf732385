"""What is sealed for a key: its value or fields, and parts that the predecessor left unreadable."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from webapp.services.key_rules import KeyValue

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Payload:
    """The content of one version.

    `legacy_tokens` holds Fernet tokens of the predecessor that no known key opens, by field (or
    `value`). While it is not empty the key is locked: `value` is incomplete.
    """

    value: KeyValue = field(repr=False)
    legacy_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def locked(self) -> bool:
        return bool(self.legacy_tokens)

    def to_bytes(self) -> bytes:
        """Return the bytes that are sealed; equal payloads give equal bytes.

        A text alone is itself behind a `=`, which JSON cannot begin with; all else is JSON.
        """
        if isinstance(self.value, str) and not self.legacy_tokens:
            return b"=" + self.value.encode("utf-8")
        content: dict[str, object] = (
            {"value": self.value} if isinstance(self.value, str) else {"fields": dict(self.value)}
        )
        if self.legacy_tokens:
            content["legacy_tokens"] = dict(self.legacy_tokens)
        return _encode(content).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> "Payload":
        """Undo `to_bytes`."""
        if data.startswith(b"="):
            return cls(data[1:].decode("utf-8"))
        content = json.loads(data)
        value = content["value"] if "value" in content else content["fields"]
        return cls(value, content.get("legacy_tokens", {}))


def fingerprinted(value: KeyValue) -> bytes:
    """Return the bytes of `value` that its fingerprint is made of."""
    if isinstance(value, str):
        return value.encode("utf-8")
    return _encode(dict(value)).encode("ascii")


def hint(value: KeyValue) -> str | None:
    """Return the last four characters of a text of at least 12, and nothing of anything else."""
    if isinstance(value, str) and len(value) >= 12:
        return value[-4:]
    return None
