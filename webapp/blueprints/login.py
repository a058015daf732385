"""Signing in, the second step of it, the password again, and out."""

from flask import Blueprint, Response, flash, make_response, request, url_for

from webapp.config import current_settings
from webapp.forms.login import CodeForm, LoginForm, ReauthenticateForm
from webapp.services import login
from webapp.services.login import LoginRefused, WrongCode, WrongPassword
from webapp.services.sessions import SessionEnded
from webapp.services.vault import Locked
from webapp.web.entrance import enter
from webapp.web.gate import enrolling, half_signed_in, public
from webapp.web.htmx import render, see_other, wants_fragment
from webapp.web.identity import (
    Identity,
    current_identity_or_none,
    forget,
    half_identity,
    hand_out,
    presented_sid,
)
from webapp.web.local_paths import requested_next, shown_path
from webapp.web.sudo import RecentAuthenticationNeeded

blueprint = Blueprint("login", __name__)


@blueprint.route("/login", methods=["GET", "POST"])
@public
def sign_in() -> Response:
    """The password. What comes next is the session's stage to say."""
    form = LoginForm(request.form)
    if request.method != "POST":
        if current_identity_or_none():
            return see_other(requested_next() or url_for("keys.index"))
        return _login_page(form)
    if not form.validate():
        return _login_page(form, 422)
    try:
        signed_in = login.sign_in(
            form.username.data or "", form.password.data or "", replaces=presented_sid()
        )
    except LoginRefused as refused:
        form.form_errors.append(str(refused))
        return _login_page(form, 422)
    return enter(signed_in, requested_next())


@blueprint.route("/login/verify", methods=["GET", "POST"])
@half_signed_in
def verify() -> Response:
    """The code of the second factor."""
    form = CodeForm(request.form)
    if request.method != "POST":
        return _verify_page(form)
    if not form.validate():
        return _verify_page(form, 422)
    half = _half()
    try:
        signed_in = login.verify_code(half.sid, half.user_id, form.code.data or "")
    except WrongCode as wrong:
        form["code"].errors = [str(wrong)]
        return _verify_page(form, 422)
    except Locked as locked:
        form.form_errors.append(f"Your code cannot be checked now. {locked} Tell an admin.")
        return _verify_page(form, 503)
    return enter(signed_in, requested_next())


@blueprint.post("/logout")
@public
def sign_out() -> Response:
    """End the session on the server, and have the browser forget what it kept of the pages."""
    sid, half = presented_sid(), half_identity()
    if sid:
        login.sign_out(sid, half.user_id if half else None)
    forget()
    flash("You are signed out.", "success")
    response = see_other(url_for("login.sign_in"))
    # Not "cookies": the message above travels in one, which forget() has emptied of the session.
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response


@blueprint.route("/reauthenticate", methods=["GET", "POST"])
@enrolling
def reauthenticate() -> Response:
    """The password again, for what needs it given a short while ago."""
    form = ReauthenticateForm(request.form)
    if request.method != "POST":
        return _reauthenticate_page(form, 200, requested_next())
    if not form.validate():
        return _reauthenticate_page(form, 422, requested_next())
    identity = _half()
    try:
        sid = login.reauthenticate(
            identity.sid, identity.user_id, identity.username, form.password.data or ""
        )
    except WrongPassword as wrong:
        form["password"].errors = [str(wrong)]
        return _reauthenticate_page(form, 422, requested_next())
    hand_out(sid)
    flash("Thank you. Go on with what you were about to do.", "success")
    return _back_to(requested_next() or url_for("keys.index"))


@blueprint.app_errorhandler(RecentAuthenticationNeeded)
def ask_for_password(needed: RecentAuthenticationNeeded) -> Response:
    """Answer an act that came too late with the form, in place or as a page of its own."""
    return _reauthenticate_page(ReauthenticateForm(formdata=None), 403, shown_path())


def _half() -> Identity:
    identity = half_identity()
    if identity is None:
        raise SessionEnded
    return identity


def _back_to(place: str) -> Response:
    """Send the browser to `place`; where htmx shows it already, have it load anew in place.

    Every form on that page holds the CSRF token of the session before.
    """
    if wants_fragment() and shown_path() == place:
        response = make_response("", 200)
        response.headers["HX-Refresh"] = "true"
        return response
    return see_other(place)


def _login_page(form: LoginForm, status: int = 200) -> Response:
    return render(
        "login/page.html",
        "login/_form.html",
        status,
        form=form,
        next=requested_next(),
        signup_open=current_settings().signup == "open",
    )


def _verify_page(form: CodeForm, status: int = 200) -> Response:
    return render(
        "login/verify.html", "login/_verify.html", status, form=form, next=requested_next()
    )


def _reauthenticate_page(form: ReauthenticateForm, status: int, place: str | None) -> Response:
    return render(
        "login/reauthenticate.html", "login/_reauthenticate.html", status, form=form, next=place
    )
