"""An account as the predecessor writes it down."""

from datetime import datetime
from typing import Any

from webapp.crypto.hashing import is_bcrypt
from webapp.legacy.records import LegacySecondFactor, written_time
from webapp.models import User
from webapp.services.vault import LEGACY_HASH, PASSWORD_DIGEST, TOTP_SECRET, Locked, Vault


def legacy_password(user: User, vault: Vault) -> str | None:
    """Return the password's hash in a form that the predecessor reads; None if there is none."""
    try:
        if user.legacy_hash:
            return vault.open(LEGACY_HASH, user.legacy_hash).decode("ascii")
        if user.imported_digest:
            return vault.open(PASSWORD_DIGEST, user.imported_digest).decode("ascii")
    except Locked:
        return None
    return user.password_hash if is_bcrypt(user.password_hash or "") else None


def legacy_second_factor(user: User, vault: Vault) -> LegacySecondFactor | None:
    """Return the second factor that is asked for here; None if none is. Raises Locked."""
    if user.totp_enabled_at is None:
        return None
    secret = vault.open(TOTP_SECRET, user.totp_secret or "").decode("ascii")
    return LegacySecondFactor(secret, True)


def record_of(user: User, password_hash: str) -> dict[str, Any]:
    """Return the record of users.json, without keys."""
    record: dict[str, Any] = {
        "name": user.name,
        "password_hash": password_hash,
        "role": "admin" if user.is_admin else "user",
        "admin_request": user.admin_requested,
        "admin_request_reason": user.admin_request_reason,
        "created_at": time_of(user.created_at),
        "last_login": None,
    }
    if user.email:
        record["email"] = user.email
    if user.api_permissions:
        record["api_permissions"] = dict(user.api_permissions)
    return record


def time_of(moment: datetime | None) -> str | None:
    """Return a time as the predecessor writes it: UTC without a zone."""
    return written_time(moment) if moment else None
