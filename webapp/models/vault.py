"""Data keys, and the check values of the master keys that wrap them."""

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.clock import now
from webapp.db import Base, BigId, UtcDateTime


class DataKey(Base):
    """A user's data key, wrapped by a master key. The one with the highest number seals."""

    __tablename__ = "data_keys"

    user_id: Mapped[BigId] = mapped_column(ForeignKey("users.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    wrapped_key: Mapped[str] = mapped_column(Text)
    master_key_id: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class KeyringCheck(Base):
    """What every process compares with its own master key of this id before it serves."""

    __tablename__ = "keyring_checks"

    master_key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    check_value: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
