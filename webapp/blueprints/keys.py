"""The keys page and its acts. Each works as a plain form and as an htmx fragment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from flask import Blueprint, Response, make_response, render_template, request, url_for

from webapp.forms.keys import NewKeyForm, SaveKeyForm, save_form
from webapp.providers import PROVIDERS
from webapp.services import keys
from webapp.services.errors import InvalidInput
from webapp.services.key_list import KeyEntry, find_entry, list_keys
from webapp.services.key_rules import MaskedValue, check_name
from webapp.services.keys import KeyExists, RevealedKey, SaveReceipt
from webapp.web.htmx import see_other, wants_fragment
from webapp.web.identity import current_identity
from webapp.web.sudo import recent_authentication

blueprint = Blueprint("keys", __name__, url_prefix="/keys")


@dataclass(frozen=True, kw_only=True)
class KeyView(KeyEntry):
    """A key of the list, with the form of a save that was just refused."""

    form: SaveKeyForm | None = None
    offer_literal: bool = False

    @classmethod
    def of(cls, entry: KeyEntry, form: SaveKeyForm | None = None, *, literal: bool = False) -> Self:
        return cls(**vars(entry), form=form, offer_literal=literal)


@blueprint.get("")
def index() -> Response:
    """Every key; after a save without htmx with its receipt, read from the database too."""
    return _page(with_receipt=True)


@blueprint.post("")
def create() -> Response:
    """A new custom key."""
    form = NewKeyForm(request.form)
    refused = _save(form, form.name.data or "", must_be_new=True) if form.validate() else None
    if isinstance(refused, SaveReceipt):
        name = form.name.data or ""
        if not wants_fragment():
            return _to_receipt(name, refused)
        return make_response(
            render_template(
                "keys/_created.html", key=KeyView.of(_entry(name)), receipt=_receipt(name, refused)
            )
        )
    literal = isinstance(refused, MaskedValue)
    if wants_fragment():
        fragment = render_template("keys/_new.html", new_form=form, new_offer_literal=literal)
        return make_response(fragment, 422)
    return _page(422, new_form=form, new_offer_literal=literal)


@blueprint.post("/<name>")
def save(name: str) -> Response:
    """Create or replace the key of any valid name."""
    check_name(name)
    form = save_form(name)(request.form)
    refused = _save(form, name) if form.validate() else None
    if isinstance(refused, SaveReceipt):
        if not wants_fragment():
            return _to_receipt(name, refused)
        return _row(KeyView.of(_entry(name)), receipt=_receipt(name, refused))
    view = KeyView.of(_entry(name), form, literal=isinstance(refused, MaskedValue))
    if wants_fragment():
        return _row(view, 422)
    return _page(422, changed=view)


@blueprint.post("/<name>/reveal")
@recent_authentication
def reveal(name: str) -> Response:
    """The value, once, in this answer only."""
    revealed = keys.reveal_user_api_key(current_identity().username, name)
    context = {"name": name, "fields": _revealed_fields(revealed)}
    if wants_fragment():
        return make_response(render_template("keys/_revealed.html", revealed=context))
    return _page(revealed=context)


@blueprint.post("/<name>/delete")
def delete(name: str) -> Response:
    """To the trash."""
    keys.delete_user_api_key(current_identity().username, name)
    if wants_fragment():
        return _row(KeyView.of(_entry(name)))
    return see_other(url_for("keys.index", _anchor=f"key-{name}"))


def _save(
    form: SaveKeyForm, name: str, *, must_be_new: bool = False
) -> SaveReceipt | InvalidInput | KeyExists:
    """Save what the form holds; a refusal is put beside its field and returned."""
    try:
        return keys.save_user_api_key(
            current_identity().username,
            name,
            form.key_value(),
            literal=form.literal.data,
            expires_at=form.expires_at(),
            must_be_new=must_be_new,
        )
    except InvalidInput as error:
        field = error.field if error.field in form else "value"
        form[field].errors = [str(error)]
        return error
    except KeyExists as error:
        form["name"].errors = [str(error)]
        return error


def _entry(name: str) -> KeyEntry:
    return find_entry(current_identity().username, name)


def _row(view: KeyView, status: int = 200, **context: object) -> Response:
    return make_response(render_template("keys/_key.html", key=view, **context), status)


def _page(
    status: int = 200,
    *,
    changed: KeyView | None = None,
    with_receipt: bool = False,
    **context: object,
) -> Response:
    """The whole page; `changed` takes the place of its key."""
    entries = list_keys(current_identity().username)
    views = [KeyView.of(entry) for entry in entries]
    if changed:
        views = [changed if view.name == changed.name else view for view in views]
        if changed.name not in {view.name for view in views}:
            views.append(changed)
    receipt = _requested_receipt(views) if with_receipt else None
    return make_response(
        render_template("keys/page.html", keys=views, receipt=receipt, **context), status
    )


def _receipt(name: str, receipt: SaveReceipt) -> dict[str, object]:
    return {"name": name, **vars(receipt)}


def _to_receipt(name: str, receipt: SaveReceipt) -> Response:
    """Send the browser to the page with the receipt of a save, whose text is read there anew."""
    same = None if receipt.changed else 1
    place = url_for(
        "keys.index", saved=name, version=receipt.version, same=same, _anchor=f"key-{name}"
    )
    return see_other(place)


def _requested_receipt(views: Sequence[KeyView]) -> dict[str, object] | None:
    """Return the receipt that the address asks for, while that version is the current one."""
    for view in views:
        asked = (view.name, str(view.version)) == (
            request.args.get("saved"),
            request.args.get("version"),
        )
        if asked and view.fingerprint and view.updated_at:
            receipt = SaveReceipt(
                view.version or 0, view.updated_at, view.fingerprint, "same" not in request.args
            )
            return _receipt(view.name, receipt)
    return None


def _revealed_fields(revealed: RevealedKey) -> list[dict[str, str]]:
    if isinstance(revealed.value, str):
        return [{"name": "value", "label": "Value", "value": revealed.value}]
    return [
        {"name": field.name, "label": field.label, "value": revealed.value[field.name]}
        for field in PROVIDERS[revealed.name].fields
        if field.name in revealed.value
    ]
