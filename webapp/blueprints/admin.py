"""The admin pages: how things stand, accounts, runs. They show metadata, never a value."""

from typing import Any

from flask import (
    Blueprint,
    Response,
    abort,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)

from webapp.db import db
from webapp.forms.legacy import UndoForm
from webapp.models import Run
from webapp.services import legacy_mode, legacy_undo, runs
from webapp.services import overview as admin_view
from webapp.services.overview import Page
from webapp.web.gate import admin_required
from webapp.web.htmx import render, see_other, wants_fragment
from webapp.web.identity import current_identity
from webapp.web.sudo import recent_authentication

blueprint = Blueprint("admin", __name__, url_prefix="/admin")

_LARGEST_ID = 2**63 - 1


@blueprint.get("")
@admin_required
def overview() -> Response:
    """How things stand."""
    found = admin_view.overview()
    return make_response(
        render_template(
            "admin/page.html",
            problems=found.problems,
            counts=[
                ("Users", found.accounts),
                ("Administrators", found.admins),
                ("Stored keys", found.keys),
            ],
            requests=found.requests,
            users=found.newest,
            legacy=legacy_mode.is_on(),
            last_import=found.last_import,
            last_check=found.last_check,
            discrepancies=found.open_discrepancies,
        )
    )


@blueprint.get("/users")
@admin_required
def users() -> Response:
    """All accounts."""
    page = admin_view.list_accounts(_number())
    return make_response(
        render_template(
            "admin/users.html", users=page.rows, total=page.total, **_paging(page, "admin.users")
        )
    )


@blueprint.get("/runs", endpoint="runs")
@admin_required
def runs_list() -> Response:
    """Imports and checks, the newest first; those of one kind if the address says so."""
    kind = request.args.get("kind", "")
    only = {"kind": kind} if kind in runs.KINDS else {}
    page = admin_view.list_runs(_number(), **only)
    return make_response(
        render_template(
            "admin/runs.html",
            runs=page.rows,
            kinds=list(runs.KINDS),
            **only,
            **_paging(page, "admin.runs", **only),
        )
    )


@blueprint.get("/runs/<int:run_id>")
@admin_required
def run(run_id: int) -> Response:
    """One run; its fragment asks for itself until the run has ended, and then tells the page."""
    found = db.session.get(Run, run_id) if run_id <= _LARGEST_ID else None
    if found is None:
        abort(404)
    return _render_run(found, UndoForm(None))


@blueprint.post("/runs/<int:run_id>/undo")
@admin_required
@recent_authentication
def undo_run(run_id: int) -> Response:
    """Have an import taken back, once somebody has ticked that this is meant."""
    found = db.session.get(Run, run_id) if run_id <= _LARGEST_ID else None
    if found is None:
        abort(404)
    form = UndoForm(request.form)
    if not form.validate():
        return _render_run(found, form, 422)
    undo = legacy_undo.request_undo(found.id, requested_by_id=current_identity().user_id)
    return see_other(url_for("admin.run", run_id=undo.id))


@blueprint.get("/consistency")
@admin_required
def consistency() -> Response:
    """Where the differences were before the page of the earlier application had them."""
    return make_response(redirect(url_for("legacy.index"), 301))


@blueprint.post("/import")
@admin_required
@recent_authentication
def start_import() -> Response:
    """Ask for an import now."""
    return _start(runs.LEGACY_IMPORT)


@blueprint.post("/check")
@admin_required
@recent_authentication
def start_check() -> Response:
    """Ask for a consistency check now."""
    return _start(runs.CONSISTENCY_CHECK)


def _render_run(found: Run, form: UndoForm, status: int = 200) -> Response:
    can_be_undone = legacy_undo.can_be_undone(found)
    answer = render(
        "admin/run.html",
        "admin/_run.html",
        status,
        run=found,
        form=form if can_be_undone else None,
    )
    if wants_fragment() and found.finished_at is not None:
        answer.headers["HX-Trigger"] = "run-ended"
    return answer


def _start(kind: str) -> Response:
    if not legacy_mode.is_on():
        abort(404)
    started = runs.start(kind, requested_by_id=current_identity().user_id)
    return see_other(url_for("admin.run", run_id=started.id))


def _number() -> int:
    """Return the page asked for; what is no number is the first."""
    text = request.args.get("page", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 1


def _paging(page: Page[Any], endpoint: str, **more: Any) -> dict[str, object]:
    def address(number: int) -> str | None:
        exists = 1 <= number <= page.pages and number != page.number
        return url_for(endpoint, page=number, **more) if exists else None

    return {
        "paging": {
            "number": page.number,
            "pages": page.pages,
            "first": address(1),
            "previous": address(page.number - 1),
            "following": address(page.number + 1),
            "last": address(page.pages),
        }
    }
