"""What an admin does about the predecessor's files."""

from collections.abc import Sequence
from typing import Any

from wtforms import BooleanField, Field, IntegerField, StringField
from wtforms.validators import AnyOf, NumberRange, Optional, ValidationError

from webapp.forms.strict import AtMost, StrictForm, required
from webapp.legacy.compare import Kind

_LARGEST_ID = 2**63 - 1
_LONGEST_NAME = 150
_MOST_IDS = 50
"""A page of differences."""


class UndoForm(StrictForm):
    """Taking an import back. The tick is the second step: it cannot be taken back in its turn."""

    confirm = BooleanField(validators=[required("Tick this first: it cannot be undone.")])


class _RowIds(Field):
    """The ids of rows, given any number of times."""

    takes_many = True
    data: list[int]

    def process_data(self, value: object) -> None:
        self.data = []

    def process_formdata(self, valuelist: Sequence[Any]) -> None:
        self.data = [*dict.fromkeys(map(_row_id, valuelist))]
        if len(self.data) > _MOST_IDS:
            raise ValueError(f"Tick at most {_MOST_IDS}, or take all that match.")


class RepairForm(StrictForm):
    """Which differences are to be settled, and which side is right.

    Either `id`s, or `all` open ones of `kind` and `username` up to the id `up_to`.
    """

    class Meta(StrictForm.Meta):
        # It is read from addresses too, where it changes nothing. Flask-WTF checks every POST.
        csrf = False

    winner = StringField(validators=[AnyOf(("database", "legacy"), "Say which side is right.")])
    all = BooleanField()
    id = _RowIds()
    kind = StringField(validators=[Optional(), AnyOf([*Kind], "There are no such differences.")])
    username = StringField(validators=[AtMost(_LONGEST_NAME)])
    up_to = IntegerField(
        validators=[Optional(), NumberRange(1, _LARGEST_ID, "This is no difference.")]
    )

    def validate_id(self, field: _RowIds) -> None:
        if not field.data and not self["all"].data and not field.errors:
            raise ValidationError(
                "Tick the differences that are to be repaired, or all that match."
            )

    def problems(self) -> list[str]:
        """Return what is wrong, in sentences."""
        return [str(problem) for field in self for problem in field.errors]


def _row_id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 0 < int(text) <= _LARGEST_ID):
        raise ValueError("This is no difference.")
    return int(text)
