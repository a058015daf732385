"""The differences on the page of the earlier application: by kind, searched, in pages."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import update

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder
from tests.legacy_page import PATH, application, check, differ, many, names, wait
from tests.people import signed_in
from tests.visitor import Visitor
from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import Discrepancy
from webapp.services import discrepancies, legacy_mode
from webapp.services.discrepancies import MOST_COUNTED, PAGE_SIZE, Selection

HTMX = {"HX-Request": "true"}
KINDS = ("key_differs", "only_in_legacy", "password_differs")


@pytest.fixture
def app(make_settings: MakeSettings, tmp_path: Path) -> Iterator[Flask]:
    """An application with the predecessor's folder, and one admin."""
    legacy = LegacyFolder(tmp_path / "legacy")
    yield from application(make_settings, LEGACY_DIR=str(legacy.path))


@pytest.fixture
def admin(app: Flask) -> Visitor:
    return signed_in(app)


def test_differences_are_counted_by_kind_and_narrowed_to_one(app: Flask, admin: Visitor) -> None:
    differ(app, *((kind, f"{kind}-{n}", "") for kind in KINDS for n in range(3)))
    differ(app, ("key_differs", "closed", "openai"), closed=True)
    page = admin.get(PATH).text
    assert len(names(page)) == 9
    assert "Password differs" in page
    link = re.search(r'href="(/admin/legacy\?kind=password_differs)".*?count">(\d+)<', page)
    assert link
    assert link[2] == "3"
    narrowed = admin.get(link[1]).text
    assert names(narrowed) == [f"password_differs-{n}" for n in range(3)]
    assert re.search(r'id="kind-password_differs"[^>]*aria-current="true"', narrowed)
    assert "Nothing matches" in admin.get(f"{PATH}?kind=role_differs").text


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("ami", ["Amira", "amina"]),
        ("MIR", ["Amira"]),
        ("%", ["100%_me"]),
        ("_", ["100%_me"]),
        ("*", ["a*b?[c]"]),
        ("?[C]", ["a*b?[c]"]),
        ("ÜMIT", ["ümit"]),
        ("üM", ["ümit"]),
        ("ünal [*", []),
        ("  amina ", ["amina"]),
        ("\0", ["100%_me", "Amira", "a*b?[c]", "amina", "ümit"]),
    ],
)
def test_usernames_are_found_by_a_part_in_upper_or_lower_case(
    app: Flask, admin: Visitor, part: str, found: list[str]
) -> None:
    everyone = ["100%_me", "Amira", "a*b?[c]", "amina", "ümit"]
    differ(app, *(("key_differs", name, "openai") for name in everyone))
    page = admin.get(PATH, query_string={"username": part, "kind": "key_differs"})
    assert names(page.text) == found
    if not found:
        assert "Nothing matches" in page.text


def test_a_search_is_escaped_and_kept_in_the_page(app: Flask, admin: Visitor) -> None:
    differ(app, ("key_differs", "amira", "openai"))
    page = admin.get(PATH, query_string={"username": '"><script>', "kind": '"><b>'}).text
    assert "<script>" not in page
    assert '"><b>' not in page
    assert 'name="username" type="search" value="&#34;&gt;&lt;script&gt;"' in page


def test_htmx_gets_the_differences_alone(app: Flask, admin: Visitor) -> None:
    differ(app, ("key_differs", "amira", "openai"))
    page = admin.get(f"{PATH}?username=ami", headers=HTMX).text
    assert page.startswith('<div id="differences"')
    assert names(page) == ["amira"]
    restored = admin.get(PATH, headers=HTMX | {"HX-History-Restore-Request": "true"})
    assert "<html" in restored.text


def follow(admin: Visitor, page: str, rel: str) -> str:
    """Follow a link of the pages."""
    found = re.search(rf'rel="{rel}" href="([^"]+)"', page)
    assert found
    assert found[1].endswith("#differences")
    return admin.get(found[1].replace("&amp;", "&").partition("#")[0]).text


@pytest.mark.parametrize("query", ["", "?kind=key_differs", "?username=USER", "?username=r0"])
def test_pages_are_turned_there_and_back(app: Flask, admin: Visitor, query: str) -> None:
    everyone = many(2 * PAGE_SIZE + 10)
    differ(app, *everyone)
    pages = [admin.get(PATH + query).text]
    while 'rel="next"' in pages[-1]:
        pages.append(follow(admin, pages[-1], "next"))
    shown = [names(page) for page in pages]
    assert [name for page in shown for name in page] == [name for _, name, _ in everyone]
    assert [len(page) for page in shown] == [PAGE_SIZE, PAGE_SIZE, 10]
    assert all("110 differences" in page for page in pages)
    assert 'rel="prev"' not in pages[0]
    back = follow(admin, pages[-1], "prev")
    assert names(back) == shown[1]
    assert names(follow(admin, back, "prev")) == shown[0]


def test_a_page_whose_rows_were_repaired_meanwhile_is_the_first(app: Flask, admin: Visitor) -> None:
    differ(app, *many(PAGE_SIZE + 1))
    with app.app_context():
        following = discrepancies.find(Selection()).following
        assert following
        with transaction() as session:
            session.execute(
                update(Discrepancy)
                .where(Discrepancy.username == f"user{PAGE_SIZE:06}")
                .values(closed_at=now())
            )
    assert len(names(admin.get(f"{PATH}?after={following.row_id}").text)) == PAGE_SIZE


@pytest.mark.parametrize("place", ["after=0", "before=x", f"after={2**63}", "after=" + "9" * 40])
def test_a_place_that_does_not_exist_is_the_first_page(
    app: Flask, admin: Visitor, place: str
) -> None:
    differ(app, ("key_differs", "amira", "openai"))
    assert names(admin.get(f"{PATH}?{place}").text) == ["amira"]


def test_a_search_counts_only_so_far(app: Flask, admin: Visitor) -> None:
    differ(app, *many(MOST_COUNTED + 1))
    assert "More than 1,000 differences" in admin.get(f"{PATH}?username=user").text
    assert "1,001 differences" in admin.get(PATH).text


@pytest.mark.parametrize("query", ["", "?kind=key_differs", "?username=user", "?username=none"])
def test_it_costs_as_many_statements_and_rows_however_much_differs(
    app: Flask,
    admin: Visitor,
    statements: list[str],
    query: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    differ(app, *many(PAGE_SIZE + 5))
    for round_ in range(3):
        check(app, days=round_)
    monkeypatch.setattr(legacy_mode, "_ASKED_EVERY_SECONDS", 600.0)
    admin.get(PATH + query)
    statements.clear()
    admin.get(PATH + query)
    before = len(statements)
    differ(app, *many(3_000, "only_in_legacy"))
    wait(app, 30, problem="No space is left.")
    for round_ in range(70):
        check(app, days=round_)
    statements.clear()
    admin.get(PATH + query)
    assert len(statements) == before <= 12
    read = [text for text in statements if "FROM discrepancies" in text]
    assert len(read) <= 3
    assert all("LIMIT" in text or "GROUP BY" in text for text in read), "no table is read whole"
    with app.app_context():
        found = discrepancies.find(Selection(username=query.partition("username=")[2]))
        assert len(found.rows) <= PAGE_SIZE
        assert sum(
            1 for one in db.session.identity_map.values() if isinstance(one, Discrepancy)
        ) <= (PAGE_SIZE + 1)


def test_those_on_the_page_can_be_chosen_or_all_that_match(app: Flask, admin: Visitor) -> None:
    differ(app, *many(PAGE_SIZE + 5))
    with app.app_context():
        ids = [one.id for one in discrepancies.find(Selection("key_differs", "user")).rows]
    text = admin.get(f"{PATH}?kind=key_differs&username=user").text
    form = re.search(
        r'<form method="post" action="/admin/legacy/repair/preview".*?</form>', text, re.DOTALL
    )
    assert form
    assert [int(one) for one in re.findall(r'name="id" value="(\d+)"', form[0])] == ids
    assert re.findall(r'name="winner" value="(\w+)"', form[0]) == ["database", "legacy"]
    assert 'name="kind" value="key_differs"' in form[0]
    assert 'name="username" value="user"' in form[0]
    assert 'name="all" value="1"' in form[0]
    assert "All 55 that match" in form[0]


def test_without_a_predecessor_nothing_can_be_chosen(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    legacy = LegacyFolder(tmp_path / "legacy")
    for app in application(make_settings, LEGACY_DIR=str(legacy.path), LEGACY_MODE="off"):
        differ(app, *many(1))
        page = signed_in(app).get(PATH).text
        assert names(page) == ["user000000"]
        assert "winner" not in page
