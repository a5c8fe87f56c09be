"""Accounts, revoked tokens, direct chats with their messages, and the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("email", sa.String(320), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("first_name", sa.String(100), nullable=False),
        sa.Column("last_name", sa.String(100), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("tenants", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_table(
        "revoked_tokens",
        sa.Column("token_id", sa.String(32), nullable=False),
        sa.Column("user_id", _BIG, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("token_id", name="pk_revoked_tokens"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_revoked_tokens_user_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_revoked_tokens_expires_at", "revoked_tokens", ["expires_at"])
    op.create_table(
        "direct_chats",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("first_id", _BIG, nullable=False),
        sa.Column("second_id", _BIG, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_direct_chats"),
        sa.UniqueConstraint("first_id", "second_id", name="uq_direct_chats_first_id_second_id"),
        sa.CheckConstraint("first_id < second_id", name="ck_direct_chats_ordered"),
        sa.ForeignKeyConstraint(["first_id"], ["users.id"], name="fk_direct_chats_first_id"),
        sa.ForeignKeyConstraint(["second_id"], ["users.id"], name="fk_direct_chats_second_id"),
    )
    op.create_index("ix_direct_chats_second_id", "direct_chats", ["second_id"])
    op.create_table(
        "direct_messages",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("chat_id", _BIG, nullable=False),
        sa.Column("sender_id", _BIG, nullable=False),
        sa.Column("temp_id", sa.String(100), nullable=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=True),
        sa.Column("sent_at", _MOMENT, nullable=False),
        sa.Column("read_at", _MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_direct_messages"),
        sa.UniqueConstraint(
            "chat_id",
            "sender_id",
            "temp_id",
            name="uq_direct_messages_chat_id_sender_id_temp_id",
        ),
        sa.ForeignKeyConstraint(
            ["chat_id"], ["direct_chats.id"], name="fk_direct_messages_chat_id"
        ),
        sa.ForeignKeyConstraint(["sender_id"], ["users.id"], name="fk_direct_messages_sender_id"),
    )
    op.create_index("ix_direct_messages_page", "direct_messages", ["chat_id", "id"])
    op.create_index(
        "ix_direct_messages_unread", "direct_messages", ["chat_id", "read_at", "sender_id"]
    )
    op.create_table(
        "outbox",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("event_key", sa.String(32), nullable=False),
        sa.Column("channels", sa.Text, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("socket_id", sa.String(64), nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=True),
        sa.Column("refused_at", _MOMENT, nullable=True),
        sa.Column("refusal", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    for table in ("outbox", "direct_messages", "direct_chats", "revoked_tokens", "users"):
        op.drop_table(table)
