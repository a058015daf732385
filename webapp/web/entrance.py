"""The one place where a browser receives a new session and is sent on."""

from flask import Response, url_for

from webapp.services.login import SignedIn
from webapp.web.htmx import see_other
from webapp.web.identity import hand_out


def enter(signed_in: SignedIn, destination: str | None = None) -> Response:
    """Give the browser its new session and send it on: to the next step, or where it wanted to."""
    hand_out(signed_in.sid)
    if signed_in.stage == "second_factor":
        return see_other(url_for("login.verify", next=destination))
    if signed_in.stage == "enrol":
        return see_other(url_for("totp.enrol"))
    return see_other(destination or url_for("keys.index"))
