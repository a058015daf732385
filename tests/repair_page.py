"""Repairs on the page of the earlier application in tests: what differs, what is read off."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record
from tests.legacy_page import PATH, application
from tests.visitor import Visitor
from webapp.db import db
from webapp.models import Discrepancy, Run
from webapp.services import runs
from webapp.services.consistency import check_consistency
from webapp.services.keys import save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db

PREVIEW = f"{PATH}/repair/preview"
REPAIR = f"{PATH}/repair"
SAMPLE = ("ann", "bob", "cy")


def files(path: Path) -> LegacyFolder:
    """Write three accounts, each with a key."""
    folder = LegacyFolder(path)
    folder.users(
        {name: record(api_keys={"openai": folder.token(f"first of {name}")}) for name in SAMPLE}
    )
    return folder


def differing(
    make_settings: MakeSettings, folder: LegacyFolder, mode: str = "import"
) -> Iterator[Flask]:
    """Make an application in which the three have other values, ann a key more, and an admin.

    A check has found that.
    """
    for app in application(make_settings, LEGACY_DIR=str(folder.path), LEGACY_MODE=mode):
        with app.app_context():
            migrate_api_keys_from_json_to_db()
            for name in SAMPLE:
                save_user_api_key(name, "openai", f"here {name}")
            save_user_api_key("ann", "github", "only here")
            check_consistency()
        yield app


def ids(app: Flask, **columns: str) -> list[int]:
    """Return the ids of the open differences of these columns."""
    with app.app_context():
        query = select(Discrepancy.id).filter_by(closed_at=None, **columns)
        return list(db.session.scalars(query.order_by(Discrepancy.id)))


def fields(text: str) -> dict[str, list[str]]:
    """Return what the confirmation sends."""
    form = re.search(r'<form class="repair-choice".*?</form>', text, re.DOTALL)
    assert form
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[0]):
        found.setdefault(name, []).append(html.unescape(value))
    found.pop("csrf_token")
    return found


def words(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def lines(text: str) -> list[str]:
    """Return the rows of the preview as text."""
    found = re.search(r'<caption id="steps-table".*?</table>', text, re.DOTALL)
    assert found
    return [words(row) for row in re.findall(r"<tr>.*?</tr>", found[0], re.DOTALL)[1:]]


def preview(admin: Visitor, **data: Any) -> str:
    answer = admin.post_form(PREVIEW, data, page=PATH)
    assert answer.status_code == 303, answer.text
    shown = admin.get(answer.location)
    assert shown.status_code == 200
    return shown.text


def repairs(app: Flask) -> list[Run]:
    with app.app_context():
        return list(db.session.scalars(select(Run).filter_by(kind=runs.LEGACY_REPAIR)))
