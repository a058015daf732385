"""Default deny: before any view runs, the request must have the session that the view asks for.

A view that says nothing needs somebody who is signed in with all their factors. The others say so:
`@public`, `@half_signed_in`, `@enrolling`. The list of the public ones stands in a test.
"""

from collections.abc import Callable
from functools import wraps
from typing import Literal, ParamSpec, TypeVar, cast
from urllib.parse import unquote_to_bytes

import structlog
from flask import (
    Flask,
    Response,
    current_app,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from werkzeug.exceptions import BadRequest, HTTPException

from webapp.services import audit, sessions
from webapp.services.errors import ServiceError
from webapp.services.sessions import SessionEnded, Stage
from webapp.web.identity import Identity, current_identity, half_identity
from webapp.web.local_paths import shown_path

_log = structlog.get_logger(__name__)

Access = Literal["public", "half_signed_in", "enrolling", "signed_in"]
View = TypeVar("View", bound=Callable[..., object])
P = ParamSpec("P")
R = TypeVar("R")

_ATTRIBUTE = "keystay_access"
_SAFE = {"GET", "HEAD", "OPTIONS", "TRACE"}
_STAGES: dict[Access, frozenset[Stage]] = {
    "half_signed_in": frozenset({"second_factor"}),
    "enrolling": frozenset({"enrol", "full"}),
    "signed_in": frozenset({"full"}),
}


class CrossSiteRequest(ServiceError):
    """Another site's page sent this."""

    message = "This request came from another site. Nothing was done."


class NotUtf8(ServiceError):
    """A form or an address holds bytes that are not UTF-8: they would be read as something else."""

    message = "What was sent is not UTF-8 text. Nothing was saved."


class AdminsOnly(ServiceError):
    """The page is for admins."""

    message = "Only admins can see this page."


def public(view: View) -> View:
    """Let everybody in."""
    return _mark(view, "public")


def half_signed_in(view: View) -> View:
    """Let in who has given the password and owes the code of the second factor."""
    return _mark(view, "half_signed_in")


def enrolling(view: View) -> View:
    """Let in who is signed in, also while they have yet to set up a second factor."""
    return _mark(view, "enrolling")


def admin_required(view: Callable[P, R]) -> Callable[P, R]:
    """Let in admins only. Raises AdminsOnly, which the audit trail notes."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        identity = current_identity()
        if not identity.is_admin:
            audit.record(
                "security.access_denied", subject_id=identity.user_id, endpoint=request.endpoint
            )
            raise AdminsOnly
        return view(*args, **kwargs)

    return guarded


def access_of(app: Flask, endpoint: str) -> Access:
    """Return whom a view lets in. Flask's own view for static files is public."""
    if endpoint == "static":
        return "public"
    return cast("Access", getattr(app.view_functions[endpoint], _ATTRIBUTE, "signed_in"))


def init_app(app: Flask) -> None:
    """Check every request of `app` before its view, and before its CSRF token.

    Before: a form that outlived its session leads to the sign-in, not to an error.
    """
    app.before_request(_check)
    app.register_error_handler(SessionEnded, lambda error: _send_elsewhere(None))


def _mark(view: View, access: Access) -> View:
    setattr(view, _ATTRIBUTE, access)
    return view


def _check() -> Response | None:
    if request.endpoint is None:
        return None  # 404 or 405, which Flask raises next
    _refuse_cross_site()
    _refuse_other_encodings(_body())
    access = access_of(current_app, request.endpoint)
    if access == "public":
        return None
    identity = half_identity()
    if identity is None or identity.stage not in _STAGES[access]:
        return _send_elsewhere(identity)
    sessions.touch(identity.session_digest, identity.last_seen_at)
    return None


def _refuse_cross_site() -> None:
    """Raise CrossSiteRequest when the browser says that another site makes it change something.

    Browsers send Sec-Fetch-Site, older ones Origin; a program that sends neither has no session to
    abuse. Hosts are compared without the scheme, which a proxy may have changed (ASVS 3.5.1).
    """
    if request.method in _SAFE:
        return
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site not in {None, "same-origin", "none"}:
        _reject()
    if origin == "null" and site is None:
        _reject()
    if origin not in {None, "null"} and (origin or "").partition("://")[2] != request.host:
        _reject()


def _body() -> bytes:
    """Read the whole body, which is kept for the form. Raises BadRequest for one that is torn.

    The error of the server that reads it quotes what was sent, and must not reach the log.
    """
    try:
        return request.get_data()
    except HTTPException:
        raise
    except Exception as error:
        _log.warning("body cannot be read", reason=type(error).__name__)
        raise BadRequest from None


def _refuse_other_encodings(body: bytes) -> None:
    """Raise NotUtf8 where Werkzeug would turn the bytes into their percent-encoded form, or fail.

    It puts a replacement character into the fields of a multipart form, which forms refuse.
    """
    try:
        request.query_string.decode("utf-8")
        if request.mimetype == "application/x-www-form-urlencoded":
            unquote_to_bytes(body).decode("utf-8")
    except UnicodeDecodeError:
        raise NotUtf8 from None


def _reject() -> None:
    _log.warning("cross-site request rejected", endpoint=request.endpoint)
    audit.record_sparingly("security.cross_site_rejected", endpoint=request.endpoint)
    raise CrossSiteRequest


def _send_elsewhere(identity: Identity | None) -> Response:
    """Send the browser where its sign-in goes on.

    htmx gets 401, and a message for the page that it is on: what was typed there stays.
    """
    target = _target(identity)
    if request.headers.get("HX-Request") != "true":
        return make_response(redirect(target, 302 if request.method in _SAFE else 303))
    context = {
        "title": "You are signed out",
        "explanation": "Your session has ended, so nothing was saved.",
        "advice": "What you typed is still on this page; copy it if you need it.",
        "sign_in": target,
    }
    if request.method in _SAFE:
        context |= {"explanation": "Your session has ended.", "advice": ""}
    response = make_response(render_template("errors/_alert.html", **context), 401)
    response.headers["HX-Retarget"] = "#alerts"
    response.headers["HX-Reswap"] = "innerHTML"
    return response


def _target(identity: Identity | None) -> str:
    shown = shown_path()
    if identity is None:
        return url_for("login.sign_in", next=shown)
    if identity.stage == "second_factor":
        return url_for("login.verify", next=shown)
    if identity.stage == "enrol":
        return url_for("totp.enrol")
    return url_for("keys.index")
