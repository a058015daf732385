"""Long jobs: what they are to do, how far they got, who works on them."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.clock import now
from webapp.db import Base, BigId, UtcDateTime

_ACTIVE = text("status IN ('pending', 'running')")


class Run(Base):
    """One run of a long job. The database allows one unfinished run of a kind.

    Whoever works on it holds a lease: `lease_token` counts up with each taking over, and a batch
    writes only while the token is still its own (a fencing token), so that an orphaned process
    cannot write beside its successor.
    """

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'running', 'finished', 'failed')", name="status"),
        Index(
            "uq_runs_kind_active",
            "kind",
            unique=True,
            sqlite_where=_ACTIVE,
            postgresql_where=_ACTIVE,
        ),
        Index(None, "kind", "created_at"),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    """What is done; see `KINDS` in services/runs.py."""
    status: Mapped[str] = mapped_column(String(16), default="pending")
    source: Mapped[str] = mapped_column(String(128), default="")
    """Which state of the files it read: a signature of them."""
    arguments: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What it was asked to do, where the kind alone does not say it; never a value."""
    cursor: Mapped[int] = mapped_column(default=0)
    """Records done."""
    total: Mapped[int | None]
    """Records to do, once known."""
    counts: Mapped[dict[str, int]] = mapped_column(JSON, default=dict)
    report: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    """What people should read beside the counts: rejected records, warnings."""
    error: Mapped[str | None] = mapped_column(Text)
    """One sentence for people, set with `failed`."""
    requested_by_id: Mapped[BigId | None] = mapped_column(ForeignKey("users.id"))
    lease_token: Mapped[int] = mapped_column(default=0)
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
