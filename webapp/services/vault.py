"""The vault of one user: seals and opens what is theirs with their data keys."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.crypto import envelope
from webapp.crypto.envelope import KEY_BYTES, DoesNotOpen, Place
from webapp.crypto.envelope import DataKey as OpenDataKey
from webapp.crypto.fingerprints import fingerprint
from webapp.crypto.keyring import Keyring, MissingMasterKey
from webapp.db import db, transaction
from webapp.models import DataKey, User
from webapp.services.errors import ServiceError
from webapp.services.keyring import current_keyring

API_KEY = "api-key"
FINGERPRINT_KEY = "fingerprint-key"
PASSWORD_DIGEST = "password-digest"  # noqa: S105 - a purpose, not a password
LEGACY_HASH = "legacy-hash"
TOTP_SECRET = "totp-secret"  # noqa: S105 - a purpose, not a secret


class Locked(ServiceError):
    """A sealed value that does not open now. It is kept, and opens again with its master key."""

    def __init__(self, master_key_id: str | None) -> None:
        super().__init__(
            f"This is locked: it needs the master key {master_key_id}."
            if master_key_id
            else "This is locked: its stored form was changed and does not open."
        )
        self.master_key_id = master_key_id


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A row of `data_keys`."""

    number: int
    wrapped_key: str = field(repr=False)
    master_key_id: str


class Vault:
    """Seals and opens for one user. Holds unwrapped data keys only as long as it lives."""

    def __init__(
        self,
        user_id: int,
        wrapped: Sequence[WrappedKey],
        sealed_fingerprint_key: str | None,
        keyring: Keyring,
    ) -> None:
        self.user_id = user_id
        self._keyring = keyring
        self._wrapped = {row.number: row for row in wrapped}
        self._newest = max(self._wrapped, default=0)
        self._sealed_fingerprint_key = sealed_fingerprint_key
        self._open_keys: dict[int, OpenDataKey] = {}
        self._fingerprint_key: bytes | None = None

    @classmethod
    def load(cls, user_id: int, session: Session | None = None) -> Self:
        """Read the user's data keys: one statement. A user without any has an empty vault."""
        rows = (session or db.session()).execute(
            select(DataKey.number, DataKey.wrapped_key, DataKey.master_key_id, User.fingerprint_key)
            .join(User, User.id == DataKey.user_id)
            .where(DataKey.user_id == user_id)
        )
        found = rows.all()
        wrapped = [WrappedKey(r.number, r.wrapped_key, r.master_key_id) for r in found]
        return cls(user_id, wrapped, found[0].fingerprint_key if found else None, current_keyring())

    @classmethod
    def load_for_sealing(cls, user_id: int) -> Self:
        """Like `load`, and make sure that there is a data key that opens. Inside `transaction()`.

        Where the newest data key does not open, since its master key is gone, a new one is made:
        what the old one sealed stays locked, not lost.
        """
        with transaction() as session:
            # Two first saves of one user take turns here.
            session.execute(
                # Not FOR UPDATE: rows that refer to the user may be written meanwhile.
                select(User.id).where(User.id == user_id).with_for_update(key_share=True)
            )
            vault = cls.load(user_id)
            if not vault.can_seal():
                vault._add_data_key(session)
            return vault

    def can_seal(self) -> bool:
        """Whether the newest data key and the fingerprint key open."""
        if not self._wrapped:
            return False
        try:
            self._data_key(self._newest)
        except Locked:
            return False
        return self._has_fingerprint_key()

    def seal(self, purpose: str, plaintext: bytes, name: str = "", version: int = 0) -> str:
        """Seal `plaintext` with the newest data key. Raises Locked if that does not open."""
        key = self._data_key(self._newest)
        return envelope.seal(key, Place(purpose, self.user_id, name, version), plaintext)

    def open(self, purpose: str, sealed: str, name: str = "", version: int = 0) -> bytes:
        """Return the plaintext. Raises Locked, which names the master key where one is missing."""
        try:
            number, text = envelope.parts(sealed)
            place = Place(purpose, self.user_id, name, version)
            return envelope.open_text(self._data_key(number), place, text)
        except DoesNotOpen:
            raise Locked(None) from None

    def fingerprint(self, value: bytes) -> str:
        """Return 12 hex digits that are equal for equal values of this user, forever."""
        return fingerprint(self._load_fingerprint_key(), value)

    def _data_key(self, number: int) -> OpenDataKey:
        key = self._open_keys.get(number)
        if key is None:
            row = self._wrapped.get(number)
            if row is None:
                raise Locked(None)
            try:
                key = self._keyring.unwrap(row.wrapped_key, row.master_key_id, self.user_id, number)
            except MissingMasterKey as error:
                raise Locked(error.master_key_id) from None
            except DoesNotOpen:
                raise Locked(None) from None
            self._open_keys[number] = key
        return key

    def _has_fingerprint_key(self) -> bool:
        if self._sealed_fingerprint_key is None:
            return False
        try:
            self._load_fingerprint_key()
        except Locked:
            return False
        return True

    def _load_fingerprint_key(self) -> bytes:
        if self._fingerprint_key is None:
            if self._sealed_fingerprint_key is None:
                raise Locked(None)
            self._fingerprint_key = self.open(FINGERPRINT_KEY, self._sealed_fingerprint_key)
        return self._fingerprint_key

    def _add_data_key(self, session: Session) -> None:
        kept_fingerprint_key = self._has_fingerprint_key()
        data_key, row = self.create_data_key()
        session.execute(
            insert(DataKey).values(
                user_id=self.user_id,
                number=data_key.number,
                wrapped_key=row.wrapped_key,
                master_key_id=row.master_key_id,
                created_at=now(),
            )
        )
        session.execute(
            update(User)
            .where(User.id == self.user_id)
            .values(
                fingerprint_key=self.sealed_fingerprint_key(),
                # A fingerprint of the lost key is equal to nothing any more.
                legacy_password=User.legacy_password if kept_fingerprint_key else None,
            )
        )

    def create_data_key(self) -> tuple[OpenDataKey, WrappedKey]:
        """Make the next data key and use it from now on; the caller stores the row.

        The fingerprint key stays; only one that does not open any more is made anew.
        """
        data_key = OpenDataKey.generate(self._newest + 1)
        master_key_id = self._keyring.active.id
        row = WrappedKey(data_key.number, self._keyring.wrap(data_key, self.user_id), master_key_id)
        self._newest = row.number
        self._wrapped[row.number] = row
        self._open_keys[row.number] = data_key
        if not self._has_fingerprint_key():
            self._fingerprint_key = secrets.token_bytes(KEY_BYTES)
            self._sealed_fingerprint_key = self.seal(FINGERPRINT_KEY, self._fingerprint_key)
        return data_key, row

    def sealed_fingerprint_key(self) -> str:
        """Return the fingerprint key as it is stored in `users.fingerprint_key`."""
        if self._sealed_fingerprint_key is None:
            raise Locked(None)
        return self._sealed_fingerprint_key
