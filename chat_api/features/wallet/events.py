"""
What wallets tell listening clients: the names, and which data they come with.

Each wallet has a channel, and a payment is told on both. The payloads are the same objects that
the requests are answered with, so that a client reads a balance or a transaction in one way.
"""

from collections.abc import Iterator
from typing import Final

from chat_api.features import DocumentedEvent
from chat_api.features.wallet.views import (
    Balance,
    PaymentNotification,
    TransactionView,
    WalletUpdate,
)
from chat_api.realtime.broadcaster import Event

__all__ = ["CHANNEL", "EVENTS", "wallet_changed", "wallet_channel"]

CHANNEL: Final = "private-wallet.{id}"

EVENTS: Final = tuple(
    DocumentedEvent(name, (CHANNEL,), payload, summary)
    for name, payload, summary in (
        ("balance:updated", Balance, "The owner has more or less than before."),
        ("transaction:added", TransactionView, "Money came in or went out."),
        ("payment:notification", PaymentNotification, "Somebody paid the owner."),
        ("wallet:updated", WalletUpdate, "The balance and the transaction that made it, in one."),
    )
)


def wallet_channel(user_id: int) -> str:
    """Return the channel on which one account hears about its money."""
    return CHANNEL.format(id=user_id)


def wallet_changed(balance: Balance, transaction: TransactionView) -> Iterator[Event]:
    """
    Yield the news of a transaction for one of its sides, with the balance it left there.

    The balance comes first: whoever shows a transaction then already has what it adds up to.
    """
    yield Event("balance:updated", balance)
    yield Event("transaction:added", transaction)
    if transaction.kind == "credit":
        yield Event(
            "payment:notification",
            PaymentNotification(
                transaction.id,
                transaction.amount,
                transaction.currency,
                transaction.counterparty,
                transaction.note,
                transaction.created_at,
            ),
        )
    yield Event("wallet:updated", WalletUpdate(balance.balance, balance.currency, transaction))
