"""The page of the earlier application in tests: installations, what they hold, what is read off."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from flask import Flask
from sqlalchemy import insert

from tests.conftest import MakeSettings
from tests.people import add_person
from tests.visitor import Visitor
from webapp import create_app
from webapp.clock import now
from webapp.db import dispose_engines, transaction
from webapp.models import Discrepancy, OutboxEntry, Run
from webapp.services import legacy_lookup, runs

PATH = "/admin/legacy"


def application(make_settings: MakeSettings, *, mode: str = "", **more: str) -> Iterator[Flask]:
    """Make an application in which there is one admin."""
    settings = make_settings(**more)
    app = create_app(replace(settings, legacy_mode=mode) if mode else settings)  # type: ignore[arg-type]
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    add_person(app, is_admin=True)
    yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def check(app: Flask, *, status: str = "finished", days: float = 0, **counts: int) -> int:
    """Add a check that ended some days ago."""
    with app.app_context(), transaction() as session:
        at = now() - timedelta(days=days)
        run = Run(kind=runs.CONSISTENCY_CHECK, status=status, counts=counts, created_at=at)
        run.finished_at = at if status in {"finished", "failed"} else None
        session.add(run)
        session.flush()
        return run.id


def differ(app: Flask, *found: tuple[str, str, str], closed: bool = False) -> None:
    """Store differences: kind, username and name of the key."""
    run_id = check(app)
    at = now()
    seen = {"first_run_id": run_id, "last_run_id": run_id, "first_seen_at": at, "last_seen_at": at}
    with app.app_context(), transaction() as session:
        session.execute(
            insert(Discrepancy),
            [
                {"kind": kind, "username": username, "key_name": key, **seen}
                | {"closed_at": at if closed else None}
                for kind, username, key in found
            ],
        )


def many(number: int, kind: str = "key_differs") -> list[tuple[str, str, str]]:
    """Return so many differences, in the order in which they are listed."""
    return [(kind, f"user{one:06}", "openai") for one in range(number)]


def wait(app: Flask, number: int, *, minutes: float = 0, problem: str | None = None) -> None:
    """Let changes wait for the files."""
    with app.app_context(), transaction() as session:
        at = now() - timedelta(minutes=minutes)
        for key in range(number):
            entry = OutboxEntry(user_id=1, field="key", key_name=f"key{key}", problem=problem)
            entry.created_at = at
            session.add(entry)


def names(text: str) -> list[str]:
    """Return the usernames in the table of differences."""
    return re.findall(r'<th scope="row">(?:<span.*?<label[^>]*>)?([^<]+)<', table(text))


def table(text: str) -> str:
    found = re.search(r'<caption id="differences-table".*?</table>', text, re.DOTALL)
    return found[0] if found else ""
