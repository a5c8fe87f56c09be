"""What is deleted when it is old enough, and what is kept."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, insert, select

from chat_api.features.support.models import SupportConversation, SupportCustomer, SupportMessage
from chat_api.features.support.retention import Retention
from chat_api.settings import Settings
from tests.chat_api.features.support.desk import Desk, desk_at
from tests.chat_api.receiver import RealtimeReceiver


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


async def counts(desk: Desk) -> tuple[int, int, int]:
    """Return how many conversations, messages and customers there are."""
    found = []
    for table in (SupportConversation, SupportMessage, SupportCustomer):
        [(count,)] = await desk.api.store.all(select(func.count()).select_from(table))
        found.append(count)
    return found[0], found[1], found[2]


async def test_old_conversations_go_with_their_messages_and_their_customers(desk: Desk) -> None:
    open_one, again = await desk.customer("open"), await desk.customer("again")
    for customer in (open_one, again):
        await customer.says("hi")
    await again.client.ask("DELETE", again.path)
    for number in range(3):
        closed = await desk.customer(f"phone {number}")
        await closed.says("hi")
        await closed.client.ask("DELETE", closed.path)
    await desk.customer("again")
    before = await counts(desk)

    week = timedelta(days=7)
    too_early = await Retention(desk.api.store, lambda: in_days(6.9), keep_for=week).delete_old()
    in_time = await Retention(desk.api.store, lambda: in_days(7.1), keep_for=week).delete_old()

    assert before == (6, 5, 5)
    assert (too_early, in_time) == (0, 4)
    assert await counts(desk) == (2, 1, 2)
    history = await open_one.client.get(f"{open_one.path}/messages")
    assert [each["content"] for each in history.body] == ["hi"]
    gone = await again.client.get(f"{again.path}/messages")
    assert gone.status == 404


async def test_many_are_deleted_in_several_steps(desk: Desk) -> None:
    now = in_days(0)
    rows = [
        {
            "id": f"00000000-0000-4000-8000-{number:012}",
            "tenant": "tenant1.example.com",
            "customer_id": "c",
            "status": "CLOSED",
            "channel": "web",
            "unread_customer": 0,
            "unread_agent": 0,
            "active_at": now,
            "created_at": now,
            "updated_at": now,
            "closed_at": now,
            "is_customer_away": False,
        }
        for number in range(250)
    ]
    customer = await desk.customer()
    [(customer_id,)] = await desk.api.store.all(select(SupportConversation.customer_id))
    for row in rows:
        row["customer_id"] = customer_id
    await desk.api.store.write(
        lambda unit: unit.connection.execute(insert(SupportConversation), rows)
    )

    deleted = await Retention(
        desk.api.store, lambda: in_days(1), keep_for=timedelta(hours=1)
    ).delete_old()

    assert deleted == 250
    assert await counts(desk) == (1, 0, 1)
    assert (await customer.client.get(f"{customer.path}/messages")).status == 200


async def test_the_api_deletes_by_itself_when_told_how_long_to_keep(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with desk_at(settings, receiver) as desk:
        customer = await desk.customer()
        await customer.client.ask("DELETE", customer.path)
    kept = replace(settings, retention=timedelta(days=1))
    async with desk_at(kept, receiver) as desk:
        of_today = await counts(desk)
    at_once = replace(settings, retention=timedelta(microseconds=1))
    async with desk_at(at_once, receiver) as desk:
        # Looking is the first thing it does; this waits in the same line behind it.
        await desk.api.store.write(lambda unit: None)
        of_the_past = await counts(desk)

    assert of_today == (1, 0, 1)
    assert of_the_past == (0, 0, 0)
