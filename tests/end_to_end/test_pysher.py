"""What Pysher, an old client that speaks protocol 6, makes of the server."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from reverb_py.testing import TestServer, serving
from tests.support.programs import Program, python_program
from tests.support.proxy import proxying

ESTABLISHED = ("connection", "pusher:connection_established")
SUBSCRIBED = "pusher_internal:subscription_succeeded"
EVERY_KIND = (
    *("orders", "private-orders", "presence-room"),
    *("cache-orders", "private-cache-orders", "presence-cache-room"),
)
"""The kinds that it can sign by itself; it knows neither encryption nor signing in."""


@asynccontextmanager
async def pysher_client(
    server: TestServer,
    channels: Mapping[str, Sequence[str]],
    *,
    key: str | None = None,
    secret: str | None = None,
    port: int | None = None,
) -> AsyncIterator[Program]:
    """
    Run a client that subscribes to these channels, for these events, whenever it has connected.

    `key` and `secret` are others than the app's, and `port` that of a proxy.
    """
    configuration = {
        "key": key or server.app.key,
        "secret": secret or server.app.secret,
        "port": port or server.port,
        "user_data": {"user_id": "ada", "user_info": {"from": "Ürümqi"}},
        "channels": dict(channels),
    }
    async with python_program("pysher_client.py", configuration) as client:
        yield client


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with serving() as running:
        yield running


async def test_its_ping_on_opening_is_answered(server: TestServer) -> None:
    async with pysher_client(server, {}) as client:
        [hello] = await client.hears(*ESTABLISHED)
        assert json.loads(hello).keys() == {"socket_id", "activity_timeout"}
        assert await client.hears("connection") == ["pusher:pong", "{}"]


async def test_it_receives_on_every_kind_of_channel_it_can_subscribe_to(
    server: TestServer,
) -> None:
    async with pysher_client(server, dict.fromkeys(EVERY_KIND, ("shipped",))) as client:
        for channel in EVERY_KIND:
            await client.hears("channel", channel, SUBSCRIBED)

        for channel in EVERY_KIND:
            await server.publish("shipped", channel, '{"to":"Ürümqi"}')
            assert await client.hears("channel", channel) == ["shipped", '{"to":"Ürümqi"}']


async def test_a_cache_channel_begins_with_its_last_event_or_says_that_there_is_none(
    server: TestServer,
) -> None:
    await server.publish("price", "private-cache-prices", "7")
    events = ["price", "pusher:cache_miss"]
    channels = {"private-cache-prices": events, "cache-prices": events}
    async with pysher_client(server, channels) as client:
        assert await client.hears("channel", "private-cache-prices", SUBSCRIBED) == ["{}"]
        assert await client.hears("channel") == ["private-cache-prices", "price", "7"]
        assert await client.hears("channel", "cache-prices", SUBSCRIBED) == ["{}"]
        assert await client.hears("channel") == ["cache-prices", "pusher:cache_miss", None]


async def test_presence_takes_channel_data_with_spaces_and_escapes(server: TestServer) -> None:
    room = "presence-room"
    member_events = ["pusher_internal:member_added", "pusher_internal:member_removed"]
    async with server.connected() as other:
        await other.subscribe(room, '{"user_id":7}')
        async with pysher_client(server, {room: member_events}) as client:
            [members] = await client.hears("channel", room, SUBSCRIBED)
            assert json.loads(members) == {
                "presence": {
                    "count": 2,
                    "ids": ["7", "ada"],
                    "hash": {"7": None, "ada": {"from": "Ürümqi"}},
                }
            }

            async with server.connected() as second:
                await second.subscribe(room, '{"user_id":"bo"}')
                assert await client.hears("channel", room) == [
                    "pusher_internal:member_added",
                    '{"user_id":"bo","user_info":null}',
                ]
            assert await client.hears("channel", room) == [
                "pusher_internal:member_removed",
                '{"user_id":"bo"}',
            ]


@pytest.mark.parametrize(
    "channel",
    ["private-orders", "presence-room", "private-cache-orders", "presence-cache-room"],
)
async def test_whispers_go_both_ways(channel: str, server: TestServer) -> None:
    is_room = channel.startswith("presence-")
    async with (
        server.connected() as other,
        pysher_client(server, {channel: ["client-typing"]}) as client,
    ):
        await client.hears("channel", channel, SUBSCRIBED)
        await other.subscribe(channel, '{"user_id":"bo"}' if is_room else None)
        if "cache-" in channel:
            assert "pusher:cache_miss" in await other.receive()

        await other.send({"event": "client-typing", "channel": channel, "data": {"who": "Bo"}})
        assert await client.hears("channel", channel) == ["client-typing", {"who": "Bo"}]

        await client.do("trigger", channel, "client-typing", {"who": "Ada"})
        user_id = ',"user_id":"ada"' if is_room else ""
        assert await other.receive() == (
            f'{{"event":"client-typing","channel":"{channel}","data":{{"who": "Ada"}}{user_id}}}'
        )


@pytest.mark.parametrize(
    "refused",
    ["private-orders", "presence-room", "private-cache-orders", "presence-cache-room"],
)
async def test_a_refused_subscription_does_not_cost_it_its_connection(
    refused: str, server: TestServer
) -> None:
    channels = {refused: [], "orders": ["shipped"]}
    async with pysher_client(server, channels, secret="not the secret") as client:
        [hello] = await client.hears(*ESTABLISHED)
        socket_id = json.loads(hello)["socket_id"]
        data = ":CHANNEL_DATA" if refused.startswith("presence-") else ""
        assert await client.hears("connection", "pusher:error") == [
            {
                "code": 4300,
                "message": f"Invalid auth for {refused}: expected APP_KEY:SIGNATURE, where "
                f"SIGNATURE is the hex HMAC-SHA256 of {socket_id}:{refused}{data} under the app's "
                "secret",
            }
        ]
        assert await client.hears("channel") == ["orders", SUBSCRIBED, "{}"]

        await server.publish("shipped", "orders", "7")

        # The very next line: it has neither hung up nor reconnected in between.
        assert await client.hears() == ["channel", "orders", "shipped", "7"]


async def test_an_unknown_key_makes_it_stop(server: TestServer) -> None:
    async with pysher_client(server, {}, key="no-such-key") as client:
        assert await client.hears("connection", "pusher:error") == [
            {"code": 4001, "message": "Application does not exist: check the app key"}
        ]
        await client.hears("stopped")


async def test_cut_off_it_comes_back_to_every_kind_of_channel(server: TestServer) -> None:
    channels = dict.fromkeys(EVERY_KIND, ("shipped",))
    async with (
        proxying(server.port) as proxy,
        pysher_client(server, channels, port=proxy.port) as client,
    ):
        [first_hello] = await client.hears(*ESTABLISHED)
        for channel in EVERY_KIND:
            await client.hears("channel", channel, SUBSCRIBED)

        await proxy.cut()

        [hello] = await client.hears(*ESTABLISHED)
        assert json.loads(hello)["socket_id"] != json.loads(first_hello)["socket_id"]
        for channel in EVERY_KIND:
            await client.hears("channel", channel, SUBSCRIBED)
        for channel in EVERY_KIND:
            await server.publish("shipped", channel, "7")
            assert await client.hears("channel", channel) == ["shipped", "7"]


async def test_it_comes_back_to_every_kind_of_channel_when_the_server_restarts() -> None:
    channels = dict.fromkeys(EVERY_KIND, ("shipped",))
    async with AsyncExitStack() as stack:
        async with serving() as server:
            client = await stack.enter_async_context(pysher_client(server, channels))
            [first_hello] = await client.hears(*ESTABLISHED)
            for channel in EVERY_KIND:
                await client.hears("channel", channel, SUBSCRIBED)
        [error] = await client.hears("connection", "pusher:error")
        assert error == {"code": 4200, "message": "Server is shutting down: reconnect"}
        async with serving(port=server.port) as restarted:
            [hello] = await client.hears(*ESTABLISHED)
            assert json.loads(hello)["socket_id"] != json.loads(first_hello)["socket_id"]
            for channel in EVERY_KIND:
                await client.hears("channel", channel, SUBSCRIBED)

            for channel in EVERY_KIND:
                await restarted.publish("shipped", channel, "7")
                assert await client.hears("channel", channel) == ["shipped", "7"]
