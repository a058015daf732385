"""Differences between the predecessor's files and the database."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.clock import now
from webapp.db import Base, BigId, UtcDateTime

_OPEN = text("closed_at IS NULL")


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
