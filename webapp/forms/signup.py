"""A new account."""

import unicodedata

from wtforms import BooleanField, Field, Form, StringField, TextAreaField
from wtforms.validators import ValidationError

from webapp.forms.setup import SetupForm
from webapp.forms.strict import AtMost


def _single_line(form: Form, field: Field) -> None:
    if any(unicodedata.category(character) == "Cc" for character in field.data or ""):
        raise ValidationError("Use one line without control characters.")


def _stripped(text: str | None) -> str | None:
    return text.strip() if text else text


class SignupForm(SetupForm):
    """Without a name the username stands in for it."""

    name = StringField("Name", filters=[_stripped], validators=[AtMost(200), _single_line])
    request_admin = BooleanField("I would like to be an administrator")
    admin_reason = TextAreaField("Why you need it", validators=[AtMost(500)])
