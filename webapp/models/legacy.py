"""Between predecessor and database: differences, and what is to be written back."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.clock import now
from webapp.db import Base, BigId, UtcDateTime

_OPEN = text("closed_at IS NULL")
_WAITING = text("applied_at IS NULL")


class Discrepancy(Base):
    """One difference, stored once, seen again by later checks, closed when it is gone."""

    __tablename__ = "discrepancies"
    __table_args__ = (
        Index(
            "uq_discrepancies_open",
            "kind",
            "username",
            "key_name",
            unique=True,
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        ),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    username: Mapped[str] = mapped_column(String(150))
    key_name: Mapped[str] = mapped_column(String(64), default="")
    """Empty where the whole account differs."""
    first_run_id: Mapped[BigId] = mapped_column(ForeignKey("runs.id"))
    last_run_id: Mapped[BigId] = mapped_column(ForeignKey("runs.id"))
    first_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class OutboxEntry(Base):
    """A change that is to reach the predecessor's files, written in the transaction of the act.

    It says what changed and not to what: whoever applies it writes the state of that moment, so
    that applying twice, or two at once, does no harm.
    """

    __tablename__ = "legacy_outbox"
    __table_args__ = (
        CheckConstraint(
            "field IN ('account', 'password', 'role', 'second_factor', 'key')", name="field"
        ),
        Index("ix_legacy_outbox_waiting", "id", sqlite_where=_WAITING, postgresql_where=_WAITING),
        Index(None, "user_id", "field", "key_name", "id"),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
    user_id: Mapped[BigId] = mapped_column(ForeignKey("users.id"))
    field: Mapped[str] = mapped_column(String(16))
    key_name: Mapped[str] = mapped_column(String(64), default="")
    """Empty unless `field` is `key`."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    applied_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    problem: Mapped[str | None] = mapped_column(Text)
    """A sentence for people: why it could not be applied so far, or ever."""
    before: Mapped[str | None] = mapped_column(String(12))
    """Fingerprint of what stood in the files before; with `after` it tells a rewrite of an old copy
    from a change that somebody made there later."""
    after: Mapped[str | None] = mapped_column(String(12))
