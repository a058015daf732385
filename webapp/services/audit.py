"""The audit trail: one event per act, in the act's own transaction."""

from sqlalchemy import insert

from webapp.clock import now
from webapp.db import transaction
from webapp.models import AuditEvent
from webapp.services.actor import current_actor

EVENTS = frozenset(
    {
        "account.admin_granted",
        "account.admin_requested",
        "account.created",
        "account.disabled",
        "account.enabled",
        "account.imported",
        "key.deleted",
        "key.expiry_set",
        "key.revealed",
        "key.saved",
        "key.verification_failed",
        "legacy.check_requested",
        "legacy.import_requested",
        "login.failed",
        "login.half",
        "login.succeeded",
        "login.throttled",
        "logout",
        "password.upgraded",
        "reauthentication.failed",
        "reauthentication.succeeded",
        "second_factor.disabled",
        "second_factor.enabled",
        "second_factor.enrolment_started",
        "second_factor.failed",
        "second_factor.succeeded",
        "security.csrf_rejected",
        "vault.master_keys_missing",
    }
)
"""Every event there is. A name outside of it is a mistake in the program."""

Detail = str | int | bool | None


def record(event: str, *, subject_id: int | None = None, **detail: Detail) -> None:
    """Write `event` about the account `subject_id`. The actor is the current one.

    `detail` never holds a secret: names, versions, fingerprints, reasons. Joins the surrounding
    transaction, or is one of its own. Raises ValueError for an undeclared event.
    """
    if event not in EVENTS:
        raise ValueError(f"undeclared audit event {event}")
    actor = current_actor()
    with transaction() as session:
        session.execute(
            insert(AuditEvent).values(
                at=now(),
                event=event,
                actor_id=actor.user_id,
                subject_id=subject_id,
                via=actor.via,
                address=actor.address,
                user_agent=actor.user_agent[:300],
                request_id=actor.request_id,
                detail=detail,
            )
        )
