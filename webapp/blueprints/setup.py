"""The one-time link that creates the first admin."""

from flask import Blueprint, Response, request

from webapp.forms.setup import SetupForm
from webapp.services import setup
from webapp.services.errors import InvalidInput
from webapp.services.legacy_lookup import NamesUnknown
from webapp.web.entrance import enter
from webapp.web.gate import public
from webapp.web.htmx import render
from webapp.web.identity import presented_sid

blueprint = Blueprint("setup", __name__)


@blueprint.route("/setup/<token>", methods=["GET", "POST"])
@public
def create_admin(token: str) -> Response:
    """404 for a wrong token, and for every token once an account exists."""
    setup.check_setup_token(token)
    form = SetupForm(request.form)
    if request.method != "POST":
        return _page(form, token)
    if not form.validate():
        return _page(form, token, 422)
    try:
        signed_in = setup.create_first_admin(
            token, form.username.data or "", form.password.data or "", replaces=presented_sid()
        )
    except InvalidInput as error:
        form[error.field].errors = [str(error)]
        return _page(form, token, 422)
    except NamesUnknown as error:
        form.form_errors.append(str(error))
        return _page(form, token, 503)
    return enter(signed_in)


def _page(form: SetupForm, token: str, status: int = 200) -> Response:
    return render("setup/page.html", "setup/_form.html", status, form=form, token=token)
