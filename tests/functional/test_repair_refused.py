"""What the repair on the page refuses, and who may ask for it."""

import html
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder
from tests.legacy_page import PATH, application, differ, many, names
from tests.people import PASSWORD, add_person, signed_in
from tests.repair_page import (
    PREVIEW,
    REPAIR,
    SAMPLE,
    differing,
    fields,
    files,
    ids,
    preview,
    repairs,
)
from tests.visitor import Visitor
from webapp.clock import frozen, now
from webapp.db import transaction
from webapp.models import Discrepancy
from webapp.services.legacy_repair import run_repair

# What is refused is refused before the database is asked.
pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)

HTMX = {"HX-Request": "true"}


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return files(tmp_path / "legacy")


@pytest.fixture
def app(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    yield from differing(make_settings, folder)


@pytest.fixture
def admin(app: Flask) -> Visitor:
    return signed_in(app)


@pytest.mark.parametrize("path", [PREVIEW, REPAIR])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"winner": "legacy"}, "Tick the differences that are to be repaired"),
        ({"winner": "legacy", "kind": "", "username": "ann"}, "Tick the differences"),
        ({"winner": "nobody", "all": "1"}, "Say which side is right."),
        ({"all": "1"}, "Say which side is right."),
        ({"winner": ["legacy", "database"], "all": "1"}, "given more than once"),
        ({"winner": "legacy", "all": "1", "kind": "made_up"}, "There are no such differences."),
        ({"winner": "legacy", "all": "1", "username": "x" * 151}, "at most 150"),
        ({"winner": "legacy", "all": "1", "username": "a\0"}, "not allowed"),
        ({"winner": "legacy", "all": "1", "up_to": "9" * 30}, "This is no difference."),
        ({"winner": "legacy", "all": "1", "up_to": "-1"}, "This is no difference."),
        ({"winner": "legacy", "id": "one"}, "This is no difference."),
        ({"winner": "legacy", "id": ["1", "-1"]}, "This is no difference."),
        ({"winner": "legacy", "id": "0"}, "This is no difference."),
        ({"winner": "legacy", "id": str(2**63)}, "This is no difference."),
        ({"winner": "legacy", "id": "9" * 5000}, "This is no difference."),
        ({"winner": "legacy", "id": "٣"}, "This is no difference."),
        ({"winner": "legacy", "id": [*map(str, range(1, 60))]}, "Tick at most 50"),
    ],
)
def test_what_is_missing_or_wrong_is_said_and_nothing_is_done(
    app: Flask, admin: Visitor, path: str, data: dict[str, Any], says: str
) -> None:
    for headers in ({}, HTMX):
        answer = admin.post_form(path, data, page=PATH, headers=headers)
        assert answer.status_code == 422
        assert says in answer.text
        assert 'aria-invalid="true"' in answer.text or "Nothing matches" in answer.text
        assert ("<!doctype html>" in answer.text) == (headers == {})
    assert repairs(app) == []


@pytest.mark.parametrize("query", ["", "?winner=legacy", "?winner=legacy&id=x", "?all=1"])
def test_an_address_that_says_too_little_shows_the_page(admin: Visitor, query: str) -> None:
    answer = admin.get(PREVIEW + query)
    assert answer.status_code == 422
    assert 'hx-get="/admin/legacy"' in answer.text


def test_who_forgot_to_choose_stays_where_they_were(app: Flask, admin: Visitor) -> None:
    differ(app, *many(120, "role_differs"))
    following = re.search(r'rel="next" href="([^"]+)"', admin.get(f"{PATH}?kind=role_differs").text)
    assert following
    page = admin.get(html.unescape(following[1]).partition("#")[0]).text
    form = re.search(r'<form method="post" action="([^"]+)"[^>]*class="repair"', page)
    assert form
    data = {"winner": "legacy", "kind": "role_differs", "username": ""}
    refused = admin.post_form(html.unescape(form[1]), data, page=PATH)
    assert names(refused.text) == names(page)
    assert names(page)[0] == "user000050"


@pytest.mark.parametrize("path", [PREVIEW, REPAIR])
def test_what_is_gone_meanwhile_is_said(app: Flask, admin: Visitor, path: str) -> None:
    chosen = {"winner": "legacy", "id": ids(app, username="bob")}
    with app.app_context(), transaction() as session:
        for row in session.scalars(select(Discrepancy)):
            row.closed_at = now()
    answer = admin.post_form(path, chosen, page="/keys", follow_redirects=True)
    assert answer.status_code == 409
    assert "No open difference fits" in answer.text
    assert repairs(app) == []


def test_one_repair_at_a_time(app: Flask, admin: Visitor) -> None:
    first = {"winner": "legacy", "id": ids(app, username="bob")}
    assert admin.post_form(REPAIR, first, page=PATH).status_code == 303
    second = admin.post_form(REPAIR, {"winner": "legacy", "all": "1"}, page=PATH)
    assert second.status_code == 409
    assert "Another repair is under way" in second.text
    assert len(repairs(app)) == 1
    again = admin.post_form(REPAIR, first, page=PATH)
    assert again.location == f"/admin/runs/{repairs(app)[0].id}", "sent twice it is one"


def test_files_that_cannot_be_read_are_said(
    app: Flask, admin: Visitor, folder: LegacyFolder
) -> None:
    folder.raw('{"users": {"ann": ')
    chosen = {"winner": "legacy", "all": "1"}
    answer = admin.post_form(PREVIEW, chosen, page=PATH, follow_redirects=True)
    assert answer.status_code == 409
    assert "users.json" in answer.text
    admin.post_form(REPAIR, chosen, page=PATH)
    (run,) = repairs(app)
    with app.app_context(), pytest.raises(Exception, match=r"users\.json"):
        run_repair(run.id)
    assert "It did not finish" in admin.get(f"/admin/runs/{run.id}").text
    assert len(ids(app)) == 5


def test_switched_off_nothing_is_repaired(
    make_settings: MakeSettings, folder: LegacyFolder
) -> None:
    for app in application(make_settings, LEGACY_DIR=str(folder.path), LEGACY_MODE="off"):
        differ(app, *many(1))
        admin = signed_in(app)
        for path in (PREVIEW, REPAIR):
            answer = admin.post_form(
                path, {"winner": "legacy", "all": "1"}, page=PATH, follow_redirects=True
            )
            assert answer.status_code == 409
        assert repairs(app) == []


# Who may


def test_it_needs_the_password_again_and_leads_back_to_the_preview(
    app: Flask, admin: Visitor
) -> None:
    with frozen(now()) as set_clock:
        set_clock(now() + timedelta(minutes=20))
        data = {"winner": "legacy", "id": ids(app, username="ann")}
        place = admin.post_form(PREVIEW, data, page=PATH).location
        confirmed = fields(admin.get(place).text)
        referer = {"Referer": f"http://localhost{place}"}
        asked = admin.post_form(REPAIR, confirmed, page=PATH, headers=referer)
        assert asked.status_code == 403
        assert "Give your password" in asked.text
        assert repairs(app) == []
        to = re.search(r'name="next" value="([^"]+)"', asked.text)
        assert to
        assert parse_qs(urlsplit(html.unescape(to[1])).query) == parse_qs(urlsplit(place).query)
        back = admin.post_form(
            "/reauthenticate", {"password": PASSWORD, "next": html.unescape(to[1])}, page=PATH
        )
        assert back.location == html.unescape(to[1])
        again = fields(admin.get(back.location).text)
        assert again == confirmed
        assert admin.post_form(REPAIR, again, page=PATH).status_code == 303
    assert len(repairs(app)) == 1


def test_htmx_is_led_by_headers(app: Flask, admin: Visitor) -> None:
    data = {"winner": "legacy", "all": "1", "username": "é ß"}
    answer = admin.post_form(PREVIEW, data, page=PATH, headers=HTMX)
    assert answer.status_code == 200
    assert answer.headers["HX-Redirect"].startswith(f"{PREVIEW}?winner=legacy&all=1&username=%C3")
    started = admin.post_form(REPAIR, {"winner": "legacy", "all": "1"}, page=PATH, headers=HTMX)
    assert started.headers["HX-Redirect"] == f"/admin/runs/{repairs(app)[0].id}"


def test_others_may_not(app: Flask) -> None:
    add_person(app, "mallory")
    visitor = signed_in(app, "mallory")
    data = {"winner": "legacy", "all": "1"}
    for path in (PREVIEW, REPAIR):
        assert visitor.post_form(path, data, page="/keys").status_code == 403
    assert visitor.get(f"{PREVIEW}?winner=legacy&all=1").status_code == 403
    assert repairs(app) == []


def test_no_value_is_shown_or_stored(app: Flask, admin: Visitor) -> None:
    text = preview(admin, winner="legacy", all="1")
    admin.post_form(REPAIR, fields(text), page=PATH)
    (run,) = repairs(app)
    with app.app_context():
        run_repair(run.id)
    (run,) = repairs(app)
    told = text + json.dumps([run.arguments, run.report]) + admin.get(f"/admin/runs/{run.id}").text
    for name in SAMPLE:
        assert f"first of {name}" not in told
        assert f"here {name}" not in told
