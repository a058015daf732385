"""One id and one log line per request: route, status, duration, who; never what was sent."""

import secrets
import time
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

import structlog
from flask import Flask, Response, g, request

from webapp.services.actor import NOBODY, Actor, current_actor, set_actor

_log = structlog.get_logger("keystay.request")


def init_app(app: Flask) -> None:
    """Begin each request of `app` with an id and an anonymous actor, and end it with a log line.

    The id is always our own: one sent by a client could hold anything.
    """

    @app.before_request
    def begin() -> None:
        g.request_id = secrets.token_hex(8)
        g.began = time.perf_counter()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)
        set_actor(
            Actor(
                via="web",
                address=_client_address(request.remote_addr or ""),
                user_agent=request.user_agent.string[:300],
                request_id=g.request_id,
            )
        )

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        if request.endpoint not in {"static", "health.live", "health.ready"}:
            actor = current_actor()
            _log.info(
                "request",
                user_id=actor.user_id,
                address=actor.address,
                method=request.method,
                # The rule and not the path: a path can hold a one-time token.
                route=str(request.url_rule) if request.url_rule else "unmatched",
                status=response.status_code,
                milliseconds=round(1000 * (time.perf_counter() - g.get("began", 0)), 1),
            )
        return response

    @app.teardown_request
    def forget(error: BaseException | None) -> None:
        # The next thing that this thread does is somebody else's.
        structlog.contextvars.clear_contextvars()
        set_actor(NOBODY)


def _client_address(text: str) -> str:
    """Return the IP address in `text`, which some proxies write with a port; else nothing."""
    with suppress(ValueError):
        return _ip_address(text)
    with suppress(ValueError):
        return _ip_address(urlsplit(f"//{text}").hostname or "")
    return ""


def _ip_address(text: str) -> str:
    # Without its zone, which is of this host and can have any length.
    ip = ip_address(text.partition("%")[0])
    return str(getattr(ip, "ipv4_mapped", None) or ip)
