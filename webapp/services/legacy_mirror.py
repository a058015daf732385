"""Applying the outbox: what was changed here is written into the predecessor's files.

In the order of the notes, many at a time, since a file of any size is read and replaced once for a
batch. A note is settled once a reading of the file has found what was written. Killed at any
moment, the next worker writes the same again, which changes nothing. With a worker, Redis or the
disk away the notes wait.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, cast

from sqlalchemy import Row, func, select, update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.config import current_settings
from webapp.db import db, transaction
from webapp.legacy import files, mirror
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.keys import LegacyKey, has_place
from webapp.legacy.mirror import Guard, Wanted, Written
from webapp.models import OutboxEntry, Run, User
from webapp.services import (
    legacy_mode,
    legacy_outbox,
    legacy_sources,
    overwritten,
    runs,
    stored_accounts,
)
from webapp.services.errors import ServiceError
from webapp.services.legacy_migration import LegacyFilesUnreadable, configured_folder
from webapp.services.legacy_outbox import Field
from webapp.services.legacy_pending import Place, is_reverted
from webapp.services.legacy_record import legacy_password, legacy_second_factor, record_of
from webapp.services.runs import Lease
from webapp.services.vault import Locked, Vault

BATCH: Final = 500
"""Notes settled together, and what else waits of the same accounts."""
_WATCHED_FOR: Final = timedelta(hours=1)
"""How long a run looks after what earlier ones wrote; after that the consistency check does."""
_MOST_WATCHED: Final = 2000
_NO_HASH: Final = (
    "the earlier application has no such account, and none can be made: only an Argon2id hash of"
    " its password is left, which that application does not read"
)
_ABSENT: Final = "the earlier application has no such account"
_NO_PLACE: Final = "the earlier application uses this name for its mail settings"
_LOCKED_KEY: Final = "the key does not open here, so it cannot be written"
_LOCKED_FACTOR: Final = "the second factor does not open here, so it cannot be written"


def run_mirror(run_id: int) -> None:
    """Do the work of a run in the background.

    Raises LegacyNotConfigured, and LegacyFilesUnreadable when a file cannot be read or written; the
    notes then wait, and say why.
    """
    with runs.working(runs.take(run_id)) as lease:
        folder = configured_folder()
        counts = {"fields_written": 0, "fields_left": 0, "fields_reverted": _requeue_reverted()}
        while notes := _waiting_notes():
            lease.renew()
            batch = _Batch(lease, notes)
            try:
                done = mirror.write_back(
                    folder, current_settings().legacy_encryption_keys, batch.wanted, batch.guard()
                )
            except LegacyUnreadable as error:
                batch.postpone(f"{error}.")
                raise LegacyFilesUnreadable(f"{error}.") from error
            batch.settle(done, counts)
        state = files.stamp(folder, current_settings().legacy_encryption_keys).text
        with transaction() as session:
            lease.checkpoint(session, source=state)
            runs.finish(lease, counts=counts)


def revert_is_possible(state: str) -> bool:
    """Whether somebody has changed the files since the last run, and that run is still watched.

    A rewrite of an old copy by the predecessor undoes what was written; `state` is a stamp.
    """
    last = runs.latest(runs.LEGACY_MIRROR, status="finished")
    if last is None or last.source == state:
        return False
    recent = select(OutboxEntry.id).where(OutboxEntry.applied_at > now() - _WATCHED_FOR).limit(1)
    return db.session.scalar(recent) is not None


def _waiting_notes() -> Sequence[Row[*tuple[Any, ...]]]:
    """Return the oldest notes, and all others of the same accounts.

    What is settled of an account is all that waits: else a later note of the same field would find
    what the first has written, and a rewrite of an old copy would not be told from that.
    """
    waits = OutboxEntry.applied_at.is_(None)
    oldest = select(OutboxEntry.user_id).where(waits).order_by(OutboxEntry.id).limit(BATCH)
    rows = db.session.execute(
        select(OutboxEntry.id, OutboxEntry.user_id, OutboxEntry.field, OutboxEntry.key_name)
        .where(waits, OutboxEntry.user_id.in_(select(oldest.subquery().c.user_id)))
        .order_by(OutboxEntry.id)
    ).all()
    db.session.rollback()
    return rows


def _requeue_reverted() -> int:
    """Note again what was written lately and is in the files as it was before; return how many.

    What is neither as before nor as written was changed by the predecessor later, and is kept.
    """
    latest: dict[Place, Row[*tuple[Any, ...]]] = {}
    for row in db.session.execute(
        select(
            OutboxEntry.user_id,
            OutboxEntry.field,
            OutboxEntry.key_name,
            OutboxEntry.before,
            OutboxEntry.after,
            OutboxEntry.applied_at,
            User.username,
        )
        .join(User, User.id == OutboxEntry.user_id)
        .where(OutboxEntry.created_at > now() - 2 * _WATCHED_FOR)
        .order_by(OutboxEntry.id.desc())
        .limit(_MOST_WATCHED)
    ):
        latest.setdefault(Place(row.user_id, row.field, row.key_name), row)
    db.session.rollback()
    watched = {place: row for place, row in latest.items() if row.applied_at and row.after}
    if not watched:
        return 0
    found = _look_up({row.username for row in watched.values()})
    with transaction() as session:
        reverted = [
            place
            for place, row in watched.items()
            if is_reverted(row, _fingerprint(found[row.username], place, _vault(place.user_id)))
        ]
        for place in reverted:
            legacy_outbox.note(session, place.user_id, cast("Field", place.field), place.key_name)
    return len(reverted)


def _look_up(usernames: set[str]) -> Mapping[str, Written]:
    names = sorted(usernames)
    keys = current_settings().legacy_encryption_keys
    try:
        return dict(zip(names, mirror.look_up(configured_folder(), keys, names), strict=True))
    except LegacyUnreadable as error:
        raise LegacyFilesUnreadable(f"{error}.") from error


def _fingerprint(found: Written, place: Place, vault: Vault) -> str:
    return legacy_outbox.fingerprint(vault, found.before, place.field, place.key_name)


def _vault(user_id: int) -> Vault:
    return Vault.load_for_sealing(user_id)


class FilesEnd(ServiceError):
    """A cut-over is under way: what was written now would come behind its check."""

    message = "A cut-over is under way, so nothing is written into the files any more."


@dataclass
class _Account:
    """What is to be written of one account, and what of it cannot be."""

    wanted: Wanted
    password: str | None = field(repr=False)
    problems: dict[tuple[str, str], str] = field(default_factory=dict)


class _Batch:
    """Some notes on their way into the files."""

    def __init__(self, lease: Lease, notes: Sequence[Row[*tuple[Any, ...]]]) -> None:
        self._lease = lease
        self._ids = [note.id for note in notes]
        self._notes: dict[Place, list[int]] = defaultdict(list)
        for note in notes:
            self._notes[Place(note.user_id, note.field, note.key_name)].append(note.id)
        fields: dict[int, set[tuple[str, str]]] = defaultdict(set)
        for place in self._notes:
            fields[place.user_id].add((place.field, place.key_name))
        self._accounts = _read_accounts(fields)
        self._user_ids = list(self._accounts)

    @property
    def wanted(self) -> list[Wanted]:
        return [self._accounts[user_id].wanted for user_id in self._user_ids]

    def guard(self) -> Guard:
        folder = configured_folder()
        return Guard(
            self._store_before,
            self._confirm,
            self._lease.renew,
            lambda: legacy_sources.stamp_or_unreadable(folder),
        )

    def settle(self, done: mirror.WrittenBack, counts: dict[str, int]) -> None:
        """Settle the notes, with the run's progress, in one transaction. Raises LeaseLost."""
        accounts = dict(zip(self._user_ids, done.accounts, strict=True))
        with transaction() as session:
            for user_id, places in self._by_user().items():
                self._settle_account(session, accounts[user_id], places, counts)
            if done.from_state and done.to_state and done.from_state != done.to_state:
                # What was written is here already: nobody has to import it, nor what was undone.
                session.execute(
                    update(Run)
                    .where(
                        Run.kind.in_((runs.LEGACY_IMPORT, runs.LEGACY_UNDO)),
                        Run.status == "finished",
                        Run.source == done.from_state,
                    )
                    .values(source=done.to_state)
                )
            cursor = self._lease.cursor = self._lease.cursor + len(self._ids)
            self._lease.checkpoint(session, cursor=cursor, counts=counts)

    def postpone(self, problem: str) -> None:
        """Let the notes wait, and say why. Raises LeaseLost."""
        with transaction() as session:
            session.execute(
                update(OutboxEntry).where(OutboxEntry.id.in_(self._ids)).values(problem=problem)
            )
            self._lease.checkpoint(session)

    def _settle_account(
        self, session: Session, done: Written, places: Sequence[Place], counts: dict[str, int]
    ) -> None:
        vault = _vault(places[0].user_id)
        account = self._accounts[places[0].user_id]
        for place in places:
            problem = done.problem or account.problems.get((place.field, place.key_name))
            after = legacy_outbox.fingerprint(vault, done.after, place.field, place.key_name)
            session.execute(
                update(OutboxEntry)
                .where(OutboxEntry.id.in_(self._notes[place]))
                .values(applied_at=now(), problem=problem, after=None if problem else after)
            )
            counts["fields_left" if problem else "fields_written"] += 1
            if not problem and place.field in ("account", "password"):
                known: Any = func.coalesce(User.legacy_password, "")  # theirs is another one
                if done.after and done.after.password_hash == account.password:
                    known = legacy_outbox.fingerprint(vault, done.after, "password", "")
                session.execute(
                    update(User).where(User.id == place.user_id).values(legacy_password=known)
                )

    def _store_before(self, accounts: Sequence[Written]) -> None:
        """Note what is about to be replaced, once: killed between, the next one finds its own.

        Values of keys that are not known here yet are kept as versions.
        """
        found = dict(zip(self._user_ids, accounts, strict=True))
        with transaction() as session:
            for user_id, places in self._by_user().items():
                overwritten.keep_unknown(
                    session, user_id, _replaced_keys(found[user_id]), run_id=self._lease.run_id
                )
                vault = _vault(user_id)
                for place in places:
                    session.execute(
                        update(OutboxEntry)
                        .where(OutboxEntry.id.in_(self._notes[place]), OutboxEntry.before.is_(None))
                        .values(before=_fingerprint(found[user_id], place, vault))
                    )
            self._lease.checkpoint(session)

    def _confirm(self) -> None:
        """Raise LeaseLost if another worker has taken over. Asked right before a replacement.

        Raises FilesEnd while a cut-over takes the files out of use.
        """
        legacy_mode.ask_again()
        with transaction() as session:
            if runs.unfinished(runs.LEGACY_CUTOVER) or not legacy_mode.is_mirrored():
                raise FilesEnd
            self._lease.checkpoint(session)

    def _by_user(self) -> Mapping[int, list[Place]]:
        places: dict[int, list[Place]] = defaultdict(list)
        for place in self._notes:
            places[place.user_id].append(place)
        return dict(sorted(places.items()))  # rows are locked in the order in which others do it


def _replaced_keys(account: Written) -> list[LegacyKey]:
    """Return the keys that have another value in the files, or none, once it is written."""
    if account.before is None or account.after is None:
        return []
    after = account.after.keys
    return [key for name, key in account.before.keys.items() if after.get(name) != key]


def _read_accounts(fields: Mapping[int, set[tuple[str, str]]]) -> dict[int, _Account]:
    """Return what is to be written of each account: what stands in the database now."""
    users = db.session.scalars(
        select(User).where(User.id.in_(fields)).execution_options(populate_existing=True)
    ).all()
    names = [user.username_folded for user in users]
    stored = stored_accounts.load(db.session(), names)
    accounts = {
        user.id: _account(user, stored[user.username_folded], fields[user.id]) for user in users
    }
    db.session.rollback()
    return accounts


def _account(user: User, stored: stored_accounts.Account, fields: set[tuple[str, str]]) -> _Account:
    """Return what of an account is to be written, and all of it for where it is new there."""
    vault = Vault.load(user.id)
    is_new = ("account", "") in fields
    problems: dict[tuple[str, str], str] = {}
    keys: dict[str, LegacyKey | None] = {}
    for name in [name for kind, name in fields if kind == "key"]:
        key = stored.keys.get(name)
        if not has_place(name):
            problems["key", name] = _NO_PLACE
        elif key is None or key.is_deleted:
            keys[name] = None
        elif (written := _written_key(name, key)) is not None:
            keys[name] = written
        else:
            problems["key", name] = _LOCKED_KEY
    sets_factor, factor, is_complete = ("second_factor", "") in fields, None, True
    try:
        factor = legacy_second_factor(user, vault) if is_new or sets_factor else None
    except Locked:
        sets_factor, problems["second_factor", ""] = False, _LOCKED_FACTOR
        is_complete = False  # without its second factor the password alone would let in there
    password = legacy_password(user, vault) if is_new or ("password", "") in fields else None
    all_keys = {name: _written_key(name, key) for name, key in stored.keys.items()}
    wanted = Wanted(
        username=user.username,
        record=record_of(user, password) if is_new and password and is_complete else None,
        record_keys={name: key for name, key in all_keys.items() if key} if is_new else {},
        record_factor=factor if is_new else None,
        why_not=(_NO_HASH if is_complete else _LOCKED_FACTOR) if is_new else _ABSENT,
        born_at=user.created_at if user.self_registered else None,
        password_hash=password if ("password", "") in fields else None,
        is_admin=user.is_admin if ("role", "") in fields else None,
        keys=keys,
        sets_second_factor=sets_factor,
        second_factor=factor if sets_factor else None,
    )
    return _Account(wanted, password, problems)


def _written_key(name: str, key: stored_accounts.OpenedKey) -> LegacyKey | None:
    """Return the key as it is to stand in the files; None when it is in the trash or locked."""
    if key.is_deleted or key.payload is None or key.payload.locked or not has_place(name):
        return None
    return stored_accounts.as_legacy(name, key.payload)
