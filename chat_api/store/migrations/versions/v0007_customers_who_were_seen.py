"""When a customer was last seen to join, by which it is known whom to look for."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_MOMENT = sa.DateTime(timezone=True)
_WAS_SEEN = sa.text("customer_seen_at IS NOT NULL")


# Column by column: a table that is made anew in SQLite's way takes its messages with it.


def upgrade() -> None:
    op.add_column("conversations", sa.Column("customer_seen_at", _MOMENT, nullable=True))
    op.create_index(
        "ix_conversations_seen",
        "conversations",
        ["id"],
        sqlite_where=_WAS_SEEN,
        postgresql_where=_WAS_SEEN,
    )


def downgrade() -> None:
    op.drop_index("ix_conversations_seen", "conversations")
    op.drop_column("conversations", "customer_seen_at")
