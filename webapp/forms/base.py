"""The base of all forms."""

from flask_wtf import FlaskForm
from werkzeug.datastructures import MultiDict


class Form(FlaskForm):
    """A form with a CSRF token, filled from what a browser posted and from nothing else.

    Flask-WTF by itself would also take a JSON body for a form.
    """

    def __init__(self, formdata: MultiDict[str, str] | None = None) -> None:
        super().__init__(formdata=formdata)  # type: ignore[no-untyped-call]
