"""What admins do to accounts."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from webapp.clock import now
from webapp.db import db, lock, transaction
from webapp.models import User
from webapp.models.users import fold
from webapp.services import audit, legacy_outbox, sessions
from webapp.services.errors import ServiceError, UnknownUser


class LastAdmin(ServiceError):
    """Somebody must be left who can act as admin."""

    message = "This is the last admin who can sign in; make or enable another one first."


@dataclass(frozen=True)
class AccountSummary:
    """An account as a list shows it: metadata only."""

    username: str
    name: str
    is_admin: bool
    admin_requested: bool
    second_factor: bool
    created_at: datetime
    last_login_at: datetime | None
    disabled_at: datetime | None


def list_accounts() -> Iterator[AccountSummary]:
    """Yield every account by name, without holding all of them in memory."""
    rows = db.session.execute(
        select(
            User.username,
            User.name,
            User.is_admin,
            User.admin_requested,
            User.totp_enabled_at.is_not(None).label("second_factor"),
            User.created_at,
            User.last_login_at,
            User.disabled_at,
        ).order_by(User.username_folded),
        execution_options={"yield_per": 1000},
    )
    for row in rows:
        yield AccountSummary(**row._asdict())


def disable_account(username: str) -> bool:
    """Lock an account out and end all its sessions; return whether it was enabled.

    Raises UnknownUser, LastAdmin.
    """
    with transaction() as session:
        # Two admins who disable each other at once would leave none.
        lock("admins", session)
        account = _find(session, username)
        if account.disabled_at is not None:
            return False
        if account.is_admin and not _has_other_admin(session, account.id):
            raise LastAdmin
        session.execute(update(User).where(User.id == account.id).values(disabled_at=now()))
        sessions.end_all(account.id)
        audit.record("account.disabled", subject_id=account.id)
        return True


def enable_account(username: str) -> bool:
    """Let an account in again; return whether it was disabled. Raises UnknownUser."""
    with transaction() as session:
        account = _find(session, username)
        if account.disabled_at is None:
            return False
        session.execute(update(User).where(User.id == account.id).values(disabled_at=None))
        audit.record("account.enabled", subject_id=account.id)
        return True


def set_role(session: Session, account_id: int, *, is_admin: bool) -> None:
    """Make an account an admin or an ordinary one, and end all its sessions.

    Inside `transaction()`. Raises LastAdmin.
    """
    # Two admins who take each other's rights at once would leave none.
    lock("admins", session)
    if not is_admin and not _has_other_admin(session, account_id):
        raise LastAdmin
    session.execute(update(User).where(User.id == account_id).values(is_admin=is_admin))
    sessions.end_all(account_id)
    event = "account.admin_granted" if is_admin else "account.admin_revoked"
    audit.record(event, subject_id=account_id)
    legacy_outbox.note(session, account_id, "role")


def _find(session: Session, username: str) -> User:
    account = session.scalars(
        select(User).where(User.username_folded == fold(username)).with_for_update()
    ).one_or_none()
    if account is None:
        raise UnknownUser
    return account


def _has_other_admin(session: Session, account_id: int) -> bool:
    return bool(
        session.scalar(
            select(exists().where(User.is_admin, User.disabled_at.is_(None), User.id != account_id))
        )
    )
