"""The front door."""

from flask import Blueprint, Response, make_response, redirect, url_for

from webapp.web.gate import public
from webapp.web.identity import current_identity_or_none

blueprint = Blueprint("home", __name__)


@blueprint.get("/")
@public
def index() -> Response:
    """To the keys, or to the sign-in."""
    target = "keys.index" if current_identity_or_none() else "login.sign_in"
    return make_response(redirect(url_for(target)))
