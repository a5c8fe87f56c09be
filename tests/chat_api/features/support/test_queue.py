"""What staff and customers are told of the queue, how often, and after what interruptions."""

import asyncio
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from chat_api.features.support.events import queue_channel, queue_snapshot
from chat_api.features.support.feature import Timing
from chat_api.features.support.models import OwedSnapshot
from chat_api.features.support.queue import INTERVAL, Queue
from chat_api.features.support.rules import Conversation, Customer, Status
from chat_api.features.support.views import queue_entry
from chat_api.realtime.broadcaster import MAX_EVENT_BYTES, Broadcaster, Event
from chat_api.settings import Settings
from chat_api.store.engine import UnitOfWork
from chat_api.store.outbox import Outbox
from tests.chat_api.features.support.desk import (
    OTHER_TENANT,
    TENANT,
    Desk,
    all_of,
    desk_at,
    naming,
)
from tests.chat_api.receiver import RealtimeReceiver

QUEUE = f"private-queue.{TENANT}"
NEVER_AGAIN = Timing(snapshots=3_600.0)


def lasting(count: int) -> Any:
    return lambda entries: len(entries) == count


async def test_a_snapshot_shows_who_waits_the_longest_first(desk: Desk) -> None:
    first = await desk.customer("first", contact="0123")
    second = await desk.customer("second")
    await second.says("Hello?")

    entries = await desk.hears(
        QUEUE, "queue:snapshot", lambda entries: len(entries) == 2 and "preview" in entries[1]
    )

    assert [entry["id"] for entry in entries] == [first.id, second.id]
    assert entries[0] == {
        "id": first.id,
        "conversationId": first.id,
        "status": "QUEUED",
        "customer": {
            "id": entries[0]["customer"]["id"],
            "displayName": "Jane Doe",
            "phone": "0123",
        },
        "tenant": TENANT,
        "channel": "web",
        "position": 1,
        "waitingSeconds": entries[0]["waitingSeconds"],
        "queuedAt": entries[0]["queuedAt"],
    }
    assert entries[1]["preview"] == "Hello?"


async def test_every_way_out_of_the_queue_is_told(desk: Desk) -> None:
    agent, supervisor = await desk.agent(), await desk.supervisor()
    customers = [await desk.customer(f"phone {number}") for number in range(4)]
    await desk.hears(QUEUE, "queue:snapshot", lasting(4))

    async def left(count: int) -> None:
        ids = [each.id for each in customers[-count:]]
        await desk.hears(
            QUEUE, "queue:snapshot", lambda entries: [entry["id"] for entry in entries] == ids
        )

    await agent.post(f"{customers[0].agents_path}/accept", {})
    await left(3)
    await supervisor.post(f"{customers[1].agents_path}/assign", {"agentId": "4"})
    await left(2)
    await agent.post(f"{customers[2].agents_path}/messages", {"content": "hi"})
    await left(1)
    await customers[3].client.ask("DELETE", customers[3].path)
    await desk.hears(QUEUE, "queue:snapshot", lasting(0))


async def test_a_crowd_is_told_of_in_a_few_snapshots_and_last_as_it_is(desk: Desk) -> None:
    before = asyncio.get_running_loop().time()
    customers = await asyncio.gather(*(desk.customer(f"phone {number}") for number in range(20)))
    await all_of(*(customer.client.ask("DELETE", customer.path) for customer in customers[:-1]))
    took = asyncio.get_running_loop().time() - before
    last = await desk.hears(
        QUEUE,
        "queue:snapshot",
        lambda entries: [entry["id"] for entry in entries] == [customers[-1].id],
    )

    assert last[0]["position"] == 1
    # One at once, one for each interval that has begun since, and one for what came last.
    assert len(desk.heard(QUEUE)) <= 3 + took / INTERVAL


async def test_between_two_snapshots_passes_more_than_is_promised(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[float] = []
    publish = Broadcaster.publish

    def watched(self: Broadcaster, unit: UnitOfWork, *arguments: Any, **named: Any) -> None:
        event = arguments[1]
        assert isinstance(event, Event)
        if event.name == "queue:snapshot":
            moments.append(datetime.now(UTC).timestamp())
        publish(self, unit, *arguments, **named)

    monkeypatch.setattr(Broadcaster, "publish", watched)
    for number in range(40):
        await desk.customer(f"phone {number}")
    await desk.hears(QUEUE, "queue:snapshot", lambda entries: len(entries) > 20)

    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert gaps
    assert min(gaps) >= 0.2


async def test_waiting_customers_hear_when_they_move_up(desk: Desk) -> None:
    first, second, third = [await desk.customer(f"phone {number}") for number in range(3)]

    def place(position: int) -> Any:
        return lambda data: data.get("position") == position

    event = await desk.hears(third.channel, "system:event", place(3))
    await first.client.ask("DELETE", first.path)
    await desk.hears(third.channel, "system:event", place(2))
    await desk.hears(second.channel, "system:event", place(1))

    assert event == {
        "conversationId": third.id,
        "status": "QUEUED",
        "position": 3,
        "timestamp": event["timestamp"],
    }
    places = [data["position"] for data in desk.heard(third.channel) if "position" in data]
    assert places == [3, 2]


async def test_only_the_first_fifty_are_told_their_place(desk: Desk) -> None:
    customers = [await desk.customer(f"phone {number}") for number in range(52)]
    await desk.hears(customers[49].channel, "system:event", lambda data: data["position"] == 50)
    await customers[0].client.ask("DELETE", customers[0].path)
    await desk.hears(customers[50].channel, "system:event", lambda data: data["position"] == 50)

    assert desk.heard(customers[51].channel) == []


async def test_who_is_put_back_gets_the_place_they_had(desk: Desk) -> None:
    taken, waiting = await desk.customer("taken"), await desk.customer("waiting")
    agent = await desk.agent()
    await agent.post(f"{taken.agents_path}/accept", {})
    released = await agent.ask(
        "PUT", f"/api/v1/live-agent/sessions/{taken.id}/status", {"status": "pending"}
    )
    queue = await agent.ask("GET", "/api/agent/queue", headers=naming())

    assert released.status == 200
    assert [entry["id"] for entry in queue.body["content"]] == [taken.id, waiting.id]
    assert await desk.states(taken, "QUEUED") == ["ASSIGNED", "QUEUED"]


async def test_tenants_have_queues_of_their_own(desk: Desk) -> None:
    here, there = await desk.customer("phone"), await desk.customer("phone", OTHER_TENANT)

    of_here = await desk.hears(QUEUE, "queue:snapshot")
    of_there = await desk.hears(f"private-queue.{OTHER_TENANT}", "queue:snapshot")

    assert [entry["id"] for entry in of_here] == [here.id]
    assert [entry["id"] for entry in of_there] == [there.id]
    assert (of_here[0]["position"], of_there[0]["position"]) == (1, 1)


async def test_what_was_not_told_before_a_crash_is_told_after_it(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with desk_at(settings, receiver, NEVER_AGAIN) as desk:
        await desk.customer("told")
        await desk.hears(QUEUE, "queue:snapshot", lasting(1))
        await desk.customer("not told")
        owed = await desk.api.store.all(select(OwedSnapshot.tenant))
    async with desk_at(settings, receiver) as desk:
        await desk.hears(QUEUE, "queue:snapshot", lasting(2))
        paid = await desk.api.store.all(select(OwedSnapshot.tenant))

    assert [row.tenant for row in owed] == [TENANT]
    assert paid == []


async def test_while_the_realtime_server_is_away_only_the_last_snapshot_is_kept(
    desk: Desk,
) -> None:
    await desk.customer("first")
    await desk.hears(QUEUE, "queue:snapshot", lasting(1))
    await desk.receiver.go_down()
    told_before = len(desk.heard(QUEUE))
    broadcaster = Broadcaster(Outbox(desk.api.store), lambda: datetime.now(UTC), lambda: None)

    for count in range(3):
        publish = partial(
            broadcaster.publish,
            channels=[queue_channel(TENANT)],
            event=queue_snapshot(waiting(count)),
        )
        await desk.api.store.write(publish)
    desk.receiver.occupied = {QUEUE}
    await desk.receiver.go_up()
    await desk.hears(QUEUE, "queue:snapshot", lasting(2))

    # One may have been on its way already when the next took its place.
    assert len(desk.heard(QUEUE)) - told_before <= 2


def waiting(count: int, name: str = "Jane Doe") -> list[Any]:
    """Return queue entries of so many customers."""
    now = datetime(2025, 11, 13, 12, tzinfo=UTC)
    return [
        queue_entry(
            Conversation(
                id=f"00000000-0000-4000-8000-{number:012}",
                tenant=TENANT,
                customer=Customer(f"u-{number}", name),
                status=Status.QUEUED,
                created_at=now,
                updated_at=now,
                queued_at=now,
                position=number + 1,
            ),
            now,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("name", ["J", "Jane Doe", "🍜" * 200])
def test_a_snapshot_has_as_many_of_the_first_as_fit_into_an_event(name: str) -> None:
    entries = waiting(200, name)
    snapshot = queue_snapshot(entries)
    encoded = msgspec.json.encode(snapshot.data)
    shown = msgspec.json.decode(encoded)

    assert len(encoded) <= MAX_EVENT_BYTES
    assert [entry["position"] for entry in shown] == list(range(1, len(shown) + 1))
    one_more = msgspec.json.encode([*entries[: len(shown)], entries[len(shown)]])
    assert len(one_more) > MAX_EVENT_BYTES - 1


async def test_a_queue_that_cannot_be_told_is_told_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [RuntimeError("the database is away")]
    tell = Queue._tell

    async def fail_once(self: Queue, tenant: str) -> None:
        if failures:
            raise failures.pop()
        await tell(self, tenant)

    monkeypatch.setattr(Queue, "_tell", fail_once)
    monkeypatch.setattr("chat_api.features.support.queue._PAUSE", 0.01)

    await desk.customer()

    assert len(await desk.hears(QUEUE, "queue:snapshot")) == 1
