"""The end of the predecessor's time: what it means, what stands against it, and how it ended."""

from flask import Blueprint, Response, request, url_for

from webapp.forms.cutover import CutoverForm
from webapp.services import cutover_status, legacy_cutover
from webapp.web.gate import admin_required
from webapp.web.htmx import render, see_other
from webapp.web.identity import current_identity
from webapp.web.sudo import recent_authentication

blueprint = Blueprint("cutover", __name__, url_prefix="/admin/legacy/cutover")


@blueprint.get("")
@admin_required
def index() -> Response:
    """What a cut-over does and what stands against it; or how it was, once it is done."""
    return render(
        "legacy/cutover.html",
        "legacy/_cutover.html",
        ready=cutover_status.readiness(),
        form=CutoverForm(None),
    )


@blueprint.post("")
@admin_required
@recent_authentication
def start() -> Response:
    """Have the worker cut over, once somebody has ticked that the predecessor is stopped."""
    form = CutoverForm(request.form)
    if not form.validate():
        return render(
            "legacy/cutover.html",
            "legacy/_cutover_form.html",
            422,
            ready=cutover_status.readiness(),
            form=form,
        )
    run = legacy_cutover.request_cutover(
        form.accept.data or (), requested_by_id=current_identity().user_id
    )
    return see_other(url_for("admin.run", run_id=run.id))
