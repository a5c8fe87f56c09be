"""The books: what no rule above them can break, and how they compare with plain arithmetic."""

import uuid
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from chat_api.features.wallet.ledger import MAX_AMOUNT, InsufficientFunds, Ledger, Transfer
from chat_api.features.wallet.models import WalletAccount
from chat_api.kernel.clock import system_clock
from chat_api.store.engine import UnitOfWork
from tests.chat_api.features.wallet.books import TRANSACTIONS, balance, check_the_books, pay
from tests.chat_api.world import World

LEDGER = Ledger("USD", system_clock)


def issuing(amount: int, key: str) -> Callable[[UnitOfWork], Transfer]:
    """Return the unit of work that gives Ali so much."""
    return lambda unit: LEDGER.transfer(
        unit,
        kind="issue",
        payer_id=LEDGER.issuance(unit),
        recipient_id=LEDGER.account_of(unit, 1),
        amount=amount,
        note="",
        idempotency_key=key,
    )


async def test_no_more_is_issued_than_every_client_can_count(world: World) -> None:
    [(owed,)] = await world.api.store.all(
        select(WalletAccount.balance).where(WalletAccount.user_id.is_(None))
    )

    with pytest.raises(InsufficientFunds):
        await world.api.store.write(issuing(MAX_AMOUNT + owed + 1, "too much"))
    await world.api.store.write(issuing(MAX_AMOUNT + owed, "the rest"))

    assert await balance(world.ali) == MAX_AMOUNT + owed + 100_000
    await check_the_books(world.api.store)


async def test_a_transfer_is_found_again_by_its_payer_and_key(world: World) -> None:
    made = await world.api.store.write(issuing(5, "five"))

    def find(unit: UnitOfWork) -> list[Transfer | None]:
        issuance, ali = LEDGER.issuance(unit), LEDGER.account_of(unit, 1)
        return [
            LEDGER.posted(unit, issuance, "five"),
            LEDGER.posted(unit, issuance, "Five"),
            LEDGER.posted(unit, ali, "five"),
        ]

    assert await world.api.store.write(find) == [made, None, None]


async def test_a_key_cannot_be_posted_twice(world: World) -> None:
    await world.api.store.write(issuing(5, "five"))

    with pytest.raises(IntegrityError):
        await world.api.store.write(issuing(5, "five"))

    assert await balance(world.ali) == 100_005
    await check_the_books(world.api.store)


async def test_a_unit_that_fails_after_a_transfer_leaves_no_trace(world: World) -> None:
    def fail(unit: UnitOfWork) -> None:
        issuing(5, "five")(unit)
        raise ValueError("too late")

    with pytest.raises(ValueError, match="too late"):
        await world.api.store.write(fail)

    assert await balance(world.ali) == 100_000
    await check_the_books(world.api.store)


async def test_the_database_itself_lets_no_wallet_go_below_zero(world: World) -> None:
    overdraw = update(WalletAccount).where(WalletAccount.user_id == 1).values(balance=-1)

    with pytest.raises(IntegrityError):
        await world.api.store.write(lambda unit: unit.connection.execute(overdraw))

    assert await balance(world.ali) == 100_000


PEOPLE = st.integers(0, 2)
PAYMENT = st.tuples(
    PEOPLE, PEOPLE, st.sampled_from([1, 2]) | st.integers(1, 150_000), st.integers(0, 4)
)


@hypothesis_settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.generate],  # an example is short, and making it shorter would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(payments=st.lists(PAYMENT, max_size=12))
async def test_any_payments_end_where_plain_arithmetic_ends(
    world: World, payments: list[tuple[int, int, int, int]]
) -> None:
    people = [world.ali, world.vali, await world.stranger()]
    held = [await balance(person) for person in people]  # what the examples before this one left
    made: dict[tuple[int, str], tuple[int, int, object]] = {}
    history: list[list[tuple[str, int]]] = [[], [], []]
    example = uuid.uuid4()

    for payer, recipient, amount, number in payments:
        key = f"{example}-{number}"
        reply = await pay(people[payer], people[recipient].user_id, amount, key)
        earlier = made.get((payer, key))
        if payer == recipient:
            assert (reply.status, reply.body["code"]) == (422, "unprocessable")
        elif earlier is not None and earlier[:2] == (recipient, amount):
            assert (reply.status, reply.body) == (200, earlier[2])
        elif earlier is not None:
            assert (reply.status, reply.body["code"]) == (422, "idempotency_key_reused")
        elif amount > held[payer]:
            assert (reply.status, reply.body["code"]) == (409, "insufficient_funds")
        else:
            held[payer] -= amount
            held[recipient] += amount
            assert (reply.status, reply.body["balance"]) == (201, held[payer])
            made[payer, key] = (recipient, amount, reply.body)
            history[payer].insert(0, ("debit", amount))
            history[recipient].insert(0, ("credit", amount))

    assert [await balance(person) for person in people] == held
    for person, expected in zip(people, history, strict=True):
        page = (await person.get(TRANSACTIONS)).body["transactions"][: len(expected)]
        assert [(item["type"], item["amount"]) for item in page] == expected
    await check_the_books(world.api.store)
