"""Ending the predecessor's time."""

from typing import Any

from wtforms import BooleanField, SelectMultipleField
from wtforms.validators import ValidationError

from webapp.forms.strict import StrictForm, required
from webapp.legacy.compare import Kind

_KINDS = frozenset(kind.value for kind in Kind)


class _Kinds(SelectMultipleField):
    takes_many = True


class CutoverForm(StrictForm):
    """Which kinds of differences may stay, and that the predecessor is stopped, which cannot be
    found out from here."""

    accept = _Kinds(validate_choice=False)
    stopped = BooleanField(
        validators=[required("Stop the earlier application first, and tick this then.")]
    )

    def validate_accept(self, field: Any) -> None:
        if not _KINDS.issuperset(field.data):
            raise ValidationError("There is no such kind of difference.")
