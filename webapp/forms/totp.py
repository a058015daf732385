"""The second factor."""

from webapp.forms.login import CodeForm
from webapp.forms.strict import StrictForm

__all__ = ["CodeForm", "DisableForm"]


class DisableForm(StrictForm):
    """Nothing but the CSRF token: the password was asked for before."""
