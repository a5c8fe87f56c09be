"""What the official `pusher` package from PyPI, as a backend uses it, makes of the server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pusher
import pytest

from reverb_py.testing import TestServer, serving


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with serving() as running:
        yield running


@pytest.fixture
def backend(server: TestServer) -> pusher.Pusher:
    return pusher.Pusher(
        app_id=server.app.id,
        key=server.app.key,
        secret=server.app.secret,
        host="127.0.0.1",
        port=server.port,
        ssl=False,
    )


async def calling(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Make a blocking call of the library while the server's loop goes on."""
    return await asyncio.to_thread(call, *arguments, **named)


async def test_it_publishes_to_several_channels(server: TestServer, backend: pusher.Pusher) -> None:
    async with server.connected() as first, server.connected() as second:
        await first.subscribe("orders")
        await second.subscribe("private-user.7")

        answer = await calling(
            backend.trigger, ["orders", "private-user.7"], "shipped", {"id": 7, "to": "Ürümqi"}
        )

        assert answer == {}
        data = json.dumps(
            json.dumps({"id": 7, "to": "Ürümqi"}, ensure_ascii=False), ensure_ascii=False
        )
        assert json.loads(json.loads(data)) == {"id": 7, "to": "Ürümqi"}
        for client, channel in ((first, "orders"), (second, "private-user.7")):
            message = json.loads(await client.receive())
            assert (message["event"], message["channel"]) == ("shipped", channel)
            assert json.loads(message["data"]) == {"id": 7, "to": "Ürümqi"}


async def test_it_leaves_one_socket_out(server: TestServer, backend: pusher.Pusher) -> None:
    async with server.connected() as author, server.connected() as reader:
        await author.subscribe("orders")
        await reader.subscribe("orders")

        await calling(backend.trigger, "orders", "shipped", "7", socket_id=author.socket_id)

        assert await reader.receive() == '{"event":"shipped","channel":"orders","data":"7"}'
        await author.ping()


async def test_it_publishes_a_batch_in_order(server: TestServer, backend: pusher.Pusher) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        batch = [{"channel": "orders", "name": "n", "data": str(number)} for number in range(10)]

        assert await calling(backend.trigger_batch, batch) == {}

        received = [json.loads(await client.receive())["data"] for _ in range(10)]
        assert received == [str(number) for number in range(10)]


async def test_it_reads_channels(server: TestServer, backend: pusher.Pusher) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        await client.subscribe("private-orders")

        assert await calling(backend.channels_info) == {
            "channels": {"orders": {}, "private-orders": {}}
        }
        assert await calling(backend.channels_info, "private-") == {
            "channels": {"private-orders": {}}
        }
        assert await calling(backend.channel_info, "orders", ["subscription_count"]) == {
            "occupied": True,
            "subscription_count": 1,
        }
        assert await calling(backend.channel_info, "nobody-here") == {"occupied": False}


async def test_what_it_signs_lets_a_client_subscribe(
    server: TestServer, backend: pusher.Pusher
) -> None:
    async with server.connected() as client:
        auth = await calling(backend.authenticate, "private-orders", client.socket_id)

        await client.send(
            {"event": "pusher:subscribe", "data": {"channel": "private-orders", **auth}}
        )

        assert await client.receive() == (
            '{"event":"pusher_internal:subscription_succeeded",'
            '"channel":"private-orders","data":"{}"}'
        )


async def test_a_wrong_secret_is_refused(server: TestServer) -> None:
    backend = pusher.Pusher(
        app_id=server.app.id,
        key=server.app.key,
        secret="not the secret",
        host="127.0.0.1",
        port=server.port,
        ssl=False,
    )
    with pytest.raises(pusher.errors.PusherBadAuth, match="auth_signature is not the hex HMAC"):
        await calling(backend.trigger, "orders", "shipped", "7")
