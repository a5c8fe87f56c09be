"""Wallets as their apps see them: exact JSON over HTTP, exact events on the channels."""

import asyncio
import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from chat_api.settings import Settings
from tests.chat_api.client import Client
from tests.chat_api.features.wallet.books import (
    PAYMENTS,
    TRANSACTIONS,
    balance,
    check_the_books,
    pay,
)
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import World, chat_api

OPENING = {
    "id": "ID",
    "type": "credit",
    "amount": 100_000,
    "currency": "USD",
    "counterparty": {"id": "issuance", "name": "Issuance"},
    "note": "Opening balance",
    "createdAt": "TIME",
}
TO_VALI = {
    "id": "ID",
    "type": "debit",
    "amount": 1250,
    "currency": "USD",
    "counterparty": {"id": "2", "name": "Vali Aliyev"},
    "note": "For lunch 🍜",
    "createdAt": "TIME",
}
FROM_ALI = {
    **TO_VALI,
    "type": "credit",
    "counterparty": {"id": "1", "name": "Ali Valiyev"},
}


def timeless(value: Any) -> Any:
    """Replace times and the ids of transactions, so that the rest can be compared exactly."""
    match value:
        case dict():
            return {
                name: "ID"
                if name == "transactionId" or (name == "id" and "createdAt" in value)
                else timeless(inner)
                for name, inner in value.items()
            }
        case list():
            return [timeless(inner) for inner in value]
        case str() if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value):
            return "TIME"
        case _:
            return value


async def newcomer(world: World, email: str = "new@example.com") -> Client:
    """Log in somebody who has never had any money."""
    await world.api.accounts.create(
        email=email, password="password", first_name="New", last_name="Comer"
    )
    return await world.nobody.log_in(email)


async def test_a_demo_account_starts_with_money_from_the_system(world: World) -> None:
    held = await world.ali.get("/api/wallet/balance")
    transactions = await world.ali.get(TRANSACTIONS)

    assert (held.status, held.body) == (200, {"balance": 100_000, "currency": "USD"})
    assert (transactions.status, timeless(transactions.body)) == (
        200,
        {"transactions": [OPENING], "has_more": False},
    )
    await check_the_books(world.api.store)


async def test_demo_money_is_given_once(settings: Settings, receiver: RealtimeReceiver) -> None:
    async with World.open(settings, receiver) as world:
        await pay(world.ali, 2, 1250, "a")
    async with World.open(settings, receiver) as world:
        seeded = await world.nobody.post("/api/admin/seed")

        assert seeded.body["wallets"] == [
            {"email": "ali@example.com", "balance": 98_750, "currency": "USD"},
            {"email": "vali@example.com", "balance": 101_250, "currency": "USD"},
            {"email": "agent@example.com", "balance": 100_000, "currency": "USD"},
            {"email": "agent2@example.com", "balance": 100_000, "currency": "USD"},
            {"email": "supervisor@example.com", "balance": 100_000, "currency": "USD"},
            {"email": "agent.tenant2@example.com", "balance": 100_000, "currency": "USD"},
        ]
        await check_the_books(world.api.store)


async def test_somebody_new_has_an_empty_wallet_that_money_can_come_into(world: World) -> None:
    client = await newcomer(world)

    before = await client.get("/api/wallet/balance")
    listed = await client.get(TRANSACTIONS)
    refused = await pay(client, 1, 1, "a")
    paid = await pay(world.ali, client.user_id, 5, "a")

    assert (before.status, before.body) == (200, {"balance": 0, "currency": "USD"})
    assert (listed.status, listed.body) == (200, {"transactions": [], "has_more": False})
    assert refused.status == 409
    assert paid.status == 201
    assert await balance(client) == 5
    await check_the_books(world.api.store)


async def test_a_payment_moves_money_and_is_seen_by_both(world: World) -> None:
    paid = await pay(world.ali, 2, 1250, "lunch", currency="USD", note="For lunch 🍜")

    assert (paid.status, timeless(paid.body)) == (
        201,
        {"transaction": TO_VALI, "balance": 98_750, "currency": "USD"},
    )
    assert (await balance(world.ali), await balance(world.vali)) == (98_750, 101_250)
    of_ali = await world.ali.get(TRANSACTIONS)
    of_vali = await world.vali.get(TRANSACTIONS)
    assert timeless(of_ali.body) == {"transactions": [TO_VALI, OPENING], "has_more": False}
    assert timeless(of_vali.body) == {"transactions": [FROM_ALI, OPENING], "has_more": False}
    assert of_ali.body["transactions"][0] == paid.body["transaction"]
    assert of_vali.body["transactions"][0]["id"] == paid.body["transaction"]["id"]
    await check_the_books(world.api.store)


async def test_currency_and_note_can_be_left_out_or_null(world: World) -> None:
    left_out = await pay(world.ali, "2", 1, "a")
    null = await pay(world.ali, 2, 1, "b", currency=None, note=None)

    assert (left_out.status, null.status) == (201, 201)
    assert left_out.body["transaction"]["note"] == null.body["transaction"]["note"] == ""


async def test_both_are_told_on_their_wallets_channel(world: World) -> None:
    world.receiver.occupied |= {"private-wallet.1", "private-wallet.2"}
    paid = await pay(world.ali, 2, 1250, "lunch", socket="123.456", note="For lunch 🍜")

    events = await world.receiver.hears(7)
    told: dict[str, list[tuple[str, Any]]] = {"private-wallet.1": [], "private-wallet.2": []}
    for event in events:
        told[event.channel].append((event.name, timeless(event.data)))
    assert told == {
        "private-wallet.1": [
            ("balance:updated", {"balance": 98_750, "currency": "USD"}),
            ("transaction:added", TO_VALI),
            ("wallet:updated", {"balance": 98_750, "currency": "USD", "transaction": TO_VALI}),
        ],
        "private-wallet.2": [
            ("balance:updated", {"balance": 101_250, "currency": "USD"}),
            ("transaction:added", FROM_ALI),
            (
                "payment:notification",
                {
                    "transactionId": "ID",
                    "amount": 1250,
                    "currency": "USD",
                    "from": {"id": "1", "name": "Ali Valiyev"},
                    "note": "For lunch 🍜",
                    "createdAt": "TIME",
                },
            ),
            ("wallet:updated", {"balance": 101_250, "currency": "USD", "transaction": FROM_ALI}),
        ],
    }
    assert {event.socket_id for event in events} == {"123.456"}
    transaction_id = paid.body["transaction"]["id"]
    [notification] = [event for event in events if event.name == "payment:notification"]
    assert notification.data["transactionId"] == transaction_id


async def test_the_same_key_again_pays_once_and_answers_the_same(world: World) -> None:
    first = await pay(world.ali, 2, 1250, "lunch", note="noodles")
    await pay(world.ali, 2, 50, "tip")
    again = await pay(world.ali, "2", 1250, "lunch", note="noodles", currency="USD")
    by_another = await pay(world.vali, 1, 1250, "lunch")
    await pay(world.ali, 2, 1, "last")

    assert (first.status, again.status, by_another.status) == (201, 200, 201)
    assert again.body == first.body
    assert (await balance(world.ali), await balance(world.vali)) == (99_949, 100_051)
    events = await world.receiver.hears(4 * 7)
    paid = [event.data["amount"] for event in events if event.name == "payment:notification"]
    assert sorted(paid) == [1, 50, 1250, 1250]
    await check_the_books(world.api.store)


@pytest.mark.parametrize(
    "change", [{"recipientId": 3}, {"amount": 1249}, {"note": "something else"}]
)
async def test_a_key_is_for_one_payment(world: World, change: dict[str, Any]) -> None:
    payment = {"recipientId": 2, "amount": 1250, "note": "noodles"}
    key = {"Idempotency-Key": "lunch"}
    await world.ali.post(PAYMENTS, payment, headers=key)

    other = await world.ali.post(PAYMENTS, payment | change, headers=key)

    assert (other.status, other.body) == (
        422,
        {
            "code": "idempotency_key_reused",
            "message": "This Idempotency-Key is that of another payment: use a new one.",
        },
    )
    assert (await balance(world.ali), await balance(world.vali)) == (98_750, 101_250)


async def test_a_payment_needs_a_key(world: World) -> None:
    without = await world.ali.post(PAYMENTS, {"recipientId": 2, "amount": 1})

    assert (without.status, without.body) == (
        400,
        {
            "code": "malformed",
            "message": "Send an Idempotency-Key: a text that is new for this payment, such as a "
            "UUID, and the same again when you repeat it.",
        },
    )
    for key in ("", " ", "k" * 101):
        reply = await pay(world.ali, 2, 1, key)
        assert (reply.status, reply.body) == (
            400,
            {
                "code": "malformed",
                "message": "Idempotency-Key must be 1 to 100 printable characters.",
            },
        )
    assert (await pay(world.ali, 2, 1, "k" * 100)).status == 201


async def test_what_a_wallet_does_not_hold_cannot_be_paid(world: World) -> None:
    refused = await pay(world.ali, 2, 100_001, "a")
    everything = await pay(world.ali, 2, 100_000, "b")
    nothing_left = await pay(world.ali, 2, 1, "c")

    answer = {
        "code": "insufficient_funds",
        "message": "Your wallet holds less than that: pay less, or wait for money to come in.",
    }
    assert (refused.status, refused.body) == (409, answer)
    assert (everything.status, everything.body["balance"]) == (201, 0)
    assert (nothing_left.status, nothing_left.body) == (409, answer)
    assert (await balance(world.ali), await balance(world.vali)) == (0, 200_000)
    assert len((await world.ali.get(TRANSACTIONS)).body["transactions"]) == 2
    await check_the_books(world.api.store)


async def test_what_was_refused_does_not_use_up_its_key(world: World) -> None:
    refused = await pay(world.ali, 2, 100_001, "a")
    await pay(world.vali, 1, 1, "a")
    accepted = await pay(world.ali, 2, 100_001, "a")

    assert (refused.status, accepted.status) == (409, 201)
    assert await balance(world.ali) == 0


async def test_an_amount_that_is_no_whole_number_is_malformed(world: World) -> None:
    for amount in (b"1.0", b"1e3", b"0.5", b"true", b'"5"', b"null", b"[1]", b"9" * 5000):
        reply = await world.ali.ask(
            "POST",
            PAYMENTS,
            body=b'{"recipientId": 2, "amount": %s}' % amount,
            headers={"Idempotency-Key": "a"},
        )
        assert (reply.status, reply.body["code"]) == (400, "malformed"), amount
        assert "$.amount" in reply.body["message"]
    without = await world.ali.post(PAYMENTS, {"recipientId": 2}, headers={"Idempotency-Key": "a"})
    assert (without.status, without.body["code"]) == (400, "malformed")
    assert await balance(world.ali) == 100_000


async def test_an_amount_that_javascript_cannot_count_is_meaningless(world: World) -> None:
    for amount in (0, -1, -(2**63), 2**53, 2**63, 10**30):
        reply = await world.ali.ask(
            "POST",
            PAYMENTS,
            body=b'{"recipientId": 2, "amount": %d}' % amount,
            headers={"Idempotency-Key": "a"},
        )
        assert (reply.status, reply.body) == (
            422,
            {
                "code": "unprocessable",
                "message": "amount must be from 1 to 9007199254740991, in minor units.",
            },
        ), amount
    highest = await pay(world.ali, 2, 2**53 - 1, "a")
    assert (highest.status, highest.body["code"]) == (409, "insufficient_funds")
    assert (await balance(world.ali), await balance(world.vali)) == (100_000, 100_000)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"recipientId": 1}, 422, "A payment needs somebody else."),
        ({"recipientId": "1"}, 422, "A payment needs somebody else."),
        ({"recipientId": 999}, 404, "There is no such user."),
        ({"recipientId": "x"}, 404, "There is no such user."),
        ({"recipientId": 2**70}, 404, "There is no such user."),
        ({"recipientId": "issuance"}, 404, "There is no such user."),
        ({"currency": "EUR"}, 422, "currency must be USD or left out."),
        ({"currency": "usd"}, 422, "currency must be USD or left out."),
        ({"currency": ""}, 422, "currency must be USD or left out."),
        ({"note": "x" * 501}, 422, "note must not be longer than 500 characters."),
        ({"note": "a\0b"}, 422, "note must not contain NUL characters."),
    ],
)
async def test_a_payment_that_means_nothing_moves_nothing(
    world: World, change: dict[str, Any], status: int, message: str
) -> None:
    reply = await world.ali.post(
        PAYMENTS, {"recipientId": 2, "amount": 1} | change, headers={"Idempotency-Key": "a"}
    )

    assert (reply.status, reply.body["message"]) == (status, message)
    assert (await balance(world.ali), await balance(world.vali)) == (100_000, 100_000)


async def test_the_longest_note_fits_into_the_events(world: World) -> None:
    note = "\x01" * 500  # six bytes each in JSON

    reply = await pay(world.ali, 2, 1, "a", note=note)

    assert (reply.status, reply.body["transaction"]["note"]) == (201, note)
    assert (await world.receiver.hears(7))[-1].data["transaction"]["note"] == note


async def test_nobody_sees_a_wallet_without_an_account(world: World) -> None:
    for reply in (
        await world.nobody.get("/api/wallet/balance"),
        await world.nobody.get(TRANSACTIONS),
        await pay(world.nobody, 2, 1, "a"),
    ):
        assert (reply.status, reply.body["code"]) == (401, "unauthenticated")


async def test_transactions_page_back_newest_first(world: World) -> None:
    for amount in (1, 2, 3, 4):
        await pay(world.ali, 2, amount, str(amount))
        await pay(world.vali, 3, 100 + amount, str(amount))  # not Ali's
    everything = await world.ali.get(TRANSACTIONS)
    ids = [item["id"] for item in everything.body["transactions"]]

    newest = await world.ali.get(f"{TRANSACTIONS}?limit=2")
    before = await world.ali.get(f"{TRANSACTIONS}?limit=2&before={ids[1]}")
    last = await world.ali.get(f"{TRANSACTIONS}?limit=2&before={ids[3]}")
    exactly = await world.ali.get(f"{TRANSACTIONS}?limit=5")

    def amounts(body: Any) -> tuple[list[int], bool]:
        return [item["amount"] for item in body["transactions"]], body["has_more"]

    assert amounts(everything.body) == ([4, 3, 2, 1, 100_000], False)
    assert amounts(newest.body) == ([4, 3], True)
    assert amounts(before.body) == ([2, 1], True)
    assert amounts(last.body) == ([100_000], False)
    assert amounts(exactly.body) == ([4, 3, 2, 1, 100_000], False)


async def test_a_page_that_cannot_be_is_refused(world: World) -> None:
    for limit in (0, -1, 201, 2**70):
        reply = await world.ali.get(f"{TRANSACTIONS}?limit={limit}")
        assert (reply.status, reply.body["message"]) == (422, "limit must be from 1 to 200.")
    for before in ("x", "0", "-1", str(2**70)):
        reply = await world.ali.get(f"{TRANSACTIONS}?before={before}")
        assert (reply.status, reply.body["message"]) == (404, "There is no such transaction.")
    assert (await world.ali.get(f"{TRANSACTIONS}?limit=many")).status == 400
    assert (await world.ali.get(f"{TRANSACTIONS}?limit=200&before={2**63 - 1}")).status == 200


async def test_only_its_owner_listens_to_a_wallet(world: World) -> None:
    async def ask(client: Client, channel: str) -> int:
        reply = await client.post(
            "/broadcasting/auth", {"socket_id": "1.2", "channel_name": channel}
        )
        return reply.status

    supervisor = await world.nobody.log_in("supervisor@example.com")

    assert await ask(world.ali, "private-wallet.1") == 200
    assert await ask(world.vali, "private-wallet.2") == 200
    assert await ask(supervisor, "private-wallet.1") == 403
    for channel in (
        "private-wallet.2",
        "private-wallet.01",
        "private-wallet.1.1",
        "private-wallet.",
        "presence-wallet.1",
        "private-encrypted-wallet.1",
    ):
        assert await ask(world.ali, channel) == 403, channel


async def test_payers_are_throttled_each_for_themselves(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(replace(settings, payments_per_minute=2), receiver) as world:
        replies = [await pay(world.ali, 2, 1, str(number)) for number in range(3)]
        other = await pay(world.vali, 1, 1, "a")

    assert [reply.status for reply in replies] == [201, 201, 429]
    assert replies[2].body["code"] == "too_many_requests"
    assert 1 <= int(replies[2].headers["Retry-After"]) <= 60
    assert other.status == 201


async def test_operators_see_how_many_payments_were_made(world: World) -> None:
    await pay(world.ali, 2, 1, "a")
    await pay(world.ali, 2, 1, "a")  # again
    await pay(world.ali, 2, 100_000, "b")  # too much
    await pay(world.vali, 1, 1, "a")

    [wallet] = [feature for feature in world.api.features if feature.name == "wallet"]
    assert {measure.name: await measure.read() for measure in wallet.measures} == {
        "payments_total": {(): 2}
    }


async def test_another_currency_is_another_wallet(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(settings, receiver) as world:
        await pay(world.ali, 2, 1250, "a")
    async with World.open(replace(settings, wallet_currency="UZS"), receiver) as world:
        held = await world.ali.get("/api/wallet/balance")
        listed = await world.ali.get(TRANSACTIONS)
        paid = await pay(world.ali, 2, 1250, "a", currency="UZS")
        await check_the_books(world.api.store)

    assert held.body == {"balance": 100_000, "currency": "UZS"}
    assert [item["currency"] for item in listed.body["transactions"]] == ["UZS"]
    assert (paid.status, paid.body["currency"]) == (201, "UZS")


async def test_a_hundred_payments_race_for_a_balance_that_suffices_for_some(world: World) -> None:
    replies = await asyncio.gather(
        *(pay(world.ali, 2 + number % 2, 2_700, str(number)) for number in range(100))
    )

    assert sorted(reply.status for reply in replies) == [201] * 37 + [409] * 63
    left = [reply.body["balance"] for reply in replies if reply.status == 201]
    assert sorted(left, reverse=True) == [100_000 - 2_700 * made for made in range(1, 38)]
    assert await balance(world.ali) == 100
    await check_the_books(world.api.store)


async def test_the_race_is_as_fair_when_two_processes_serve_one_database(world: World) -> None:
    async with chat_api(world.settings) as second:
        elsewhere = Client(world.ali.session, second.url, world.ali.token, 1)
        replies = await asyncio.gather(
            # Every key is used with both of them.
            *(pay((world.ali, elsewhere)[n % 2], 2, 2_700, str(n // 2)) for n in range(100))
        )

    assert sorted(reply.status for reply in replies) == [200] * 37 + [201] * 37 + [409] * 26
    assert await balance(world.ali) == 100
    await check_the_books(world.api.store)


async def test_payments_in_both_directions_do_not_wait_for_each_other(world: World) -> None:
    agent = await world.stranger()
    everybody = [world.ali, world.vali, agent]

    async with asyncio.timeout(30):
        replies = await asyncio.gather(
            *(
                pay(payer, recipient.user_id, 10 + turn, f"{recipient.user_id}-{turn}")
                for turn in range(15)
                for payer in everybody
                for recipient in everybody
                if recipient is not payer
            )
        )

    assert [reply.status for reply in replies] == [201] * 90
    assert [await balance(client) for client in everybody] == [100_000] * 3
    await check_the_books(world.api.store)


async def test_twenty_equal_requests_at_once_are_one_payment(world: World) -> None:
    replies = await asyncio.gather(*(pay(world.ali, 2, 60_000, "same") for _ in range(20)))

    assert sorted(reply.status for reply in replies) == [200] * 19 + [201]
    assert len({msgspec.json.encode(reply.body) for reply in replies}) == 1
    assert (await balance(world.ali), await balance(world.vali)) == (40_000, 160_000)
    await check_the_books(world.api.store)
