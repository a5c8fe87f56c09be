"""Wallets over HTTP."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from chat_api.features import Feature
from chat_api.features.wallet.events import CHANNEL, EVENTS
from chat_api.features.wallet.ledger import MAX_AMOUNT, InsufficientFunds
from chat_api.features.wallet.service import MAX_NOTE, IdempotencyKeyReused, Order, Wallets
from chat_api.features.wallet.views import Balance, Payment, Transactions
from chat_api.kernel.callers import Caller, Identity
from chat_api.kernel.errors import Malformed, NotFound, TooMany, Unprocessable
from chat_api.kernel.routes import Answer, Call, Example, Header, NoInput, Route, stated
from chat_api.kernel.texts import id_from
from chat_api.realtime.channel_rules import ChannelRule, Grant

__all__ = ["wallet_feature"]

_MOST_TRANSACTIONS: Final = 200

Id = int | str
"""Clients send ids as they got them: as numbers or as strings."""


class TransactionsQuery(msgspec.Struct, frozen=True):
    """A page of transactions, going back from the newest or from before one."""

    limit: Annotated[int, stated(minimum=1, maximum=_MOST_TRANSACTIONS)] = 50
    before: Annotated[Id | None, stated("A transaction's id.")] = None


class PaymentInput(msgspec.Struct, frozen=True, rename={"recipient_id": "recipientId"}):
    """A payment to a person."""

    recipient_id: Annotated[Id, stated("An account's id.")]
    amount: Annotated[
        int, stated("In whole minor units, such as cents.", minimum=1, maximum=MAX_AMOUNT)
    ]
    currency: Annotated[str | None, stated("The wallet's currency, where it is given.")] = None
    note: Annotated[str | None, stated("For the recipient to read.", maxLength=MAX_NOTE)] = None


_DESCRIPTION: Final = (
    "Everybody with an account has a wallet. Amounts are whole numbers of minor units. A payment "
    "carries an `Idempotency-Key`, a text of the client's own choice that is new for every "
    "payment: sent again with the same key after a lost answer, it is paid once, and answered as "
    "it was the first time."
)


def wallet_feature(wallets: Wallets) -> Feature:
    """Return the routes of wallets, who may listen to them, and the demo accounts' money."""

    async def balance(call: Call[NoInput]) -> Answer:
        return Answer(await wallets.balance(call.caller))

    async def transactions(call: Call[TransactionsQuery]) -> Answer:
        limit, before = call.input.limit, call.input.before
        if not 1 <= limit <= _MOST_TRANSACTIONS:
            raise Unprocessable(f"limit must be from 1 to {_MOST_TRANSACTIONS}.")
        page, has_more = await wallets.transactions(
            call.caller,
            limit=limit,
            before=None if before is None else id_from(before, "transaction"),
        )
        return Answer(Transactions(page, has_more))

    async def pay(call: Call[PaymentInput]) -> Answer:
        """201 for a new payment, 200 for one that was made before under the same key."""
        given, key = call.input, call.idempotency_key
        if key is None:
            raise Malformed(
                "Send an Idempotency-Key: a text that is new for this payment, such as a UUID, and "
                "the same again when you repeat it."
            )
        order = Order(
            recipient_id=id_from(given.recipient_id, "user"),
            amount=given.amount,
            key=key,
            currency=given.currency,
            note=given.note or "",
        )
        paid = await wallets.pay(call.caller, order, from_socket=call.socket_id)
        return Answer(paid.payment, 201 if paid.is_new else 200)

    async def is_own_wallet(identity: Identity, names: Mapping[str, str]) -> Grant | None:
        is_own = isinstance(identity, Caller) and names["id"] == str(identity.id)
        return Grant() if is_own else None

    async def seed() -> Mapping[str, Any]:
        return {"wallets": await wallets.seed()}

    payment = {"recipientId": 2, "amount": 1250, "currency": "USD", "note": "For lunch"}
    routes: tuple[Route[Any], ...] = (
        Route(
            "GET",
            "/api/wallet/balance",
            NoInput,
            balance,
            summary="Show what the caller has",
            answers={200: Balance},
            examples=(Example(),),
        ),
        Route(
            "POST",
            "/api/wallet/payments",
            PaymentInput,
            pay,
            summary="Pay somebody",
            answers={201: Payment, 200: Payment},
            errors=(
                IdempotencyKeyReused,
                InsufficientFunds,
                NotFound,
                TooMany,
                Unprocessable,
            ),
            headers=(Header.IDEMPOTENCY_KEY, Header.SOCKET_ID),
            examples=(
                Example(payment, headers={Header.IDEMPOTENCY_KEY: "lunch-2024-10-25"}),
                Example(
                    payment,
                    headers={Header.IDEMPOTENCY_KEY: "lunch-2024-10-25"},
                    status=200,
                    summary="The same again, after a lost answer",
                ),
                Example(
                    {**payment, "amount": 99_999_999},
                    headers={Header.IDEMPOTENCY_KEY: "dinner-2024-10-25"},
                    status=409,
                    summary="More than the wallet holds",
                ),
            ),
        ),
        Route(
            "GET",
            "/api/wallet/transactions",
            TransactionsQuery,
            transactions,
            summary="List the caller's transactions, newest first",
            answers={200: Transactions},
            errors=(NotFound, Unprocessable),
            examples=(Example({"limit": 20}),),
        ),
    )
    return Feature(
        routes,
        (ChannelRule(CHANNEL, is_own_wallet, "the account with this id"),),
        seed,
        measures=wallets.measures(),
        name="wallet",
        description=_DESCRIPTION,
        events=EVENTS,
    )
