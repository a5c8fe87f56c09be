"""Devices, and what is owed to them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("user_id", _BIG, nullable=False),
        sa.Column("token", sa.String(1024), nullable=False),
        sa.Column("platform", sa.String(20), nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("last_seen_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
        sa.UniqueConstraint("token", name="uq_devices_token"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_devices_user_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_devices_user_id", "devices", ["user_id"])
    op.create_table(
        "pushes",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("device_id", _BIG, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("attempts", _BIG, nullable=False),
        sa.Column("next_attempt_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pushes"),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name="fk_pushes_device_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_pushes_device_id", "pushes", ["device_id"])
    op.create_index("ix_pushes_next_attempt_at", "pushes", ["next_attempt_at"])
    op.create_index("ix_pushes_expires_at", "pushes", ["expires_at"])


def downgrade() -> None:
    op.drop_table("pushes")
    op.drop_table("devices")
