"""Support conversations, their customers and messages, and the agents' status."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "customers",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("tenant", sa.String(150), nullable=False),
        sa.Column("fingerprint_hash", sa.String(64), nullable=True),
        sa.Column("user_id", _BIG, nullable=True),
        sa.Column("participant_id", sa.String(200), nullable=True),
        sa.Column("is_vouched_for", sa.Boolean, nullable=False),
        sa.Column("display_name", sa.String(255), nullable=False),
        sa.Column("contact", sa.String(200), nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_customers"),
        sa.UniqueConstraint(
            "tenant", "fingerprint_hash", name="uq_customers_tenant_fingerprint_hash"
        ),
        sa.UniqueConstraint("tenant", "user_id", name="uq_customers_tenant_user_id"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.domain"], name="fk_customers_tenant"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_customers_user_id"),
    )
    op.create_index("ix_customers_user_id", "customers", ["user_id"])
    op.create_index(
        "uq_customers_vouched_for",
        "customers",
        ["tenant", "participant_id"],
        unique=True,
        sqlite_where=sa.text("is_vouched_for"),
        postgresql_where=sa.text("is_vouched_for"),
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("tenant", sa.String(150), nullable=False),
        sa.Column("customer_id", sa.String(36), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("queued_at", _MOMENT, nullable=True),
        sa.Column("agent_id", sa.String(200), nullable=True),
        sa.Column("agent_name", sa.String(255), nullable=True),
        sa.Column("channel", sa.String(32), nullable=False),
        sa.Column("close_status", sa.String(20), nullable=True),
        sa.Column("close_reason", sa.String(500), nullable=True),
        sa.Column("closed_by", sa.String(20), nullable=True),
        sa.Column("details", sa.Text, nullable=True),
        sa.Column("unread_customer", _BIG, nullable=False),
        sa.Column("unread_agent", _BIG, nullable=False),
        sa.Column("last_message_at", _MOMENT, nullable=True),
        sa.Column("preview", sa.String(100), nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.Column("closed_at", _MOMENT, nullable=True),
        sa.Column("customer_left_at", _MOMENT, nullable=True),
        sa.Column("is_customer_away", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
        sa.CheckConstraint(
            "status IN ('QUEUED', 'ASSIGNED', 'CONNECTED', 'CLOSED')",
            name="ck_conversations_status",
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.domain"], name="fk_conversations_tenant"),
        sa.ForeignKeyConstraint(
            ["customer_id"], ["customers.id"], name="fk_conversations_customer_id"
        ),
    )
    op.create_index(
        "uq_conversations_open",
        "conversations",
        ["customer_id"],
        unique=True,
        sqlite_where=sa.text("status <> 'CLOSED'"),
        postgresql_where=sa.text("status <> 'CLOSED'"),
    )
    for name, columns in (
        ("ix_conversations_customer", ["customer_id"]),
        ("ix_conversations_queue", ["tenant", "status", "queued_at"]),
        ("ix_conversations_agent", ["agent_id", "status"]),
        ("ix_conversations_latest", ["tenant", "updated_at"]),
        ("ix_conversations_closed_at", ["closed_at"]),
        ("ix_conversations_customer_left_at", ["customer_left_at"]),
    ):
        op.create_index(name, "conversations", columns)
    op.create_table(
        "support_messages",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("conversation_id", sa.String(36), nullable=False),
        sa.Column("sender_type", sa.String(20), nullable=False),
        sa.Column("sender_id", sa.String(200), nullable=False),
        sa.Column("sender_name", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=True),
        sa.Column("sent_at", _MOMENT, nullable=False),
        sa.Column("read_by_customer", sa.Boolean, nullable=False),
        sa.Column("read_by_agent", sa.Boolean, nullable=False),
        sa.Column("temp_id", sa.String(100), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_support_messages"),
        sa.UniqueConstraint(
            "conversation_id",
            "sender_id",
            "temp_id",
            name="uq_support_messages_conversation_id_sender_id_temp_id",
        ),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name="fk_support_messages_conversation_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_support_messages_page", "support_messages", ["conversation_id", "id"])
    op.create_table(
        "agent_profiles",
        sa.Column("user_id", _BIG, autoincrement=False, nullable=False),
        sa.Column("is_online", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("last_seen", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_agent_profiles"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_agent_profiles_user_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "owed_queue_snapshots",
        sa.Column("tenant", sa.String(150), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="pk_owed_queue_snapshots"),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.domain"], name="fk_owed_queue_snapshots_tenant"
        ),
    )


def downgrade() -> None:
    for table in (
        "owed_queue_snapshots",
        "agent_profiles",
        "support_messages",
        "conversations",
        "customers",
    ):
        op.drop_table(table)
