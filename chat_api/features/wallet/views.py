"""What wallets look like on the wire, to those who ask and to those who listen."""

from typing import Annotated, Literal

import msgspec

from chat_api.features.wallet.ledger import MAX_AMOUNT
from chat_api.kernel.routes import stated

__all__ = [
    "Balance",
    "Counterparty",
    "Payment",
    "PaymentNotification",
    "TransactionView",
    "Transactions",
    "WalletUpdate",
]

_Amount = Annotated[
    int, stated("In whole minor units, such as cents.", minimum=1, maximum=MAX_AMOUNT)
]
_Balance = Annotated[
    int, stated("In whole minor units, such as cents.", minimum=0, maximum=MAX_AMOUNT)
]
_Currency = Annotated[str, stated("ISO 4217.", pattern="^[A-Z]{3}$")]
_Id = Annotated[str, stated("A number, as a text.", pattern="^[0-9]+$")]
_Time = Annotated[str, stated("ISO 8601, in UTC.", format="date-time")]


class Balance(msgspec.Struct, frozen=True):
    """What somebody has."""

    balance: _Balance
    currency: _Currency


class Counterparty(msgspec.Struct, frozen=True):
    """Who is on the other side of a transaction."""

    id: Annotated[str, stated("An account's id, as a text, or `issuance` for the system itself.")]
    name: str


class TransactionView(
    msgspec.Struct, frozen=True, rename={"kind": "type", "created_at": "createdAt"}
):
    """A transaction as one of its two sides sees it."""

    id: _Id
    kind: Annotated[
        Literal["credit", "debit"], stated("`credit` for money that came in, `debit` for the rest.")
    ]
    amount: _Amount
    currency: _Currency
    counterparty: Counterparty
    note: Annotated[str, stated("What the payer wrote to it; may be empty.")]
    created_at: _Time


class Transactions(msgspec.Struct, frozen=True):
    """A page of transactions, newest first."""

    transactions: list[TransactionView]
    has_more: Annotated[bool, stated("Whether there are older ones.")]


class Payment(msgspec.Struct, frozen=True):
    """A payment, and what the payer had right after it."""

    transaction: TransactionView
    balance: _Balance
    currency: _Currency


class PaymentNotification(
    msgspec.Struct,
    frozen=True,
    rename={"transaction_id": "transactionId", "payer": "from", "created_at": "createdAt"},
):
    """The news that somebody was paid: enough to show it, whatever else the client knows."""

    transaction_id: _Id
    amount: _Amount
    currency: _Currency
    payer: Counterparty
    note: str
    created_at: _Time


class WalletUpdate(msgspec.Struct, frozen=True):
    """A wallet as a transaction left it."""

    balance: _Balance
    currency: _Currency
    transaction: TransactionView
