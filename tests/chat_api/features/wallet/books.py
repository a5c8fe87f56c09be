"""What double entry promises, checked by adding up every row of the books."""

from collections import Counter
from itertools import groupby

from sqlalchemy import select

from chat_api.features.wallet.models import WalletAccount, WalletEntry, WalletTransaction
from chat_api.store.engine import Store


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
