"""A whole server: what its parts do together when apps change and when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from reverb_py.core.apps import App
from reverb_py.server.listener import Deadlines
from reverb_py.testing import PATIENCE, PusherClient, TestServer, serving
from tests.reverb_py.server.raw_client import connected_socket, text
from tests.reverb_py.webhooks.receiver import APP, Receiver, receiving
from tests.reverb_py.webhooks.sending import app_with, missed, occupied, vacated

OTHER = App(id="1002", key="other-key", secret="other-secret")
ROOM = "presence-room"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def added(user_id: str) -> dict[str, str]:
    return {"name": "member_added", "channel": ROOM, "user_id": user_id}


def removed(user_id: str) -> dict[str, str]:
    return {"name": "member_removed", "channel": ROOM, "user_id": user_id}


async def join(client: PusherClient, user_id: str) -> None:
    await client.subscribe(ROOM, f'{{"user_id":"{user_id}"}}')


async def test_a_server_that_stops_tells_first_who_has_left(receiver: Receiver) -> None:
    """Who had just left and who is sent away, without the seconds in which they might be back."""
    app = app_with(receiver.webhook("channel_vacated", "member_removed"))
    async with (
        serving(app) as server,
        server.connected() as client,
        server.connected() as other,
    ):
        await join(client, "7")
        await client.subscribe("orders")
        await join(other, "8")
        await other.websocket.close()

    told = receiver.events
    assert told.index(removed("7")) < told.index(vacated(ROOM))
    assert sorted(map(str, told)) == sorted(
        map(str, [removed("8"), removed("7"), vacated(ROOM), vacated("orders")])
    )


async def test_webhooks_are_sent_while_connections_are_still_closing(
    receiver: Receiver,
) -> None:
    """The time to stop is one, so a client that does not go must not take it from them."""
    app = app_with(receiver.webhook("channel_vacated"), webhook_batch_seconds=10 * PATIENCE)

    async def stay(server: TestServer) -> None:
        async with connected_socket(server) as client:
            await client.open_websocket()
            await client.send(text({"event": "pusher:subscribe", "data": {"channel": "orders"}}))
            await client.receive_text()
            subscribed.set()
            assert await receiver.hears(1) == [vacated("orders")]

    subscribed = asyncio.Event()
    async with (
        asyncio.timeout(PATIENCE),
        asyncio.TaskGroup() as clients,
        serving(app, shutdown_seconds=1_000, deadlines=Deadlines(linger=1_000)) as server,
    ):
        clients.create_task(stay(server))
        await subscribed.wait()


async def test_a_user_in_two_connections_comes_once_and_leaves_once(receiver: Receiver) -> None:
    app = app_with(receiver.webhook("member_added", "member_removed"))
    async with serving(app) as server, server.connected() as first, server.connected() as second:
        await join(first, "7")
        await join(second, "7")
        await first.send(f'{{"event":"pusher:unsubscribe","data":{{"channel":"{ROOM}"}}}}')
        await first.ping()
        await join(first, "7")

    assert receiver.events == [added("7"), removed("7")]


async def test_a_crowd_that_comes_to_an_empty_cache_channel_is_one_miss(
    receiver: Receiver,
) -> None:
    app = app_with(receiver.webhook("cache_miss"))
    async with serving(app) as server:
        for _ in range(3):
            async with server.connected() as client:
                await client.subscribe("cache-prices")
                await client.receive()

    assert receiver.events == [missed("cache-prices")]


@pytest.mark.parametrize(
    "apps", [[OTHER], [replace(APP, enabled=False)]], ids=["removed", "disabled"]
)
async def test_the_backend_of_an_app_that_is_taken_away_hears_who_is_sent_away(
    receiver: Receiver, apps: list[App]
) -> None:
    app = app_with(receiver.webhook("channel_occupied", "channel_vacated"))
    apps = [replace(each, webhooks=app.webhooks) if each.id == app.id else each for each in apps]
    async with serving(app) as server, server.connected() as client:
        await client.subscribe("orders")
        server.reload(*apps)
        await client.closed()

    assert receiver.events == [occupied("orders"), vacated("orders")]


async def test_after_a_rotation_a_repetition_is_signed_with_the_new_secret(
    receiver: Receiver,
) -> None:
    """Also when nothing happens in the app any more that would make it look at its settings."""
    receiver.gate.clear()
    receiver.answers = [web.Response(status=401)]
    app = app_with(receiver.webhook("channel_occupied"))
    new: dict[str, Any] = {"secret": "the next secret", "previous_secrets": (app.secret,)}
    async with serving(app) as server, server.connected() as client:
        await client.subscribe("orders")
        await receiver.gets(1)
        server.reload(replace(app, **new))
        receiver.secret = new["secret"]
        receiver.gate.set()
        assert await receiver.hears(1) == [occupied("orders")]
