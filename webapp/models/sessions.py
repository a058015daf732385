"""Sessions on the server, and the attempts that throttling counts."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from webapp.clock import now
from webapp.db import Base, BigId, UtcDateTime


class LoginSession(Base):
    """A sign-in of one browser. The cookie holds the id, this row only its SHA-256.

    `stage` is `second_factor` (password given, code missing), `enrol` (must set up a second factor
    first) or `full`.
    """

    __tablename__ = "sessions"
    __table_args__ = (CheckConstraint("stage IN ('second_factor', 'enrol', 'full')", name="stage"),)

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    user_id: Mapped[BigId] = mapped_column(ForeignKey("users.id"), index=True)
    stage: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    authenticated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    """When the password (or a passkey) was last given in this session."""
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    """The absolute limit; the idle limit counts from `last_seen_at`."""
    address: Mapped[str] = mapped_column(String(45), default="")
    user_agent: Mapped[str] = mapped_column(String(300), default="")


class LoginAttempt(Base):
    """A guess at a secret, counted by throttling until it leaves the window.

    `subject` is a keyed digest of what was guessed at, since people type passwords into the
    username field.
    """

    __tablename__ = "login_attempts"
    __table_args__ = (
        Index(None, "kind", "subject", "at"),
        Index(None, "address", "at"),
    )

    id: Mapped[BigId] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    """`password` or `second_factor`: each has a budget of its own."""
    subject: Mapped[bytes] = mapped_column(LargeBinary(32))
    address: Mapped[str] = mapped_column(String(45), default="")
    succeeded: Mapped[bool] = mapped_column(default=False)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)
