"""What an admin does about the predecessor's files."""

from wtforms import BooleanField

from webapp.forms.strict import StrictForm, required


class UndoForm(StrictForm):
    """Taking an import back. The tick is the second step: it cannot be taken back in its turn."""

    confirm = BooleanField(validators=[required("Tick this first: it cannot be undone.")])
