"""Values of the predecessor that something else takes the place of: kept as versions."""

from collections.abc import Collection

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.legacy.keys import LegacyKey
from webapp.models import ApiKey, ApiKeyVersion
from webapp.services import key_store
from webapp.services.key_payload import Payload, fingerprinted
from webapp.services.legacy_accounts import add_imported_version
from webapp.services.legacy_rows import payload_of
from webapp.services.vault import API_KEY, Locked, Vault


def keep_unknown(
    session: Session, user_id: int, keys: Collection[LegacyKey], *, run_id: int
) -> None:
    """Keep those of `keys`, about to be overwritten in the files, whose value no version has."""
    if keys:
        vault = Vault.load_for_sealing(user_id)
        for key in keys:
            if not _is_known(session, vault, key.name, payload_of(key)):
                keep(session, vault, key, run_id=run_id)


def keep(session: Session, vault: Vault, theirs: LegacyKey, *, run_id: int) -> None:
    """Store `theirs` as a version, and what is the key's current value as the one behind it.

    What is in the trash, or not there, is in the trash then. Inside `transaction()`, in which
    `vault` was loaded for sealing.
    """
    name = theirs.name
    ours = key_store.read_one(vault.user_id, name, session)
    expires_at = ours.expires_at if ours else None
    kept = add_imported_version(session, vault, theirs, expires_at=expires_at, run_id=run_id)
    if ours is None or ours.deleted_at is not None:
        deleted_at = ours.deleted_at if ours else now()
        session.execute(update(ApiKey).where(ApiKey.id == kept.id).values(deleted_at=deleted_at))
    elif ours.payload is None:
        key_store.point_back(session, kept, ours)
    else:
        key_store.add_version(
            session,
            vault,
            name,
            ours.payload,
            expires_at=ours.expires_at,
            source="restore",
            run_id=run_id,
        )


def _is_known(session: Session, vault: Vault, name: str, payload: Payload) -> bool:
    """Whether a version of the key has this value. Of locked ones only the payload tells."""
    fingerprint = None if payload.locked else vault.fingerprint(fingerprinted(payload.value))
    rows = session.execute(
        select(ApiKeyVersion.version, ApiKeyVersion.sealed_value)
        .join(ApiKey, ApiKey.id == ApiKeyVersion.api_key_id)
        .where(
            ApiKey.user_id == vault.user_id,
            ApiKey.name == name,
            ApiKeyVersion.fingerprint.is_not_distinct_from(fingerprint),
        )
    ).all()
    return any(_opened(vault, name, row.version, row.sealed_value) == payload for row in rows)


def _opened(vault: Vault, name: str, version: int, sealed: str) -> Payload | None:
    try:
        return Payload.from_bytes(vault.open(API_KEY, sealed, name, version))
    except Locked:
        return None
