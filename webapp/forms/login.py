"""Signing in, the code of the second factor, the password again."""

from wtforms import PasswordField, StringField
from wtforms.validators import Regexp

from webapp.forms.strict import AtMost, StrictForm, required

_MAX_USERNAME = 150
_MAX_PASSWORD = 4096
"""Old passwords of any length keep working; this only bounds the work."""


def _without_spaces(text: str | None) -> str | None:
    return "".join(text.split()) if text else text


class LoginForm(StrictForm):
    username = StringField(
        "Username", validators=[required("Enter your username."), AtMost(_MAX_USERNAME)]
    )
    password = PasswordField(
        "Password", validators=[required("Enter your password."), AtMost(_MAX_PASSWORD)]
    )


class CodeForm(StrictForm):
    """A code of an authenticator app; apps show it with a space in the middle."""

    code = StringField(
        "Code",
        filters=[_without_spaces],
        validators=[
            required("Enter the code that your app shows."),
            Regexp(r"[0-9]{6}\Z", message="A code has six digits."),
        ],
    )


class ReauthenticateForm(StrictForm):
    password = PasswordField(
        "Password", validators=[required("Enter your password."), AtMost(_MAX_PASSWORD)]
    )
