"""Answers in two sizes: a whole page, or for htmx the fragment of it that changed."""

from flask import Response, make_response, redirect, render_template, request
from werkzeug.urls import iri_to_uri


def wants_fragment() -> bool:
    """Whether htmx asks for a part of the page that it shows.

    A boosted link and a restored history entry need the whole page.
    """
    headers = request.headers
    return (
        headers.get("HX-Request") == "true"
        and headers.get("HX-Boosted") != "true"
        and headers.get("HX-History-Restore-Request") != "true"
    )


def render(page: str, fragment: str, status: int = 200, **context: object) -> Response:
    """Render `fragment` for htmx and `page`, which includes it, for everybody else."""
    template = fragment if wants_fragment() else page
    return make_response(render_template(template, **context), status)


def see_other(location: str) -> Response:
    """Send the browser to a local page after a form did its work.

    303, and for htmx the header that makes it go there as a whole.
    """
    if not wants_fragment():
        return make_response(redirect(location, 303))
    response = make_response("", 200)
    response.headers["HX-Redirect"] = iri_to_uri(location)
    return response
