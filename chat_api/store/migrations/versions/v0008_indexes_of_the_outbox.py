"""Events in the outbox are found by channel and name, and those that were refused by when."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_REFUSED = sa.text("refused_at IS NOT NULL")


def upgrade() -> None:
    op.create_index("ix_outbox_channel_name", "outbox", ["channel", "name"])
    op.create_index(
        "ix_outbox_refused",
        "outbox",
        ["refused_at"],
        sqlite_where=_REFUSED,
        postgresql_where=_REFUSED,
    )


def downgrade() -> None:
    op.drop_index("ix_outbox_refused", "outbox")
    op.drop_index("ix_outbox_channel_name", "outbox")
