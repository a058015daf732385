"""What every form refuses, whatever its fields (ASVS 2.2.1, 15.3.5, 15.3.7)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flask_wtf import FlaskForm
from werkzeug.datastructures import MultiDict
from wtforms.validators import InputRequired, Length, ValidationError

# NUL, and what bytes become that were not UTF-8: storing that would store something else than sent.
_NEVER_MEANT = re.compile("[\0\N{REPLACEMENT CHARACTER}]")


class StrictForm(FlaskForm):
    """A form in which each field is given at most once, as UTF-8 text without a NUL character.

    A field that `takes_many` may be given more often. The form is filled from what a browser
    posted; Flask-WTF by itself would also take a JSON body.
    """

    def __init__(self, formdata: MultiDict[str, str] | None) -> None:
        super().__init__(formdata=formdata)  # type: ignore[no-untyped-call]

    def validate(self, extra_validators: Mapping[str, Sequence[Any]] | None = None) -> bool:
        valid = bool(super().validate(extra_validators))
        for field in self:
            problem = _problem(field)
            if problem:
                field.errors = [problem]
                valid = False
        return valid


class AtMost(Length):
    """No more than this many characters; tells the browser nothing, which would cut silently."""

    def __init__(self, limit: int) -> None:
        super().__init__(max=limit, message=f"Use at most {limit:,} characters.")
        self.field_flags = {}


def required(message: str) -> InputRequired:
    """Anything but nothing, white space included."""
    return InputRequired(message)


class EqualToPassword:
    """The same as the field `password`. The message stands beside the repetition."""

    def __call__(self, form: FlaskForm, field: Any) -> None:
        if field.data != form["password"].data:
            raise ValidationError("The two passwords are not the same.")


def _problem(field: Any) -> str | None:
    if len(field.raw_data or ()) > 1 and not getattr(field, "takes_many", False):
        return "This was given more than once."
    if isinstance(field.data, str) and _NEVER_MEANT.search(field.data):
        return "This holds a character that is not allowed."
    return None
