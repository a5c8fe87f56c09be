"""Nothing said is lost: what happens between the outbox and the realtime server."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from sqlalchemy import select

from chat_api.realtime.broadcaster import Broadcaster, Event
from chat_api.realtime.relay import Backoff, Relay
from chat_api.realtime.reverb import ReverbClient
from chat_api.settings import Settings
from chat_api.store.engine import Store
from chat_api.store.outbox import Outbox
from chat_api.store.tables import OutboxRow
from tests.chat_api.client import Client
from tests.chat_api.receiver import APP_ID, APP_KEY, APP_SECRET, RealtimeReceiver
from tests.chat_api.world import SECRET, World, chat_api

MESSAGES = "/api/chats/1/messages"


def contents(receiver: RealtimeReceiver, channel: str) -> list[str]:
    return [
        event.data["data"]["message"]["content"]
        for event in receiver.delivered
        if event.channel == channel
    ]


async def send(world: World, count: int, *, first: int = 0) -> list[str]:
    texts = [str(number) for number in range(first, first + count)]
    for text in texts:
        reply = await world.ali.post(MESSAGES, {"content": text, "tempId": text})
        assert reply.status == 201
    return texts


async def backlog(world: World) -> int:
    reply = await world.nobody.get("/actuator/health")
    count: int = reply.body["components"]["relay"]["details"]["backlog"]
    return count


async def test_what_is_said_while_the_server_is_away_arrives_once_and_in_order(
    world: World,
) -> None:
    await world.receiver.go_down()
    sent = await send(world, 40)
    assert await backlog(world) == 40

    await world.receiver.go_up()

    await world.receiver.hears(80)
    assert contents(world.receiver, "private-user.1") == sent
    assert contents(world.receiver, "private-user.2") == sent
    assert len(world.receiver.received) == 80
    # A backlog goes out ten publications at a time.
    assert world.receiver.requests == ["batch_events"] * 8


async def test_what_waits_when_the_api_stops_arrives_after_its_next_start(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    await receiver.go_down()
    async with World.open(settings, receiver) as world:
        sent = await send(world, 5)

    await receiver.go_up()
    async with chat_api(settings):
        await receiver.hears(10)

    assert contents(receiver, "private-user.2") == sent


async def test_a_stopping_api_gives_the_relay_time_to_finish(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(settings, receiver) as world:
        sent = await send(world, 30)

    assert contents(receiver, "private-user.2") == sent


async def test_an_answer_that_never_came_leads_to_the_same_keys_again(world: World) -> None:
    world.receiver.hang_up_after = 2

    await send(world, 1)
    await world.receiver.until(lambda: len(world.receiver.received) >= 6)

    keys = [event.key for event in world.receiver.received]
    assert keys[:2] == keys[2:4] == keys[4:6]
    assert len(world.receiver.delivered) == len(set(keys)) == 2


async def test_a_killed_api_sends_again_under_the_same_keys(
    database: Path, receiver: RealtimeReceiver, settings: Settings
) -> None:
    """The server had taken the event and the API died before it could note that down."""
    ready = asyncio.Event()
    environment = {
        **os.environ,
        "CHAT_JWT_SECRET": SECRET,
        "CHAT_PORT": "0",
        "CHAT_DATABASE_URL": settings.database_url,
        "REVERB_APP_ID": APP_ID,
        "REVERB_APP_KEY": APP_KEY,
        "REVERB_APP_SECRET": APP_SECRET,
        "REVERB_PORT": str(receiver.port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chat_api", "serve", env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(30):
        line = await process.stderr.readline()
        url = line.decode().split("url=")[1].split()[0]
    receiver.answers_late = ready
    async with aiohttp.ClientSession() as session:
        nobody = Client(session, url)
        # The demo accounts' hashes are cheap ones here, and carry their parameters with them.
        ali = await nobody.log_in("ali@example.com")
        chat = await ali.post("/api/chats", {"user_id": 2})
        path = f"/api/chats/{chat.body['id']}/messages"
        assert (await ali.post(path, {"content": "hi", "tempId": "t"})).status == 201
    await receiver.until(lambda: len(receiver.received) == 2)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    ready.set()
    receiver.answers_late = None

    async with chat_api(settings):
        await receiver.until(lambda: len(receiver.received) >= 4)

    assert [event.key for event in receiver.received[:2]] == [
        event.key for event in receiver.received[2:4]
    ]
    assert contents(receiver, "private-user.2") == ["hi"]


async def test_misconfiguration_and_overload_are_waited_out(world: World) -> None:
    world.receiver.answers = [500, 401, 403, 404, 408, 503, 302]

    sent = await send(world, 3)

    await world.receiver.hears(6)
    assert contents(world.receiver, "private-user.2") == sent
    assert world.receiver.answers == []


async def test_an_event_the_server_will_never_take_is_set_aside_alone(world: World) -> None:
    world.receiver.refuses = lambda event: event.data["data"]["message"]["content"] == "3"
    await world.receiver.go_down()
    sent = await send(world, 7)

    await world.receiver.go_up()

    await world.receiver.hears(12)
    sent.remove("3")
    assert contents(world.receiver, "private-user.2") == sent
    [row] = await world.api.store.all(
        select(OutboxRow.data, OutboxRow.refusal, OutboxRow.refused_at).where(
            OutboxRow.refused_at.is_not(None)
        )
    )
    assert '"content":"3"' in row.data
    assert row.refusal == "it answered 413 Payload too large."
    health = await world.nobody.get("/actuator/health")
    assert health.body["components"]["relay"]["details"]["refused"] == 1
    await world.ali.post(MESSAGES, {"content": "after", "tempId": "after"})
    await world.receiver.hears(14)
    assert contents(world.receiver, "private-user.2") == [*sent, "after"]


async def test_one_event_to_many_channels_reaches_them_all(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    store = Store(settings.database_url)
    outbox = Outbox(store)
    channels = [f"private-user.{number}" for number in range(25)]
    async with ReverbClient(settings.reverb, lambda: datetime.now(UTC)) as reverb:
        relay = Relay(outbox, reverb, lambda: datetime.now(UTC))
        broadcaster = Broadcaster(outbox, lambda: datetime.now(UTC), relay.wake, "App.Events")
        async with relay.running(drain=5):
            await store.write(lambda unit: broadcaster.publish(unit, channels, Event("Hi", {})))
            await receiver.hears(25)
    await store.close()

    assert [event.channel for event in receiver.delivered] == channels
    assert {event.name for event in receiver.delivered} == {"App\\Events\\Hi"}
    assert receiver.requests == ["batch_events"] * 3


async def test_after_an_outage_a_channel_waits_for_its_listeners_and_holds_up_no_other(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.occupied = {"private-user.1"}
    await receiver.go_down()
    async with World.open(settings, receiver, backoff=Backoff(0.01, 0.02, 60)) as world:
        sent = await send(world, 12)
        await receiver.go_up()
        await receiver.hears(12)
        sent += await send(world, 1, first=13)
        await receiver.hears(13)
        assert contents(receiver, "private-user.1") == sent
        assert contents(receiver, "private-user.2") == []

        receiver.occupied.add("private-user.2")

        await receiver.hears(26)
        assert contents(receiver, "private-user.2") == sent
        assert contents(receiver, "private-user.1") == sent


async def test_a_channel_whose_listeners_stay_away_gets_its_events_all_the_same(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.occupied = set()
    await receiver.go_down()
    async with World.open(settings, receiver, backoff=Backoff(0.01, 0.02, 0.1)) as world:
        sent = await send(world, 3)
        await receiver.go_up()
        await receiver.hears(6)

    assert contents(receiver, "private-user.2") == sent


async def test_typing_is_forgotten_when_it_is_too_old_to_matter(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    now = datetime(2024, 10, 25, tzinfo=UTC)

    store = Store(settings.database_url)
    outbox = Outbox(store)
    async with ReverbClient(settings.reverb, lambda: datetime.now(UTC)) as reverb:
        relay = Relay(outbox, reverb, lambda: now, backoff=Backoff(0.01, 0.02, 0.01))
        broadcaster = Broadcaster(outbox, lambda: now, relay.wake)

        for name, seconds in (("a", None), ("old", 5), ("b", None), ("young", 20)):
            lifetime = None if seconds is None else timedelta(seconds=seconds)
            event = Event(name, {}, lifetime)
            await store.write(
                lambda unit, event=event: broadcaster.publish(unit, ["x"], event)  # type: ignore[misc]
            )
        now += timedelta(seconds=10)
        async with relay.running(drain=5):
            await receiver.hears(3)
    left = await outbox.backlog()
    await store.close()

    assert [event.name for event in receiver.delivered] == ["a", "b", "young"]
    assert left.owed == 0


async def test_a_name_space_is_put_before_every_event(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(replace(settings, event_namespace="App\\Events"), receiver) as world:
        await world.ali.post(MESSAGES, {"content": "x", "tempId": "x"})
        events = await receiver.hears(2)

    assert {event.name for event in events} == {"App\\Events\\MessageSent"}


def test_waiting_doubles_up_to_a_limit_with_some_chance_in_it() -> None:
    backoff = Backoff(first=0.1, longest=5.0)

    longest = [backoff.delay(failures, lambda: 1.0) for failures in (1, 2, 3, 6, 7, 1000)]
    shortest = [backoff.delay(failures, lambda: 0.0) for failures in (1, 7)]

    assert longest == [0.1, 0.2, 0.4, 3.2, 5.0, 5.0]
    assert shortest == [0.05, 2.5]
