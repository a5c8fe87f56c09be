"""Cache channels: the last event, for whoever comes later."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.wire import (
    PATIENCE,
    Answer,
    Client,
    PusherApp,
    compact,
    frame,
    fresh,
    presence,
    subscribed,
)

pytestmark = pytest.mark.needs("cache", "presence")

every_kind = pytest.mark.parametrize(
    "prefix", ["cache-", "private-cache-", "private-encrypted-cache-", "presence-cache-"]
)


async def enter(client: Client, channel: str) -> None:
    """Subscribe to a cache channel of any kind and take the acknowledgement."""
    if channel.startswith("presence-"):
        await client.join(channel, "7")
    else:
        await client.subscribe(channel)


def cache_miss(channel: str) -> str:
    """Return what a cache channel with nothing remembered answers."""
    return f'{{"event":"pusher:cache_miss","channel":"{channel}"}}'


@every_kind
async def test_with_nothing_remembered_the_acknowledgement_is_followed_by_a_miss(
    app: PusherApp, prefix: str
) -> None:
    """Without data, as from Reverb and Soketi; sockudo adds `{}`."""
    channel = fresh(prefix)
    async with app.connected() as client:
        await enter(client, channel)
        assert await client.receive() == cache_miss(channel)
        await client.received_nothing()


@every_kind
async def test_the_last_event_follows_the_acknowledgement_exactly_as_it_was_broadcast(
    app: PusherApp, prefix: str
) -> None:
    channel = fresh(prefix)
    async with app.connected() as early, app.connected() as late:
        await enter(early, channel)
        assert await early.receive() == cache_miss(channel)
        await app.publish("price", channel, '{ "eur": 1 }')
        await app.publish("price", channel, '{ "eur": 2 }')
        broadcast = [await early.receive(), await early.receive()]
        assert broadcast[1] == frame("price", channel, '{ "eur": 2 }')
        await enter(late, channel)
        assert await late.receive() == broadcast[1]
        await late.received_nothing()


@every_kind
async def test_an_event_that_nobody_heard_is_remembered(app: PusherApp, prefix: str) -> None:
    """Reverb remembers only while somebody is subscribed."""
    channel = fresh(prefix)
    async with app.connected() as client:
        await app.publish("price", channel, "1")
        await enter(client, channel)
        assert await client.receive() == frame("price", channel, "1")


@every_kind
async def test_it_outlives_the_last_subscriber(app: PusherApp, prefix: str) -> None:
    """Reverb forgets it with the last one."""
    channel = fresh(prefix)
    async with app.connected() as client:
        await enter(client, channel)
        await client.receive()
        await app.publish("price", channel, "1")
        await client.receive()
        await client.unsubscribe(channel)
        await enter(client, channel)
        assert await client.receive() == frame("price", channel, "1")


async def test_every_channel_of_an_event_remembers_it(app: PusherApp) -> None:
    one, two, plain = fresh("cache-"), fresh("private-cache-"), fresh("orders-")
    event = {"name": "price", "channels": [one, plain, two], "data": "1"}
    assert await app.post("/events", event) == Answer(200, "{}")
    async with app.connected() as client:
        for channel in (one, two):
            await client.subscribe(channel)
            assert await client.receive() == frame("price", channel, "1")
        await client.subscribe(plain)
        await client.received_nothing()


async def test_events_of_a_batch_are_remembered(app: PusherApp) -> None:
    channel = fresh("cache-")
    batch = [{"channel": channel, "name": "price", "data": str(number)} for number in range(3)]
    assert await app.post("/batch_events", {"batch": batch}) == Answer(200, "{}")
    async with app.connected() as client:
        await client.subscribe(channel)
        assert await client.receive() == frame("price", channel, "2")


async def test_the_excluded_socket_gets_it_when_it_subscribes(app: PusherApp) -> None:
    channel = fresh("cache-")
    async with app.connected() as client:
        await client.subscribe(channel)
        assert await client.receive() == cache_miss(channel)
        await app.publish("price", channel, "1", socket_id=client.socket_id)
        await client.received_nothing()
        await client.unsubscribe(channel)
        await client.subscribe(channel)
        assert await client.receive() == frame("price", channel, "1")


@pytest.mark.needs("client_events")
async def test_client_events_are_not_remembered(app: PusherApp) -> None:
    """Reverb remembers them."""
    channel = fresh("private-cache-")
    async with app.connected() as one, app.connected() as two:
        await one.subscribe(channel)
        assert await one.receive() == cache_miss(channel)
        await two.subscribe(channel)
        assert await two.receive() == cache_miss(channel)
        await one.whisper("client-typing", channel, data={})
        assert '"client-typing"' in await two.receive()
        async with app.connected() as late:
            await late.subscribe(channel)
            assert await late.receive() == cache_miss(channel)


@pytest.mark.parametrize("name", ["client-typing", "pusher:hello", "pusher_internal:hello"])
async def test_what_only_looks_like_an_event_is_not_remembered(app: PusherApp, name: str) -> None:
    """A backend may be free to send these; whoever comes later is not to hear them."""
    channel = fresh("cache-")
    await app.post("/events", {"name": name, "channels": [channel], "data": "{}"})
    async with app.connected() as client:
        await client.subscribe(channel)
        assert await client.receive() == cache_miss(channel)


async def test_comings_and_goings_are_not_remembered(app: PusherApp) -> None:
    """A Reverb member who leaves replaces the event by the news of it."""
    channel = fresh("presence-cache-")
    async with app.connected() as one, app.connected() as two:
        await one.join(channel, "1")
        assert await one.receive() == cache_miss(channel)
        await app.publish("price", channel, "1")
        assert await one.receive() == frame("price", channel, "1")
        await two.join(channel, "2")
        await two.receive()
        await two.unsubscribe(channel)
        assert '"pusher_internal:member_added"' in await one.receive()
        assert '"pusher_internal:member_removed"' in await one.receive()
        assert await two.join(channel, "2") == presence(channel, {"1": None, "2": None})
        assert await two.receive() == frame("price", channel, "1")


async def test_a_presence_cache_channel_has_members(app: PusherApp) -> None:
    """sockudo sends no list there, on which pusher-js throws."""
    channel = fresh("presence-cache-")
    async with app.connected() as client:
        assert await client.join(channel, "7", user_info={}) == presence(channel, {"7": {}})


async def test_an_event_is_remembered_in_its_own_app_only(
    app: PusherApp, other_app: PusherApp
) -> None:
    channel = fresh("cache-")
    await app.publish("price", channel, "1")
    async with other_app.connected() as client:
        await client.subscribe(channel)
        assert await client.receive() == cache_miss(channel)


async def test_the_api_shows_what_is_remembered_and_for_how_long(app: PusherApp) -> None:
    """`ttl` is in whole seconds, half an hour at most; null when there is nothing."""
    channel = fresh("cache-")
    empty = await app.get(f"/channels/{channel}", info="cache")
    assert empty.json() == {"occupied": False, "cache": None}
    await app.publish("price", channel, '{"eur":1}')
    shown = (await app.get(f"/channels/{channel}", info="cache")).json()
    ttl = shown["cache"].pop("ttl")
    assert shown == {"occupied": False, "cache": {"data": '{"eur":1}'}}
    assert type(ttl) is int
    assert 0 < ttl <= 1800


async def test_it_is_forgotten_when_its_time_is_over(small_app: PusherApp) -> None:
    """Reverb remembers for ever, Soketi and sockudo for an hour, hosted Pusher for 30 minutes."""
    channel = fresh("cache-")
    await small_app.publish("price", channel, "1")
    async with asyncio.timeout(PATIENCE):
        while (await small_app.get(f"/channels/{channel}", info="cache")).body != compact(
            {"occupied": False, "cache": None}
        ):
            pass
    async with small_app.connected() as client:
        await client.ask_for(channel)
        assert await client.receive() == subscribed(channel)
        assert await client.receive() == cache_miss(channel)
