"""Asking for an import to be undone: on the page, as a command, and what follows from it."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import select, update

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record
from tests.people import add_person, browser, events, sign_in, signed_in
from tests.visitor import Visitor
from webapp import clock, create_app
from webapp.clock import now
from webapp.db import db, dispose_engines, transaction
from webapp.models import LoginSession, Run, User
from webapp.services import legacy_lookup, legacy_migration, legacy_mode, runs
from webapp.services.due_runs import start_due_runs
from webapp.services.keys import UnknownUser, get_user_api_keys, save_user_api_key
from webapp.services.legacy_cutover import SidesDiffer, cut_over
from webapp.services.legacy_migration import UndoUnderWay, migrate_api_keys_from_json_to_db
from webapp.services.legacy_undo import (
    AnotherUndo,
    CutOver,
    CutOverUnderWay,
    ImportUnderWay,
    NoSuchRun,
    NotAnImport,
    request_undo,
    run_undo,
    undo_import,
)


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users({name: record(api_keys={"openai": f"of {name}"}) for name in ("ann", "bob")})
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


@pytest.fixture(autouse=True)
def _always_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process knows of imports is never more than a moment old."""
    monkeypatch.setattr(legacy_lookup, "_ASKED_EVERY_SECONDS", 0.0)


def imported(app: Flask) -> int:
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        return newest(runs.LEGACY_IMPORT).id


def newest(kind: str) -> Run:
    found = runs.latest(kind)
    assert found is not None
    return found


def usernames(app: Flask) -> list[str]:
    with app.app_context():
        return list(db.session.scalars(select(User.username).order_by(User.id)))


def flask(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["legacy", "undo", *arguments])


def test_the_command_says_what_went_and_what_was_kept(app: Flask) -> None:
    import_id = imported(app)
    with app.app_context():
        save_user_api_key("bob", "openai", "sk-saved-here")
    result = flask(app, str(import_id), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "users_removed": 1,
        "users_kept": 1,
        "keys_removed": 1,
        "keys_restored": 0,
        "keys_kept": 1,
        "kept": [{"username": "bob", "reason": "a key was saved here"}],
    }
    for_people = flask(app, str(import_id))
    assert "users kept                   1\n" in for_people.stdout
    assert "kept: bob: a key was saved here" in for_people.stdout
    assert usernames(app) == ["bob"]


def test_the_command_names_what_cannot_be_undone(app: Flask) -> None:
    with app.app_context():
        check = runs.begin(runs.CONSISTENCY_CHECK)
    for number, says in (("999999", NoSuchRun.message), (str(check.run_id), NotAnImport.message)):
        result = flask(app, number, "--json")
        assert (result.exit_code, json.loads(result.stdout)) == (1, {"error": says})
        assert result.stderr == f"{says}\n"
    for words in ([], ["x"], ["0"], [str(2**63)], ["1", "--nonsense"]):
        assert flask(app, *words).exit_code == 2


def test_an_admin_ticks_that_it_is_meant_and_a_worker_does_it(app: Flask) -> None:
    import_id = imported(app)
    add_person(app, "root", is_admin=True)
    admin = signed_in(app, "root")
    path = f"/admin/runs/{import_id}"
    page = admin.get(path).text
    assert 'name="confirm"' in page
    assert "hx-trigger" not in page
    unticked = admin.post_form(f"{path}/undo", page=path)
    assert unticked.status_code == 422
    assert "Tick this first" in unticked.text
    assert events(app, "legacy") == []
    answer = admin.post_form(f"{path}/undo", {"confirm": "1"}, page=path)
    assert answer.status_code == 303
    with app.app_context():
        undo = newest(runs.LEGACY_UNDO)
        assert (undo.status, undo.arguments) == ("pending", {"run": import_id})
        assert answer.location == f"/admin/runs/{undo.id}"
        assert [e.detail for e in events(app, "legacy.undo_requested")] == [{"run": undo.id}]
        run_undo(undo.id)
    done = admin.get(answer.location).text
    assert "Accounts removed" in done
    assert f'href="{path}"' in done, "it says which import that was"
    assert 'name="confirm"' not in done, "an undo cannot be undone"
    assert usernames(app) == ["root"]


def test_it_needs_the_password_given_a_short_while_ago(app: Flask) -> None:
    import_id = imported(app)
    add_person(app, "root", is_admin=True)
    admin = signed_in(app, "root")
    with app.app_context(), transaction() as session:
        session.execute(update(LoginSession).values(authenticated_at=now() - timedelta(hours=1)))
    path = f"/admin/runs/{import_id}"
    answer = admin.post_form(f"{path}/undo", {"confirm": "1"}, page=path)
    assert answer.status_code != 303 or "/reauthenticate" in answer.location
    with app.app_context():
        assert runs.latest(runs.LEGACY_UNDO) is None


def test_what_is_no_import_that_ended_cannot_be_undone_on_the_page(app: Flask) -> None:
    import_id = imported(app)
    add_person(app, "root", is_admin=True)
    admin = signed_in(app, "root")
    with app.app_context():
        check = runs.begin(runs.CONSISTENCY_CHECK)
        running = runs.begin(runs.LEGACY_IMPORT)
    ticked, page = {"confirm": "1"}, f"/admin/runs/{import_id}"
    for number, status in ((check.run_id, 409), (import_id, 409), (999_999, 404), (2**70, 404)):
        answer = admin.post_form(f"/admin/runs/{number}/undo", ticked, page=page)
        assert answer.status_code == status
    for number in (check.run_id, running.run_id):
        assert 'name="confirm"' not in admin.get(f"/admin/runs/{number}").text


def test_imports_and_undos_take_turns(app: Flask) -> None:
    first, second = imported(app), imported(app)
    with app.app_context():
        lease = runs.begin(runs.LEGACY_IMPORT)
        for act in (undo_import, lambda number: request_undo(number, requested_by_id=1)):
            with pytest.raises(ImportUnderWay):
                act(first)
        runs.fail(lease, "It went wrong.")
        undo = request_undo(first, requested_by_id=id_of("ann"))
        with pytest.raises(UndoUnderWay):
            migrate_api_keys_from_json_to_db()
        with pytest.raises(AnotherUndo):
            undo_import(second)
        with pytest.raises(AnotherUndo):
            request_undo(second, requested_by_id=id_of("ann"))
        assert request_undo(first, requested_by_id=id_of("ann")).id == undo.id
        # Both were asked for at the same moment: neither side works beside the other.
        asked_for = runs.start(runs.LEGACY_IMPORT)
        with pytest.raises(UndoUnderWay):
            legacy_migration.run_import(asked_for.id)
        assert newest(runs.LEGACY_IMPORT).status == "failed"
        runs.start(runs.LEGACY_IMPORT)
        with pytest.raises(ImportUnderWay):
            run_undo(undo.id)
        assert newest(runs.LEGACY_UNDO).status == "failed"


def test_undos_and_the_cut_over_take_turns(app: Flask, folder: LegacyFolder) -> None:
    import_id = imported(app)
    with app.app_context():
        lease = runs.begin(runs.LEGACY_CUTOVER, arguments={"accept": []})
        with pytest.raises(CutOverUnderWay):
            undo_import(import_id)
        runs.fail(lease, "It went wrong.")
        request_undo(import_id, requested_by_id=id_of("ann"))
        with pytest.raises(UndoUnderWay):
            cut_over()
        run_undo(newest(runs.LEGACY_UNDO).id)
        with pytest.raises(SidesDiffer):
            cut_over()
        again = imported(app)
    add_person(app, "root", is_admin=True)
    with app.app_context():
        cut_over(accept=["only_in_database"])
        with pytest.raises(CutOver):
            undo_import(again)
    assert 'name="confirm"' not in signed_in(app, "root").get(f"/admin/runs/{again}").text
    assert usernames(app) == ["ann", "bob", "root"]


def id_of(username: str) -> int:
    return db.session.scalars(select(User.id).where(User.username == username)).one()


def test_an_undone_import_does_not_start_again_by_itself(app: Flask, folder: LegacyFolder) -> None:
    def started() -> list[str]:
        with transaction() as session:  # whatever waits would be done meanwhile
            session.execute(
                update(Run)
                .where(Run.finished_at.is_(None))
                .values(status="finished", finished_at=now())
            )
        start_due_runs()
        found = db.session.scalars(select(Run.kind).where(Run.finished_at.is_(None))).all()
        db.session.rollback()
        return list(found)

    import_id = imported(app)
    with app.app_context(), clock.frozen(now()) as set_clock:
        undo_import(import_id)
        for _ in range(3):
            assert runs.LEGACY_IMPORT not in started()
            set_clock(now() + timedelta(hours=2))
        folder.second_factors({"ann": {"secret": "", "enabled": False}})
        assert runs.LEGACY_IMPORT not in started(), "a sign-in there is no reason"
        runs.start(runs.LEGACY_IMPORT)
        assert started() == [], "this one ends here, of another state"
        set_clock(now() + timedelta(hours=2))
        assert started() == [runs.LEGACY_IMPORT], "somebody has asked, so it goes on by itself"


def test_a_failed_import_that_was_undone_is_not_tried_again(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.app_context(), clock.frozen(now()) as set_clock:
        with monkeypatch.context() as broken:
            broken.setattr(runs, "finish", _fail)
            with pytest.raises(ZeroDivisionError):
                migrate_api_keys_from_json_to_db()
        set_clock(now() + timedelta(hours=2))
        undo_import(newest(runs.LEGACY_IMPORT).id)
        start_due_runs()
        assert newest(runs.LEGACY_IMPORT).status == "failed"


def _fail(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def test_nothing_starts_while_an_import_is_undone(app: Flask, folder: LegacyFolder) -> None:
    import_id = imported(app)
    with app.app_context(), clock.frozen(now() + timedelta(hours=2)):
        request_undo(import_id, requested_by_id=id_of("ann"))
        folder.second_factors({"ann": {"secret": "", "enabled": False}})
        start_due_runs()
        assert newest(runs.LEGACY_IMPORT).id == import_id


@pytest.mark.parametrize("how", ["undo the only one", "undo the first of two", "undo failed"])
def test_people_whose_import_was_undone_sign_in_from_the_files_again(
    app: Flask, folder: LegacyFolder, how: str
) -> None:
    first = imported(app)
    if how == "undo the first of two":
        folder.rest()
        imported(app)  # of the state that the files are in now; it found everybody there
    with app.app_context():
        assert legacy_lookup.find_account("ann") is None, "all is imported"
        undo_import(first)
        if how == "undo failed":
            with transaction() as session:
                undo = Run.kind == runs.LEGACY_UNDO
                session.execute(update(Run).where(undo).values(status="failed"))
        assert db.session.scalars(select(User.username)).all() == []
        assert get_user_api_keys("ann")["openai"] == "of ann"
        with pytest.raises(UnknownUser):
            get_user_api_keys("nobody")
    assert sign_in(browser(app), "bob", "a password").status_code == 303
    assert usernames(app) == ["ann", "bob"]
    again = imported(app)
    with app.app_context():
        assert legacy_lookup.find_account("ann") is None, "now it is again"
        assert undo_import(again).users_removed == 0, "who came by signing in stays"
    assert usernames(app) == ["ann", "bob"]


def test_what_a_process_knows_of_an_import_ends_with_its_undo(
    app: Flask, monkeypatch: pytest.MonkeyPatch, statements: list[str]
) -> None:
    import_id = imported(app)
    with app.app_context():
        for module in (legacy_lookup, legacy_mode):
            monkeypatch.setattr(module, "_ASKED_EVERY_SECONDS", 60.0)
        assert legacy_lookup.find_account("ann") is None
        statements.clear()
        assert legacy_lookup.find_account("bob") is None
        assert statements == [], "it costs nothing while it is known"
        undo_import(import_id)
        monkeypatch.setattr(legacy_lookup, "_ASKED_EVERY_SECONDS", 0.0)
        assert legacy_lookup.find_account("ann") is not None
