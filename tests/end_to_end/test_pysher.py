"""What Pysher, an old client that speaks protocol 6, makes of the server."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from reverb_py.testing import TestServer, serving
from tests.support.programs import Program, python_program

ESTABLISHED = ("connection", "pusher:connection_established")
SUBSCRIBED = "pusher_internal:subscription_succeeded"


@asynccontextmanager
async def pysher_client(
    server: TestServer,
    channels: Mapping[str, Sequence[str]],
    *,
    key: str | None = None,
    secret: str | None = None,
) -> AsyncIterator[Program]:
    """
    Run a client that subscribes to these channels, for these events, whenever it has connected.

    `key` and `secret` are others than the app's.
    """
    configuration = {
        "key": key or server.app.key,
        "secret": secret or server.app.secret,
        "port": server.port,
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


async def test_it_receives_on_public_and_private_channels(server: TestServer) -> None:
    channels = {"orders": ["shipped"], "private-orders": ["shipped"]}
    async with pysher_client(server, channels) as client:
        for channel in channels:
            assert await client.hears("channel", channel) == [SUBSCRIBED, "{}"]

        for channel in channels:
            await server.publish("shipped", channel, '{"to":"Ürümqi"}')
            assert await client.hears("channel", channel) == ["shipped", '{"to":"Ürümqi"}']


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


async def test_whispers_go_both_ways(server: TestServer) -> None:
    channel = "private-orders"
    async with (
        server.connected() as other,
        pysher_client(server, {channel: ["client-typing"]}) as client,
    ):
        await other.subscribe(channel)
        await client.hears("channel", channel, SUBSCRIBED)

        await other.send({"event": "client-typing", "channel": channel, "data": {"who": "Bo"}})
        assert await client.hears("channel", channel) == ["client-typing", {"who": "Bo"}]

        await client.do("trigger", channel, "client-typing", {"who": "Ada"})
        assert await other.receive() == (
            '{"event":"client-typing","channel":"private-orders","data":{"who": "Ada"}}'
        )


async def test_a_refused_subscription_does_not_cost_it_its_connection(server: TestServer) -> None:
    channels = {"private-orders": [], "orders": ["shipped"]}
    async with pysher_client(server, channels, secret="not the secret") as client:
        [hello] = await client.hears(*ESTABLISHED)
        socket_id = json.loads(hello)["socket_id"]
        assert await client.hears("connection", "pusher:error") == [
            {
                "code": 4300,
                "message": "Invalid auth for private-orders: expected APP_KEY:SIGNATURE, where "
                f"SIGNATURE is the hex HMAC-SHA256 of {socket_id}:private-orders under the app's "
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


async def test_it_comes_back_when_the_server_restarts() -> None:
    channel = "private-orders"
    async with AsyncExitStack() as stack:
        async with serving() as server:
            client = await stack.enter_async_context(pysher_client(server, {channel: ["shipped"]}))
            [first_hello] = await client.hears(*ESTABLISHED)
            await client.hears("channel", channel, SUBSCRIBED)
        [error] = await client.hears("connection", "pusher:error")
        assert error == {"code": 4200, "message": "Server is shutting down: reconnect"}
        async with serving(port=server.port) as restarted:
            [hello] = await client.hears(*ESTABLISHED)
            assert json.loads(hello)["socket_id"] != json.loads(first_hello)["socket_id"]
            await client.hears("channel", channel, SUBSCRIBED)

            await restarted.publish("shipped", channel, "7")
            assert await client.hears("channel", channel) == ["shipped", "7"]
