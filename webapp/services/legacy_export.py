"""Going back: fresh files in the predecessor's formats, from what stands in the database."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from cryptography.fernet import Fernet
from sqlalchemy import select

from webapp.db import db
from webapp.legacy.files import KEY_FILE, SECOND_FACTORS, USERS
from webapp.legacy.keys import has_place, written
from webapp.legacy.tokens import TokenKeys
from webapp.models import User
from webapp.private_files import make_private_folder, sync_folder
from webapp.services import stored_accounts
from webapp.services.errors import ServiceError
from webapp.services.legacy_record import legacy_password, legacy_second_factor, record_of, time_of
from webapp.services.vault import Locked, Vault

_BATCH: Final = 500
NOTE: Final = "read-me-first.txt"
"""Who cannot sign in there, and which keys are missing."""


class FolderInUse(ServiceError):
    """There are files already; none is ever overwritten."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not empty. Name a folder that does not exist yet.")


class FolderNotWritable(ServiceError):
    """The folder cannot be written; the message says why."""


@dataclass(frozen=True)
class ExportReport:
    """What was written. `without_password` are those who need a new password there, and why;
    `keys_locked` are the keys that do not open here, or whose name the predecessor needs for its
    mail settings, as pairs of username and name.
    """

    users: int
    keys: int
    second_factors: int
    without_password: Sequence[tuple[str, str]]
    keys_locked: Sequence[tuple[str, str]]


def export_legacy(folder: Path) -> ExportReport:
    """Write users.json, two_fa.json and a new .encryption_key into `folder`, made with mode 0700.

    All of it or nothing: users.json, without which the predecessor does not start, appears last.
    Raises FolderInUse, FolderNotWritable. The files hold keys in a form that their own key opens:
    they are as secret as the keys.
    """
    try:
        make_private_folder(folder)
        if any(folder.iterdir()):
            raise FolderInUse(folder)
        return _Export(folder).write()
    except OSError as error:
        raise FolderNotWritable(f"{folder} cannot be written: {error.strerror}.") from error


class _Export:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = Fernet.generate_key().decode("ascii")
        self._tokens = TokenKeys([self._key])
        self._counts = {"users": 0, "keys": 0, "second_factors": 0}
        self._without_password: list[tuple[str, str]] = []
        self._locked: list[tuple[str, str]] = []

    def write(self) -> ExportReport:
        with ExitStack() as files:
            users = files.enter_context(_PrivateFile(self._folder / USERS))
            factors = files.enter_context(_PrivateFile(self._folder / SECOND_FACTORS))
            key_file = files.enter_context(_PrivateFile(self._folder / KEY_FILE))
            note = files.enter_context(_PrivateFile(self._folder / NOTE))
            key_file.text(self._key)
            users.text('{\n  "users": {')
            factors.text("{")
            for user, record, factor in self._accounts():
                users.member(user.username, record, indent=4)
                if factor is not None:
                    factors.member(user.username, factor, indent=2)
                    self._counts["second_factors"] += 1
            users.text("\n  }\n}\n")
            factors.text("\n}\n")
            note.text(self._note())
            for file in (note, key_file, factors, users):
                file.publish()
        sync_folder(self._folder)
        return ExportReport(
            **self._counts, without_password=self._without_password, keys_locked=self._locked
        )

    def _accounts(self) -> Iterator[tuple[User, dict[str, Any], dict[str, Any] | None]]:
        last = 0
        while True:
            users = db.session.scalars(
                select(User).where(User.id > last).order_by(User.id).limit(_BATCH)
            ).all()
            stored = stored_accounts.load(db.session(), [user.username_folded for user in users])
            for user in users:
                yield self._account(user, stored[user.username_folded])
            if not users:
                return
            last = users[-1].id
            db.session.rollback()
            db.session.expunge_all()

    def _account(
        self, user: User, stored: stored_accounts.Account
    ) -> tuple[User, dict[str, Any], dict[str, Any] | None]:
        vault = Vault.load(user.id)
        record = record_of(user, self._password(user, vault))
        record["last_login"] = time_of(user.last_login_at)
        keys = dict(self._keys(stored))
        if keys:
            record["api_keys"] = keys
            record["api_keys_updated"] = time_of(user.api_keys_updated_at)
        self._counts["users"] += 1
        return user, record, self._factor(user, vault)

    def _password(self, user: User, vault: Vault) -> str:
        """Return a hash that the predecessor reads; one that nobody's password has, where none is.

        A record without any would be refused, there and by a later import.
        """
        found = None if user.disabled_at else legacy_password(user, vault)
        if found is None:
            why = "disabled here" if user.disabled_at else "only an Argon2id hash is left"
            self._without_password.append((user.username, why))
        return found or hashlib.sha256(secrets.token_bytes(32)).hexdigest()

    def _factor(self, user: User, vault: Vault) -> dict[str, Any] | None:
        try:
            factor = legacy_second_factor(user, vault)
        except Locked:
            # Without it the password alone would let in.
            raise SecondFactorLocked(user.username) from None
        return {"secret": factor.secret, "enabled": True} if factor else None

    def _keys(self, stored: stored_accounts.Account) -> Iterator[tuple[str, str]]:
        for name, key in sorted(stored.keys.items()):
            if key.is_deleted:
                continue
            if key.payload is None or key.payload.locked or not has_place(name):
                self._locked.append((stored.username, name))
                continue
            self._counts["keys"] += 1
            yield from written(stored_accounts.as_legacy(name, key.payload), self._tokens).items()

    def _note(self) -> str:
        lines = ["These files hold keys and the key that opens them. Keep them as secret.", ""]
        lines += ["Who needs a new password there:"]
        lines += [f"  {name}: {why}" for name, why in self._without_password] or ["  nobody"]
        lines += ["", "Keys that do not open here, or have no place there, and are missing:"]
        lines += [f"  {name}: {key}" for name, key in self._locked] or ["  none"]
        return "\n".join(lines) + "\n"


class SecondFactorLocked(ServiceError):
    """A second factor does not open, and the account must not be written without it."""

    def __init__(self, username: str) -> None:
        super().__init__(
            f"The second factor of {username} does not open: its master key is missing. Nothing was"
            " written. Bring the key back, or switch that second factor off."
        )


class _PrivateFile:
    """A file written aside, mode 0600, that takes its name when it is published, or goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(8)}")
        self._members = 0

    def __enter__(self) -> "_PrivateFile":
        descriptor = os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: IO[str] = os.fdopen(descriptor, "w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._aside.unlink(missing_ok=True)

    def text(self, text: str) -> None:
        self._file.write(text)

    def member(self, name: str, value: object, indent: int) -> None:
        space = "\n" + " " * indent
        content = json.dumps(value, indent=2).replace("\n", space)
        self._file.write(f"{',' if self._members else ''}{space}{json.dumps(name)}: {content}")
        self._members += 1

    def publish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._aside.rename(self._path)
