"""Accounts of the predecessor on their way into the database, a batch at a time.

What is new is created. What exists is left as it is, save keys: one that the user does not have
here is added, and one that still is as it was imported gets a newer value of the predecessor as a
new version. Where the predecessor had two values at two places, the older one becomes a version
before that, unless it is one already. Until somebody signs in here, a password that they change in
the predecessor comes over too. Nothing is ever deleted, and no role of an existing account changes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.db import lock
from webapp.legacy.keys import LegacyKey
from webapp.legacy.records import LegacySecondFactor, LegacyUser
from webapp.models import User
from webapp.models.users import fold
from webapp.services import audit, key_store, stored_accounts
from webapp.services.key_payload import Payload
from webapp.services.key_store import StoredKey
from webapp.services.legacy_rows import create_accounts, password, password_state, payload_of
from webapp.services.stored_accounts import IMPORT, Account, OpenedKey
from webapp.services.vault import TOTP_SECRET, Locked, Vault

LOCK: Final = "legacy accounts"
"""Who creates accounts of the predecessor takes turns."""
Counts = Counter[str]
"""What became of accounts and keys, by the names of the import's report."""
_KeptValues = Mapping[tuple[int, str], Sequence[Payload | None]]


class Outcome(NamedTuple):
    """What became of a batch. `strangers` are the names that somebody has signed up for here.

    Nobody knows whether that is the person of the files, so they get nothing that is in the files
    (SECURITY.md, decision 11).
    """

    counts: Counts
    strangers: Sequence[str]


def write(session: Session, users: Sequence[LegacyUser], *, run_id: int | None = None) -> Outcome:
    """Bring `users`, no two of one name, into the database. Inside `transaction()`.

    What is written bears `run_id`, so that the import can be undone; None outside of an import, for
    who signs in before it came. Raises IntegrityError when somebody else creates one of them at the
    same moment; to be tried again then.
    """
    lock(LOCK, session)
    existing = _existing(session, users, for_update=True)
    new = [user for user in users if fold(user.username) not in existing]
    create_accounts(session, new, run_id)
    known, strangers = _without_strangers(users, existing)
    kept = _kept_values(session, known, existing)
    for user in known:
        account = existing.get(fold(user.username))
        if account:
            _update(session, user, account, kept, run_id)
    return Outcome(count(known, existing), strangers)


def is_settled(user: LegacyUser, account: Account) -> bool:
    """Whether an import would leave `account` as it is. Needs no database, hence not always sure:

    False where that depends on what older versions of a key hold.
    """
    keys = user.keys.values()
    return not (
        any(key.older or _is_imported(key, account.keys.get(key.name)) for key in keys)
        or _factor_to_import(user, account)
        or _has_new_password(user, account)
    )


def preview(session: Session, users: Sequence[LegacyUser]) -> Outcome:
    """Return what `write` would return, without writing."""
    existing = _existing(session, users, for_update=False)
    known, strangers = _without_strangers(users, existing)
    return Outcome(count(known, existing), strangers)


def _without_strangers(
    users: Sequence[LegacyUser], existing: Mapping[str, Account]
) -> tuple[Sequence[LegacyUser], Sequence[str]]:
    strangers = [user for user in users if is_stranger(user, existing.get(fold(user.username)))]
    if not strangers:
        return users, ()
    names = {user.username for user in strangers}
    return [user for user in users if user.username not in names], [*names]


def is_stranger(user: LegacyUser, account: Account | None) -> bool:
    """Whether `account` was made by signing up here, and not written into the files by the mirror.

    The mirror writes when it was made, to the microsecond.
    """
    return bool(account and account.is_self_registered and account.created_at != user.created_at)


def _existing(
    session: Session, users: Sequence[LegacyUser], *, for_update: bool
) -> dict[str, Account]:
    names = [fold(user.username) for user in users]
    return stored_accounts.load(session, names, for_update=for_update)


def _kept_values(
    session: Session, users: Sequence[LegacyUser], existing: Mapping[str, Account]
) -> _KeptValues:
    """Return the values that versions hold of the keys for which the predecessor has two."""
    names: dict[int, list[str]] = {}
    for user in users:
        account = existing.get(fold(user.username))
        conflicts = [name for name, key in user.keys.items() if key.older]
        if account and conflicts:
            names[account.id] = conflicts
    return stored_accounts.payloads(session, names) if names else {}


def _update(
    session: Session, user: LegacyUser, account: Account, kept: _KeptValues, run_id: int | None
) -> None:
    imported = [
        version
        for key in user.keys.values()
        for version in _versions(key, account.keys.get(key.name), kept.get((account.id, key.name)))
    ]
    factor = _factor_to_import(user, account)
    new_password = _has_new_password(user, account)
    if not imported and not factor and not new_password:
        return
    vault = Vault.load_for_sealing(account.id)
    if new_password:
        session.execute(update(User).where(User.id == account.id).values(password(user, vault)))
        audit.record("password.imported", subject_id=account.id, run=run_id)
    for key in imported:
        stored = account.keys.get(key.name)
        expires_at = stored.expires_at if stored else None
        add_imported_version(session, vault, key, expires_at=expires_at, run_id=run_id)
    if factor:
        session.execute(
            update(User)
            .where(User.id == account.id)
            .values(
                totp_secret=vault.seal(TOTP_SECRET, factor.secret.encode()),
                totp_enabled_at=now() if factor.enabled else None,
            )
        )
        audit.record(
            "second_factor.imported",
            subject_id=account.id,
            enabled=factor.enabled,
            run=run_id,
        )


def add_imported_version(
    session: Session,
    vault: Vault,
    key: LegacyKey,
    *,
    expires_at: datetime | None,
    run_id: int | None,
) -> StoredKey:
    """Write the predecessor's value as the newest version of the key and make it current.

    Inside `transaction()`, in which `vault` was loaded for sealing.
    """
    version = key_store.add_version(
        session,
        vault,
        key.name,
        payload_of(key),
        expires_at=expires_at,
        source=IMPORT,
        run_id=run_id,
    )
    audit.record(
        "key.imported",
        subject_id=vault.user_id,
        name=key.name,
        version=version.version,
        fingerprint=version.fingerprint,
    )
    return version


def _versions(
    key: LegacyKey, stored: OpenedKey | None, kept: Sequence[Payload | None] | None
) -> list[LegacyKey]:
    """Return what becomes versions of the key, the current one last."""
    older = key.older
    # One that does not open now may be it: adding it each time would never end.
    if older is None or (kept and (None in kept or payload_of(older) in kept)):
        return [key] if _is_imported(key, stored) else []
    # The current value once more behind the older one, so that the newest version is the current.
    is_current = stored is not None and stored.is_as_imported and stored.payload == payload_of(key)
    return [older, key] if is_current or _is_imported(key, stored) else []


def _is_imported(key: LegacyKey, stored: OpenedKey | None) -> bool:
    """Whether the predecessor's value becomes the current one.

    A value that does not open never replaces one that does, or that may again.
    """
    if stored is None:
        return True
    if not stored.is_as_imported or stored.payload == payload_of(key):
        return False
    return not key.is_locked or (stored.payload is not None and stored.payload.locked)


def _has_new_password(user: LegacyUser, account: Account) -> bool:
    """Whether the password was changed in the predecessor by somebody who never signed in here.

    Whoever has signed in here decides here; the consistency check shows the difference.
    """
    if not account.is_untouched or not account.legacy_password:
        return False
    try:
        known = account.vault.fingerprint(password_state(user.password_hash))
    except Locked:
        return False
    return known != account.legacy_password


def _factor_to_import(user: LegacyUser, account: Account) -> LegacySecondFactor | None:
    """Return the predecessor's second factor if it becomes the account's.

    Whoever has signed in here decides here. Until then it is added, and one that was only prepared
    is switched on when the predecessor has done so.
    """
    factor = user.second_factor
    if factor is None or not account.is_untouched or account.second_factor == "enabled":
        return None
    return factor if account.second_factor == "none" or factor.enabled else None


def count(users: Sequence[LegacyUser], existing: Mapping[str, Account]) -> Counts:
    """Return what becomes of `users`, none of them a stranger, and of their keys."""
    counts: Counts = Counter()
    for user in users:
        account = existing.get(fold(user.username))
        counts["users_existing" if account else "users_created"] += 1
        if _factor_to_import(user, account) if account else user.second_factor:
            counts["two_factor_imported"] += 1
        for key in user.keys.values():
            counts[_counted_as(key, account.keys.get(key.name) if account else None)] += 1
    return counts


def _counted_as(key: LegacyKey, stored: OpenedKey | None) -> str:
    """Locked ones count as such whatever is stored: a key file that opens nothing is to be seen."""
    if key.is_locked:
        return "keys_locked"
    return "keys_imported" if _is_imported(key, stored) else "keys_kept"
