"""Hostile files, end to end: nothing is lost, nothing concluded, nothing answered with 500."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.people import browser, sign_in
from tests.stored_rows import stored
from tests.visitor import Visitor
from webapp import create_app
from webapp.db import db, dispose_engines
from webapp.models import Discrepancy, Run, User
from webapp.services import legacy_lookup, legacy_migration, runs
from webapp.services.consistency import check_consistency
from webapp.services.due_runs import start_due_runs
from webapp.services.keys import UnknownUser, get_user_api_keys, save_user_api_key
from webapp.services.legacy_migration import (
    LegacyFilesUnreadable,
    migrate_api_keys_from_json_to_db,
    preview_import,
)


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users(
        {
            "ann": record(api_keys={"openai": folder.token("of ann")}),
            "bob": record(),
        }
    )
    folder.rest()
    return folder


@pytest.fixture
def app(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path)))
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def no_folder(folder: LegacyFolder) -> None:
    for file in folder.path.iterdir():
        file.unlink()
    folder.path.rmdir()
    folder.path.write_text("no folder")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


Damage = Callable[[LegacyFolder], object]
UNREADABLE: dict[str, Damage] = {
    "empty": lambda f: f.raw(""),
    "white space": lambda f: f.raw(" \n"),
    "not JSON": lambda f: f.raw("users: ann"),
    "cut in a text": lambda f: f.raw('{"users": {"ann": {"name": "A'),
    "cut at the end": lambda f: f.raw('{"users": {}'),
    "NULs": lambda f: f.raw(b"\0" * 4096),
    "UTF-16": lambda f: f.raw('{"users": {}}'.encode("utf-16")),
    "deep": lambda f: f.raw('{"users": {"ann": ' + "[" * 10_000 + "]" * 10_000 + "}}"),
    "a list": lambda f: f.raw("[]"),
    "users as list": lambda f: f.raw('{"users": []}'),
    "users as text": lambda f: f.raw('{"users": "ann"}'),
    "one long text": lambda f: f.raw('{"users": {"ann": "' + "x" * 3_000_000 + '"}}'),
    "missing": lambda f: (f.path / "users.json").unlink(),
    "a loop": lambda f: loop(f.path / "users.json"),
    "a pipe": lambda f: pipe(f.path / "users.json"),
    "no folder": no_folder,
    "two_fa.json torn": lambda f: (f.path / "two_fa.json").write_text('{"ann": {"secr'),
    "two_fa.json empty": lambda f: (f.path / "two_fa.json").write_text(""),
    "two_fa.json deep": lambda f: (f.path / "two_fa.json").write_text(
        '{"ann": ' + "[" * 10_000 + "]" * 10_000 + "}"
    ),
    "two_fa.json a loop": lambda f: loop(f.path / "two_fa.json"),
    "key file missing": lambda f: (f.path / ".encryption_key").unlink(),
    "key file empty": lambda f: (f.path / ".encryption_key").write_text(""),
    "key file torn": lambda f: (f.path / ".encryption_key").write_text(f.key[:20]),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_from_files_that_cannot_be_read_nothing_is_concluded(
    app: Flask, folder: LegacyFolder, kind: str
) -> None:
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        save_user_api_key("bob", "slack", "ours")
        check_consistency()
        UNREADABLE[kind](folder)
        if folder.path.is_dir():
            for file in folder.path.iterdir():
                os.utime(file, (1e9, 1e9), follow_symlinks=False)
        before, differences = stored(), list(db.session.scalars(select(Discrepancy.closed_at)))
        assert differences == [None]
        for act in (preview_import, migrate_api_keys_from_json_to_db, check_consistency):
            with pytest.raises(LegacyFilesUnreadable) as caught:
                act()
            named = {"two_fa.json": "two_fa.json", "key": ".encryption_key"}
            name = named.get(kind.split(maxsplit=1)[0], "users.json")
            assert str(caught.value).startswith(name)
        started = runs.start(runs.LEGACY_IMPORT)
        with pytest.raises(LegacyFilesUnreadable):
            legacy_migration.run_import(started.id)
        failed = db.session.get_one(Run, started.id, populate_existing=True)
        assert failed.status == "failed"
        assert failed.error
        start_due_runs()
        assert stored() == before
        assert list(db.session.scalars(select(Discrepancy.closed_at))) == [None]
        assert dict(get_user_api_keys("ann")) == {"openai": "of ann"}
        with pytest.raises(UnknownUser):
            get_user_api_keys("nobody")
    form = {"name": "X", "username": "zoe", "password": "seven quiet lanterns"}
    answer = browser(app).post_form("/signup", form | {"confirm": form["password"]})
    # Where a key file is what is wrong, the names are known all the same.
    assert answer.status_code == (303 if kind.startswith("key file") else 503)
    assert sign_in(browser(app), "nobody", "a password").status_code == 422
    assert sign_in(browser(app), "ann", "a password").status_code == 303


NAMES = {
    "a" * 300: False,
    "a" * 150: True,
    "": False,
    " ": True,
    "with  spaces ": True,
    "Ægir Ødegård": True,
    "ключ": True,
    "名前": True,
    "\U0001f511": True,
    "0042": True,
    "a/../b": True,
    "<b>bold</b>": True,
    "'; DROP TABLE users; --": True,
    "line\nbreak": True,
    "nul\0byte": False,
    "İstanbul": True,
    "straße": True,
    "STRASSE": False,  # the same as the one before, ignoring case
    "ann": True,
    "ANN": False,
}


def test_every_name_arrives_or_is_rejected_with_its_reason(
    app: Flask, folder: LegacyFolder
) -> None:
    folder.raw("{" + ", ".join(f"{json_text(name)}: {json_record()}" for name in NAMES) + "}")
    with app.app_context():
        foreseen = preview_import()
        report = migrate_api_keys_from_json_to_db()
        assert report == foreseen
        arrived = {name for name, arrives in NAMES.items() if arrives}
        assert set(db.session.scalars(select(User.username))) == arrived
        assert report.users_created == len(arrived)
        assert report.records_rejected == len(report.rejected) == len(NAMES) - len(arrived)
        assert all(entry.reason for entry in report.rejected)
        assert check_consistency().equal == len(arrived)
        for name in arrived:
            assert get_user_api_keys(name)["openai"] == "sk"
    for name in ("0042", "Ægir Ødegård", "with  spaces "):
        assert sign_in(browser(app), name, "a password").status_code == 303


def json_text(text: str) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in text) + '"'


def json_record() -> str:
    return f'{{"password_hash": "{sha256_of("a password")}", "api_keys": {{"openai": "sk"}}}}'


RECORDS: dict[str, tuple[Any, str]] = {
    "null": (None, "not an object"),
    "a number": (42, "not an object"),
    "a text": ("ann", "not an object"),
    "a list": ([record()], "not an object"),
    "an empty object": ({}, "password_hash"),
    "no hash": (record(password_hash=None), "password_hash"),
    "a short hash": (record(password_hash="a" * 63), "password_hash"),
    "keys as list": (record(api_keys=["sk"]), "api_keys"),
    "keys as text": (record(api_keys="sk"), "api_keys"),
    "permissions as list": (record(api_permissions=[]), "api_permissions"),
}
KEYS: dict[str, tuple[Any, dict[str, str]]] = {
    "null": (None, {}),
    "empty": ({}, {}),
    "nested": ({"openai": {"value": "sk"}, "google": ["sk"]}, {}),
    "no values": ({"openai": None, "google": "", "slack": "  "}, {}),
    "numbers": ({"openai": 42, "google": 1.5, "slack": True}, {"openai": "42", "google": "1.5"}),
    "no base64": (
        {"openai": "gAAAA!", "google": "not base64!"},
        {"openai": "gAAAA!", "google": "not base64!"},
    ),
    "unknown providers": (
        {"my-own": "a", "Another One": "b", "ключ": "c"},
        {"my-own": "a", "another_one": "b", "key": "c"},
    ),
}


def test_every_record_arrives_as_far_as_it_can(app: Flask, folder: LegacyFolder) -> None:
    folder.users(
        {f"record {name}": content for name, (content, _) in RECORDS.items()}
        | {f"keys {name}": record(api_keys=content) for name, (content, _) in KEYS.items()}
        | {"keys torn": record(api_keys={"openai": folder.token("x" * 40)[:-9]})}
    )
    folder.second_factors({"keys null": None, "keys empty": "text", "nobody": [], "keys torn": {}})
    with app.app_context():
        foreseen = preview_import()
        report = migrate_api_keys_from_json_to_db()
        assert report == foreseen
        reasons = {entry.name: entry.reason for entry in report.rejected}
        assert set(reasons) == {*(f"record {name}" for name in RECORDS), "keys empty"}
        for name, (_, says) in RECORDS.items():
            assert says in reasons[f"record {name}"]
        assert "two_fa.json" in reasons["keys empty"]
        for name, (_, keys) in KEYS.items():
            if name != "empty":
                assert dict(get_user_api_keys(f"keys {name}")) == keys
        assert set(get_user_api_keys("keys torn").locked) == {"openai"}
        assert report.keys_locked == 1


def test_of_equal_names_the_last_is_imported_and_the_report_says_so(
    app: Flask, folder: LegacyFolder
) -> None:
    first = f'"ann": {{"password_hash": "{sha256_of("the first password")}"}}'
    folder.raw(f'{{"users": {{{first}, "bob": {json_record()}, "ann": {json_record()}}}}}')
    with app.app_context():
        assert get_user_api_keys("ann")["openai"] == "sk", "before the import too"
        foreseen = preview_import()
        report = migrate_api_keys_from_json_to_db()
        assert report == foreseen
        assert (report.users_created, report.users_existing, report.rejected) == (1, 1, ())
        assert "users.json has the username ann 2 times; the last one counts" in report.warnings
        assert get_user_api_keys("ann")["openai"] == "sk"
        assert check_consistency().items == []
    assert sign_in(browser(app), "ann", "the first password").status_code == 422
    assert sign_in(browser(app), "ann", "a password").status_code == 303


def test_a_name_of_a_rejected_record_stays_reserved(app: Flask, folder: LegacyFolder) -> None:
    folder.users({"zoe": 42, "ann": record()})
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        form = {"name": "X", "username": "Zoe", "password": "seven quiet lanterns"}
        answer = browser(app).post_form("/signup", form | {"confirm": form["password"]})
        assert answer.status_code == 422
