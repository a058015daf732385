"""What predecessor and database say of each account, read without the code that compares them."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import bcrypt
from sqlalchemy import select

from tests.legacy_folder import sha256_of
from tests.predecessor import Copy, Place, Predecessor
from webapp.crypto.hashing import is_bcrypt
from webapp.db import db
from webapp.legacy.compare import Kind
from webapp.models import ApiKey, ApiKeyVersion, OutboxEntry, User
from webapp.services.key_payload import Payload
from webapp.services.passwords import password_hashes
from webapp.services.vault import API_KEY, LEGACY_HASH, PASSWORD_DIGEST, TOTP_SECRET, Vault

Item = tuple[str, str, str]
"""Kind, username and key name of a difference."""
FIELDS = {
    Kind.ROLE_DIFFERS: "role",
    Kind.PASSWORD_DIFFERS: "password",
    Kind.SECOND_FACTOR_DIFFERS: "second_factor",
    Kind.ONLY_IN_DATABASE: "account",
}


@dataclass
class Stored:
    """An account of the database. `keys` are the current values, `versions` all there ever were."""

    row: User
    keys: dict[str, str] = field(default_factory=dict)
    versions: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    second_factor: str | None = None

    @property
    def role(self) -> str:
        return "admin" if self.row.is_admin else "user"

    @property
    def hashes(self) -> Iterator[str]:
        """Yield every hash of its password, those that were sealed opened."""
        vault = Vault.load(self.row.id)
        if self.row.password_hash:
            yield self.row.password_hash
        if self.row.imported_digest:
            yield vault.open(PASSWORD_DIGEST, self.row.imported_digest).decode()
        if self.row.legacy_hash:
            yield vault.open(LEGACY_HASH, self.row.legacy_hash).decode()

    def is_stranger(self, there: Copy) -> bool:
        """Whether somebody signed up here, and the files have another account of the name."""
        record = there.users.get(self.row.username)
        born = self.row.created_at.replace(tzinfo=None).isoformat()
        return bool(self.row.self_registered and record and record["created_at"] != born)

    @property
    def can_be_written(self) -> bool:
        """Whether there is a hash that the predecessor reads."""
        return any(not hashed.startswith("$argon2") for hashed in self.hashes)


def stored_accounts() -> dict[str, Stored]:
    """Return every account of the database by its name."""
    db.session.rollback()
    users = db.session.scalars(select(User).execution_options(populate_existing=True)).all()
    found = {user.id: Stored(user) for user in users}
    rows = db.session.execute(
        select(ApiKey, ApiKeyVersion)
        .join(ApiKeyVersion, ApiKeyVersion.api_key_id == ApiKey.id)
        .order_by(ApiKeyVersion.version)
        .execution_options(populate_existing=True)
    ).all()
    vaults = {user.id: Vault.load(user.id) for user in users}
    for key, version in rows:
        stored = found[key.user_id]
        opened = vaults[key.user_id].open(API_KEY, version.sealed_value, key.name, version.version)
        value = Payload.from_bytes(opened).value
        assert isinstance(value, str)
        stored.versions[key.name].append(value)
        if version.version == key.current_version and key.deleted_at is None:
            stored.keys[key.name] = value
    for stored in found.values():
        if stored.row.totp_enabled_at is not None:
            vault, sealed = vaults[stored.row.id], stored.row.totp_secret
            stored.second_factor = vault.open(TOTP_SECRET, sealed or "").decode()
    db.session.rollback()
    return {stored.row.username: stored for stored in found.values()}


def differences(predecessor: Predecessor, stored: dict[str, Stored]) -> set[Item]:
    """Return every difference there is, what waits to be written back included."""
    there = predecessor.read()
    said = dict(predecessor.says(there))
    found: set[Item] = {(Kind.ONLY_IN_LEGACY, name, "") for name in there.users.keys() - stored}
    for name, account in stored.items():
        if name not in there.users:
            found.add((Kind.ONLY_IN_DATABASE, name, ""))
        else:
            keys = {key: value for (user, kind, key), value in said.items()
                    if (user, kind) == (name, "key")}  # fmt: skip
            found.update(_of_keys(name, keys, account))
            if said[name, "role", ""] != account.role:
                found.add((Kind.ROLE_DIFFERS, name, ""))
            if said.get((name, "second_factor", "")) != account.second_factor:
                found.add((Kind.SECOND_FACTOR_DIFFERS, name, ""))
            if _password_differs(predecessor, said[name, "password", ""], account):
                found.add((Kind.PASSWORD_DIFFERS, name, ""))
    return found


def _of_keys(name: str, there: dict[str, str], account: Stored) -> Iterator[Item]:
    for key in there.keys() | account.keys:
        if key not in account.keys:
            yield Kind.KEY_ONLY_IN_LEGACY, name, key
        elif key not in there:
            yield Kind.KEY_ONLY_IN_DATABASE, name, key
        elif there[key] != account.keys[key]:
            yield Kind.KEY_DIFFERS, name, key


def _password_differs(predecessor: Predecessor, there: str, account: Stored) -> bool:
    """Whether the password of the files is another one than the account's, if that can be known."""
    if account.row.legacy_password is None:
        return False
    mine = next(account.hashes, None)
    candidates = predecessor.passwords.values()
    return mine is None or not any(fits(there, one) and fits(mine, one) for one in candidates)


@cache
def fits(hashed: str, password: str) -> bool:
    """Whether `password` belongs to a hash of any of the three kinds."""
    if is_bcrypt(hashed):
        return bcrypt.checkpw(password.encode(), hashed.encode())
    if hashed.startswith("$argon2"):
        return password_hashes().verify(hashed, password)
    return sha256_of(password) == hashed


def notes(places_of: dict[int, str]) -> list[tuple[Place, OutboxEntry]]:
    """Return the outbox by place, the oldest first; `places_of` are the names by id."""
    db.session.rollback()
    rows = db.session.scalars(
        select(OutboxEntry).order_by(OutboxEntry.id).execution_options(populate_existing=True)
    ).all()
    return [((places_of[row.user_id], row.field, row.key_name), row) for row in rows]
