"""New accounts, where SIGNUP is open."""

from flask import Blueprint, Response, make_response, render_template, request

from webapp.forms.signup import SignupForm
from webapp.services.accounts import Application, SignupClosed, check_signup_open, sign_up
from webapp.services.errors import InvalidInput
from webapp.services.legacy_lookup import NamesUnknown
from webapp.web.entrance import enter
from webapp.web.gate import public
from webapp.web.htmx import render
from webapp.web.identity import presented_sid

blueprint = Blueprint("signup", __name__)


@blueprint.route("/signup", methods=["GET", "POST"], endpoint="sign_up")
@public
def sign_up_page() -> Response:
    """Make an account and sign it in."""
    check_signup_open()
    form = SignupForm(request.form)
    if request.method != "POST":
        return _page(form)
    if not form.validate():
        return _page(form, 422)
    application = Application(
        name=form.name.data or "",
        username=form.username.data or "",
        password=form.password.data or "",
        request_admin=bool(form.request_admin.data),
        admin_reason=form.admin_reason.data or "",
    )
    try:
        return enter(sign_up(application, replaces=presented_sid()))
    except InvalidInput as error:
        form[error.field].errors = [str(error)]
        return _page(form, 422)
    except NamesUnknown as error:
        form.form_errors.append(str(error))
        return _page(form, 503)


@blueprint.errorhandler(SignupClosed)
def closed(error: SignupClosed) -> Response:
    return make_response(render_template("signup/closed.html"), 403)


def _page(form: SignupForm, status: int = 200) -> Response:
    return render("signup/page.html", "signup/_form.html", status, form=form)
