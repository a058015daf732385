"""One's own account."""

from flask import Blueprint, Response, make_response, render_template

from webapp.services import accounts, sessions
from webapp.web.identity import current_identity

blueprint = Blueprint("accounts", __name__, url_prefix="/account")


@blueprint.get("")
def show() -> Response:
    """The profile, the state of the second factor, and how many browsers are signed in."""
    identity = current_identity()
    return make_response(
        render_template(
            "accounts/page.html",
            account=accounts.find_user(identity.username),
            sessions=sessions.count_open(identity.user_id),
        )
    )
