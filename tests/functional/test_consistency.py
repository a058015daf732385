"""Comparing both sides: every kind of difference, and no conclusion from an unreadable side."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from sqlalchemy import select, text, update

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.people import TOTP, browser, sign_in
from tests.visitor import Visitor
from webapp import clock, create_app
from webapp.clock import now
from webapp.db import db, dispose_engines, transaction
from webapp.models import ApiKeyVersion, Discrepancy, Run, User
from webapp.services import consistency, legacy_lookup, runs
from webapp.services.accounts import ensure_user_in_database
from webapp.services.consistency import CheckReport, check_consistency
from webapp.services.keys import delete_user_api_key, save_user_api_key
from webapp.services.legacy_migration import (
    LegacyFilesUnreadable,
    migrate_api_keys_from_json_to_db,
)
from webapp.services.legacy_repair import Choice, repair

OTHER_KEY = Fernet.generate_key().decode()
OTHER_MASTER_KEY = "k2:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA"
SECRET = "sk-a-value-that-must-not-be-stored"


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    """Two accounts, imported as they are."""
    folder = LegacyFolder(tmp_path / "legacy")
    write(folder)
    return folder


@pytest.fixture
def app(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path)))
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def write(folder: LegacyFolder, **more: object) -> None:
    folder.users(
        {
            "ann": record(role="admin", api_keys={"openai": folder.token(SECRET), "slack": "x"}),
            "bob": record(api_keys={"smtp_host": "mail", "smtp_pass": folder.token("p")}),
        }
        | more
    )


def found(report: CheckReport) -> set[tuple[str, str, str]]:
    return {(item.kind.value, item.username, item.key_name) for item in report.items}


def rows() -> list[Discrepancy]:
    db.session.rollback()
    query = select(Discrepancy).order_by(Discrepancy.id)
    return list(db.session.scalars(query.execution_options(populate_existing=True)))


def test_after_an_import_both_sides_are_equal(app: Flask) -> None:
    report = check_consistency()
    assert (report.equal, found(report)) == (2, set())
    assert set(report.discrepancies.values()) == {0}
    run = runs.latest(runs.CONSISTENCY_CHECK)
    assert run is not None
    assert (run.status, run.counts["equal"], run.cursor) == ("finished", 2, 4)


@pytest.mark.usefixtures("app")
def test_every_kind_of_difference(folder: LegacyFolder) -> None:
    write(
        folder,
        cy=record(),
        ann=record(
            role="user",
            api_keys={
                "openai": folder.token("changed there"),
                "google": "added there",
                "slack": folder.token("x", OTHER_KEY),
            },
        ),
    )
    save_user_api_key("bob", "github", "only here")
    delete_user_api_key("bob", "smtp")
    ensure_user_in_database("dan", "$2b$12$" + "a" * 53)
    report = check_consistency()
    assert found(report) == {
        ("only_in_legacy", "cy", ""),
        ("only_in_database", "dan", ""),
        ("role_differs", "ann", ""),
        ("key_differs", "ann", "openai"),
        ("key_only_in_legacy", "ann", "google"),
        ("locked_in_legacy", "ann", "slack"),
        ("key_only_in_database", "bob", "github"),
        ("key_only_in_legacy", "bob", "smtp"),
    }
    assert report.equal == 0
    assert report.discrepancies["key_only_in_legacy"] == 2


@pytest.mark.usefixtures("app")
def test_what_does_not_open_here_is_locked_in_the_database(
    folder: LegacyFolder, make_settings: MakeSettings
) -> None:
    lost = {"MASTER_KEYS": OTHER_MASTER_KEY, "ACCEPT_MISSING_MASTER_KEYS": "k1"}
    app = create_app(make_settings(LEGACY_DIR=str(folder.path), **lost))
    with app.app_context():
        save_user_api_key("bob", "smtp", {"host": "h", "port": "1", "user": "u", "password": "p"})
        assert found(check_consistency()) == {
            ("locked_in_database", "ann", "openai"),
            ("locked_in_database", "ann", "slack"),
            ("key_differs", "bob", "smtp"),
        }
    dispose_engines(app)


@pytest.mark.usefixtures("app")
def test_a_difference_is_stored_once_seen_again_and_closed_when_it_is_gone() -> None:
    save_user_api_key("ann", "openai", "changed here")
    check_consistency()
    (first,) = rows()
    save_user_api_key("bob", "github", "only here")
    check_consistency()
    again, second = rows()
    assert again.id == first.id
    assert again.last_run_id > again.first_run_id == first.first_run_id
    assert second.kind == "key_only_in_database"
    save_user_api_key("ann", "openai", SECRET)
    report = check_consistency()
    assert found(report) == {("key_only_in_database", "bob", "github")}
    closed, still_open = rows()
    assert closed.closed_at is not None
    assert still_open.closed_at is None
    save_user_api_key("ann", "openai", "changed here again")
    check_consistency()
    assert [row.closed_at is None for row in rows()] == [False, True, True]


@pytest.mark.usefixtures("app")
def test_what_is_gone_is_closed_whatever_the_clocks_say() -> None:
    noon = now()
    with clock.frozen(noon) as set_clock:
        save_user_api_key("ann", "openai", "changed here")
        check_consistency()
        set_clock(noon - timedelta(minutes=5))
        save_user_api_key("ann", "openai", SECRET)
        assert found(check_consistency()) == set()


class PowerFailure(BaseException):
    """The process ends here, whatever it was about to do."""


@pytest.mark.usefixtures("app")
def test_what_an_interrupted_check_saw_is_closed_by_its_successor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise PowerFailure

    save_user_api_key("ann", "openai", "changed here")
    with monkeypatch.context() as patched:
        patched.setattr(consistency, "_close_others", fail)
        with pytest.raises(PowerFailure):
            check_consistency()
    assert [row.closed_at for row in rows()] == [None]
    with transaction() as session:
        session.execute(update(Run).values(lease_expires_at=None))
    save_user_api_key("ann", "openai", SECRET)
    assert found(check_consistency()) == set()
    (run_id,) = {row.last_run_id for row in rows()}
    last = runs.latest(runs.CONSISTENCY_CHECK)
    assert last is not None
    assert (last.id, last.lease_token) == (run_id, 2)


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("damage", ["truncated", "missing", "no key file"])
def test_a_side_that_cannot_be_read_fails_the_run_and_concludes_nothing(
    folder: LegacyFolder, damage: str
) -> None:
    save_user_api_key("ann", "openai", "changed here")
    check_consistency()
    if damage == "truncated":
        folder.raw((folder.path / "users.json").read_bytes()[:-20])
    elif damage == "missing":
        (folder.path / "users.json").unlink()
    else:
        (folder.path / ".encryption_key").unlink()
    folder.rest()
    with pytest.raises(LegacyFilesUnreadable):
        check_consistency()
    (row,) = rows()
    assert row.closed_at is None
    failed = runs.latest(runs.CONSISTENCY_CHECK)
    assert failed is not None
    assert failed.status == "failed"
    assert failed.error


@pytest.mark.usefixtures("app")
def test_a_database_that_fails_half_way_closes_nothing(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_user_api_key("ann", "openai", "changed here")
    check_consistency()
    write(folder)  # the stamp changes, the content does not

    def fail(*_: object) -> None:
        raise RuntimeError("the other half")

    monkeypatch.setattr(consistency, "_compare_database", fail)
    with pytest.raises(RuntimeError):
        check_consistency()
    (row,) = rows()
    assert row.closed_at is None


@pytest.mark.usefixtures("app")
def test_of_a_record_that_cannot_be_read_nothing_is_concluded(folder: LegacyFolder) -> None:
    save_user_api_key("ann", "openai", "changed here")
    check_consistency()
    write(folder, ann=record(password_hash="not a hash"))
    report = check_consistency()
    assert found(report) == {("key_differs", "ann", "openai"), ("rejected_record", "ann", "")}
    assert report.equal == 1


@pytest.mark.usefixtures("app")
def test_a_name_that_stands_twice_is_compared_once(folder: LegacyFolder) -> None:
    write(folder, ANN=record(role="user"))
    assert found(check_consistency()) == {("duplicate_username", "ANN", "")}


def test_a_password_that_was_changed_there_is_seen_after_the_upgrade_here(
    app: Flask, folder: LegacyFolder
) -> None:
    app.test_client_class = Visitor
    assert sign_in(browser(app), "ann", "a password").status_code == 303
    assert found(check_consistency()) == set()
    write(folder, ann=record(role="admin", password_hash=sha256_of("another"), api_keys={}))
    kinds = {kind for kind, _, _ in found(check_consistency())}
    assert kinds == {"password_differs", "key_only_in_database"}


def test_second_factors_are_compared(app: Flask, folder: LegacyFolder) -> None:
    prepared = {"secret": TOTP, "enabled": False}
    folder.second_factors({"ann": prepared})
    assert found(check_consistency()) == set()
    folder.second_factors({"ann": {**prepared, "enabled": True}})
    assert found(check_consistency()) == {("second_factor_differs", "ann", "")}
    migrate_api_keys_from_json_to_db()
    assert found(check_consistency()) == set()
    for entries in ({"ann": {"secret": TOTP[::-1], "enabled": True}}, {}):
        folder.second_factors(entries)
        assert found(check_consistency()) == {("second_factor_differs", "ann", "")}


@pytest.mark.usefixtures("app")
def test_no_value_is_stored_with_a_difference() -> None:
    save_user_api_key("ann", "openai", "the other secret value")
    check_consistency()
    content = "".join(
        str(db.session.execute(text(f"SELECT * FROM {table}")).all())
        for table in ("discrepancies", "runs")
    )
    assert "openai" in content
    assert SECRET not in content
    assert "the other secret value" not in content


@pytest.mark.usefixtures("app")
def test_more_accounts_than_fit_into_a_batch(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consistency, "BATCH", 3)
    write(folder, **{f"user{number}": record() for number in range(8)})
    assert check_consistency().discrepancies["only_in_legacy"] == 8
    migrate_api_keys_from_json_to_db()
    report = check_consistency()
    assert (report.equal, found(report)) == (10, set())
    assert sum(row.closed_at is not None for row in rows()) == 8


@pytest.mark.usefixtures("app")
def test_an_overtaken_check_writes_no_differences() -> None:
    save_user_api_key("ann", "openai", "changed here")
    lease = runs.begin(runs.CONSISTENCY_CHECK)
    with transaction() as session:
        session.execute(update(Run).values(lease_token=Run.lease_token + 1))
    with pytest.raises(runs.LeaseLost):
        consistency._check(lease)
    assert rows() == []


@pytest.mark.usefixtures("app")
def test_comparing_changes_neither_side(folder: LegacyFolder) -> None:
    save_user_api_key("ann", "openai", "changed here")
    before = (folder.path / "users.json").read_bytes()
    versions = db.session.scalars(select(ApiKeyVersion.sealed_value)).all()
    check_consistency()
    assert (folder.path / "users.json").read_bytes() == before
    assert db.session.scalars(select(ApiKeyVersion.sealed_value)).all() == versions
    assert db.session.scalar(select(User.is_admin).where(User.username == "ann")) is True


def test_without_its_file_nothing_is_said_about_second_factors(
    app: Flask, folder: LegacyFolder
) -> None:
    folder.second_factors({"ann": {"secret": TOTP, "enabled": True}})
    migrate_api_keys_from_json_to_db()
    (folder.path / "two_fa.json").unlink()
    assert found(check_consistency()) == set()
    folder.second_factors({})
    assert found(check_consistency()) == {("second_factor_differs", "ann", "")}
    (folder.path / "two_fa.json").unlink()
    report = repair(Choice(winner="legacy"))
    assert "two_fa.json is missing" in report.steps[0].says
    assert db.session.scalar(select(User.totp_enabled_at).where(User.username == "ann"))


def test_an_account_is_named_in_any_case(app: Flask, folder: LegacyFolder) -> None:
    write(folder, Éva=record(), bob=record())
    check_consistency()
    for name in ("Éva", "BOB"):
        assert repair(Choice(winner="legacy", username=name)).repaired == 1
