"""The first admin."""

from wtforms import PasswordField, StringField

from webapp.forms.strict import AtMost, EqualToPassword, StrictForm, required


class SetupForm(StrictForm):
    """Which usernames and passwords are good is the service's to say."""

    username = StringField("Username", validators=[required("Choose a username."), AtMost(50)])
    password = PasswordField("Password", validators=[required("Choose a password."), AtMost(256)])
    confirm = PasswordField(
        "Password again",
        validators=[required("Enter the password again."), EqualToPassword()],
    )
