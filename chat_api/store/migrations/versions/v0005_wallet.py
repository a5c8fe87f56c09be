"""Wallets: accounts, transactions and the two sides of each."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "wallet_accounts",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("user_id", _BIG, nullable=True),
        sa.Column("system_name", sa.String(20), nullable=True),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("balance", _BIG, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_wallet_accounts"),
        sa.UniqueConstraint("user_id", "currency", name="uq_wallet_accounts_user_id_currency"),
        sa.UniqueConstraint(
            "system_name", "currency", name="uq_wallet_accounts_system_name_currency"
        ),
        sa.CheckConstraint(
            "(user_id IS NULL) <> (system_name IS NULL)", name="ck_wallet_accounts_one_owner"
        ),
        sa.CheckConstraint(
            "balance >= 0 OR user_id IS NULL", name="ck_wallet_accounts_not_overdrawn"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_wallet_accounts_user_id"),
    )
    op.create_table(
        "wallet_transactions",
        sa.Column("id", _BIG, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("note", sa.String(500), nullable=False),
        sa.Column("payer_id", _BIG, nullable=False),
        sa.Column("idempotency_key", sa.String(100), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_wallet_transactions"),
        sa.UniqueConstraint(
            "payer_id", "idempotency_key", name="uq_wallet_transactions_payer_id_idempotency_key"
        ),
        sa.ForeignKeyConstraint(
            ["payer_id"], ["wallet_accounts.id"], name="fk_wallet_transactions_payer_id"
        ),
    )
    op.create_table(
        "wallet_entries",
        sa.Column("transaction_id", _BIG, nullable=False),
        sa.Column("account_id", _BIG, nullable=False),
        sa.Column("amount", _BIG, nullable=False),
        sa.Column("balance", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("transaction_id", "account_id", name="pk_wallet_entries"),
        sa.CheckConstraint("amount <> 0", name="ck_wallet_entries_moves"),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["wallet_transactions.id"],
            name="fk_wallet_entries_transaction_id",
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["wallet_accounts.id"], name="fk_wallet_entries_account_id"
        ),
    )
    op.create_index("ix_wallet_entries_page", "wallet_entries", ["account_id", "transaction_id"])


def downgrade() -> None:
    for table in ("wallet_entries", "wallet_transactions", "wallet_accounts"):
        op.drop_table(table)
