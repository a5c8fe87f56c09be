"""What pusher-js, the reference client, makes of the server."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from reverb_py.core.apps import App
from reverb_py.server import websocket_connection
from reverb_py.testing import TestServer, serving
from tests.support.pusher_js import pusher_js


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with serving() as running:
        yield running


async def test_it_connects_subscribes_receives_and_unsubscribes(server: TestServer) -> None:
    async with pusher_js(server.app.key, server.port) as client:
        [socket_id] = await client.hears("state", "connected")
        assert socket_id.count(".") == 1
        await client.do("subscribe", "orders")
        await client.hears("event", "orders", "pusher:subscription_succeeded")

        await server.publish("order-shipped", "orders", '{"id":7,"to":"Ürümqi"}')

        assert await client.hears("event", "orders") == [
            "order-shipped",
            {"id": 7, "to": "Ürümqi"},
        ]

        await client.do("unsubscribe", "orders")
        await client.hears("unsubscribed", "orders")


async def test_it_excludes_its_own_socket_from_what_it_caused(server: TestServer) -> None:
    async with pusher_js(server.app.key, server.port) as client:
        [socket_id] = await client.hears("state", "connected")
        await client.do("subscribe", "orders")
        await client.hears("event", "orders", "pusher:subscription_succeeded")

        await server.publish("mine", "orders", "1", socket_id=socket_id)
        await server.publish("theirs", "orders", "2")

        assert await client.hears("event", "orders") == ["theirs", 2]


async def test_an_unknown_key_makes_it_give_up(server: TestServer) -> None:
    async with pusher_js("no-such-key", server.port) as client:
        assert await client.hears("error") == [
            {"code": 4001, "message": "Application does not exist: check the app key"}
        ]
        await client.hears("state", "disconnected")


async def test_a_refused_subscription_is_heard_by_the_channel_and_the_connection(
    server: TestServer,
) -> None:
    async with pusher_js(server.app.key, server.port, auth=f"{server.app.key}:wrong") as client:
        [socket_id] = await client.hears("state", "connected")
        await client.do("subscribe", "private-orders")

        message = (
            "Invalid auth for private-orders: expected APP_KEY:SIGNATURE, where SIGNATURE is the "
            f"hex HMAC-SHA256 of {socket_id}:private-orders under the app's secret"
        )
        assert await client.hears("event", "private-orders", "pusher:subscription_error") == [
            {"type": "AuthError", "error": message, "status": 401}
        ]
        assert await client.hears("error") == [{"code": 4300, "message": message}]

        await client.do("subscribe", "orders")
        await client.hears("event", "orders", "pusher:subscription_succeeded")


async def test_it_answers_pings_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_connection, "PONG_SECONDS", 2.0)
    app = App(id="1", key="key", secret="0123456789abcdef", ping_interval=0.1)
    async with (
        serving(app, timer_resolution=0.05) as server,
        pusher_js("key", server.port) as client,
    ):
        await client.hears("state", "connected")
        for _ in range(3):
            await client.hears("pinged")
        await client.do("subscribe", "orders")
        await client.hears("event", "orders", "pusher:subscription_succeeded")


async def test_it_comes_back_and_resubscribes_when_the_server_restarts() -> None:
    async with AsyncExitStack() as stack:
        async with serving() as server:
            client = await stack.enter_async_context(pusher_js(server.app.key, server.port))
            await client.hears("state", "connected")
            await client.do("subscribe", "orders")
            await client.hears("event", "orders", "pusher:subscription_succeeded")
        assert await client.hears("error") == [
            {"code": 4200, "message": "Server is shutting down: reconnect"}
        ]
        async with serving(port=server.port) as restarted:
            await client.hears("state", "connected")
            await client.hears("event", "orders", "pusher:subscription_succeeded")
            await restarted.publish("order-shipped", "orders", "7")
            assert await client.hears("event", "orders") == ["order-shipped", 7]
