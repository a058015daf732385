"""What happened, who did it, from where."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.clock import now
from webapp.db import Base, BigId, UtcDateTime

_HAS_ACTOR = text("actor_id IS NOT NULL")


class AuditEvent(Base):
    """One event, written in the transaction of the act that it describes; never changed."""

    __tablename__ = "audit_events"
    __table_args__ = (
        Index(None, "subject_id", "at"),
        Index(None, "event", "at"),
        # To remove an account the database looks whether events refer to it.
        Index(
            "ix_audit_events_actor_id",
            "actor_id",
            sqlite_where=_HAS_ACTOR,
            postgresql_where=_HAS_ACTOR,
        ),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    event: Mapped[str] = mapped_column(String(64))
    """Dotted, `key.saved`; the set is declared in services/audit.py."""
    actor_id: Mapped[BigId | None] = mapped_column(ForeignKey("users.id"))
    subject_id: Mapped[BigId | None] = mapped_column(ForeignKey("users.id"))
    via: Mapped[str] = mapped_column(String(8))
    """`web`, `api`, `cli` or `job`."""
    address: Mapped[str] = mapped_column(String(45), default="")
    user_agent: Mapped[str] = mapped_column(String(300), default="")
    request_id: Mapped[str] = mapped_column(String(64), default="")
    detail: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
