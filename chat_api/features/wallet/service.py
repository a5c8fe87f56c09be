"""
The rules of wallets.

Everybody with an account has a wallet, which is empty until money comes in. A payment is stored
together with the news of it, as a whole or not at all, and never twice under one key.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, select
from sqlalchemy.orm import aliased

from chat_api.features.auth.models import User
from chat_api.features.auth.service import DEMO_EMAILS
from chat_api.features.wallet.events import wallet_changed, wallet_channel
from chat_api.features.wallet.ledger import MAX_AMOUNT, Ledger, Transfer
from chat_api.features.wallet.models import WalletAccount, WalletEntry, WalletTransaction
from chat_api.features.wallet.views import Balance, Counterparty, Payment, TransactionView
from chat_api.kernel.callers import Caller, Person
from chat_api.kernel.clock import Clock, wire_time
from chat_api.kernel.errors import NotFound, Unprocessable
from chat_api.kernel.measures import Measure, single
from chat_api.kernel.texts import MAX_ID, checked_text, full_name
from chat_api.kernel.throttling import Throttle
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.store.engine import Store, UnitOfWork

__all__ = ["MAX_NOTE", "IdempotencyKeyReused", "Order", "Paid", "Wallets"]

MAX_NOTE: Final = 500  # characters
_OPENING_BALANCE: Final = 100_000  # minor units, of demo accounts


class IdempotencyKeyReused(Unprocessable):
    """The Idempotency-Key is that of another payment."""

    default_code = "idempotency_key_reused"


@dataclass(frozen=True, slots=True)
class Order:
    """
    A payment to be made.

    `amount` is in whole minor units. `key` is the payer's name for it: sent twice, it is paid once.
    Without a `currency` it is the wallet's.
    """

    recipient_id: int
    amount: int
    key: str
    currency: str | None = None
    note: str = ""


class Paid(NamedTuple):
    """A payment as made, and whether that was just now or by an earlier, equal request."""

    payment: Payment
    is_new: bool


class Wallets:
    """The wallets of one store, all in one currency; payments are throttled per payer."""

    def __init__(
        self,
        store: Store,
        broadcaster: Broadcaster,
        clock: Clock,
        *,
        currency: str,
        payments: Throttle,
    ) -> None:
        self._store = store
        self._broadcaster = broadcaster
        self._currency = currency
        self._ledger = Ledger(currency, clock)
        self._throttle = payments
        self._paid = 0

    def measures(self) -> tuple[Measure, ...]:
        """Return what tells how much is paid."""
        return (single("payments_total", "Payments made.", lambda: self._paid),)

    async def balance(self, caller: Caller) -> Balance:
        """Return what the caller has."""
        owner = {"user_id": caller.id, "currency": self._currency}
        row = await self._store.one_or_none(_BALANCE, owner)
        return Balance(0 if row is None else row.balance, self._currency)

    async def transactions(
        self, caller: Caller, *, limit: int, before: int | None
    ) -> tuple[list[TransactionView], bool]:
        """
        Return the caller's last `limit` transactions (of those before an id), newest first.

        The flag tells whether there are older ones.
        """
        page = {
            "user_id": caller.id,
            "currency": self._currency,
            "before": MAX_ID if before is None else before,
            "limit": limit + 1,
        }
        rows = await self._store.all(_PAGE, page)
        return [self._listed(row) for row in rows[:limit]], len(rows) > limit

    async def pay(self, caller: Caller, order: Order, *, from_socket: str | None) -> Paid:
        """
        Move money from the caller to somebody and tell both, except the connection it came from.

        An order whose key the caller has used changes nothing and returns the first payment, with
        the balance as it was right after it, also when the two requests race. What was refused
        does not use up its key.

        Raises:
            Unprocessable: The amount, currency or note cannot be one; or the recipient is the
                caller.
            IdempotencyKeyReused: The caller has used the key for another payment.
            NotFound: There is no such person.
            InsufficientFunds: The caller has less than that.
            TooMany: The caller pays too often.
        """
        self._check(caller, order)
        self._throttle.hit(str(caller.id))

        def move(unit: UnitOfWork) -> Paid:
            recipient = _person(unit, order.recipient_id)
            payer_id = self._ledger.account_of(unit, caller.id)
            recipient_id = self._ledger.account_of(unit, recipient.id)
            earlier = self._ledger.posted(unit, payer_id, order.key)
            if earlier is not None:
                if (earlier.recipient_id, earlier.amount, earlier.note) != (
                    recipient_id,
                    order.amount,
                    order.note,
                ):
                    raise IdempotencyKeyReused(
                        "This Idempotency-Key is that of another payment: use a new one."
                    )
                return Paid(self._payment(earlier, recipient), is_new=False)
            transfer = self._ledger.transfer(
                unit,
                kind="payment",
                payer_id=payer_id,
                recipient_id=recipient_id,
                amount=order.amount,
                note=order.note,
                idempotency_key=order.key,
            )
            self._tell(unit, transfer, caller, recipient, from_socket)
            return Paid(self._payment(transfer, recipient), is_new=True)

        paid = await self._store.write(move)
        self._paid += paid.is_new
        return paid

    async def seed(self) -> list[dict[str, Any]]:
        """Give the demo accounts their first money, once; return what each of them has."""
        demo_accounts = select(User.id).where(User.email.in_(DEMO_EMAILS)).order_by(User.id)

        def open_wallets(unit: UnitOfWork) -> None:
            issuance = self._ledger.issuance(unit)
            for user_id in unit.connection.execute(demo_accounts).scalars().all():
                key = f"opening-{user_id}"
                if self._ledger.posted(unit, issuance, key) is None:
                    self._ledger.transfer(
                        unit,
                        kind="opening",
                        payer_id=issuance,
                        recipient_id=self._ledger.account_of(unit, user_id),
                        amount=_OPENING_BALANCE,
                        note="Opening balance",
                        idempotency_key=key,
                    )

        await self._store.write(open_wallets)
        wallets = (
            select(User.email, WalletAccount.balance, WalletAccount.currency)
            .join(WalletAccount, WalletAccount.user_id == User.id)
            .where(User.email.in_(DEMO_EMAILS), WalletAccount.currency == self._currency)
            .order_by(User.id)
        )
        return [row._asdict() for row in await self._store.all(wallets)]

    def _check(self, caller: Caller, order: Order) -> None:
        if not 0 < order.amount <= MAX_AMOUNT:
            raise Unprocessable(f"amount must be from 1 to {MAX_AMOUNT}, in minor units.")
        if order.currency not in (None, self._currency):
            raise Unprocessable(f"currency must be {self._currency} or left out.")
        if order.recipient_id == caller.id:
            raise Unprocessable("A payment needs somebody else.")
        checked_text(order.note, "note", longest=MAX_NOTE, may_be_empty=True)

    def _tell(
        self,
        unit: UnitOfWork,
        transfer: Transfer,
        payer: Person,
        recipient: Person,
        from_socket: str | None,
    ) -> None:
        for person, other, amount, balance in (
            (payer, recipient, -transfer.amount, transfer.payer_balance),
            (recipient, payer, transfer.amount, transfer.recipient_balance),
        ):
            transaction = self._view(transfer, amount, _counterparty(other))
            for event in wallet_changed(Balance(balance, self._currency), transaction):
                self._broadcaster.publish(
                    unit, [wallet_channel(person.id)], event, except_socket=from_socket
                )

    def _payment(self, transfer: Transfer, recipient: Person) -> Payment:
        transaction = self._view(transfer, -transfer.amount, _counterparty(recipient))
        return Payment(transaction, transfer.payer_balance, self._currency)

    def _listed(self, row: Any) -> TransactionView:
        if row.user_id is None:
            other = Counterparty(row.system_name, row.system_name.capitalize())
        else:
            other = Counterparty(str(row.user_id), full_name(row.first_name, row.last_name))
        return self._view(row, row.amount, other)

    def _view(self, transaction: Any, amount: int, other: Counterparty) -> TransactionView:
        return TransactionView(
            str(transaction.id),
            "credit" if amount > 0 else "debit",
            abs(amount),
            self._currency,
            other,
            transaction.note,
            wire_time(transaction.created_at),
        )


_BALANCE = select(WalletAccount.balance).where(
    WalletAccount.user_id == bindparam("user_id"),
    WalletAccount.currency == bindparam("currency"),
)
_PERSON = select(User.id, User.email, User.first_name, User.last_name).where(
    User.id == bindparam("user_id")
)

_Own = aliased(WalletAccount)
_Others = aliased(WalletAccount)
_OthersEntry = aliased(WalletEntry)
_PAGE = (
    select(
        WalletTransaction.id,
        WalletTransaction.note,
        WalletTransaction.created_at,
        WalletEntry.amount,
        _Others.user_id,
        _Others.system_name,
        User.first_name,
        User.last_name,
    )
    .join(_Own, _Own.id == WalletEntry.account_id)
    .join(WalletTransaction, WalletTransaction.id == WalletEntry.transaction_id)
    .join(
        _OthersEntry,
        (_OthersEntry.transaction_id == WalletEntry.transaction_id)
        & (_OthersEntry.account_id != WalletEntry.account_id),
    )
    .join(_Others, _Others.id == _OthersEntry.account_id)
    .outerjoin(User, User.id == _Others.user_id)
    .where(
        _Own.user_id == bindparam("user_id"),
        _Own.currency == bindparam("currency"),
        WalletEntry.transaction_id < bindparam("before"),
    )
    .order_by(WalletEntry.transaction_id.desc())
    .limit(bindparam("limit"))
)


def _person(unit: UnitOfWork, user_id: int) -> Person:
    row = unit.connection.execute(_PERSON, {"user_id": user_id}).one_or_none()
    if row is None:
        raise NotFound("There is no such user.")
    return Person(*row)


def _counterparty(person: Person) -> Counterparty:
    return Counterparty(str(person.id), person.name)
