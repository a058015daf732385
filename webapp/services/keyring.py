"""The master keys of this process, and the gate that a wrong or missing one does not pass.

A process compares its keys with `keyring_checks` before it serves and before it seals, so that a
changed master key is noticed at once and not when somebody misses a value.
"""

from collections.abc import Collection
from typing import cast

from flask import Flask, current_app
from sqlalchemy import exists, insert, select
from sqlalchemy.exc import IntegrityError

from webapp.clock import now
from webapp.config import ConfigError, Settings
from webapp.crypto.keyring import InvalidKeyring, Keyring, MasterKey, MissingMasterKey
from webapp.db import after_commit, db, transaction
from webapp.models import DataKey, KeyringCheck
from webapp.private_files import create_once
from webapp.services.errors import ServiceError

_FIRST_ID = "k1"
_GONE = (
    "master key {} is missing: the file master.keys in INSTANCE_DIR is gone, but sealed data"
    " exists; put it back"
)


class KeyringRefused(ServiceError):
    """This process must not serve: `problems` are sentences that name the master keys by id."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def init_app(app: Flask, settings: Settings) -> None:
    """Read the master keys of `settings`. Raises ConfigError when they are malformed."""
    app.extensions["keystay_keyring_checked"] = set()
    if settings.master_keys is not None:
        app.extensions["keystay_keyring"] = _parse(
            settings.master_keys, settings.master_keys_variable
        )


def current_keyring() -> Keyring:
    """Return the checked keyring of this process. Raises KeyringRefused.

    The first call compares it with the database; later calls cost nothing.
    """
    if not current_app.extensions["keystay_keyring_checked"]:
        check_keyring()
    return cast("Keyring", current_app.extensions["keystay_keyring"])


def check_keyring() -> None:
    """Compare this process's master keys with the database and register new ones.

    Raises KeyringRefused when a key is missing that rows need (unless ACCEPT_MISSING_MASTER_KEYS
    names it) or has other bytes than it had. In development a first master key is created, and only
    while nothing sealed exists.
    """
    checked = cast("set[bool]", current_app.extensions["keystay_keyring_checked"])
    checked.clear()
    with transaction():
        # A write transaction from the start: two processes that boot at once register in turn.
        known = _known_checks()
        keyring = _keyring_or_new(known)
        problems = _problems(keyring, known)
        if problems:
            raise KeyringRefused(problems)
        for key_id in sorted(keyring.ids - known.keys()):
            _register(keyring.get(key_id))
        current_app.extensions["keystay_keyring"] = keyring
        after_commit(lambda: checked.add(True))


def keyring_problems() -> list[str]:
    """Return what `check_keyring` would refuse now, as sentences, without writing anything."""
    keyring = current_app.extensions.get("keystay_keyring")
    known = _known_checks()
    if keyring is None:
        # A file that another process made meanwhile is read, and compared, when it is first needed.
        return [] if _settings().master_keys_path.exists() else _gone(known)
    return _problems(cast("Keyring", keyring), known)


def accepted_losses() -> list[str]:
    """Return the ids of master keys that are gone, accepted as lost, and still needed by rows."""
    keyring = current_keyring()
    lost = _settings().accept_missing_master_keys - keyring.ids
    return [key_id for key_id in sorted(lost & _known_checks().keys()) if _is_needed(key_id)]


def _known_checks() -> dict[str, str]:
    rows = db.session.execute(select(KeyringCheck.master_key_id, KeyringCheck.check_value))
    return {row.master_key_id: row.check_value for row in rows}


def _settings() -> Settings:
    return cast("Settings", current_app.extensions["keystay_settings"])


def _gone(known: Collection[str]) -> list[str]:
    return [_GONE.format(key_id) for key_id in sorted(known)]


def _keyring_or_new(known: Collection[str]) -> Keyring:
    keyring = current_app.extensions.get("keystay_keyring")
    if keyring is not None:
        return cast("Keyring", keyring)
    path = _settings().master_keys_path
    if not path.exists() and known:
        raise KeyringRefused(_gone(known))
    return _parse(create_once(path, str(MasterKey.generate(_FIRST_ID))))


def _parse(text: str, variable: str = "MASTER_KEYS") -> Keyring:
    try:
        return Keyring.parse(text)
    except InvalidKeyring as error:
        raise ConfigError(f"{variable}: {error}") from error


def _problems(keyring: Keyring, known: dict[str, str]) -> list[str]:
    accepted = _settings().accept_missing_master_keys
    problems = [
        f"master key {key_id} is missing, but stored values need it: add it to MASTER_KEYS,"
        f" or, if it is lost for good, start with ACCEPT_MISSING_MASTER_KEYS={key_id}"
        for key_id in sorted(known.keys() - keyring.ids - accepted)
        if _is_needed(key_id)
    ]
    for key_id, check_value in sorted(known.items()):
        try:
            same = keyring.get(key_id).check_value() == check_value
        except MissingMasterKey:
            continue
        if not same:
            problems.append(
                f"master key {key_id} is not the one that this database knows as {key_id}: put the"
                " right one into MASTER_KEYS, or give the new one another id"
            )
    return problems


def _is_needed(key_id: str) -> bool:
    # A master key is registered before it first wraps, so `keyring_checks` names every one that a
    # row can need; asking for each is an index look-up however many data keys there are.
    return bool(db.session.scalar(select(exists().where(DataKey.master_key_id == key_id))))


def _register(key: MasterKey) -> None:
    try:
        with db.session.begin_nested():
            db.session.execute(
                insert(KeyringCheck).values(
                    master_key_id=key.id, check_value=key.check_value(), created_at=now()
                )
            )
    except IntegrityError:
        stored = db.session.scalar(
            select(KeyringCheck.check_value).where(KeyringCheck.master_key_id == key.id)
        )
        if stored != key.check_value():
            raise KeyringRefused(
                [f"another process has just registered another master key {key.id}"]
            ) from None
