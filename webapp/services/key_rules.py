"""What a key may be called and what it may hold.

The rules are part of the outside contract ("Names and limits"). Masks are refused because forms and
tools hand back what they showed: a saved `sk-…abcd` would replace the key by its own picture.
"""

import re
import unicodedata
from collections.abc import Mapping

from webapp.crypto.envelope import looks_sealed
from webapp.providers import PROVIDERS, Field
from webapp.services.errors import InvalidInput

MAX_VALUE_LENGTH = 16_384

KeyValue = str | Mapping[str, str]
"""The value of a key: text, or the fields of a multi-field provider."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_MASK = re.compile(
    r"[*•●]{3,}"  # ***, ••••
    r"|.(?:…|\.{3})."  # sk-…abcd, sk-...abcd
    r"|^[<\[({]\s*[A-Za-z][A-Za-z _-]*[>\])}]$"  # <hidden>, [your key]
    r"|[<\[({](?:hidden|masked|redacted|removed|secret|unchanged)[>\])}]",
    re.DOTALL | re.IGNORECASE,
)


class InvalidKeyName(InvalidInput):
    """The name of a key has a form that is not allowed."""

    field = "name"
    message = (
        "A name begins with a small letter and has up to 64 small letters, digits, dashes and"
        " underscores, such as openai-dev."
    )


class InvalidKeyValue(InvalidInput):
    """The value is refused; the stored key stays. `field` names the input of several."""

    def __init__(self, message: str, field: str = "value") -> None:
        super().__init__(message)
        self.field = field


class MaskedValue(InvalidKeyValue):
    """The value looks like a masked one. `literal` accepts it all the same."""


def check_name(name: str) -> str:
    """Return `name`. Raises InvalidKeyName."""
    if not _NAME.fullmatch(name):
        raise InvalidKeyName
    return name


def check_value(name: str, value: KeyValue, *, literal: bool = False) -> KeyValue:
    """Return the value of key `name` as it is to be stored.

    Surrounding white space is stripped and line ends become newlines. Raises InvalidKeyValue, or
    MaskedValue unless `literal`.
    """
    provider = PROVIDERS.get(name)
    fields = provider.fields if provider else ()
    if not fields:
        if not isinstance(value, str):
            raise InvalidKeyValue(f"The key {name} takes one value, not several fields.")
        return _check_text(value, "value", literal=literal)
    if not isinstance(value, Mapping) or not set(value) <= {field.name for field in fields}:
        names = ", ".join(field.name for field in fields)
        raise InvalidKeyValue(f"The key {name} takes these fields: {names}.")
    return {field.name: _check_field(field, value, literal=literal) for field in fields}


def is_masked(text: str) -> bool:
    """Whether `text` looks like the masked form of a secret."""
    return bool(_MASK.search(text))


def _check_field(field: Field, values: Mapping[str, str], *, literal: bool) -> str:
    text = _check_text(values.get(field.name, ""), field.name, label=field.label, literal=literal)
    if field.name == "port" and not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise InvalidKeyValue("The port is a number from 1 to 65535.", field.name)
    return text


def _check_text(text: str, field: str, *, label: str = "", literal: bool) -> str:
    if not isinstance(text, str):
        raise InvalidKeyValue("A value is text; put numbers in quotes.", field)
    text = text.replace("\r\n", "\n").strip()
    if not text:
        what = f"Fill in {label.lower()}" if label else "Paste the key"
        raise InvalidKeyValue(f"{what}: an empty value is not saved.", field)
    if len(text) > MAX_VALUE_LENGTH:
        raise InvalidKeyValue(
            f"This is too long: {len(text):,} characters; {MAX_VALUE_LENGTH:,} are the most.", field
        )
    if any(unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t" for c in text):
        raise InvalidKeyValue(
            "This holds control characters, which no key has; copy it again from its source.", field
        )
    if "\N{REPLACEMENT CHARACTER}" in text:
        raise InvalidKeyValue(
            "A part of this could not be read as text on its way here; copy it again from its"
            " source.",
            field,
        )
    if looks_sealed(text):
        raise InvalidKeyValue(
            "This is the sealed form in which Keystay stores a key; paste the key itself.",
            field,
        )
    if not literal and is_masked(text):
        raise MaskedValue(
            "This looks like a masked key, with a part hidden; copy the whole key from its source.",
            field,
        )
    return text
