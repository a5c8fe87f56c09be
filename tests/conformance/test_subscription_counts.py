"""How many are subscribed, for apps that want their clients to know."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

import pytest

from tests.conformance.wire import PusherApp, compact, frame, fresh, presence


def counted(channel: str, count: int) -> str:
    """Return the announcement of a count."""
    data = compact({"subscription_count": count})
    return frame("pusher_internal:subscription_count", channel, data)


@pytest.mark.parametrize("prefix", ["", "private-"])
async def test_everybody_hears_the_count_when_somebody_comes_or_goes(
    counting_app: PusherApp, prefix: str
) -> None:
    """
    The one who comes hears it after the acknowledgement.

    Reverb and Soketi have nothing such, and sockudo tells only backends.
    """
    channel = fresh(prefix)
    async with counting_app.connected() as one, counting_app.connected() as two:
        await one.subscribe(channel)
        assert await one.receive() == (
            f'{{"event":"pusher_internal:subscription_count","channel":"{channel}","data":'
            '"{\\"subscription_count\\":1}"}'
        )
        await two.subscribe(channel)
        assert await two.receive() == counted(channel, 2)
        assert await one.receive() == counted(channel, 2)
        await two.unsubscribe(channel)
        assert await one.receive() == counted(channel, 1)
        async with counting_app.connected() as three:
            await three.subscribe(channel)
            assert await one.receive() == counted(channel, 2)
        assert await one.receive() == counted(channel, 1)
        await one.received_nothing()


async def test_connections_are_counted_not_subscriptions(counting_app: PusherApp) -> None:
    channel = fresh()
    async with counting_app.connected() as client:
        await client.subscribe(channel)
        assert await client.receive() == counted(channel, 1)
        await client.subscribe(channel)
        await client.received_nothing()


@pytest.mark.needs("cache")
async def test_on_a_cache_channel_the_count_comes_after_the_event(counting_app: PusherApp) -> None:
    channel = fresh("cache-")
    await counting_app.publish("price", channel, "1")
    async with counting_app.connected() as client:
        await client.subscribe(channel)
        assert await client.receive() == frame("price", channel, "1")
        assert await client.receive() == counted(channel, 1)


@pytest.mark.needs("presence")
async def test_presence_channels_are_not_counted(counting_app: PusherApp) -> None:
    """They have members."""
    channel = fresh("presence-room-")
    async with counting_app.connected() as client:
        assert await client.join(channel, "7") == presence(channel, {"7": None})
        await client.received_nothing()


async def test_encrypted_channels_are_not_counted(counting_app: PusherApp) -> None:
    """Java would try to decrypt the count."""
    async with counting_app.connected() as client:
        await client.subscribe(fresh("private-encrypted-"))
        await client.received_nothing()


async def test_an_app_that_did_not_ask_for_counts_gets_none(app: PusherApp) -> None:
    async with app.connected() as client:
        await client.subscribe(fresh())
        await client.received_nothing()


async def test_a_crowd_of_more_than_100_is_not_told_of_everybody_but_of_all_in_the_end(
    counting_app: PusherApp,
) -> None:
    """At most one announcement in five seconds then."""
    channel = fresh()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(counting_app.connected())
        await first.subscribe(channel)
        assert await first.receive() == counted(channel, 1)
        for count in range(2, 121):
            client = await stack.enter_async_context(counting_app.connected())
            await client.subscribe(channel)
            if count <= 100:
                assert await first.receive() == counted(channel, count)
        await first.send('{"event":"pusher:ping"}')
        counts = []
        while (message := json.loads(await first.receive()))["event"] != "pusher:pong":
            counts.append(json.loads(message["data"])["subscription_count"])
        assert len(counts) <= 2
        while not counts or counts[-1] != 120:
            message = json.loads(await first.receive())
            counts.append(json.loads(message["data"])["subscription_count"])
        assert len(counts) <= 3
