"""Saving a key."""

from datetime import UTC, datetime, time

from wtforms import BooleanField, DateField, StringField
from wtforms.validators import InputRequired, Length, Optional

from webapp.forms.strict import StrictForm
from webapp.providers import PROVIDERS


class SaveKeyForm(StrictForm):
    """What every save has; the fields of the value are added by `save_form`."""

    literal = BooleanField()
    expires_on = DateField(validators=[Optional()])

    def key_value(self) -> str | dict[str, str]:
        """Return the value, or the fields of a multi-field provider, as they were typed."""
        raise NotImplementedError

    def expires_at(self) -> datetime | None:
        """Return the end of the chosen day, UTC."""
        day = self.expires_on.data
        return datetime.combine(day, time(23, 59, 59), UTC) if day else None


class TextKeyForm(SaveKeyForm):
    """A key with one value."""

    value = StringField()

    def key_value(self) -> str:
        return self.value.data or ""


class NewKeyForm(TextKeyForm):
    """A custom key under a name of its own."""

    name = StringField(validators=[InputRequired("Give the key a name."), Length(max=200)])


def save_form(name: str) -> type[SaveKeyForm]:
    """Return the form that saves the key `name`."""
    provider = PROVIDERS.get(name)
    if not provider or not provider.fields:
        return TextKeyForm
    fields = provider.fields

    class FieldsKeyForm(SaveKeyForm):
        def key_value(self) -> dict[str, str]:
            return {field.name: self[field.name].data or "" for field in fields}

    for field in fields:
        setattr(FieldsKeyForm, field.name, StringField())
    return FieldsKeyForm
