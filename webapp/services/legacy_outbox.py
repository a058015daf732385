"""What is to be written into the predecessor's files: noted with the act, applied by the worker.

A note is a row in the transaction of the act, so that neither is there without the other. It says
which field of which account changed; services/legacy_mirror.py writes what that field is by then.
"""

from typing import Literal

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.db import db
from webapp.legacy.records import LegacyUser
from webapp.models import OutboxEntry
from webapp.services import legacy_mode
from webapp.services.legacy_rows import password_state, payload_of
from webapp.services.vault import Vault

Field = Literal["account", "password", "role", "second_factor", "key"]


def note(session: Session, user_id: int, field: Field, key_name: str = "") -> None:
    """Note that `field` of an account is to be written back. Inside `transaction()`.

    Does nothing unless changes are mirrored.
    """
    if legacy_mode.is_mirrored():
        session.execute(
            insert(OutboxEntry).values(
                user_id=user_id, field=field, key_name=key_name, created_at=now()
            )
        )


def is_waiting() -> bool:
    """Whether anything waits."""
    first = select(OutboxEntry.id).where(OutboxEntry.applied_at.is_(None)).limit(1)
    return db.session.scalar(first) is not None


def fingerprint(vault: Vault, user: LegacyUser | None, field: str, key_name: str) -> str:
    """Return the fingerprint of what the files say of one field; "" where they say nothing."""
    state = _state(user, field, key_name) if user else None
    return "" if state is None else vault.fingerprint(state)


def _state(user: LegacyUser, field: str, key_name: str) -> bytes | None:
    if field == "password":
        return password_state(user.password_hash)
    if field == "role":
        said = "admin" if user.is_admin else "user"
    elif field == "second_factor":
        if user.second_factor is None:
            return None
        said = f"{user.second_factor.secret} {user.second_factor.enabled}"
    elif field == "key":
        key = user.keys.get(key_name)
        return b"key\0" + payload_of(key).to_bytes() if key else None
    else:
        said = "there"
    return f"{field}\0{said}".encode()
