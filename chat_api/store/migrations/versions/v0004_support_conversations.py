"""Support conversations, their customers and messages, and the agents' status."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
