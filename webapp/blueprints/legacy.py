"""The page of the earlier application: its files, what waits for them, what differs.

Differences are repaired in two steps. The first asks for a preview, which has an address of its
own, so that one can come back to it after giving the password again; the second does it.
"""

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Response, make_response, render_template, request, url_for

from webapp.forms.legacy import RepairForm
from webapp.services import discrepancies, legacy_mode, legacy_repair, legacy_status, runs
from webapp.services.discrepancies import Listing, Position, Selection
from webapp.services.legacy_repair import Choice
from webapp.services.repair_acts import Winner
from webapp.web.chart import line_chart
from webapp.web.gate import admin_required
from webapp.web.htmx import see_other, wants_fragment
from webapp.web.identity import current_identity
from webapp.web.sudo import recent_authentication

blueprint = Blueprint("legacy", __name__, url_prefix="/admin/legacy")

_LARGEST_ID = 2**63 - 1
_LONGEST_KIND = 32
_LONGEST_NAME = 150


@blueprint.get("")
@admin_required
def index() -> Response:
    """How things stand; for htmx the differences alone."""
    return _page()


@blueprint.post("/repair/preview")
@admin_required
def choose_repair() -> Response:
    """Lead to the preview of a repair, or say what is missing for one."""
    form = RepairForm(request.form)
    if not form.validate():
        return _page(form.problems())
    return see_other(url_for("legacy.preview_repair", **_meant(form)))


@blueprint.get("/repair/preview")
@admin_required
def preview_repair() -> Response:
    """What a repair would do. Nothing is changed."""
    form = RepairForm(request.args)
    if not form.validate():
        return _page(form.problems())
    preview = legacy_repair.preview_repair(_choice(form))
    text = render_template(
        "legacy/preview.html",
        preview=preview,
        meant=_meant(form),
        can_write=legacy_mode.is_mirrored(),
    )
    return make_response(text)


@blueprint.post("/repair")
@admin_required
@recent_authentication
def repair() -> Response:
    """Have differences settled, as the preview has shown it."""
    form = RepairForm(request.form)
    if not form.validate():
        return _page(form.problems())
    run = legacy_repair.request_repair(_choice(form), requested_by_id=current_identity().user_id)
    return see_other(url_for("admin.run", run_id=run.id))


def _page(problems: Sequence[str] = ()) -> Response:
    """Render the page, with what is wrong about the repair that was asked for."""
    is_on = legacy_mode.is_on()
    found, status = discrepancies.find(_selection(), _position()), 422 if problems else 200
    context = {
        "is_on": is_on,
        "can_write": legacy_mode.is_mirrored(),
        "found": found,
        "pages": _pages(found),
        "here": _address(found.selection, _position(), anchor=None),
        "repair": url_for("legacy.choose_repair", **_query(_position())) if is_on else None,
        "problems": problems,
        "check": runs.latest(runs.CONSISTENCY_CHECK),
        "compared": runs.latest(runs.CONSISTENCY_CHECK, status="finished"),
    }
    if wants_fragment():
        return make_response(render_template("legacy/_discrepancies.html", **context), status)
    how = legacy_status.status()
    chart = line_chart([(check.finished_at, check.differences) for check in how.checks])
    text = render_template("legacy/page.html", status=how, chart=chart, **context)
    return make_response(text, status)


def _choice(form: RepairForm) -> Choice:
    winner: Winner = "database" if form.winner.data == "database" else "legacy"
    if not form["all"].data:
        return Choice(winner=winner, ids=form["id"].data, up_to=form.up_to.data)
    return Choice(
        winner=winner,
        kinds=[form.kind.data] if form.kind.data else [],
        username_part=form.username.data or "",
        up_to=form.up_to.data,
    )


def _meant(form: RepairForm) -> dict[str, Any]:
    """Return what `form` says, as little as says the same."""
    if not form["all"].data:
        return {"winner": form.winner.data, "id": form["id"].data}
    given = {"kind": form.kind.data, "username": form.username.data}
    return {"winner": form.winner.data, "all": "1"} | {k: v for k, v in given.items() if v}


def _selection() -> Selection:
    """Return what is selected; what no difference can have is left out."""
    return Selection(
        kind=_printable("kind")[:_LONGEST_KIND], username=_printable("username")[:_LONGEST_NAME]
    )


def _printable(name: str) -> str:
    return "".join(filter(str.isprintable, request.values.get(name, ""))).strip()


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


def _address(
    selection: Selection, position: Position | None, anchor: str | None = "differences"
) -> str:
    return url_for(
        "legacy.index",
        kind=selection.kind or None,
        username=selection.username or None,
        **_query(position),
        _anchor=anchor,
    )


def _query(position: Position | None) -> dict[str, Any]:
    if position is None:
        return {}
    return {"before" if position.is_backward else "after": position.row_id}
