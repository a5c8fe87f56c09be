"""What is closed when nobody goes on with it, what is deleted when it is old, and what is kept."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, insert, select, update

from chat_api.features.support.models import SupportConversation, SupportCustomer, SupportMessage
from chat_api.features.support.retention import Retention
from chat_api.settings import Settings
from chat_api.store.tables import OutboxRow
from tests.chat_api.features.support.desk import TENANT, Customer, Desk, desk_at
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


async def nothing_happens(desk: Desk, *customers: Customer, since: datetime) -> None:
    ids = [customer.id for customer in customers]
    await desk.api.store.write(
        lambda unit: unit.connection.execute(
            update(SupportConversation)
            .where(SupportConversation.id.in_(ids))
            .values(updated_at=since)
        )
    )


async def test_what_nobody_goes_on_with_is_closed_and_told(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    kept = replace(settings, idle_after=timedelta(hours=2))
    async with desk_at(settings, receiver) as desk:
        ghosts = [await desk.customer(f"phone {number}") for number in range(25)]
        forgotten, busy = await desk.taken("taken"), await desk.customer("busy")
        await busy.says("Hello?")
        await nothing_happens(desk, *ghosts, forgotten, since=in_days(-2.1 / 24))
        await nothing_happens(desk, busy, since=in_days(-1.9 / 24))
    async with desk_at(kept, receiver) as desk:
        for customer in (*ghosts, forgotten):
            event = await desk.hears(
                customer.channel, "system:event", lambda data: data["status"] == "CLOSED"
            )
            assert "position" not in event
        await desk.hears(
            f"private-queue.{TENANT}",
            "queue:snapshot",
            lambda entries: [entry["id"] for entry in entries] == [busy.id],
        )
        supervisor = await desk.supervisor()
        closed = await supervisor.get(f"/api/v1/live-agent/sessions/{forgotten.id}")
        again = await desk.customer("phone 0")
        rows = await desk.api.store.all(
            select(SupportConversation.close_reason, SupportConversation.closed_by)
            .distinct()
            .where(SupportConversation.closed_at.is_not(None))
        )

    assert closed.body["status"] == "closed"
    assert rows == [("Nothing has happened for 2 hours.", "SYSTEM")]
    assert again.id != ghosts[0].id


async def test_nothing_is_closed_by_itself_where_that_is_switched_off(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    for_ever = replace(settings, idle_after=None)
    async with desk_at(for_ever, receiver) as desk:
        ghost = await desk.customer()
        await nothing_happens(desk, ghost, since=in_days(-10_000))
    async with desk_at(for_ever, receiver) as desk:
        await desk.api.store.write(lambda unit: None)
        assert (await desk.customer()).id == ghost.id


@pytest.mark.parametrize(
    ("retention", "left"),
    [(None, ["young"]), (timedelta(days=1), []), (timedelta(days=90), ["young"])],
)
async def test_refused_events_are_kept_for_a_week_and_no_longer_than_conversations(
    settings: Settings, receiver: RealtimeReceiver, retention: timedelta | None, left: list[str]
) -> None:
    async with desk_at(settings, receiver) as desk:
        for name, days in (("old", -7.1), ("young", -6.9)):
            row = {
                "event_key": "k",
                "channel": "private-x",
                "name": name,
                "data": "{}",
                "created_at": in_days(-8),
                "refused_at": in_days(days),
                "refusal": "too big",
            }
            await desk.api.store.write(
                lambda unit, row=row: unit.connection.execute(insert(OutboxRow), row)  # type: ignore[misc]
            )
    async with desk_at(replace(settings, retention=retention), receiver) as desk:
        await desk.api.store.write(lambda unit: None)
        rows = await desk.api.store.all(
            select(OutboxRow.name).where(OutboxRow.refused_at.is_not(None))
        )

    assert [row.name for row in rows] == left
