"""The second factor: codes of an authenticator app (TOTP, RFC 6238).

A secret is sealed with its owner's data key, and counts once `totp_enabled_at` is set.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import select, update

from webapp.clock import now
from webapp.crypto import otp
from webapp.db import db, transaction
from webapp.models import User
from webapp.services import audit, legacy_outbox, sessions
from webapp.services.errors import InvalidInput, ServiceError
from webapp.services.vault import TOTP_SECRET, Locked, Vault

_WAITS = timedelta(hours=1)
"""How long a secret waits for its first code: who saw an old one would know the codes for ever."""


class CodeDoesNotFit(InvalidInput):
    """The code that was to confirm an enrolment is not of its secret."""

    field = "code"
    message = "This code does not fit. Check that the clock of your phone is right, and try again."


class AlreadyEnabled(ServiceError):
    """There is a second factor already."""

    message = "Your second factor is on already."


@dataclass(frozen=True)
class Enrolment:
    """A secret that waits for its first code, and the address that a QR code carries."""

    secret: str = field(repr=False)
    uri: str = field(repr=False)


def enabled_since(user_id: int) -> datetime | None:
    """Return since when a code is asked for; None when it is not."""
    return db.session.scalar(select(User.totp_enabled_at).where(User.id == user_id))


def consume(user_id: int, code: str) -> bool:
    """Accept `code` and spend its time step, in one conditional statement.

    No code is accepted twice, nor one of an earlier step than the last accepted, however many
    requests bring it at once (SECURITY.md, decision 4). Raises Locked when the secret does not
    open. Joins the surrounding transaction.
    """
    with transaction() as session:
        sealed = session.scalar(
            select(User.totp_secret).where(User.id == user_id, User.totp_enabled_at.is_not(None))
        )
        if sealed is None:
            return False
        step = _matching_step(_open(user_id, sealed), code)
        if step is None:
            return False
        spent = session.execute(
            update(User)
            .where(
                User.id == user_id,
                User.disabled_at.is_(None),
                User.totp_enabled_at.is_not(None),
                User.totp_secret == sealed,
                User.totp_last_step < step,
            )
            .values(totp_last_step=step)
            .returning(User.id)
        ).one_or_none()
        return spent is not None


def start_enrolment(user_id: int, username: str) -> Enrolment:
    """Return the secret that waits to be confirmed, made now if there is none of the last hour.

    Raises AlreadyEnabled.
    """
    secret = _waiting_secret(user_id)
    if secret is None:
        with transaction() as session:
            # Taken first: two requests of one person make one secret, not two.
            vault = Vault.load_for_sealing(user_id)
            secret = _waiting_secret(user_id)
            if secret is None:
                secret = otp.generate_secret()
                session.execute(
                    update(User)
                    .where(User.id == user_id, User.totp_enabled_at.is_(None))
                    .values(
                        totp_secret=vault.seal(TOTP_SECRET, secret.encode("ascii")),
                        totp_last_step=otp.step_at(now()),
                    )
                )
                audit.record("second_factor.enrolment_started", subject_id=user_id, factor="totp")
    return Enrolment(secret, otp.provisioning_uri(secret, username))


def confirm_enrolment(sid: str, user_id: int, code: str) -> str:
    """Turn the second factor on; every other session ends, this one gets its next id.

    Raises CodeDoesNotFit, AlreadyEnabled, SessionEnded.
    """
    with transaction() as session:
        sealed = session.scalar(
            select(User.totp_secret).where(
                User.id == user_id,
                User.totp_enabled_at.is_(None),
                User.totp_last_step >= _oldest_step(),
            )
        )
        if sealed is None:
            raise AlreadyEnabled if enabled_since(user_id) else CodeDoesNotFit
        try:
            step = _matching_step(_open(user_id, sealed), code)
        except Locked:
            step = None  # the page shows a new one next
        if step is None:
            raise CodeDoesNotFit
        enabled = session.execute(
            update(User)
            .where(User.id == user_id, User.totp_enabled_at.is_(None), User.totp_secret == sealed)
            # The code that confirmed it is spent: it does not sign anybody in as well.
            .values(totp_enabled_at=now(), totp_last_step=step)
            .returning(User.id)
        ).one_or_none()
        if enabled is None:
            raise AlreadyEnabled
        audit.record("second_factor.enabled", subject_id=user_id, factor="totp")
        legacy_outbox.note(session, user_id, "second_factor")
        return _end_others(sid, user_id)


def disable(sid: str, user_id: int) -> str:
    """Forget the second factor; every other session ends, this one gets its next id.

    Who must have one has to set up a new one next. Raises SessionEnded.
    """
    with transaction() as session:
        had = session.execute(
            update(User)
            .where(User.id == user_id, User.totp_enabled_at.is_not(None))
            .values(totp_secret=None, totp_enabled_at=None)
            .returning(User.id)
        ).one_or_none()
        if had is not None:
            audit.record("second_factor.disabled", subject_id=user_id, factor="totp")
            legacy_outbox.note(session, user_id, "second_factor")
        return _end_others(sid, user_id)


def _end_others(sid: str, user_id: int) -> str:
    sessions.end_all(user_id, but=sid)
    return sessions.renew(sid, "full")


def _waiting_secret(user_id: int) -> str | None:
    """Return the secret that waits for its first code; one that does not open any more is none."""
    row = db.session.execute(
        select(User.totp_secret, User.totp_enabled_at, User.totp_last_step).where(
            User.id == user_id
        )
    ).one()
    if row.totp_enabled_at is not None:
        raise AlreadyEnabled
    if row.totp_secret is None or row.totp_last_step < _oldest_step():
        return None
    try:
        return _open(user_id, row.totp_secret)
    except Locked:
        return None


def _oldest_step() -> int:
    return otp.step_at(now() - _WAITS)


def _open(user_id: int, sealed: str) -> str:
    return Vault.load(user_id).open(TOTP_SECRET, sealed).decode("ascii")


def _matching_step(secret: str, code: str) -> int | None:
    try:
        return otp.matching_step(secret, code, now())
    except ValueError:
        # An imported secret that no app could use either.
        return None
