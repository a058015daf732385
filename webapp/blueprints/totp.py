"""The second factor of one's own account."""

import segno
from flask import Blueprint, Response, flash, request, url_for

from webapp.config import current_settings
from webapp.forms.totp import CodeForm, DisableForm
from webapp.services import second_factor
from webapp.services.second_factor import AlreadyEnabled, CodeDoesNotFit
from webapp.services.sessions import SessionEnded, must_have_second_factor
from webapp.web.gate import enrolling
from webapp.web.htmx import render, see_other
from webapp.web.identity import Identity, half_identity, hand_out
from webapp.web.sudo import recent_authentication, require_recent_authentication

blueprint = Blueprint("totp", __name__, url_prefix="/account/totp")


@blueprint.route("", methods=["GET", "POST"])
@enrolling
def enrol() -> Response:
    """Show the secret, as QR code and as text, until a code of it has confirmed it."""
    identity, form = _identity(), CodeForm(request.form)
    if not identity.has_second_factor:
        require_recent_authentication(identity)
    if request.method != "POST":
        return _page(identity, form)
    if not form.validate():
        return _page(identity, form, 422)
    try:
        sid = second_factor.confirm_enrolment(identity.sid, identity.user_id, form.code.data or "")
    except CodeDoesNotFit as error:
        form["code"].errors = [str(error)]
        return _page(identity, form, 422)
    except AlreadyEnabled:
        return see_other(url_for("totp.enrol"))
    hand_out(sid)
    flash("Your second factor is on. Every other browser was signed out.", "success")
    return see_other(url_for("accounts.show" if identity.stage == "full" else "keys.index"))


@blueprint.post("/disable")
@recent_authentication
def disable() -> Response:
    """Turn it off."""
    form = DisableForm(request.form)
    if not form.validate():
        return _page(_identity(), form, 422)
    identity = _identity()
    hand_out(second_factor.disable(identity.sid, identity.user_id))
    flash("Your second factor is off. Every other browser was signed out.", "success")
    return see_other(url_for("accounts.show"))


def _identity() -> Identity:
    identity = half_identity()
    if identity is None:
        raise SessionEnded
    return identity


def _page(identity: Identity, form: CodeForm | DisableForm, status: int = 200) -> Response:
    required = must_have_second_factor(current_settings(), is_admin=identity.is_admin)
    enabled_at = second_factor.enabled_since(identity.user_id)
    context: dict[str, object] = {"form": form, "required": required, "enabled_at": enabled_at}
    if not enabled_at:
        enrolment = second_factor.start_enrolment(identity.user_id, identity.username)
        context |= {"secret": enrolment.secret, "qr_svg": _qr_code(enrolment.uri)}
    return render("totp/page.html", "totp/_body.html", status, enabled=bool(enabled_at), **context)


def _qr_code(text: str) -> str:
    """Return an SVG with no style of its own, which the content security policy would refuse."""
    return segno.make(text, error="m").svg_inline(scale=4, omitsize=True, light="white")
