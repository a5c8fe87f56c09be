"""Conversations know whether their agent is an account, or somebody whom only a proxy knows."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# What was kept does not tell: an account goes by its id and its name, both as staff have them.
_ARE_ACCOUNTS = """
    UPDATE conversations SET agent_user_id = (
        SELECT id FROM users
        WHERE CAST(users.id AS VARCHAR(200)) = conversations.agent_id
          AND trim(users.first_name || ' ' || users.last_name) = conversations.agent_name
          AND users.role IN ('agent', 'supervisor')
    )
    WHERE agent_id IS NOT NULL
"""


def upgrade() -> None:
    op.add_column("conversations", sa.Column("agent_user_id", _BIG, nullable=True))
    op.execute(_ARE_ACCOUNTS)


def downgrade() -> None:
    op.drop_column("conversations", "agent_user_id")
