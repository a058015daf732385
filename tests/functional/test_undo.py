"""Taking an import back: what it created goes, and nothing that anybody did is lost."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select, update

from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.people import events, sign_in, user
from tests.stored_rows import stored
from tests.visitor import Visitor
from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import ApiKey, ApiKeyVersion, LoginSession, Run, User
from webapp.services import audit, imported_rows, legacy_undo, runs
from webapp.services.accounts import ensure_user_in_database
from webapp.services.admin import disable_account
from webapp.services.keys import delete_user_api_key, get_user_api_keys, save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.legacy_undo import undo_import
from webapp.services.second_factor import start_enrolment
from webapp.services.undo_report import UndoReport

SECRET = "JBSWY3DPEHPK3PXP"


@pytest.fixture(autouse=True)
def _context(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return LegacyFolder(tmp_path / "legacy")


def run(folder: LegacyFolder) -> int:
    """Import, and return the number of the run."""
    migrate_api_keys_from_json_to_db(folder.path)
    made = runs.latest(runs.LEGACY_IMPORT)
    assert made is not None
    return made.id


def usernames() -> list[str]:
    db.session.rollback()
    return list(db.session.scalars(select(User.username).order_by(User.id)))


def id_of(username: str) -> int:
    db.session.rollback()
    return db.session.scalars(select(User.id).where(User.username == username)).one()


def why(report: UndoReport) -> dict[tuple[str, str], str]:
    return {(entry.username, entry.key_name): entry.reason for entry in report.kept}


def test_what_an_import_created_goes_and_the_audit_trail_stays(
    app: Flask, client: Visitor, folder: LegacyFolder
) -> None:
    ensure_user_in_database("zoe", sha256_of("a password"))
    before = stored()
    folder.users(
        {
            "ann": record(api_keys={"openai": folder.token("one"), "smtp_host": "mail"}),
            "bob": record(),
        }
    )
    folder.second_factors({"bob": {"secret": SECRET, "enabled": True}})
    import_id = run(folder)
    sign_in(client, "ann", "a wrong password")
    assert get_user_api_keys("ann")["openai"] == "one", "reading changes nothing"
    report = undo_import(import_id)
    assert report.counts() == {
        "users_removed": 2,
        "users_kept": 0,
        "keys_removed": 2,
        "keys_restored": 0,
        "keys_kept": 0,
    }
    assert report.kept == ()
    assert usernames() == ["zoe"]
    after = stored()
    for table in ("audit_events", "login_attempts"):
        before.pop(table)
        after.pop(table)
    assert after == before
    told = [(event.event, event.subject_id, event.detail.get("username")) for event in events(app)]
    assert told[1:] == [
        ("account.imported", None, "ann"),
        ("account.imported", None, "bob"),
        ("login.failed", None, "ann"),
        ("account.import_undone", None, "ann"),
        ("account.import_undone", None, "bob"),
    ]
    assert events(app, "account.import_undone")[0].detail["run"] == import_id
    assert undo_import(import_id) == UndoReport(), "there is nothing left to take back"


def signed_in(app: Flask) -> None:
    assert sign_in(app.test_client(), "ann", "a password").status_code == 303  # type: ignore[arg-type]


def a_session(app: Flask) -> None:
    ann = id_of("ann")
    with transaction() as session:
        session.add(LoginSession(digest=b"x" * 32, user_id=ann, stage="full", expires_at=now()))


def given_a_role(app: Flask) -> None:
    ann = id_of("ann")
    with transaction() as session:
        session.execute(update(User).where(User.username == "ann").values(is_admin=True))
        audit.record("account.admin_granted", subject_id=ann)


def key_with_expiry(app: Flask) -> None:
    ann = id_of("ann")
    with transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.user_id == ann).values(expires_at=now()))


def asked_for_a_check(app: Flask) -> None:
    ann = id_of("ann")
    with transaction() as session:
        session.add(Run(kind=runs.CONSISTENCY_CHECK, status="failed", requested_by_id=ann))


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (signed_in, "signed in"),
        (a_session, "signed in"),
        (given_a_role, "account.admin_granted"),
        (key_with_expiry, "openai: its expiry was set here"),
        (asked_for_a_check, "has acted"),
        (lambda _: save_user_api_key("ann", "openai", "saved here"), "a key was saved here"),
        (lambda _: save_user_api_key("ann", "mine", "another"), "a key was saved here"),
        (lambda _: delete_user_api_key("ann", "openai"), "a key was deleted here"),
        (lambda _: disable_account("ann"), "disabled"),
        (lambda _: start_enrolment(id_of("ann"), "ann"), "second_factor.enrolment_started"),
    ],
)
def test_an_account_that_somebody_changed_stays_with_all_that_it_has(
    app: Flask, folder: LegacyFolder, act: Callable[[Flask], object], says: str
) -> None:
    folder.users(
        {name: record(api_keys={"openai": folder.token(f"of {name}")}) for name in ("ann", "bob")}
    )
    import_id = run(folder)
    act(app)
    db.session.rollback()
    before = user(app, "ann")
    keys = dict(get_user_api_keys("ann"))
    report = undo_import(import_id)
    assert usernames() == ["ann"]
    assert (report.users_removed, report.users_kept) == (1, 1)
    assert (report.keys_removed, report.keys_kept) == (1, 1)
    (reason,) = why(report).values()
    assert says in reason
    assert list(why(report)) == [("ann", "")]
    after = user(app, "ann")
    assert (after.password_hash, after.imported_digest) == (
        before.password_hash,
        before.imported_digest,
    )
    assert dict(get_user_api_keys("ann")) == keys


def test_what_a_later_import_added_keeps_the_account(folder: LegacyFolder) -> None:
    names = ("ann", "bob", "cleo", "dan")
    folder.users({name: record(api_keys={"openai": "old"}) for name in names})
    first = run(folder)
    folder.users(
        {
            "ann": record(api_keys={"openai": "newer"}),
            "bob": record(api_keys={"openai": "old", "slack": "added"}),
            "cleo": record(api_keys={"openai": "old"}),
            "dan": record(api_keys={"openai": "old"}),
        }
    )
    folder.second_factors({"cleo": {"secret": SECRET, "enabled": True}})
    second = run(folder)
    report = undo_import(first)
    assert usernames() == ["ann", "bob", "cleo"]
    assert (report.users_removed, report.users_kept) == (1, 3)
    assert {reason.split(": ")[-1] for reason in why(report).values()} == {
        "a later import added to it"
    }
    later = undo_import(second)
    assert (later.keys_restored, later.keys_removed, later.users_removed) == (1, 1, 0)
    assert why(later)[("cleo", "")].startswith("the second factor that it brought stays")
    again = undo_import(first)
    assert (again.users_removed, again.users_kept) == (2, 1)
    assert usernames() == ["cleo"], "what the second had added to the others is taken back"


def test_a_password_that_an_import_brought_stays(
    client: Visitor, app: Flask, folder: LegacyFolder
) -> None:
    folder.users({"ann": record()})
    run(folder)
    folder.users({"ann": record(password_hash=sha256_of("changed there"))})
    second = run(folder)
    assert why(undo_import(second)) == {
        ("ann", ""): "the password that it brought stays: the one before is not kept anywhere"
    }
    assert sign_in(client, "ann", "changed there").status_code == 303
    assert undo_import(second).kept == (), "by now it is one of ours"


def test_a_key_of_an_older_account_gets_its_version_from_before_or_goes(
    folder: LegacyFolder,
) -> None:
    folder.users({"ann": record(api_keys={"openai": folder.token("old"), "google": "same"})})
    run(folder)
    folder.users(
        {
            "ann": record(
                api_keys={"openai": folder.token("newer"), "google": "same", "slack": "added"}
            )
        }
    )
    second = run(folder)
    assert dict(get_user_api_keys("ann")) == {"openai": "newer", "google": "same", "slack": "added"}
    report = undo_import(second)
    assert report.counts() == {
        "users_removed": 0,
        "users_kept": 0,
        "keys_removed": 1,
        "keys_restored": 1,
        "keys_kept": 0,
    }
    assert dict(get_user_api_keys("ann")) == {"openai": "old", "google": "same"}
    assert save_user_api_key("ann", "openai", "saved here").version == 4, "no number comes twice"


def test_what_was_done_with_a_key_of_an_older_account_stays(folder: LegacyFolder) -> None:
    names = ("saved", "deleted", "expires", "updated", "untouched")
    folder.users({"ann": record()})
    run(folder)
    folder.users({"ann": record(api_keys={name: f"{name} there" for name in names})})
    second = run(folder)
    save_user_api_key("ann", "saved", "saved here")
    delete_user_api_key("ann", "deleted")
    expires = now() + timedelta(days=9)
    save_user_api_key("ann", "expires", "expires there", expires_at=expires)
    folder.users({"ann": record(api_keys={"updated": "newer there"})})
    run(folder)
    report = undo_import(second)
    assert (report.keys_removed, report.keys_kept) == (1, 4)
    assert why(report) == {
        ("ann", "saved"): "a newer value was saved here",
        ("ann", "deleted"): "it was deleted here",
        ("ann", "expires"): "its expiry was set here",
        ("ann", "updated"): "a later import changed it",
    }
    assert dict(get_user_api_keys("ann")) == {
        "saved": "saved here",
        "expires": "expires there",
        "updated": "newer there",
    }


def test_an_import_can_be_repeated_and_undone_again(folder: LegacyFolder) -> None:
    folder.users({"ann": record(api_keys={"openai": "old"})})
    run(folder)
    folder.users({"ann": record(api_keys={"openai": "newer"}), "bob": record()})
    for version in (2, 4, 6):
        import_id = run(folder)
        assert get_user_api_keys("ann")["openai"] == "newer"
        key = db.session.scalars(select(ApiKey)).one()
        db.session.refresh(key)
        assert key.current_version == version
        report = undo_import(import_id)
        assert (report.keys_restored, report.users_removed) == (1, 1)
        assert get_user_api_keys("ann")["openai"] == "old"


def test_a_failed_import_can_be_undone(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.users({f"user{number}": record(api_keys={"a": "b"}) for number in range(9)})
    with monkeypatch.context() as broken:
        broken.setattr("webapp.services.legacy_migration.BATCH", 3)
        broken.setattr("webapp.services.legacy_migration._details", _fails_at(4))
        with pytest.raises(ZeroDivisionError):
            run(folder)
    failed = runs.latest(runs.LEGACY_IMPORT)
    assert failed is not None
    assert (failed.status, failed.counts["users_created"]) == ("failed", 9)
    assert undo_import(failed.id).users_removed == 9
    assert usernames() == []


def _fails_at(number: int) -> Callable[..., dict[str, str]]:
    calls: list[object] = []

    def fail(*arguments: object) -> dict[str, str]:
        calls.append(arguments)
        if len(calls) > 1:
            raise ZeroDivisionError
        return {}

    return fail


class PowerFailure(BaseException):
    """The process ends here, whatever it was about to do."""


def test_an_interrupted_undo_goes_on_behind_its_last_batch(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy_undo, "BATCH", 3)
    folder.users({f"user{number}": record(api_keys={"a": "b"}) for number in range(10)})
    import_id = run(folder)
    for name in ("user1", "user8"):
        save_user_api_key(name, "a", "saved here")
    original, calls = imported_rows.take_back, []

    def take_back(*arguments: object) -> imported_rows.Outcome:
        outcome = original(*arguments)  # type: ignore[arg-type]
        calls.append(outcome)
        if len(calls) in {2, 4}:
            raise PowerFailure
        return outcome

    monkeypatch.setattr(imported_rows, "take_back", take_back)
    for _ in range(2):
        with pytest.raises(PowerFailure):
            undo_import(import_id)
        with transaction() as session:
            session.execute(update(Run).values(lease_expires_at=None))
    report = undo_import(import_id)
    assert (report.users_removed, report.users_kept) == (8, 2)
    assert (report.keys_removed, report.keys_kept) == (8, 2)
    assert [entry.username for entry in report.kept] == ["user1", "user8"]
    assert usernames() == ["user1", "user8"]
    undo = runs.latest(runs.LEGACY_UNDO)
    assert undo is not None
    assert (undo.status, undo.cursor, undo.total, undo.lease_token) == ("finished", 10, 10, 3)
    assert undo.counts == report.counts()
    assert [entry["username"] for entry in undo.report["kept"]] == ["user1", "user8"]


def test_what_is_saved_at_the_same_moment_is_seen(app: Flask, folder: LegacyFolder) -> None:
    folder.users({name: record(api_keys={"a": "b"}) for name in ("ann", "bob")})
    import_id = run(folder)
    wrote = threading.Event()

    def save() -> None:
        with app.app_context(), transaction():
            save_user_api_key("ann", "a", "saved here")
            delete_user_api_key("bob", "a")
            wrote.set()
            threading.Event().wait(0.5)  # the undo comes meanwhile

    def read_back(*_: object) -> bool:
        return True

    with ThreadPoolExecutor(1) as somebody, pytest.MonkeyPatch.context() as patched:
        patched.setattr("webapp.services.key_store.is_readable", read_back)  # in one transaction
        saving = somebody.submit(save)
        assert wrote.wait(5)
        report = undo_import(import_id)
        saving.result()
    assert (report.users_removed, report.users_kept) == (0, 2)
    assert get_user_api_keys("ann")["a"] == "saved here"
    assert dict(get_user_api_keys("bob")) == {}


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_nobody_is_asked_about_accounts_that_the_import_did_not_touch(
    folder: LegacyFolder, statements: list[str]
) -> None:
    def counted(others: Sequence[str]) -> int:
        for name in others:
            ensure_user_in_database(name, sha256_of("a password"))
        folder.users({"ann": record(api_keys={"a": "b"}), "bob": record()})
        import_id = run(folder)
        statements.clear()
        undo_import(import_id)
        return len(statements)

    assert counted([]) == counted([f"other{number}" for number in range(20)])
    assert db.session.scalars(select(ApiKeyVersion)).all() == []
