"""A dry run says exactly what a run would do, and a further Fernet key unlocks what was locked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.people import browser
from tests.stored_rows import stored
from tests.visitor import Visitor
from webapp import clock, create_app
from webapp.clock import now
from webapp.db import db, dispose_engines, transaction
from webapp.legacy.records import LegacyUser
from webapp.models import ApiKey, ApiKeyVersion, Run, User
from webapp.services import legacy_lookup, legacy_migration, runs
from webapp.services.due_runs import start_due_runs
from webapp.services.import_report import ImportReport
from webapp.services.keys import delete_user_api_key, get_user_api_keys, save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db, preview_import

LATER_KEY = Fernet.generate_key().decode()
SECRET = "JBSWY3DPEHPK3PXP"


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return LegacyFolder(tmp_path / "legacy")


@contextmanager
def application(make_settings: MakeSettings, folder: LegacyFolder, **more: str) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path), **more))
    app.config["TESTING"] = True
    app.test_client_class = Visitor
    with app.app_context():
        yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


@pytest.fixture
def app(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    with application(make_settings, folder) as app:
        yield app


@pytest.fixture
def later(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    """The same installation, given a further Fernet key."""
    with application(make_settings, folder, LEGACY_ENCRYPTION_KEYS=LATER_KEY) as app:
        yield app


def run_as_foreseen() -> ImportReport:
    """Import, and return the report once it is the one that a dry run gave, which wrote nothing."""
    before = stored()
    foreseen = preview_import()
    assert stored() == before
    report = migrate_api_keys_from_json_to_db()
    assert report == foreseen
    finished = runs.latest(runs.LEGACY_IMPORT)
    assert finished is not None
    assert finished.counts == foreseen.counts()
    assert foreseen.details().items() <= finished.report.items()
    return report


def sign_up(app: Flask, username: str) -> None:
    password = "seven quiet lanterns"
    form = {"name": "X", "username": username, "password": password, "confirm": password}
    assert browser(app).post_form("/signup", form).status_code == 303


def many_cases(folder: LegacyFolder, round_: int) -> str:
    """Return a users.json with somebody for every case; most of it changes from round to round."""
    token, lost = folder.token(f"value {round_}"), folder.token("locked", LATER_KEY)
    people: list[tuple[str, Any]] = [
        ("same", record(api_keys={"openai": "never encrypted", "smtp_host": "mail"})),
        ("changed", record(api_keys={"openai": token, f"added{round_}": "value"})),
        ("Ann", record(name="first of two", api_keys={"openai": token})),
        ("ANN", record(name="of another case", api_keys={"openai": "not imported"})),
        ("twice", record(api_keys={"openai": "not imported", "slack": "neither"})),
        ("twice", record(api_keys={"openai": token})),
        ("locked", record(api_keys={"openai": lost, "smtp_host": "h", "smtp_pass": lost})),
        ("locked_later", record(api_keys={"openai": lost if round_ else token})),
        ("saved_here", record(api_keys={"openai": token, "google": lost})),
        ("deleted_here", record(api_keys={"openai": token})),
        ("factor", record()),
        ("warned", record(last_login="yesterday", api_keys={"My Key": [], "O K": "1"})),
        ("Stranger", record(role="admin", api_keys={"openai": token})),
        ("rejected", record(password_hash="?", api_keys={"openai": token})),
        ("no record", 42),
        ("n" * 300, record()),
        (f"new{round_}", record(api_keys={"openai": token, "google": lost, "empty": ""})),
        ("password", record(password_hash=sha256_of(f"password {round_}"))),
    ]
    text = ", ".join(f"{json.dumps(name)}: {json.dumps(content)}" for name, content in people)
    return f'{{"users": {{{text}}}}}'


def test_every_case_is_foreseen(
    app: Flask, later: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy_migration, "BATCH", 4)
    sign_up(app, "stranger")
    with app.app_context():
        folder.raw(many_cases(folder, 0))
        first = run_as_foreseen()
        assert min(first.users_created, first.keys_imported, first.keys_locked) > 0
        save_user_api_key("saved_here", "openai", "ours")
        save_user_api_key("saved_here", "google", "ours, too")
        save_user_api_key("changed", "openai", "value 1")  # the same that the file will have
        delete_user_api_key("deleted_here", "openai")
        run_as_foreseen()
        folder.raw(many_cases(folder, 1))
        folder.second_factors({"factor": {"secret": SECRET, "enabled": True}, "ANN": {}, "?": {}})
        second = run_as_foreseen()
        assert all(second.counts().values()), "there is a case for every count"
        assert {entry.name for entry in second.rejected} == {
            "ANN",
            "Stranger",
            "rejected",
            "no record",
            "n" * 150,
        }
        assert len(second.warnings) > 4
        (folder.path / "two_fa.json").unlink()
        run_as_foreseen()
    with later.app_context():
        unlocked = run_as_foreseen()
        assert unlocked.keys_locked == 0
        assert unlocked.keys_imported == 4
        again = run_as_foreseen()
        assert (again.keys_imported, again.keys_locked) == (0, 0)


names = st.sampled_from(["ann", "Ann", "bob", "cleo", "stranger", "x" * 200])
values = st.sampled_from(["one", "two", "", None, "token", "lost", 7, ["list"]])
records = st.one_of(
    st.sampled_from([None, "text", {}]),
    st.builds(
        lambda keys, **fields: record(api_keys=keys, **fields),
        st.none() | st.dictionaries(st.sampled_from(["openai", "My Key", "smtp_pass"]), values),
        role=st.sampled_from(["user", "admin", "?"]),
        password_hash=st.sampled_from([sha256_of("a"), sha256_of("b"), "?"]),
    ),
)
factors = st.dictionaries(
    names,
    st.sampled_from([None, {}, "?", {"secret": SECRET, "enabled": True}, {"secret": SECRET}]),
    max_size=3,
)


def save_ours(username: str, name: str) -> None:
    mail = {"host": "smtp.example.com", "port": "25", "user": "me", "password": "ours"}
    save_user_api_key(username, name, mail if name == "smtp" else "ours")


acts = st.lists(
    st.tuples(st.sampled_from([save_ours, delete_user_api_key]), st.integers(0, 5)), max_size=2
)


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(
    people=st.lists(st.tuples(names, records), max_size=6),
    factors=factors,
    acts=acts,
    has_further_key=st.booleans(),
)
def test_whatever_stands_there_is_foreseen(
    app: Flask,
    later: Flask,
    folder: LegacyFolder,
    people: list[tuple[str, Any]],
    factors: dict[str, Any],
    acts: list[tuple[Any, int]],
    has_further_key: bool,
) -> None:
    """Each example finds in the database what the ones before left there."""
    tokens = {"token": folder.token("opened"), "lost": folder.token("locked", LATER_KEY)}
    text = ", ".join(f"{json.dumps(name)}: {json.dumps(content)}" for name, content in people)
    for word, token in tokens.items():
        text = text.replace(json.dumps(word), json.dumps(token))
    folder.raw(f'{{"users": {{{text}}}}}')
    folder.second_factors(factors)
    with (later if has_further_key else app).app_context():
        if not db.session.scalar(select(User.id).where(User.username == "stranger")):
            with transaction() as session:
                session.add(User(username="stranger", self_registered=True))
        keys = db.session.execute(
            select(User.username, ApiKey.name).join(ApiKey, ApiKey.user_id == User.id)
        ).all()
        db.session.rollback()
        for act, number in acts:
            if keys:
                row = keys[number % len(keys)]
                act(row.username, row.name)
        run_as_foreseen()


def test_a_further_key_unlocks_what_was_locked_and_nothing_else(
    app: Flask, later: Flask, folder: LegacyFolder
) -> None:
    lost = folder.token("unlocked", LATER_KEY)
    people = {
        "whole": record(api_keys={"openai": lost}),
        "older": record(),
        "mail": record(api_keys={"smtp_host": "mail", "smtp_user": "me", "smtp_pass": lost}),
        "replaced": record(api_keys={"openai": lost}),
        "deleted": record(api_keys={"openai": lost}),
    }
    folder.users(people)
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        people["older"] = record(api_keys={"google": lost})  # one from before
        folder.users(people)
        migrate_api_keys_from_json_to_db()
        assert set(get_user_api_keys("older").locked) == {"google"}
        save_user_api_key("replaced", "openai", "ours")
        delete_user_api_key("deleted", "openai")
    with later.app_context():
        report = run_as_foreseen()
        assert (report.keys_imported, report.keys_kept, report.keys_locked) == (3, 2, 0)
        assert dict(get_user_api_keys("whole")) == {"openai": "unlocked"}
        assert dict(get_user_api_keys("older")) == {"google": "unlocked"}
        found = get_user_api_keys("mail")["smtp"]
        assert found == {"host": "mail", "user": "me", "password": "unlocked"}
        assert dict(get_user_api_keys("replaced")) == {"openai": "ours"}
        assert dict(get_user_api_keys("deleted")) == {}
        newest = db.session.scalars(
            select(ApiKeyVersion.fingerprint)
            .join(ApiKey, ApiKey.id == ApiKeyVersion.api_key_id)
            .where(ApiKey.current_version == ApiKeyVersion.version, ApiKey.deleted_at.is_(None))
        ).all()
        assert None not in newest
    with app.app_context():  # and without the key again: nothing is locked anew
        migrate_api_keys_from_json_to_db()
        assert dict(get_user_api_keys("whole")) == {"openai": "unlocked"}


def test_an_import_with_a_further_key_starts_by_itself(
    app: Flask, later: Flask, folder: LegacyFolder
) -> None:
    folder.users({"ann": record(api_keys={"openai": folder.token("unlocked", LATER_KEY)})})
    folder.rest()
    with app.app_context():
        migrate_api_keys_from_json_to_db()
    with clock.frozen(now() + timedelta(minutes=1)):
        with app.app_context():
            start_due_runs()
            assert waiting() == [runs.CONSISTENCY_CHECK], "nothing is new"
        with later.app_context():
            user = legacy_lookup.find_account("ann")
            assert isinstance(user, LegacyUser), "until then people read it from the files"
            start_due_runs()
            assert waiting() == [runs.CONSISTENCY_CHECK, runs.LEGACY_IMPORT]
            started = runs.latest(runs.LEGACY_IMPORT)
            assert started is not None
            legacy_migration.run_import(started.id)
            assert dict(get_user_api_keys("ann")) == {"openai": "unlocked"}
            start_due_runs()
            assert waiting() == [runs.CONSISTENCY_CHECK]


def waiting() -> list[str]:
    db.session.rollback()
    found = select(Run.kind).where(Run.finished_at.is_(None)).order_by(Run.id)
    kinds = list(db.session.scalars(found))
    db.session.rollback()
    return kinds
