"""Nothing said is lost: what happens between the outbox and the realtime server."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs
from structlog.typing import EventDict

from chat_api.realtime.broadcaster import Broadcaster, Event
from chat_api.realtime.relay import Backoff, Relay
from chat_api.realtime.reverb import ReverbClient
from chat_api.settings import Settings
from chat_api.store.engine import Store
from chat_api.store.outbox import Outbox
from chat_api.store.tables import OutboxRow
from tests.chat_api.api_process import ApiProcess
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.speaker import PATIENTLY, relaying
from tests.chat_api.world import World, chat_api

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


@contextmanager
def log_lines() -> Iterator[asyncio.Queue[str]]:
    """Lend a queue of what is logged meanwhile."""
    lines: asyncio.Queue[str] = asyncio.Queue()

    def note(logger: object, method: str, entry: EventDict) -> EventDict:
        lines.put_nowait(entry["event"])
        return entry

    with capture_logs([note]):
        yield lines


async def backlog(world: World) -> int:
    reply = await world.nobody.get("/actuator/health")
    count: int = reply.body["components"]["relay"]["details"]["backlog"]
    return count


def names(receiver: RealtimeReceiver, channel: str) -> list[str]:
    return [event.name for event in receiver.delivered if event.channel == channel]


async def test_what_is_said_while_the_server_is_away_arrives_once_and_in_order(
    world: World,
) -> None:
    await world.receiver.go_down()
    sent = await send(world, 40)
    assert await backlog(world) == 80

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
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    """The server had taken the event and the API died before it could note that down."""
    ready = asyncio.Event()
    # The demo accounts' hashes are cheap ones here, and carry their parameters with them.
    async with ApiProcess.serving(settings) as api:
        receiver.answers_late = ready
        await api.say("hi")
        await receiver.until(lambda: len(receiver.received) == 2)
        await api.kill()
    ready.set()
    receiver.answers_late = None

    async with chat_api(settings):
        await receiver.until(lambda: len(receiver.received) >= 4)

    assert [event.key for event in receiver.received[:2]] == [
        event.key for event in receiver.received[2:4]
    ]
    assert contents(receiver, "private-user.2") == ["hi"]


async def test_misconfiguration_and_overload_are_waited_out(world: World) -> None:
    world.receiver.answers = [500, 401, 403, 404, 405, 408, 426, 429, 503, 302]

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
    rows = await world.api.store.all(
        select(OutboxRow.data, OutboxRow.refusal, OutboxRow.refused_at).where(
            OutboxRow.refused_at.is_not(None)
        )
    )
    assert len(rows) == 2  # one for each of the two people
    for row in rows:
        assert '"content":"3"' in row.data
        assert row.refusal == "it answered 413 Payload too large."
    health = await world.nobody.get("/actuator/health")
    assert health.body["components"]["relay"]["details"]["refused"] == 2
    await world.ali.post(MESSAGES, {"content": "after", "tempId": "after"})
    await world.receiver.hears(14)
    assert contents(world.receiver, "private-user.2") == [*sent, "after"]


@pytest.mark.parametrize("is_there", [True, False])
async def test_that_nothing_could_be_sent_is_said_before_there_is_anything_to_send(
    settings: Settings, receiver: RealtimeReceiver, is_there: bool
) -> None:
    store = Store(settings.database_url)
    await store.migrate()
    app = receiver.app._replace(secret="another")
    if not is_there:
        await receiver.go_down()
    lines: asyncio.Queue[EventDict] = asyncio.Queue()

    def note(logger: object, method: str, entry: EventDict) -> EventDict:
        lines.put_nowait({**entry, "method": method})
        return entry

    async with ReverbClient(app, lambda: datetime.now(UTC)) as reverb:
        with capture_logs([note]):
            async with (
                Relay(Outbox(store), reverb, lambda: datetime.now(UTC)).running(drain=0),
                asyncio.timeout(60),
            ):
                line = await lines.get()
    await store.close()

    assert line["event"].startswith("The realtime server does not take events")
    assert line["method"] == "warning"
    advice = (
        "check REVERB_APP_ID, REVERB_APP_KEY and REVERB_APP_SECRET"
        if is_there
        else "start it, or set REVERB_HOST and REVERB_PORT"
    )
    assert line["reason"].endswith(f": {advice}")


async def test_one_event_to_many_channels_reaches_them_all(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    store = Store(settings.database_url)
    outbox = Outbox(store)
    channels = [f"private-user.{number}" for number in range(25)]
    receiver.occupied = set(channels)
    async with ReverbClient(settings.reverb, lambda: datetime.now(UTC)) as reverb:
        relay = Relay(outbox, reverb, lambda: datetime.now(UTC))
        broadcaster = Broadcaster(outbox, lambda: datetime.now(UTC), relay.wake, "App.Events")
        async with relay.running(drain=60):
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
    async with World.open(settings, receiver, PATIENTLY) as world:
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
    async with World.open(settings, receiver, Backoff(0.01, 0.02, 0.1)) as world:
        sent = await send(world, 3)
        await receiver.go_up()
        await receiver.hears(6)

    assert contents(receiver, "private-user.2") == sent


async def test_hundreds_of_events_that_wait_hold_up_no_other_channel(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.occupied = {"here"}
    async with relaying(settings, receiver) as relay:
        deserted = [await relay.say("away", str(number)) for number in range(450)]
        await relay.say("here", "first")

        assert [event.name for event in await receiver.hears(1)] == ["first"]
        await receiver.until(lambda: len(receiver.looks) > 3)
        await relay.say("here", "second")
        await receiver.hears(2)
        assert names(receiver, "here") == ["first", "second"]
        assert names(receiver, "away") == []

        receiver.occupied.add("away")
        await receiver.hears(452)

    assert names(receiver, "away") == deserted
    assert len(receiver.received) == 452


async def test_few_channels_are_asked_about_one_by_one_and_many_all_at_once(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.occupied = set()
    async with relaying(settings, receiver) as relay:
        ten = [await relay.say(str(number), str(number)) for number in range(10)]
        await receiver.until(lambda: set(receiver.looks[-10:]) == set(ten))
        assert "channels" not in receiver.looks

        await relay.say("10", "x")
        await receiver.until(lambda: receiver.looks[-2:] == ["channels"] * 2)
        receiver.occupied = {"3", "10", "elsewhere"}
        await receiver.hears(2)
        await receiver.until(lambda: set(receiver.looks[-9:]) == set(ten) - {"3"})

    assert {event.channel for event in receiver.received} == {"3", "10"}


async def test_what_was_left_over_waits_for_its_listeners_after_a_start_too(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    """Both servers were down, as after a power cut, and nobody is back yet."""
    await receiver.go_down()
    async with World.open(settings, receiver) as world:
        sent = await send(world, 3)
    receiver.occupied = set()
    await receiver.go_up()

    async with chat_api(settings, PATIENTLY):
        await receiver.until(lambda: len(receiver.looks) > 3)
        assert receiver.received == []
        receiver.occupied = {"private-user.2"}
        await receiver.hears(3)

    assert contents(receiver, "private-user.2") == sent
    assert contents(receiver, "private-user.1") == []


async def test_a_second_outage_makes_listeners_awaited_again(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with relaying(settings, receiver) as relay:
        receiver.occupied = {"a"}
        said = {"a": [await relay.say("a", "1")], "b": [await relay.say("b", "1")]}
        await receiver.hears(1)

        with log_lines() as log:
            await receiver.go_down()
            for channel, events in said.items():
                events.append(await relay.say(channel, "2"))
            async with asyncio.timeout(60):
                while not (await log.get()).startswith("The realtime server does not take events"):
                    pass
        receiver.occupied = {"b"}
        looks = len(receiver.looks)
        await receiver.go_up()
        await receiver.hears(3)
        await receiver.until(lambda: receiver.looks[looks:].count("a") > 2)
        assert names(receiver, "b") == said["b"]
        assert names(receiver, "a") == ["1"]

        receiver.occupied = {"a"}
        await receiver.hears(4)

    assert names(receiver, "a") == said["a"]


async def test_others_are_told_whenever_the_server_may_have_lost_its_clients(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.occupied = {"x"}
    returns: asyncio.Queue[bool] = asyncio.Queue()
    store = Store(settings.database_url)
    outbox = Outbox(store)
    async with ReverbClient(settings.reverb, lambda: datetime.now(UTC)) as reverb:
        relay = Relay(outbox, reverb, lambda: datetime.now(UTC), backoff=PATIENTLY)
        broadcaster = Broadcaster(outbox, lambda: datetime.now(UTC), relay.wake)
        [failures] = [each for each in relay.measures() if each.name == "relay_failures_total"]
        relay.on_return(lambda: returns.put_nowait(relay.leads))

        async def say(name: str) -> None:
            await store.write(lambda unit: broadcaster.publish(unit, ["x"], Event(name, {})))

        assert not relay.leads
        async with asyncio.timeout(60), relay.running(drain=60):
            assert await returns.get()  # it leads, and cannot know what was before
            await say("1")
            await receiver.hears(1)
            assert returns.empty()

            await receiver.go_down()
            await say("2")
            while not (await failures.read())[()]:
                await store.check()
            await receiver.go_up()
            assert await returns.get()
            await receiver.hears(2)
            assert returns.empty()
        assert not relay.leads
    await store.close()


async def test_a_proxy_without_a_server_behind_it_is_an_outage(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with relaying(settings, receiver, Backoff(0.01, 0.02, 0.01, 0.01)) as relay:
        await relay.say("x", "to nobody, for there was no outage")
        await receiver.hears(1)
        looks = len(receiver.looks)

        receiver.answers = [502]
        await relay.say("x", "later")
        await receiver.hears(2)

    assert receiver.looks[looks:] != []


async def test_a_server_that_does_not_say_who_listens_gets_everything_after_a_while(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.tells = False
    await receiver.go_down()
    async with World.open(settings, receiver, Backoff(0.01, 0.02, 0.1, 0.02)) as world:
        sent = await send(world, 3)
        await receiver.go_up()
        await receiver.hears(6)

    assert contents(receiver, "private-user.2") == sent


async def test_an_event_refused_on_one_channel_still_waits_for_the_listeners_of_another(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.occupied = {"refused"}
    receiver.refuses = lambda event: event.channel == "refused"
    async with relaying(settings, receiver) as relay:
        await relay.say("refused", "x", also_to="away")
        await receiver.until(lambda: len(receiver.looks) > 5)
        assert receiver.received == []

        receiver.occupied = {"away"}
        await receiver.hears(1)

    assert [event.channel for event in receiver.delivered] == ["away"]
    left = await relay.outbox_when_closed()
    assert (left.owed, left.refused) == (0, 1)


async def test_what_expires_while_it_waits_is_forgotten(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.occupied = set()
    async with relaying(settings, receiver) as relay:
        await relay.say("away", "typing", lifetime=timedelta(seconds=10))
        await relay.say("away", "message")
        await receiver.until(lambda: len(receiver.looks) > 2)

        relay.now += timedelta(seconds=10)
        receiver.occupied = {"away"}
        await receiver.hears(1)

    assert names(receiver, "away") == ["message"]


async def test_stopping_does_not_wait_for_listeners(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.occupied = set()
    async with asyncio.timeout(60):
        async with relaying(settings, receiver, drain=1_000) as relay:
            await relay.say("away", "x")
            await receiver.until(lambda: len(receiver.looks) > 2)

    assert (await relay.outbox_when_closed()).owed == 1


async def test_the_next_events_do_not_wait_until_the_last_ones_have_left_the_outbox(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.occupied = {"x"}
    receiver.answers_late = answer = asyncio.Event()
    async with relaying(settings, receiver) as relay:
        said = [await relay.say("x", str(number)) for number in range(150)]
        async with relay.writing_is_held_up():
            receiver.answers_late = None
            answer.set()
            await relay.until_sent(100)
            # More than that a crash should not repeat; the last request may have brought ten.
            assert len(receiver.received) < 110
        await receiver.hears(150)

    assert [event.name for event in receiver.received] == said
    assert (await relay.outbox_when_closed()).owed == 0


async def test_what_the_server_took_before_a_stop_is_not_sent_again(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    receiver.occupied = {"x"}
    receiver.answers_late = answer = asyncio.Event()
    async with relaying(settings, receiver, drain=0) as relay:
        for number in range(50):
            await relay.say("x", str(number))
        async with relay.writing_is_held_up():
            receiver.answers_late = None
            answer.set()
            await relay.until_sent(50)

    assert (await relay.outbox_when_closed()).owed == 0


# Nothing can be taken out of the outbox then, while everything else still works.
FULL = {
    "sqlite": [
        "CREATE TRIGGER refusing BEFORE DELETE ON outbox BEGIN SELECT RAISE(FAIL, 'full'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RAISE EXCEPTION 'full'; END $$",
        "CREATE TRIGGER refusing BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
}
LIFTED = {
    "sqlite": "DROP TRIGGER refusing",
    "postgresql": "DROP TRIGGER refusing ON outbox",
}


async def test_what_the_server_took_is_not_sent_again_when_the_disk_is_full(
    settings: Settings, receiver: RealtimeReceiver, database_kind: str
) -> None:
    receiver.occupied = {"x"}
    async with relaying(settings, receiver) as relay:
        for statement in FULL[database_kind]:
            await relay.change(statement)
        with log_lines() as attempts:
            await relay.say("x", "1")
            async with asyncio.timeout(60):
                failures = [await attempts.get() for _ in range(4)]
        assert set(failures) == {"The relay failed and tries again"}
        assert len(receiver.received) == 1

        await relay.change(LIFTED[database_kind])
        await relay.say("x", "2")
        await receiver.hears(2)
        await relay.say("x", "3")
        await receiver.hears(3)

    assert [event.name for event in receiver.received] == ["1", "2", "3"]
    assert (await relay.outbox_when_closed()).owed == 0


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
        async with relay.running(drain=60):
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
