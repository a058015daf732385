"""Stored provider keys and their versions."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from webapp.clock import now
from webapp.db import Base, BigId, UtcDateTime

if TYPE_CHECKING:
    from webapp.models.users import User

_HAS_CREATOR = text("created_by_id IS NOT NULL")


class ApiKey(Base):
    """One key of one user, by name. A deleted one keeps its row and its versions.

    `current_version` names the newest valid version; numbers count up and never repeat, since the
    newest version row is never removed but with the key.
    """

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("user_id", "name"),)

    id: Mapped[BigId] = mapped_column(primary_key=True)
    user_id: Mapped[BigId] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(64))
    current_version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_verified_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    user: Mapped[User] = relationship(back_populates="api_keys")


class ApiKeyVersion(Base):
    """One sealed value. Never updated.

    `source` is `web`, `api`, `cli`, `import` or `restore`: where the value came from.
    """

    __tablename__ = "api_key_versions"
    __table_args__ = (
        CheckConstraint("source IN ('web', 'api', 'cli', 'import', 'restore')", name="source"),
        # To remove an account the database looks whether versions refer to it.
        Index(
            "ix_api_key_versions_created_by_id",
            "created_by_id",
            sqlite_where=_HAS_CREATOR,
            postgresql_where=_HAS_CREATOR,
        ),
    )

    api_key_id: Mapped[BigId] = mapped_column(ForeignKey("api_keys.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sealed_value: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str | None] = mapped_column(String(12))
    """None for a value that came locked from the predecessor."""
    source: Mapped[str] = mapped_column(String(16))
    run_id: Mapped[BigId | None]
    """The import or repair that wrote it. No foreign key: runs are deleted in time."""
    created_by_id: Mapped[BigId | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
