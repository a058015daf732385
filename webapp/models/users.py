"""People and their credentials."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, String, Text
from sqlalchemy.orm import Mapped, attribute_keyed_dict, mapped_column, relationship, validates

from webapp.clock import now
from webapp.db import Base, BigId, UtcDateTime
from webapp.models.keys import ApiKey
from webapp.models.vault import DataKey


def fold(username: str) -> str:
    """Return the form in which usernames are compared: `Amira` and `amira` are one person."""
    return username.casefold()


class User(Base):
    """An account. Exactly one of `password_hash` and `imported_digest` is set, or neither.

    `imported_digest` is the predecessor's unsalted SHA-256 hash, sealed; `totp_secret` is sealed
    too, and counts only once `totp_enabled_at` is set.
    """

    __tablename__ = "users"

    id: Mapped[BigId] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(150))
    username_folded: Mapped[str] = mapped_column(String(450), unique=True)
    name: Mapped[str] = mapped_column(String(200), default="")
    email: Mapped[str | None] = mapped_column(String(320))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    imported_digest: Mapped[str | None] = mapped_column(Text)
    is_admin: Mapped[bool] = mapped_column(default=False)
    self_registered: Mapped[bool] = mapped_column(default=False)
    """Whether somebody made it by signing up: the predecessor may have another of this name."""
    admin_requested: Mapped[bool] = mapped_column(default=False)
    admin_request_reason: Mapped[str] = mapped_column(String(500), default="")
    api_permissions: Mapped[dict[str, bool]] = mapped_column(JSON, default=dict)
    """Provider name to yes or no; a provider that is absent is allowed."""
    totp_secret: Mapped[str | None] = mapped_column(Text)
    totp_enabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    totp_last_step: Mapped[int] = mapped_column(BigInteger, default=0)
    """The last accepted time step (RFC 6238); steps up to it are spent.

    While a secret waits for its first code, the step in which it was made.
    """
    fingerprint_key: Mapped[str | None] = mapped_column(Text)
    """Sealed; made with the user's first data key."""
    import_run_id: Mapped[BigId | None]
    """The import that created the account. No foreign key: runs are deleted in time."""
    legacy_password: Mapped[str | None] = mapped_column(String(12))
    """Fingerprint of the predecessor's hash of this password; "" when the password was changed here
    alone, None when nothing is known of one. Kept until the cut-over."""
    legacy_hash: Mapped[str | None] = mapped_column(Text)
    """Sealed: the bcrypt hash that the mirror writes for a password that was chosen here."""
    api_keys_updated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    last_login_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    disabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    api_keys: Mapped[dict[str, ApiKey]] = relationship(
        collection_class=attribute_keyed_dict("name"), back_populates="user"
    )
    data_keys: Mapped[list[DataKey]] = relationship(order_by=DataKey.number)

    @validates("username")
    def _fold_username(self, key: str, username: str) -> str:
        self.username_folded = fold(username)
        return username
