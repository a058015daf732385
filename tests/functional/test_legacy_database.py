"""The predecessor's database as a second source: what arrives, what is kept, what is reported."""

from collections.abc import Iterator

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_database import NEW, OLD, LegacyDatabase
from tests.legacy_folder import LegacyFolder, record
from tests.stored_rows import stored
from webapp import create_app
from webapp.db import db, dispose_engines
from webapp.models import ApiKey, ApiKeyVersion, User
from webapp.services import (
    runs,
    stored_accounts,
)
from webapp.services.consistency import check_consistency
from webapp.services.import_report import ImportReport
from webapp.services.keys import get_user_api_keys, save_user_api_key
from webapp.services.legacy_migration import (
    migrate_api_keys_from_json_to_db,
    preview_import,
)

OTHER_MASTER_KEY = "k2:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA"
OTHER_KEY = Fernet.generate_key().decode()
in_context = pytest.mark.usefixtures("_context")


@pytest.fixture
def app(bridged_app: Flask) -> Flask:
    return bridged_app


@pytest.fixture
def _context(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def run() -> ImportReport:
    return migrate_api_keys_from_json_to_db()


def versions(username: str, name: str) -> list[object]:
    """The values of all versions of a key, the current one last."""
    db.session.rollback()
    user_id = db.session.scalars(select(User.id).where(User.username == username)).one()
    found = stored_accounts.payloads(db.session(), {user_id: [name]})[user_id, name]
    numbers = db.session.execute(
        select(ApiKey.current_version, ApiKeyVersion.version)
        .join(ApiKeyVersion, ApiKeyVersion.api_key_id == ApiKey.id)
        .where(ApiKey.user_id == user_id, ApiKey.name == name)
        .order_by(ApiKeyVersion.version)
    ).all()
    assert [number for _, number in numbers] == list(range(1, len(found) + 1))
    assert numbers[-1].current_version == len(found)
    return [payload and (payload.value or payload.legacy_tokens) for payload in found]


def roles() -> dict[str, bool]:
    db.session.rollback()
    return {user.username: user.is_admin for user in db.session.scalars(select(User))}


@pytest.mark.usefixtures("both_sources", "_context")
def test_both_sources_arrive_and_are_counted_together() -> None:
    foreseen = preview_import()
    report = run()
    assert report == foreseen
    assert report.counts() == {
        "users_created": 3,
        "users_existing": 0,
        "keys_imported": 6,
        "keys_kept": 0,
        "keys_locked": 0,
        "records_rejected": 0,
        "two_factor_imported": 0,
    }
    finished = runs.latest(runs.LEGACY_IMPORT)
    assert finished is not None
    assert (finished.cursor, finished.total) == (3, 3)
    assert get_user_api_keys("ann")["openai"] == "of the database"
    assert versions("ann", "openai") == ["of the file", "of the database"]
    assert versions("ann", "google") == ["same"]
    assert get_user_api_keys("cy")["smtp"] == {
        "host": "mail",
        "port": "587",
        "user": "cy",
        "password": "p",
    }
    assert roles() == {"ann": True, "bob": False, "cy": False}
    assert [text.partition(";")[0] for text in report.warnings] == [
        "ann: key openai differs between users.json and the database",
        "ann: is no admin in the database",
        "cy: is admin in the database only, which is not followed",
    ]


@pytest.mark.usefixtures("both_sources", "_context")
def test_a_second_run_changes_nothing_and_a_check_finds_both_equal() -> None:
    run()
    before = stored()
    again = run()
    assert stored() == before
    assert (again.users_existing, again.keys_kept, again.keys_imported) == (3, 6, 0)
    report = check_consistency()
    assert (report.equal, report.items) == (3, [])


@in_context
def test_the_side_that_is_newer_now_wins_and_nothing_is_lost(
    both_sources: LegacyDatabase, legacy_folder: LegacyFolder
) -> None:
    run()
    newer = {"openai": "newer in the file"}
    legacy_folder.users({"ann": record(api_keys=newer, api_keys_updated="2026-03-01T00:00:00")})
    assert run().keys_imported == 1
    expected = ["of the file", "of the database", "newer in the file"]
    assert versions("ann", "openai") == expected
    run()
    assert versions("ann", "openai") == expected
    both_sources.change(
        "ann",
        api_keys={"openai": "newest", "github": "added"},
        api_keys_updated_at="2026-04-01 00:00:00",
    )
    run()
    assert versions("ann", "openai") == [*expected, "newest"]


@in_context
def test_a_database_that_is_added_later_brings_its_older_values_too(
    both_sources: LegacyDatabase,
    legacy_folder: LegacyFolder,
    app: Flask,
    make_settings: MakeSettings,
) -> None:
    files_only = create_app(make_settings(LEGACY_DIR=str(legacy_folder.path)))
    with files_only.app_context():
        assert run().users_created == 2
    dispose_engines(files_only)
    both_sources.change("ann", api_keys_updated_at="2025-01-01 00:00:00")
    foreseen = preview_import()
    report = run()
    assert report == foreseen
    assert (report.users_created, report.users_existing) == (1, 2)
    assert get_user_api_keys("ann")["openai"] == "of the file"
    assert versions("ann", "openai") == ["of the file", "of the database", "of the file"]
    assert versions("ann", "github") == ["added"]
    before = stored()
    run()
    assert stored() == before
    assert check_consistency().items == []


@in_context
def test_a_key_that_is_new_to_an_account_comes_with_its_older_value(
    both_sources: LegacyDatabase, legacy_folder: LegacyFolder
) -> None:
    run()
    both_sources.change("cy", api_keys={"slack": "there"}, api_keys_updated_at=OLD)
    legacy_folder.users({"cy": record(api_keys={"slack": "here"}, api_keys_updated=NEW)})
    assert run().keys_imported == 1
    assert versions("cy", "slack") == ["there", "here"]


@pytest.mark.usefixtures("both_sources", "_context")
def test_what_somebody_changed_here_stays(both_sources: LegacyDatabase) -> None:
    run()
    save_user_api_key("ann", "openai", "changed here")
    both_sources.change("ann", api_keys={"openai": "x"}, api_keys_updated_at="2026-03-01 00:00:00")
    assert run().keys_kept == 6 - 1
    assert get_user_api_keys("ann")["openai"] == "changed here"
    assert versions("ann", "openai") == ["of the file", "of the database", "changed here"]


@in_context
def test_a_locked_value_is_kept_as_the_older_one_and_unlocked_by_its_key(
    both_sources: LegacyDatabase, legacy_folder: LegacyFolder, make_settings: MakeSettings
) -> None:
    token = legacy_folder.token("once locked", OTHER_KEY)
    both_sources.change("ann", api_keys={"openai": token})
    assert run().keys_locked == 0
    assert versions("ann", "openai") == [{"value": token}, "of the file"]
    address = {"LEGACY_DIR": str(legacy_folder.path), "LEGACY_DATABASE_URL": both_sources.address}
    app = create_app(make_settings(**address, LEGACY_ENCRYPTION_KEYS=OTHER_KEY))
    with app.app_context():
        run()
        assert get_user_api_keys("ann")["openai"] == "once locked"
        assert versions("ann", "openai")[1:] == ["of the file", "once locked"]
    dispose_engines(app)


@in_context
def test_an_older_value_that_does_not_open_here_is_not_added_again_and_again(
    both_sources: LegacyDatabase, legacy_folder: LegacyFolder, make_settings: MakeSettings
) -> None:
    run()
    address = {"LEGACY_DIR": str(legacy_folder.path), "LEGACY_DATABASE_URL": both_sources.address}
    lost = {"MASTER_KEYS": OTHER_MASTER_KEY, "ACCEPT_MISSING_MASTER_KEYS": "k1"}
    app = create_app(make_settings(**address, **lost))
    with app.app_context():
        run()
        assert versions("ann", "openai") == [None, None, "of the database"]
        before = stored()
        run()
        assert stored() == before
    dispose_engines(app)


@in_context
def test_invalid_json_is_a_rejected_record(both_sources: LegacyDatabase) -> None:
    both_sources.change("cy", api_keys='{"openai": ')
    both_sources.change("ann", api_keys="[1]")
    report = run()
    assert (report.users_created, report.records_rejected) == (2, 2)
    assert {entry.name: entry.reason for entry in report.rejected} == {
        "cy": "api_keys in the database is not valid JSON",
        "ann": "api_keys in the database is not an object",
    }
    assert roles() == {"ann": True, "bob": False}
    assert get_user_api_keys("ann")["openai"] == "of the file"


@pytest.mark.parametrize("without", [{"email", "api_keys", "api_keys_updated_at", "smtp_settings"}])
@in_context
def test_older_schemas_are_imported(
    app: Flask, legacy_database: LegacyDatabase, without: set[str]
) -> None:
    legacy_database.create(without=without)
    legacy_database.add("ann")
    assert run().users_created == 1
    assert check_consistency().equal == 1
