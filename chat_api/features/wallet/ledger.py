"""
Double entry: money is neither made nor lost, it goes from one account to another.

Every transaction takes from one account what it gives to another, so the sum over all accounts is
zero at any time. Who may pay whom is not asked here.
"""

from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import Connection, Select, bindparam, case, insert, select, update
from sqlalchemy.orm import aliased

from chat_api.features.wallet.models import WalletAccount, WalletEntry, WalletTransaction
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Conflict
from chat_api.store.engine import UnitOfWork

__all__ = ["ISSUANCE", "MAX_AMOUNT", "InsufficientFunds", "Ledger", "Transfer"]

MAX_AMOUNT: Final = 2**53 - 1
"""Up to here whole numbers are exact in JavaScript too, which reads them as floating point."""

ISSUANCE: Final = "issuance"
"""The system's account that all money comes from; it owes what everybody has."""


class InsufficientFunds(Conflict):
    """The payer's wallet holds less than the amount."""

    default_code = "insufficient_funds"


class Transfer(NamedTuple):
    """
    A transaction as posted, between two accounts by their ids.

    The balances are those right after it.
    """

    id: int
    payer_id: int
    recipient_id: int
    amount: int
    note: str
    created_at: datetime
    payer_balance: int
    recipient_balance: int


class Ledger:
    """
    The books of one currency.

    Every method is a part of a unit of work, and undone with it. What all people have together
    never exceeds `MAX_AMOUNT`, and neither does any balance.
    """

    def __init__(self, currency: str, clock: Clock) -> None:
        self.currency: Final = currency
        self._clock = clock

    def account_of(self, unit: UnitOfWork, user_id: int) -> int:
        """Return the account of a person, opening an empty one if need be."""
        return self._account(unit.connection, _ACCOUNT_OF_USER, user_id=user_id)

    def issuance(self, unit: UnitOfWork) -> int:
        """Return the account that money comes from, opening it if need be."""
        return self._account(unit.connection, _ACCOUNT_OF_SYSTEM, system_name=ISSUANCE)

    def posted(self, unit: UnitOfWork, payer_id: int, idempotency_key: str) -> Transfer | None:
        """Return the transfer to which this account gave this key, if there is one."""
        parameters = {"payer_id": payer_id, "idempotency_key": idempotency_key}
        row = unit.connection.execute(_POSTED, parameters).one_or_none()
        return None if row is None else Transfer(*row)

    def transfer(
        self,
        unit: UnitOfWork,
        *,
        kind: str,
        payer_id: int,
        recipient_id: int,
        amount: int,
        note: str,
        idempotency_key: str,
    ) -> Transfer:
        """
        Move money between two accounts, under a key that the payer has not used before.

        Raises:
            InsufficientFunds: The payer has less than `amount`, which is above zero.
        """
        assert amount > 0, "or the money would go the other way"
        assert payer_id != recipient_id, "or nothing would move"
        now = self._clock()
        transaction_id: int = unit.connection.execute(
            _ADD_TRANSACTION,
            {
                "kind": kind,
                "note": note,
                "payer_id": payer_id,
                "idempotency_key": idempotency_key,
                "created_at": now,
            },
        ).scalar_one()
        payer_balance = self._post(unit.connection, transaction_id, payer_id, -amount)
        recipient_balance = self._post(unit.connection, transaction_id, recipient_id, amount)
        return Transfer(
            transaction_id,
            payer_id,
            recipient_id,
            amount,
            note,
            now,
            payer_balance,
            recipient_balance,
        )

    def _post(
        self, connection: Connection, transaction_id: int, account_id: int, amount: int
    ) -> int:
        balance: int | None = connection.execute(
            _CHANGE_BALANCE, {"account_id": account_id, "change": amount}
        ).scalar_one_or_none()
        if balance is None:
            raise InsufficientFunds(
                "Your wallet holds less than that: pay less, or wait for money to come in."
            )
        entry = {
            "transaction_id": transaction_id,
            "account_id": account_id,
            "amount": amount,
            "balance": balance,
        }
        connection.execute(_ADD_ENTRY, entry)
        return balance

    def _account(self, connection: Connection, query: Select[int], **owner: int | str) -> int:
        owned = {**owner, "currency": self.currency}
        account_id: int | None = connection.execute(query, owned).scalar_one_or_none()
        if account_id is None:
            account = {**owned, "balance": 0, "created_at": self._clock()}
            account_id = connection.execute(_OPEN, account).scalar_one()
        return account_id


# Built once: putting a statement together costs more than running it.
_ACCOUNT_OF_USER = select(WalletAccount.id).where(
    WalletAccount.user_id == bindparam("user_id"),
    WalletAccount.currency == bindparam("currency"),
)
_ACCOUNT_OF_SYSTEM = select(WalletAccount.id).where(
    WalletAccount.system_name == bindparam("system_name"),
    WalletAccount.currency == bindparam("currency"),
)
_OPEN = insert(WalletAccount).returning(WalletAccount.id)
_ADD_TRANSACTION = insert(WalletTransaction).returning(WalletTransaction.id)
_ADD_ENTRY = insert(WalletEntry)

_LOWEST = case((WalletAccount.user_id.is_(None), -MAX_AMOUNT), else_=0)
_CHANGE_BALANCE = (
    update(WalletAccount)
    .where(
        WalletAccount.id == bindparam("account_id"),
        WalletAccount.balance + bindparam("change") >= _LOWEST,
    )
    .values(balance=WalletAccount.balance + bindparam("change"))
    .returning(WalletAccount.balance)
)

_Paid = aliased(WalletEntry)
_Received = aliased(WalletEntry)
_POSTED = (
    select(
        WalletTransaction.id,
        _Paid.account_id,
        _Received.account_id,
        _Received.amount,
        WalletTransaction.note,
        WalletTransaction.created_at,
        _Paid.balance,
        _Received.balance,
    )
    .join(_Paid, (_Paid.transaction_id == WalletTransaction.id) & (_Paid.amount < 0))
    .join(_Received, (_Received.transaction_id == WalletTransaction.id) & (_Received.amount > 0))
    .where(
        WalletTransaction.payer_id == bindparam("payer_id"),
        WalletTransaction.idempotency_key == bindparam("idempotency_key"),
    )
)
