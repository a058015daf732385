"""Bridge to the predecessor

Revision ID: 0002
Revises: 0001
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# SQLite knows ADD and DROP COLUMN; a table made anew would have to be dropped, which rows of others
# that refer to it forbid.
_IN_PLACE: Final = "never"


def upgrade() -> None:
    op.create_table(
        "legacy_outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("field", sa.String(length=16), nullable=False),
        sa.Column("key_name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("before", sa.String(length=12), nullable=True),
        sa.Column("after", sa.String(length=12), nullable=True),
        sa.CheckConstraint(
            "field IN ('account', 'password', 'role', 'second_factor', 'key')",
            name=op.f("ck_legacy_outbox_field"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_legacy_outbox_user_id_users")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_legacy_outbox")),
    )
    with op.batch_alter_table("legacy_outbox", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_legacy_outbox_user_id_field_key_name_id"),
            ["user_id", "field", "key_name", "id"],
            unique=False,
        )
        batch_op.create_index(
            "ix_legacy_outbox_waiting",
            ["id"],
            unique=False,
            sqlite_where=sa.text("applied_at IS NULL"),
            postgresql_where=sa.text("applied_at IS NULL"),
        )

    with op.batch_alter_table("api_key_versions", schema=None, recreate=_IN_PLACE) as batch_op:
        batch_op.add_column(
            sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True)
        )

    with op.batch_alter_table("runs", schema=None, recreate=_IN_PLACE) as batch_op:
        batch_op.add_column(sa.Column("arguments", sa.JSON(none_as_null=True), nullable=True))

    with op.batch_alter_table("users", schema=None, recreate=_IN_PLACE) as batch_op:
        batch_op.add_column(
            sa.Column(
                "import_run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
            )
        )
        batch_op.add_column(sa.Column("legacy_password", sa.String(length=12), nullable=True))
        batch_op.add_column(sa.Column("legacy_hash", sa.Text(), nullable=True))

    # To remove an account the database looks for rows that refer to it.
    op.create_index(
        "ix_api_key_versions_created_by_id",
        "api_key_versions",
        ["created_by_id"],
        unique=False,
        sqlite_where=sa.text("created_by_id IS NOT NULL"),
        postgresql_where=sa.text("created_by_id IS NOT NULL"),
    )
    op.create_index(
        "ix_audit_events_actor_id",
        "audit_events",
        ["actor_id"],
        unique=False,
        sqlite_where=sa.text("actor_id IS NOT NULL"),
        postgresql_where=sa.text("actor_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_audit_events_actor_id", "audit_events")
    op.drop_index("ix_api_key_versions_created_by_id", "api_key_versions")

    with op.batch_alter_table("users", schema=None, recreate=_IN_PLACE) as batch_op:
        batch_op.drop_column("legacy_hash")
        batch_op.drop_column("legacy_password")
        batch_op.drop_column("import_run_id")

    with op.batch_alter_table("runs", schema=None, recreate=_IN_PLACE) as batch_op:
        batch_op.drop_column("arguments")

    with op.batch_alter_table("api_key_versions", schema=None, recreate=_IN_PLACE) as batch_op:
        batch_op.drop_column("run_id")

    with op.batch_alter_table("legacy_outbox", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_legacy_outbox_waiting",
            sqlite_where=sa.text("applied_at IS NULL"),
            postgresql_where=sa.text("applied_at IS NULL"),
        )
        batch_op.drop_index(batch_op.f("ix_legacy_outbox_user_id_field_key_name_id"))

    op.drop_table("legacy_outbox")
