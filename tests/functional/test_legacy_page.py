"""The page of the earlier application: its files, what waits for them, how the checks went."""

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import update

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder
from tests.legacy_page import PATH, application, check, differ, names, wait
from tests.people import signed_in
from tests.visitor import Visitor
from webapp.clock import now
from webapp.db import transaction
from webapp.models import OutboxEntry


@pytest.fixture
def legacy(tmp_path: Path) -> LegacyFolder:
    return LegacyFolder(tmp_path / "legacy")


@pytest.fixture
def app(make_settings: MakeSettings, legacy: LegacyFolder) -> Iterator[Flask]:
    """An application with the predecessor's folder, and one admin."""
    yield from application(make_settings, LEGACY_DIR=str(legacy.path))


@pytest.fixture
def admin(app: Flask) -> Visitor:
    return signed_in(app)


def row(text: str, source: str) -> str:
    """Return the row of a source, as text."""
    found = re.search(rf"<code>{re.escape(source)}</code>.*?</tr>", text, re.DOTALL)
    assert found
    return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())


def test_the_former_address_leads_here(admin: Visitor) -> None:
    answer = admin.get("/admin/consistency")
    assert (answer.status_code, answer.location) == (301, PATH)
    assert 'href="/admin/legacy" aria-current="page"' in admin.get(PATH).text


def test_it_starts_runs(admin: Visitor) -> None:
    for act in ("import", "check"):
        started = admin.post_form(f"/admin/{act}", page=PATH)
        assert started.status_code == 303
        assert "Waiting" in admin.get(started.location).text
    assert admin.get(PATH).text.count('hx-trigger="every 2s"') == 2


# Sources


def test_the_files_are_shown_as_they_lie_there(legacy: LegacyFolder, admin: Visitor) -> None:
    legacy.raw(b" " * 4_100)
    os.utime(legacy.path / "users.json", (1_767_225_600, 1_767_225_600))
    (legacy.path / "two_fa.json").unlink()
    (legacy.path / ".encryption_key").write_bytes(b"")
    page = admin.get(PATH).text
    assert row(page, "users.json") == (
        "users.json Accounts and keys There 4.1 kB 1 Jan 2026, 00:00 UTC"
    )
    assert "Missing Fine if nobody had a second factor there." in row(page, "two_fa.json")
    assert "Empty Nothing is concluded" in row(page, ".encryption_key")
    assert "Keystay reads the earlier application’s files and never writes them." in page


def test_what_is_no_file_is_unreadable(legacy: LegacyFolder, admin: Visitor) -> None:
    users, factors = legacy.path / "users.json", legacy.path / "two_fa.json"
    users.unlink()
    users.mkdir()
    factors.unlink()
    factors.symlink_to(factors)
    page = admin.get(PATH).text
    assert "Unreadable It is not a regular file." in row(page, "users.json")
    assert "Unreadable It cannot be looked at: " in row(page, "two_fa.json")


def test_a_folder_that_is_not_there_yet_breaks_no_page(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    for app in application(make_settings, LEGACY_DIR=str(tmp_path / "later")):
        admin = signed_in(app)
        assert admin.get("/admin").status_code == 200
        page = admin.get(PATH).text
        assert "Missing Without it nothing can be imported" in row(page, "users.json")
        assert "users.json still lies" not in page


@pytest.mark.parametrize("path", ["/admin", PATH])
def test_the_warning_stands_while_the_hashes_lie_there(
    legacy: LegacyFolder, admin: Visitor, path: str
) -> None:
    assert "users.json still lies in the earlier application’s folder" in admin.get(path).text
    (legacy.path / "users.json").unlink()
    assert "users.json still lies" not in admin.get(path).text


def test_switched_off_it_starts_nothing_and_still_warns(
    make_settings: MakeSettings, legacy: LegacyFolder
) -> None:
    for app in application(make_settings, LEGACY_DIR=str(legacy.path), LEGACY_MODE="off"):
        page = signed_in(app).get(PATH).text
        assert "The files are neither read nor written" in page
        assert "users.json still lies" in page
        assert "Import now" not in page
        assert "nothing is, while the mode is off" in page


def test_without_a_predecessor_there_is_nothing_to_compare(make_settings: MakeSettings) -> None:
    for app in application(make_settings):
        page = signed_in(app).get(PATH).text
        assert "Nothing to compare" in page
        assert "Import now" not in page


# What waits


def test_what_waits_is_counted_with_its_age_and_problems(app: Flask, admin: Visitor) -> None:
    assert "Waiting to be written back" not in admin.get(PATH).text
    wait(app, 2, minutes=180, problem="users.json is <torn>.")
    wait(app, 3, minutes=20, problem="No space is left.")
    wait(app, 1)
    page = admin.get(PATH).text
    assert "<dt>changes waiting</dt><dd>6</dd>" in page
    assert "<dt>the oldest has waited</dt><dd>3 hours</dd>" in page
    assert page.index("No space is left.") < page.index("users.json is &lt;torn&gt;."), (
        "newest first"
    )
    assert "(3 changes)" in page
    assert "Nothing is written back in this mode" in page
    with app.app_context(), transaction() as session:
        session.execute(update(OutboxEntry).values(applied_at=now()))
    assert "Waiting to be written back" not in admin.get(PATH).text


def test_a_mirror_says_that_nothing_waits_and_when_nobody_writes(
    make_settings: MakeSettings, legacy: LegacyFolder
) -> None:
    for app in application(make_settings, mode="mirror", LEGACY_DIR=str(legacy.path)):
        admin = signed_in(app)
        assert "Every change has reached the files." in admin.get(PATH).text
        wait(app, 1)
        page = admin.get(PATH).text
        assert "<dt>change waiting</dt><dd>1</dd>" in page
        assert "Nobody is writing them" not in page
        with app.app_context(), transaction() as session:
            session.execute(update(OutboxEntry).values(created_at=now() - timedelta(minutes=6)))
        assert "Nobody is writing them" in admin.get(PATH).text


# What a check left


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (None, "Nothing was compared yet"),
        ("running", "The first check is under way"),
        ("failed", "Nothing was concluded"),
        ("finished", "Both sides agree"),
    ],
)
def test_without_differences_it_says_why(
    app: Flask, admin: Visitor, status: str | None, says: str
) -> None:
    if status:
        check(app, status=status)
    assert says in admin.get(PATH).text


def test_a_check_under_way_does_not_hide_what_the_one_before_found(
    app: Flask, admin: Visitor
) -> None:
    check(app, days=1)
    check(app, status="pending")
    assert "Both sides agree" in admin.get(PATH).text


def test_after_a_failed_check_the_differences_are_those_of_before(
    app: Flask, admin: Visitor
) -> None:
    differ(app, ("key_differs", "amira", "openai"))
    check(app, status="failed")
    page = admin.get(PATH).text
    assert "The last check concluded nothing" in page
    assert names(page) == ["amira"]


# The course of the differences


def test_the_course_counts_neither_what_agrees_nor_what_is_on_its_way(
    app: Flask, admin: Visitor
) -> None:
    check(app, days=2, equal=5, key_differs=3, only_in_legacy=1, pending=9)
    assert "After the second check" in admin.get(PATH).text
    check(app, days=1, status="failed")
    check(app, days=0, equal=9, pending=4)
    page = admin.get(PATH).text
    assert "2 checks: 4 differences at the first, 0 at the last, 4 at most." in page
    assert 'points="0.0,0.0 600.0,120.0"' in page
    drawn = re.search(r"<svg class=\"chart-drawing\".*?</svg>", page, re.DOTALL)
    assert drawn
    assert "<title" in drawn[0]
    assert "<desc" in drawn[0]
    told = re.search(r'<caption id="course-table".*?</table>', page, re.DOTALL)
    assert told
    assert re.findall(r'data-label="(\w+)">([\d,]+)<', told[0]) == [
        ("Differences", "0"),
        ("Agree", "9"),
        ("Differences", "4"),
        ("Agree", "5"),
    ]


def test_the_course_is_that_of_the_last_sixty_checks(app: Flask, admin: Visitor) -> None:
    for days in range(70):
        check(app, days=days, key_differs=days)
    page = admin.get(PATH).text
    assert "60 checks: 59 differences at the first" in page
