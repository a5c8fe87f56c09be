"""Conversations know when they were active last, and lists of them have their order in indexes."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_MOMENT = sa.DateTime(timezone=True)
_IS_OPEN = sa.text("status <> 'CLOSED'")
_INDEXES = (
    ("ix_conversations_latest", ["active_at", "id"], None),
    ("ix_conversations_latest_of_tenant", ["tenant", "active_at", "id"], None),
    ("ix_conversations_latest_of_agent", ["agent_id", "active_at", "id"], None),
    ("ix_conversations_latest_open", ["tenant", "active_at", "id"], _IS_OPEN),
)


def upgrade() -> None:
    # Column by column, see 0007; SQLite adds none that must have a value without one to begin with.
    op.add_column(
        "conversations",
        sa.Column("active_at", _MOMENT, nullable=False, server_default="1970-01-01 00:00:00"),
    )
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column("conversations", "active_at", server_default=None)
    op.execute("UPDATE conversations SET active_at = coalesce(last_message_at, created_at)")
    op.drop_index("ix_conversations_latest", "conversations")
    for name, columns, where in _INDEXES:
        op.create_index(name, "conversations", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for name, _, _ in reversed(_INDEXES):
        op.drop_index(name, "conversations")
    op.create_index("ix_conversations_latest", "conversations", ["tenant", "updated_at"])
    op.drop_column("conversations", "active_at")
