"""Failures become answers here and nowhere else."""

import math
from contextlib import suppress

import structlog
from flask import Flask, Response, current_app, g, make_response, render_template, request
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, SecurityError

from webapp.db import UNREACHABLE, db
from webapp.services import audit
from webapp.services.errors import InvalidInput, ServiceError, UnknownUser
from webapp.services.keyring import KeyringRefused
from webapp.services.keys import EnvironmentKeyHidden, KeysUnavailable, NoSuchKey, SaveNotConfirmed
from webapp.services.legacy_undo import NoSuchRun
from webapp.services.setup import SetupDone
from webapp.services.throttle import Throttled
from webapp.web.gate import AdminsOnly, CrossSiteRequest, NotUtf8
from webapp.web.htmx import wants_fragment
from webapp.web.identity import render_for_nobody

_log = structlog.get_logger(__name__)

_STATUS: tuple[tuple[type[ServiceError], int], ...] = (
    (KeysUnavailable, 503),
    (KeyringRefused, 503),
    (SaveNotConfirmed, 500),
    (NoSuchKey, 404),
    (UnknownUser, 404),
    (NoSuchRun, 404),
    (EnvironmentKeyHidden, 403),
    (AdminsOnly, 403),
    (CrossSiteRequest, 403),
    (NotUtf8, 400),
    (SetupDone, 404),
    (Throttled, 429),
    (InvalidInput, 422),
    (ServiceError, 409),
)
_PROBES = {"/healthz": "health.live", "/readyz": "health.ready"}
_PAGES = {
    400: ("This request was not understood", "Go back, reload the page and try again."),
    403: ("You may not do this", "If you should be able to, ask an admin."),
    404: ("There is no such page", "Check the address, or start again from your keys."),
    405: ("This address does not work that way", "Go back and use the page’s own buttons."),
    409: ("This could not be done", "Go back and reload the page, to see how things stand now."),
    413: ("That is too much", "What was sent is larger than a key can be. Nothing was saved."),
    422: ("This could not be accepted", "Check what was entered. Nothing was saved."),
    429: ("Too many attempts", "This keeps others from guessing. Nothing was changed."),
    500: (
        "Something went wrong here",
        (
            "It was recorded. What you had saved before is safe; whether this last act took effect"
            " is not certain, so look before you repeat it."
        ),
    ),
    503: (
        "Your keys cannot be reached right now",
        "They are not gone. Try again shortly.",
    ),
}


def init_app(app: Flask) -> None:
    """Register the handlers of `app`."""
    app.register_error_handler(CSRFError, _csrf_rejected)
    app.register_error_handler(SecurityError, _wrong_host)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(ServiceError, _service_error)
    for unreachable in UNREACHABLE:
        app.register_error_handler(unreachable, _database_unreachable)
    app.register_error_handler(Exception, _unexpected)


def error_page(status: int, explanation: str = "", *, retry_after: float | None = None) -> Response:
    """Return the designed answer of `status`; it needs no database and no signed-in person.

    For htmx it goes to the page's alerts, so that what was typed stays where it is.
    """
    title, advice = _PAGES.get(status, _PAGES[400 if status < 500 else 500])
    request_id = g.get("request_id", "")
    context = {"title": title, "explanation": explanation, "advice": advice}
    try:
        response = _rendered(status, **context, request_id=request_id)
    except Exception:
        # The server's own answer would have none of our headers, and its log the whole address.
        _log.exception("error page failed")
        response = _plain(status, f"{title}. {advice} Request {request_id}\n")
    if retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return response


def _rendered(status: int, **context: str) -> Response:
    render_for_nobody()
    if not wants_fragment():
        template = "keys/unavailable.html" if status == 503 else "errors/page.html"
        return make_response(render_template(template, **context), status)
    response = make_response(render_template("errors/_alert.html", **context), status)
    response.headers["HX-Retarget"] = "#alerts"
    response.headers["HX-Reswap"] = "innerHTML"
    return response


def _plain(status: int, text: str) -> Response:
    response = make_response(text, status)
    response.mimetype = "text/plain"
    return response


def _wrong_host(error: SecurityError) -> Response:
    """Answer in plain text: a page needs addresses, and a host that is not ours has none."""
    if request.path in _PROBES:  # load balancers and service managers ask by address
        return make_response(current_app.view_functions[_PROBES[request.path]]())
    return _plain(400, "This address is not one of this site (see TRUSTED_HOSTS).\n")


def _http_error(error: HTTPException) -> Response:
    if error.response is not None or (error.code or 500) < 400:
        return make_response(error.get_response())
    response = error_page(error.code or 500)
    if error.code == 405:
        allowed = error.get_response().headers.get("Allow")
        if allowed:
            response.headers["Allow"] = allowed
    return response


def _csrf_rejected(error: CSRFError) -> Response:
    _log.warning("csrf rejected", reason=error.description, endpoint=request.endpoint)
    try:
        audit.record_sparingly("security.csrf_rejected", endpoint=request.endpoint)
    except UNREACHABLE as unreachable:
        return _database_unreachable(unreachable)
    return error_page(
        400,
        "This form is out of date: it was opened before you signed in or out. Nothing was saved.",
    )


def _service_error(error: ServiceError) -> Response:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    if status >= 500:
        _log.error("service failed", error=type(error).__name__, exc_info=error)
    retry_after = error.retry_after if isinstance(error, Throttled) else None
    return error_page(status, str(error), retry_after=retry_after)


def _database_unreachable(error: Exception) -> Response:
    _log.error("database unreachable", exc_info=error)
    return error_page(503, "The database cannot be reached.")


def _unexpected(error: Exception) -> Response:
    """The last resort (ASVS 16.5.4): nothing of the error reaches the person, all of it the log."""
    _log.error("unexpected error", exc_info=error)
    with suppress(*UNREACHABLE):
        db.session.rollback()
    return error_page(500)
