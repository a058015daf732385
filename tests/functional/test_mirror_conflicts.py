"""Mirror mode, when both sides change the same account before either has heard of the other."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record
from webapp import create_app
from webapp.db import db, dispose_engines, transaction
from webapp.legacy import replace
from webapp.models import ApiKey, ApiKeyVersion, Run
from webapp.services import legacy_lookup, legacy_mirror, runs
from webapp.services.consistency import check_consistency
from webapp.services.due_runs import start_due_runs
from webapp.services.keys import save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.vault import API_KEY, Vault

PASSWORD = "seven quiet lanterns"
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users({"ann": record(api_keys={"openai": folder.token("first")})})
    folder.rest()
    return folder


@pytest.fixture(autouse=True)
def app(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path), LEGACY_MODE="mirror"))
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def mirror() -> None:
    legacy_mirror.run_mirror(runs.start(runs.LEGACY_MIRROR).id)


def raw(folder: LegacyFolder) -> dict[str, Any]:
    users: dict[str, Any] = json.loads((folder.path / "users.json").read_bytes())["users"]
    return users


def saved_there(folder: LegacyFolder, **keys: str) -> None:
    users = raw(folder)
    users["ann"]["api_keys"] |= {name: folder.token(value) for name, value in keys.items()}
    folder.users(users)


def versions(name: str) -> list[str]:
    """Every value that the key of ann ever had."""
    db.session.rollback()
    rows = db.session.execute(
        select(ApiKey.user_id, ApiKeyVersion.version, ApiKeyVersion.sealed_value)
        .join(ApiKeyVersion, ApiKeyVersion.api_key_id == ApiKey.id)
        .where(ApiKey.name == name)
        .order_by(ApiKeyVersion.version)
    ).all()
    return [
        Vault.load(row.user_id).open(API_KEY, row.sealed_value, name, row.version).decode()[1:]
        for row in rows
    ]


def differing() -> set[tuple[str, str]]:
    return {(item.kind.value, item.username) for item in check_consistency().items}


def test_what_is_written_beside_a_replacement_is_imported(
    folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = replace._flush_folder

    def flush_and_write(path: Path) -> None:
        flush(path)
        folder.second_factors({"ann": {"secret": SECRET, "enabled": True}})

    save_user_api_key("ann", "openai", "of ours")
    with monkeypatch.context() as patch:
        patch.setattr(replace, "_flush_folder", flush_and_write)
        mirror()
    with transaction() as session:
        for run in session.scalars(select(Run).where(Run.kind == runs.LEGACY_IMPORT)):
            run.finished_at = run.created_at - timedelta(minutes=1)
    start_due_runs()
    assert runs.unfinished(runs.LEGACY_IMPORT) is not None
