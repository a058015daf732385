"""Files that take long to read: nobody waits for them who need not."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.conftest import MakeSettings
from tests.legacy_folder import LegacyFolder, record
from tests.worker_process import until
from webapp import create_app
from webapp.db import dispose_engines
from webapp.legacy.users_json import Snapshot
from webapp.services import legacy_lookup, legacy_sources
from webapp.services.keys import get_user_api_keys
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    folder = LegacyFolder(tmp_path / "legacy")
    folder.users(
        {"Ann": record(api_keys={"openai": folder.token("sk-from-the-file"), "slack": "x"})}
    )
    return folder


@pytest.fixture
def app(make_settings: MakeSettings, folder: LegacyFolder) -> Iterator[Flask]:
    app = create_app(make_settings(LEGACY_DIR=str(folder.path)))
    yield app
    legacy_lookup.forget(app)
    dispose_engines(app)


def test_who_has_keys_here_does_not_wait_for_a_large_file(
    app: Flask, folder: LegacyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy_lookup, "_SMALL_BYTES", 0)
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        folder.users({"Ann": record(api_keys={"google": folder.token("added there later")})})
        may_go_on = threading.Event()
        real = legacy_sources.open_sources

        def slow(*arguments: Any, **options: Any) -> Snapshot:
            assert may_go_on.wait(20)
            return real(*arguments, **options)

        monkeypatch.setattr(legacy_lookup, "open_sources", slow)
        for _ in range(3):
            assert set(get_user_api_keys("ann")) == {"openai", "slack"}
        may_go_on.set()
        until(lambda: get_user_api_keys("ann").get("google") == "added there later", 20)
