"""The page of the earlier application: its files, what waits for them, what differs."""

from flask import Blueprint, Response, make_response, render_template, request, url_for

from webapp.services import discrepancies, legacy_mode, legacy_status, runs
from webapp.services.discrepancies import Listing, Position, Selection
from webapp.web.chart import line_chart
from webapp.web.gate import admin_required
from webapp.web.htmx import wants_fragment

blueprint = Blueprint("legacy", __name__, url_prefix="/admin/legacy")

_LARGEST_ID = 2**63 - 1
_LONGEST_KIND = 32
_LONGEST_NAME = 150


@blueprint.get("")
@admin_required
def index() -> Response:
    """How things stand; for htmx the differences alone."""
    found = discrepancies.find(_selection(), _position())
    context = {
        "is_on": legacy_mode.is_on(),
        "found": found,
        "pages": _pages(found),
        "check": runs.latest(runs.CONSISTENCY_CHECK),
        "compared": runs.latest(runs.CONSISTENCY_CHECK, status="finished"),
    }
    if wants_fragment():
        return make_response(render_template("legacy/_discrepancies.html", **context))
    status = legacy_status.status()
    chart = line_chart([(check.finished_at, check.differences) for check in status.checks])
    return make_response(render_template("legacy/page.html", status=status, chart=chart, **context))


def _selection() -> Selection:
    """Return what the address selects; what no difference can have is left out."""
    return Selection(
        kind=_printable("kind")[:_LONGEST_KIND], username=_printable("username")[:_LONGEST_NAME]
    )


def _printable(name: str) -> str:
    return "".join(filter(str.isprintable, request.args.get(name, ""))).strip()


def _position() -> Position | None:
    for name, is_backward in (("after", False), ("before", True)):
        text = request.args.get(name, "")
        if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _LARGEST_ID:
            return Position(int(text), is_backward)
    return None


def _pages(found: Listing) -> dict[str, str | None]:
    """Return the addresses of the pages beside this one, and of the first."""
    return {
        "first": _address(found.selection, None) if found.previous else None,
        "previous": _address(found.selection, found.previous) if found.previous else None,
        "following": _address(found.selection, found.following) if found.following else None,
    }


def _address(selection: Selection, position: Position | None) -> str:
    is_backward = position is not None and position.is_backward
    row_id = position.row_id if position else None
    return url_for(
        "legacy.index",
        kind=selection.kind or None,
        username=selection.username or None,
        before=row_id if is_backward else None,
        after=None if is_backward else row_id,
        _anchor="differences",
    )
