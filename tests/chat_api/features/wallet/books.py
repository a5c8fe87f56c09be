"""Paying, and what double entry promises, checked by adding up every row of the books."""

from collections import Counter
from itertools import groupby
from typing import Any

from sqlalchemy import select

from chat_api.features.wallet.models import WalletAccount, WalletEntry, WalletTransaction
from chat_api.store.engine import Store
from tests.chat_api.client import Client, Reply

PAYMENTS = "/api/wallet/payments"
TRANSACTIONS = "/api/wallet/transactions"


async def check_the_books(store: Store) -> None:
    """Fail unless all money came from somewhere, and no wallet was ever below zero."""
    accounts = {
        row.id: row
        for row in await store.all(
            select(WalletAccount.id, WalletAccount.user_id, WalletAccount.balance)
        )
    }
    entries = await store.all(
        select(
            WalletEntry.transaction_id,
            WalletEntry.account_id,
            WalletEntry.amount,
            WalletEntry.balance,
            WalletTransaction.payer_id,
        )
        .join(WalletTransaction, WalletTransaction.id == WalletEntry.transaction_id)
        .order_by(WalletEntry.transaction_id)
    )

    assert sum(account.balance for account in accounts.values()) == 0
    balances: Counter[int] = Counter()
    for transaction_id, group in groupby(entries, lambda entry: entry.transaction_id):
        sides = list(group)
        assert [side.amount < 0 for side in sides].count(True) == 1, transaction_id
        assert sum(side.amount for side in sides) == 0, transaction_id
        for side in sides:
            assert (side.amount < 0) == (side.account_id == side.payer_id)
            balances[side.account_id] += side.amount
            assert side.balance == balances[side.account_id]
            assert side.balance >= 0 or accounts[side.account_id].user_id is None
    assert balances == {account.id: account.balance for account in accounts.values()}


async def pay(
    client: Client, recipient: Any, amount: Any, key: str, socket: str = "", **more: Any
) -> Reply:
    """Ask for a payment under an idempotency key, as the app whose socket id is named."""
    return await client.post(
        PAYMENTS,
        {"recipientId": recipient, "amount": amount, **more},
        headers={"Idempotency-Key": key} | ({"X-Socket-ID": socket} if socket else {}),
    )


async def balance(client: Client) -> int:
    """Return what somebody has, in cents."""
    reply = await client.get("/api/wallet/balance")
    assert reply.status == 200
    assert reply.body == {"balance": reply.body["balance"], "currency": "USD"}
    held: int = reply.body["balance"]
    return held
