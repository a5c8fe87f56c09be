"""Tenants, and tokens of people without an account that no longer count."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("domain", sa.String(150), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("domain", name="pk_tenants"),
    )
    with op.batch_alter_table("revoked_tokens") as revoked_tokens:
        revoked_tokens.alter_column("user_id", existing_type=_BIG, nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM revoked_tokens WHERE user_id IS NULL")
    with op.batch_alter_table("revoked_tokens") as revoked_tokens:
        revoked_tokens.alter_column("user_id", existing_type=_BIG, nullable=False)
    op.drop_table("tenants")
