"""Stopping: WebSocket clients are sent away to come back, requests in progress are not kept."""

import asyncio
import time
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest

from reverb_py.core.hubs import Hubs
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.server.http_api import HttpApi
from reverb_py.server.listener import Deadlines, Listener
from reverb_py.testing import PATIENCE, TestServer, serving
from tests.reverb_py.server.raw_client import (
    connected_socket,
    error_json,
    handshake,
    request,
    text,
)

GOODBYE = "Server is shutting down: reconnect"


ENDLESS_PATIENCE = Deadlines(linger=1_000)
"""Nothing but the clients' own answers ends their connections."""


async def test_clients_are_told_to_reconnect_and_waited_for_until_they_have_heard() -> None:
    opened = asyncio.Semaphore(0)

    async def stay(server: TestServer, *channels: str) -> None:
        async with connected_socket(server) as client:
            await client.open_websocket()
            for channel in channels:
                await client.send(text({"event": "pusher:subscribe", "data": {"channel": channel}}))
                assert b"subscription_succeeded" in await client.receive_text()
            opened.release()
            await client.receive_fatal_error(4200, GOODBYE)

    async with (
        asyncio.timeout(PATIENCE),
        asyncio.TaskGroup() as clients,
        serving(shutdown_seconds=1_000, deadlines=ENDLESS_PATIENCE) as server,
    ):
        clients.create_task(stay(server))
        clients.create_task(stay(server, "orders"))
        clients.create_task(stay(server, "orders", "stock"))
        for _ in range(3):
            await opened.acquire()


async def test_clients_that_do_not_answer_are_cut_off_when_the_grace_is_over() -> None:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as connections:
        async with serving(shutdown_seconds=0.1, deadlines=ENDLESS_PATIENCE) as server:
            client = await connections.enter_async_context(connected_socket(server))
            await client.open_websocket()
        assert await client.receive_text() == error_json(4200, GOODBYE)
        assert await client.receive_close() == (4200, GOODBYE)
        await client.receive_end()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /up HTT",
        request("POST /apps/1001/events", "Content-Length: 5") + b"{",
        handshake("/app/unknown"),
        b"garbage\r\n\r\n",
    ],
)
async def test_connections_without_a_session_end_as_well(sent: bytes) -> None:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as connections:
        async with serving(shutdown_seconds=0.1) as server:
            client = await connections.enter_async_context(connected_socket(server))
            await client.send_apart(sent)
        await client.reader.read()


async def test_an_answer_that_is_on_its_way_arrives() -> None:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as connections:
        async with serving() as server:
            client = await connections.enter_async_context(connected_socket(server))
            await client.send(request("GET /up"))
            answer = await client.receive_answer()
        assert answer.body == b'{"health":"OK"}'
        await client.receive_end()


async def test_the_port_is_closed_afterwards() -> None:
    async with serving() as server:
        pass
    with pytest.raises(ConnectionRefusedError):
        async with connected_socket(server):
            pass


class Guest:
    """A connection that goes as soon as it is told to."""

    def __init__(self, listener: Listener, told: list[float]) -> None:
        self.timer_due = self.timer_slot = 0
        self._listener = listener
        self._told = told
        listener.connection_opened(self)

    def on_timer(self) -> None: ...

    def shut_down(self) -> None:
        self._told.append(asyncio.get_running_loop().time())
        self._listener.connection_closed(self)

    def abort(self) -> None:
        self._listener.connection_closed(self)


async def goodbyes(guests: int, grace_seconds: float) -> list[float]:
    """Return when each guest of a listener that stops was told to go."""
    hubs = Hubs([], lambda app: pytest.fail(f"{app} is none of ours"))
    listener = Listener(
        hubs,
        HttpApi(hubs, time.time),
        TimerWheel(0.0),
        max_request_bytes=1_000,
        max_buffered_bytes=1_000,
        clock=time.time,
    )
    told: list[float] = []
    for _ in range(guests):
        Guest(listener, told)
    await listener.stop(grace_seconds)
    return told


async def test_a_crowd_is_sent_away_in_waves_and_does_not_come_back_as_one() -> None:
    told = await goodbyes(250, PATIENCE)

    assert len(told) == 250
    # A sleep may end a clock tick early.
    pauses = [number for number, (a, b) in enumerate(pairwise(told), 1) if b - a > 0.09]
    assert {100, 200} <= set(pauses)


async def test_a_large_crowd_is_told_before_the_grace_is_over() -> None:
    assert len(await goodbyes(5_000, 3.0)) == 5_000


async def test_a_few_are_told_at_once_also_without_any_grace() -> None:
    assert len(await goodbyes(250, 0.0)) == 250
