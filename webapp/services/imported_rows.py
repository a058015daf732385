"""What one import has made of accounts and keys, and taking it back, a batch at a time.

An account that the import created goes with all that belongs to it, unless anybody has done
anything with it since; then all of it stays. In an account that was there before, a key gets the
value from before, or goes if it had none, unless there is something newer. The value from before
becomes a new version, as with every restore, and the import's own versions are removed: so no
version number comes twice, and the newest version of an earlier import always is the one before.

Audit events are kept for good, and they refer to accounts. Those about a removed account lose the
reference, which no row answers any more, and get its name into their detail instead: who reads
them learns all that they said before. To keep the row of the account for the reference's sake would
keep its name taken, so that neither import nor signup could ever make it again.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, delete, exists, or_, select, true, union, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from webapp.clock import now
from webapp.db import Base, lock
from webapp.models import ApiKey, ApiKeyVersion, AuditEvent, DataKey, User
from webapp.services import audit, key_store
from webapp.services.key_payload import Payload
from webapp.services.stored_accounts import IMPORT, IS_UNTOUCHED
from webapp.services.undo_report import Kept
from webapp.services.vault import API_KEY, Locked, Vault

_NO_CHANGE: Final = ("account.imported", "key.imported", "key.import_undone", "login.failed")
"""Events about an account after which it is what it was; versions tell what imports did to keys.
Every other one says that somebody did something, also those that later releases add."""

_SIGNED_IN: Final = "somebody has signed in to it, or its password was changed"
_REFERRED_TO: Final = "somebody is signed in to it, or has acted with it"
_LATER: Final = "a later import added to it"
_SAVED: Final = "a newer value was saved here"
_DELETED: Final = "it was deleted here"
_EXPIRES: Final = "its expiry was set here"
_LOCKED: Final = "its value from before is locked: it needs a master key that is not there"
_STAYS: Final = {
    "second_factor.imported": (
        "the second factor that it brought stays: without it the password alone would let in"
    ),
    "password.imported": "the password that it brought stays: the one before is not kept anywhere",
}
"""Events of what an import brings to accounts from before, besides keys, and why that stays."""
_WORDS: Final = {
    "account.disabled": "it was disabled here",
    "key.deleted": "a key was deleted here",
    "key.expiry_set": "the expiry of a key was changed here",
    "key.saved": "a key was saved here",
    "password.imported": _LATER,
    "second_factor.imported": _LATER,
}
_USER: Final[tuple[Any, ...]] = (
    User.id,
    User.username,
    User.import_run_id,
    IS_UNTOUCHED.label("is_untouched"),
)
_KEY: Final[tuple[Any, ...]] = (
    ApiKey.id,
    ApiKey.user_id,
    ApiKey.name,
    ApiKey.current_version,
    ApiKey.deleted_at,
    ApiKey.expires_at,
)
_VERSION: Final[tuple[Any, ...]] = (
    ApiKeyVersion.api_key_id,
    ApiKeyVersion.version,
    ApiKeyVersion.source,
    ApiKeyVersion.run_id,
    ApiKeyVersion.sealed_value,
)
_NO_SYNC: Final = {"synchronize_session": False}


@dataclass
class Outcome:
    """What became of a batch: counts by the names of the report, and what was kept."""

    counts: Counter[str] = field(default_factory=Counter)
    kept: list[Kept] = field(default_factory=list)


def take_back(session: Session, run_id: int, user_ids: Sequence[int]) -> Outcome:
    """Take back what the import `run_id` did to these accounts. Inside `transaction()`."""
    lock("legacy accounts", session)
    accounts = _touched(session, run_id, user_ids)
    if not accounts:
        return Outcome()
    batch = _Batch(session, run_id, accounts)
    batch.take_accounts_back()
    batch.take_keys_back()
    batch.report_what_stays()
    return batch.outcome


def _touched(session: Session, run_id: int, user_ids: Sequence[int]) -> Sequence[Row[Any]]:
    """Return the accounts that the import has created, or may have added something to.

    Their rows stay locked, though not for rows that refer to them, as import and save have it:
    whoever changes keys locks in this order.
    """
    wrote_version = exists().where(
        ApiKey.user_id == User.id,
        ApiKeyVersion.api_key_id == ApiKey.id,
        ApiKeyVersion.run_id == run_id,
    )
    brought_more = exists().where(AuditEvent.subject_id == User.id, AuditEvent.event.in_(_STAYS))
    is_touched = or_(User.import_run_id == run_id, wrote_version, brought_more)
    return session.execute(
        select(*_USER)
        .where(User.id.in_(user_ids), is_touched)
        .order_by(User.id)
        .with_for_update(of=User, key_share=True)
    ).all()


@dataclass
class _Key:
    """A key with the versions that it has, the oldest first."""

    row: Row[Any]
    versions: list[Row[Any]] = field(default_factory=list)

    def newest_of(self, run_id: int) -> Row[Any] | None:
        """Return the newest version that this import wrote."""
        return next((v for v in reversed(self.versions) if v.run_id == run_id), None)

    @property
    def set_here(self) -> str | None:
        """What somebody did with the key besides its value; an import does neither."""
        if self.row.deleted_at:
            return _DELETED
        return _EXPIRES if self.row.expires_at else None


class _Batch:
    """Accounts that the import created or added something to, locked."""

    def __init__(
        self,
        session: Session,
        run_id: int,
        accounts: Sequence[Row[Any]],
    ) -> None:
        self.outcome = Outcome()
        self._session = session
        self._run_id = run_id
        self._created = [account for account in accounts if account.import_run_id == run_id]
        self._older = [account for account in accounts if account.import_run_id != run_id]
        self._keys = self._load_keys([account.id for account in accounts])

    def _load_keys(self, user_ids: Sequence[int]) -> Mapping[int, list[_Key]]:
        rows = self._session.execute(
            select(*_KEY).where(ApiKey.user_id.in_(user_ids)).order_by(ApiKey.id).with_for_update()
        ).all()
        keys = {row.id: _Key(row) for row in rows}
        for version in self._session.execute(
            select(*_VERSION)
            .where(ApiKeyVersion.api_key_id.in_(keys))
            .order_by(ApiKeyVersion.version)
        ):
            keys[version.api_key_id].versions.append(version)
        found: dict[int, list[_Key]] = {user_id: [] for user_id in user_ids}
        for key in keys.values():
            found[key.row.user_id].append(key)
        return found

    def take_accounts_back(self) -> None:
        """Remove the accounts that the import created and nobody changed since."""
        if not self._created:
            return
        reasons = self._why_kept([account.id for account in self._created])
        counts = self.outcome.counts
        for account in self._created:
            reason = reasons.get(account.id)
            mine = sum(key.newest_of(self._run_id) is not None for key in self._keys[account.id])
            counts["users_kept" if reason else "users_removed"] += 1
            counts["keys_kept" if reason else "keys_removed"] += mine
            if reason:
                self.outcome.kept.append(Kept(account.username, "", reason))
        self._remove({a.id: a.username for a in self._created if a.id not in reasons})

    def _why_kept(self, ids: Sequence[int]) -> dict[int, str]:
        """Return why accounts are kept, by id; those that are not in it were not changed since."""
        # Waits for who is writing rows that refer to these accounts, and lets nobody begin to: what
        # they wrote is seen from here on.
        users = select(User.id).where(User.id.in_(ids)).order_by(User.id)
        self._session.execute(users.with_for_update())
        reasons = {account.id: _SIGNED_IN for account in self._created if not account.is_untouched}
        for event in self._events(ids, AuditEvent.event.not_in(_NO_CHANGE)):
            if event.event not in _STAYS or event.detail.get("run") != self._run_id:
                words = _WORDS.get(event.event, f"something was done with it ({event.event})")
                reasons.setdefault(event.subject_id, words)
        for account in self._created:
            for key in self._keys[account.id]:
                changed = self._changed(key)
                if changed:
                    reasons.setdefault(account.id, f"{key.row.name}: {changed}")
        references = union(*[select(column).where(column.in_(ids)) for column in _references()])
        for user_id in self._session.scalars(references):
            reasons.setdefault(user_id, _REFERRED_TO)
        return reasons

    def _events(self, ids: Collection[int], condition: Any) -> Sequence[Row[Any]]:
        columns = (AuditEvent.id, AuditEvent.subject_id, AuditEvent.event, AuditEvent.detail)
        query = select(*columns).where(AuditEvent.subject_id.in_(ids), condition)
        return self._session.execute(query.order_by(AuditEvent.id)).all()

    def _changed(self, key: _Key) -> str | None:
        """Return in what way a key of an account of the import is not as the import left it."""
        for version in key.versions:
            if version.run_id != self._run_id:
                return _LATER if version.source == IMPORT else _SAVED
        return key.set_here

    def _remove(self, names: Mapping[int, str]) -> None:
        """Remove accounts, given by id and name, with all that belongs to them."""
        if not names:
            return
        self._free_events(names)
        keys = select(ApiKey.id).where(ApiKey.user_id.in_(names))
        for statement in (
            delete(ApiKeyVersion).where(ApiKeyVersion.api_key_id.in_(keys)),
            delete(ApiKey).where(ApiKey.user_id.in_(names)),
            delete(DataKey).where(DataKey.user_id.in_(names)),
            delete(User).where(User.id.in_(names)),
        ):
            self._session.execute(statement, execution_options=_NO_SYNC)
        about: list[tuple[int | None, audit.Details]] = [
            (None, {"username": name, "run": self._run_id}) for name in names.values()
        ]
        audit.record_many("account.import_undone", about)

    def _free_events(self, names: Mapping[int, str]) -> None:
        """Let the events about these accounts name them, instead of referring to their rows."""
        # The import's own event has the name in it.
        for event in self._events(names, AuditEvent.event != "account.imported"):
            named = {**event.detail, "username": names[event.subject_id]}
            statement = update(AuditEvent).where(AuditEvent.id == event.id).values(detail=named)
            self._session.execute(statement, execution_options=_NO_SYNC)
        freed = update(AuditEvent).where(AuditEvent.subject_id.in_(names)).values(subject_id=None)
        self._session.execute(freed, execution_options=_NO_SYNC)

    def take_keys_back(self) -> None:
        """Take back what the import added to accounts that were there before."""
        for account in self._older:
            for key in self._keys[account.id]:
                mine = key.newest_of(self._run_id)
                if mine is not None:
                    self._take_key_back(account, key, mine)

    def _take_key_back(self, account: Row[Any], key: _Key, mine: Row[Any]) -> None:
        before = self._before(key, mine)
        reason = _newer(key, mine)
        if not reason:
            reason = self._restore(key, before) if before else self._remove_key(key)
        if reason:
            self.outcome.counts["keys_kept"] += 1
            self.outcome.kept.append(Kept(account.username, key.row.name, reason))
            return
        self.outcome.counts["keys_restored" if before else "keys_removed"] += 1
        audit.record(
            "key.import_undone",
            subject_id=account.id,
            name=key.row.name,
            removed=before is None,
            run=self._run_id,
        )

    def _before(self, key: _Key, mine: Row[Any]) -> Row[Any] | None:
        """Return the version that the import's replaced: an import's, since it replaces no other.

        What was saved here and not confirmed is not it; yet where nothing else is left, the key is
        not removed with it.
        """
        older = [v for v in key.versions if v.version < mine.version and v.run_id != self._run_id]
        return max(older, key=lambda v: (v.source == IMPORT, v.version), default=None)

    def _restore(self, key: _Key, before: Row[Any]) -> str | None:
        """Give the key its value from before; return why that cannot be done."""
        vault = Vault.load_for_sealing(key.row.user_id)
        try:
            content = vault.open(API_KEY, before.sealed_value, key.row.name, before.version)
        except Locked:
            return _LOCKED
        key_store.add_version(
            self._session,
            vault,
            key.row.name,
            Payload.from_bytes(content),
            expires_at=key.row.expires_at,
            source=before.source,
            run_id=before.run_id,
        )
        self._remove_versions(key, ApiKeyVersion.run_id == self._run_id)
        return None

    def _remove_key(self, key: _Key) -> str | None:
        """Remove a key that only the import made; return what somebody did with it since."""
        if key.set_here:
            return key.set_here
        self._remove_versions(key, true())
        user = update(User).where(User.id == key.row.user_id).values(api_keys_updated_at=now())
        for statement in (delete(ApiKey).where(ApiKey.id == key.row.id), user):
            self._session.execute(statement, execution_options=_NO_SYNC)
        return None

    def _remove_versions(self, key: _Key, condition: ColumnElement[bool]) -> None:
        of_key = delete(ApiKeyVersion).where(ApiKeyVersion.api_key_id == key.row.id, condition)
        self._session.execute(of_key, execution_options=_NO_SYNC)

    def report_what_stays(self) -> None:
        """Say which accounts from before keep the second factor or password that it gave them.

        Whoever has signed in since, or has another second factor by now, has none of it any more.
        """
        accounts = {account.id: account for account in self._older if account.is_untouched}
        said = set()
        for event in self._events(accounts, AuditEvent.event.in_(_STAYS)):
            account, reason = accounts[event.subject_id], _STAYS[event.event]
            if event.detail.get("run") == self._run_id and (account.id, reason) not in said:
                said.add((account.id, reason))
                self.outcome.kept.append(Kept(account.username, "", reason))


def _newer(key: _Key, mine: Row[Any]) -> str | None:
    """Return what was done with the key after the import's version."""
    newest = key.versions[-1]
    if newest.version != mine.version and newest.source == IMPORT:
        return "a later import changed it"
    if newest.version != mine.version or key.row.current_version != mine.version:
        return _SAVED
    return _DELETED if key.row.deleted_at else None


def _references() -> Sequence[Any]:
    """Return the columns that refer to an account, save those of rows that are part of it.

    A row of a table that a later release adds keeps the account, until somebody decides otherwise.
    """
    of_account: tuple[InstrumentedAttribute[Any], ...] = (
        ApiKey.user_id,
        DataKey.user_id,
        AuditEvent.subject_id,
    )
    known = {column.property.columns[0] for column in of_account}
    return [
        key.parent
        for table in Base.metadata.sorted_tables
        for key in table.foreign_keys
        if key.column.table.name == User.__tablename__ and key.parent not in known
    ]
