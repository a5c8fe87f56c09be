"""The tables of wallets: whose money it is, what moved it, and both sides of every move."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from chat_api.features.auth.models import User
from chat_api.store.tables import Base, Id

__all__ = ["WalletAccount", "WalletEntry", "WalletTransaction"]


class WalletAccount(Base):
    """
    The money of one person in one currency, or of the system, whose accounts have names.

    `balance` is in whole minor units, and always the sum of the account's entries. Only the system
    can owe: what people have was issued by it, so its balance is as far below zero.
    """

    __tablename__ = "wallet_accounts"
    __table_args__: Any = (
        UniqueConstraint("user_id", "currency"),
        UniqueConstraint("system_name", "currency"),
        CheckConstraint("(user_id IS NULL) <> (system_name IS NULL)", name="one_owner"),
        CheckConstraint("balance >= 0 OR user_id IS NULL", name="not_overdrawn"),
    )

    id: Mapped[Id]
    user_id: Mapped[int | None] = mapped_column(ForeignKey(User.id))
    system_name: Mapped[str | None] = mapped_column(String(20))
    currency: Mapped[str] = mapped_column(String(3))
    balance: Mapped[int]
    created_at: Mapped[datetime]


class WalletTransaction(Base):
    """
    One move of money; what it moves are its entries, whose amounts add up to zero.

    `idempotency_key` is the payer's own name for it, by which a repeated request is recognised.
    """

    __tablename__ = "wallet_transactions"
    __table_args__: Any = (UniqueConstraint("payer_id", "idempotency_key"),)

    id: Mapped[Id]
    kind: Mapped[str] = mapped_column(String(20))
    note: Mapped[str] = mapped_column(String(500))
    payer_id: Mapped[int] = mapped_column(ForeignKey(WalletAccount.id))
    idempotency_key: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]


class WalletEntry(Base):
    """
    What one transaction did to one account: `amount` is above zero for money that came in.

    `balance` is the account's right after it.
    """

    __tablename__ = "wallet_entries"
    __table_args__: Any = (
        CheckConstraint("amount <> 0", name="moves"),
        Index("ix_wallet_entries_page", "account_id", "transaction_id"),
    )

    transaction_id: Mapped[int] = mapped_column(ForeignKey(WalletTransaction.id), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey(WalletAccount.id), primary_key=True)
    amount: Mapped[int]
    balance: Mapped[int]
