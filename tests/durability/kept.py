"""What must be in the database after saves, however they were interrupted."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from flask import Flask
from sqlalchemy import select

from tests.saver import Saved
from webapp.db import db
from webapp.models import ApiKey, ApiKeyVersion, AuditEvent, User
from webapp.services.key_payload import Payload
from webapp.services.keys import get_user_api_keys
from webapp.services.vault import API_KEY, Vault

Key = tuple[str, str]
"""Username and name."""
Versions = Mapping[int, tuple[str, str | None]]
"""Value and fingerprint by version number."""


def assert_kept(app: Flask, saves: Iterable[Saved]) -> None:
    """Every acknowledged save is there, readable, with its version and its fingerprint."""
    keys = stored_keys(app)
    for save in saves:
        found = keys[save.username, save.name].get(save.version)
        assert found == (save.value, save.fingerprint), save


def assert_nothing_half(app: Flask) -> None:
    """Every key has its versions without gaps, the newest is the current one, each was audited."""
    keys = stored_keys(app)
    with app.app_context():
        current = {
            (row.username, row.name): row.current_version
            for row in db.session.execute(
                select(User.username, ApiKey.name, ApiKey.current_version).join(User.api_keys)
            )
        }
        assert current == {key: len(versions) for key, versions in keys.items()}
        audited: Counter[tuple[str, str, int]] = Counter()
        for event, username in db.session.execute(
            select(AuditEvent, User.username)
            .join(User, User.id == AuditEvent.subject_id)
            .where(AuditEvent.event == "key.saved")
        ):
            audited[username, event.detail["name"], event.detail["version"]] += 1
        assert audited == Counter(
            (*key, version) for key, versions in keys.items() for version in versions
        )
        for username in {username for username, _ in keys}:
            newest = {key[1]: v[len(v)][0] for key, v in keys.items() if key[0] == username}
            assert dict(get_user_api_keys(username)) == newest


def stored_keys(app: Flask) -> Mapping[Key, Versions]:
    """Return all versions of all keys, opened. Their numbers are known to be gapless from 1."""
    keys: dict[Key, dict[int, tuple[str, str | None]]] = defaultdict(dict)
    with app.app_context():
        vaults = {user.id: Vault.load(user.id) for user in db.session.scalars(select(User))}
        rows = db.session.execute(
            select(
                User.id, User.username, ApiKey.name, ApiKeyVersion.version,
                ApiKeyVersion.sealed_value, ApiKeyVersion.fingerprint,
            )
            .select_from(ApiKeyVersion)
            .outerjoin(ApiKey, ApiKey.id == ApiKeyVersion.api_key_id)
            .outerjoin(User)
        ).all()  # fmt: skip
        db.session.rollback()
    for row in rows:
        opened = vaults[row.id].open(API_KEY, row.sealed_value, row.name, row.version)
        value = Payload.from_bytes(opened).value
        assert isinstance(value, str)
        keys[row.username, row.name][row.version] = value, row.fingerprint
    for key, versions in keys.items():
        assert sorted(versions) == list(range(1, len(versions) + 1)), key
    return keys
