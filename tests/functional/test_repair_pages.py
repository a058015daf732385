"""Repairing differences on the page: chosen, previewed, confirmed, and left to the worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder
from tests.legacy_page import PATH, application, check, differ, many
from tests.people import events, signed_in
from tests.repair_page import (
    REPAIR,
    SAMPLE,
    differing,
    fields,
    files,
    ids,
    lines,
    preview,
    repairs,
    words,
)
from tests.visitor import Visitor
from webapp.db import db, transaction
from webapp.models import AuditEvent, Run
from webapp.services import runs
from webapp.services.keys import get_user_api_keys
from webapp.services.legacy_repair import Choice, run_repair

NEW_VERSION = "Take the value of the files as a new version; the one stored here is kept."
WRITTEN = "Write the key into the files; what stands there is kept as an older version."


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return files(tmp_path / "legacy")


@pytest.fixture
def mode() -> str:
    return "import"


@pytest.fixture
def app(make_settings: MakeSettings, folder: LegacyFolder, mode: str) -> Iterator[Flask]:
    yield from differing(make_settings, folder, mode)


@pytest.fixture
def admin(app: Flask) -> Visitor:
    return signed_in(app)


def test_two_are_chosen_previewed_and_repaired(app: Flask, admin: Visitor) -> None:
    chosen = ids(app, username="ann")
    assert len(chosen) == 2
    text = preview(admin, winner="legacy", id=chosen, kind="", username="")
    assert sorted(lines(text)) == [
        "ann github Key only in the database Put the key into the trash here; it can be restored.",
        "ann openai Key differs " + NEW_VERSION,
    ]
    assert "can be settled 2" in words(text).replace("<", "")
    assert "Repair these 2 differences" in text
    confirmed = fields(text)
    assert [int(one) for one in confirmed["id"]] == chosen
    answer = admin.post_form(REPAIR, confirmed, page=PATH)
    (run,) = repairs(app)
    assert answer.location == f"/admin/runs/{run.id}"
    with app.app_context():
        run_repair(run.id)
        assert dict(get_user_api_keys("ann")) == {"openai": "first of ann"}
        assert get_user_api_keys("bob")["openai"] == "here bob"
    page = words(admin.get(answer.location).text)
    assert "Differences settled 2" in page
    assert "Differences left 0" in page
    assert "The earlier application’s files are right." in page
    assert "started by itself" not in page
    (asked,) = events(app, "legacy.repair_requested")
    assert asked.detail == {"run": run.id}


def test_a_preview_changes_nothing(app: Flask, admin: Visitor) -> None:
    def rows() -> list[int | None]:
        with app.app_context():
            return [db.session.scalar(select(func.max(m.id))) for m in (Run, AuditEvent)]

    before = rows()
    preview(admin, winner="legacy", all="1")
    assert rows() == before
    assert len(ids(app)) == 4 + 1  # the admin is not in the files


def test_what_cannot_be_done_is_listed_with_the_reason(app: Flask, admin: Visitor) -> None:
    text = preview(admin, winner="legacy", all="1", kind="only_in_database")
    (line,) = lines(text)
    assert line == (
        "amira whole account Account only in the database Nothing"
        " Accounts are not deleted here; disable it, or let the database win."
    )
    assert "Nothing can be settled this way" in text
    assert "repair-choice" not in text
    both = words(preview(admin, winner="legacy", all="1"))
    assert "can be settled 4 is left as it is 1" in both
    assert "Repair these 5 differences" in both


def test_the_run_says_what_was_left_and_why(app: Flask, admin: Visitor) -> None:
    assert "Automatic repair Off." in words(admin.get(PATH).text)
    admin.post_form(REPAIR, {"winner": "legacy", "all": "1"}, page=PATH)
    (run,) = repairs(app)
    with app.app_context():
        run_repair(run.id)
    page = words(admin.get(f"/admin/runs/{run.id}").text)
    assert "Differences settled 4" in page
    assert "amira , account only in the database: accounts are not deleted here" in page
    (ended,) = repairs(app)
    assert (ended.cursor, ended.total) == (5, 5)


@pytest.mark.parametrize(
    ("part", "found"), [("", ["ann", "bob", "cy"]), ("B", ["bob"]), ("NN", ["ann"])]
)
def test_all_that_match_are_those_of_the_filter(
    app: Flask, admin: Visitor, part: str, found: list[str]
) -> None:
    text = preview(admin, winner="legacy", all="1", kind="key_differs", username=part)
    assert sorted(line.split()[0] for line in lines(text)) == found
    admin.post_form(REPAIR, fields(text), page=PATH)
    (run,) = repairs(app)
    with app.app_context():
        run_repair(run.id)
        for name in SAMPLE:
            value = get_user_api_keys(name)["openai"]
            assert value == (f"first of {name}" if name in found else f"here {name}")


def test_what_came_after_the_preview_is_not_meant(app: Flask, admin: Visitor) -> None:
    confirmed = fields(preview(admin, winner="legacy", all="1", kind="key_differs"))
    differ(app, ("key_differs", "dora", "openai"))
    admin.post_form(REPAIR, confirmed, page=PATH)
    (run,) = repairs(app)
    with app.app_context():
        run_repair(run.id)
    assert len(ids(app, kind="key_differs")) == 1
    assert ids(app, username="dora")


def test_of_many_the_first_hundred_are_shown(app: Flask, admin: Visitor) -> None:
    differ(app, *many(150, "role_differs"))
    text = preview(admin, winner="legacy", all="1", kind="role_differs")
    assert len(lines(text)) == 100
    assert "These are the first 100 of 150" in text
    assert "Repair these 150 differences" in text


def test_a_run_that_started_by_itself_says_so(
    make_settings: MakeSettings, folder: LegacyFolder
) -> None:
    for app in application(make_settings, LEGACY_DIR=str(folder.path), LEGACY_REPAIR="import"):
        check_id = check(app)
        with app.app_context(), transaction() as session:
            arguments = Choice(winner="legacy", after_check=check_id).as_arguments()
            run = Run(kind=runs.LEGACY_REPAIR, status="finished", arguments=arguments)
            session.add(run)
        admin = signed_in(app)
        page = admin.get(f"/admin/runs/{run.id}").text
        assert "It started by itself" in page
        assert f'href="/admin/runs/{check_id}"' in page
        assert "What was deleted here stays deleted." in admin.get(PATH).text


# Which side can win


def test_in_import_mode_the_database_cannot_win_and_the_page_says_so(
    app: Flask, admin: Visitor
) -> None:
    assert "so the database cannot be made to win" in admin.get(PATH).text
    text = preview(admin, winner="database", all="1")
    assert "The database is right." in text
    assert all("LEGACY_MODE=mirror" in line for line in lines(text) if "amira" not in line)
    assert "repair-choice" not in text
    differ(app, *many(150, "rejected_record"))
    for winner, is_offered in (("database", False), ("legacy", True)):
        text = preview(admin, winner=winner, all="1", kind="rejected_record")
        assert ("repair-choice" in text) == is_offered, "the first hundred are not all"


@pytest.mark.parametrize("mode", ["mirror"])
def test_with_the_mirror_the_database_can_win(app: Flask, admin: Visitor) -> None:
    differ(app, ("key_differs", "bob", "openai"))
    assert "cannot be made to win" not in admin.get(PATH).text
    text = preview(admin, winner="database", id=ids(app, username="bob"))
    assert lines(text) == ["bob openai Key differs " + WRITTEN]
    assert fields(text)["winner"] == ["database"]
