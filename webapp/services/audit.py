"""The audit trail: one event per act, in the act's own transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import exists, insert, select

from webapp.clock import now
from webapp.db import db, transaction
from webapp.models import AuditEvent
from webapp.services import bulk
from webapp.services.actor import current_actor

EVENTS = frozenset(
    {
        "account.admin_granted",
        "account.admin_requested",
        "account.admin_revoked",
        "account.created",
        "account.disabled",
        "account.enabled",
        "account.import_undone",
        "account.imported",
        "key.deleted",
        "key.import_undone",
        "key.imported",
        "key.expiry_set",
        "key.revealed",
        "key.saved",
        "key.verification_failed",
        "legacy.check_requested",
        "legacy.cut_over",
        "legacy.cutover_requested",
        "legacy.import_requested",
        "legacy.mirror_requested",
        "legacy.repair_requested",
        "legacy.repaired",
        "legacy.undo_requested",
        "login.failed",
        "login.half",
        "login.succeeded",
        "login.throttled",
        "logout",
        "password.imported",
        "password.upgraded",
        "reauthentication.failed",
        "reauthentication.succeeded",
        "second_factor.disabled",
        "second_factor.enabled",
        "second_factor.enrolment_started",
        "second_factor.failed",
        "second_factor.imported",
        "second_factor.succeeded",
        "security.access_denied",
        "security.cross_site_rejected",
        "security.csrf_rejected",
        "vault.master_keys_missing",
    }
)
"""Every event there is. A name outside of it is a mistake in the program."""

_SPARINGLY = timedelta(minutes=1)

Detail = str | int | bool | None
Details = Mapping[str, Detail]


def record(event: str, *, subject_id: int | None = None, **detail: Detail) -> None:
    """Write `event` about the account `subject_id`. The actor is the current one.

    `detail` never holds a secret: names, versions, fingerprints, reasons. Joins the surrounding
    transaction, or is one of its own. Raises ValueError for an undeclared event.
    """
    row = dict(zip(_COLUMNS, _row(event, now(), subject_id, detail), strict=True))
    with transaction() as session:
        session.execute(insert(AuditEvent).values(row))


def record_sparingly(event: str, *, subject_id: int | None = None, **detail: Detail) -> None:
    """Write `event` unless the current address did the same within the last minute.

    For what costs a stranger nothing to cause: rows are kept. See `record`.
    """
    just_done = db.session.scalar(
        select(
            exists().where(
                AuditEvent.event == event,
                AuditEvent.at > now() - _SPARINGLY,
                AuditEvent.address == current_actor().address,
            )
        )
    )
    if not just_done:
        record(event, subject_id=subject_id, **detail)


def record_many(event: str, about: Sequence[tuple[int | None, Details]]) -> None:
    """Write `event` about many accounts at once: the id of each, and its detail. See `record`."""
    at = now()
    rows = [_row(event, at, subject_id, detail) for subject_id, detail in about]
    with transaction() as session:
        bulk.insert_rows(session, AuditEvent, _COLUMNS, rows)


_COLUMNS = (
    "at",
    "event",
    "actor_id",
    "via",
    "address",
    "user_agent",
    "request_id",
    "subject_id",
    "detail",
)


def _row(event: str, at: datetime, subject_id: int | None, detail: Details) -> bulk.Row:
    if event not in EVENTS:
        raise ValueError(f"undeclared audit event {event}")
    actor = current_actor()
    return (
        at,
        event,
        actor.user_id,
        actor.via,
        actor.address,
        actor.user_agent[:300],
        actor.request_id,
        subject_id,
        detail,
    )
