"""Stopping: WebSocket clients are sent away to come back, requests in progress are not kept."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import urlencode

import pytest

from reverb_py.core.hubs import Hubs
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.protocol.signing import signed_query
from reverb_py.server.http_api import HttpApi
from reverb_py.server.listener import Deadlines, Listener
from reverb_py.testing import PATIENCE, TestServer, serving
from tests.reverb_py.server.raw_client import (
    RawClient,
    connected_socket,
    error_json,
    handshake,
    listener_behind,
    request,
    text,
    turns_until,
    websocket,
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

    comes_back = True

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


def empty_listener() -> Listener:
    hubs = Hubs([], lambda app: pytest.fail(f"{app} is none of ours"))
    return Listener(
        hubs,
        HttpApi(hubs, time.time),
        TimerWheel(0.0),
        max_request_bytes=1_000,
        max_buffered_bytes=1_000,
        clock=time.time,
    )


async def goodbyes(guests: int, grace_seconds: float) -> list[float]:
    """Return after how many seconds each guest of a listener that stops was told to go."""
    listener = empty_listener()
    told: list[float] = []
    for _ in range(guests):
        Guest(listener, told)
    start = listener.time()
    await listener.stop(grace_seconds)
    return [at - start for at in told]


async def test_a_crowd_is_sent_away_in_waves_and_does_not_come_back_as_one() -> None:
    told = await goodbyes(250, PATIENCE)

    assert len(told) == 250
    # Three waves, each not before its time; a sleep may end a clock tick early.
    assert told[83] > 0.08
    assert told[166] > 0.18


@pytest.mark.parametrize(("guests", "seconds"), [(7, 0.7), (300, 1.0), (1, 1.0), (0, 1.0)])
async def test_a_drain_sends_clients_away_evenly_over_its_time(guests: int, seconds: float) -> None:
    listener = empty_listener()
    told: list[float] = []
    for _ in range(guests):
        Guest(listener, told)
    start = listener.time()

    await listener.drain(0.0, seconds)

    assert len(told) == guests
    # Nobody before its turn; a sleep may end a clock tick early.
    waves = min(guests, round(seconds * 10))
    for number, at in enumerate(told):
        assert at - start > seconds * (number * waves // guests) / waves - 0.02


async def test_a_drain_ends_when_nobody_is_left() -> None:
    listener = empty_listener()
    told: list[float] = []
    guests = [Guest(listener, told) for _ in range(10)]
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        group.create_task(listener.drain(0.0, 10_000.0))
        await turns_until(lambda: len(told) == 1)
        for guest in guests:
            guest.abort()


async def test_a_large_crowd_is_told_before_the_grace_is_over() -> None:
    assert len(await goodbyes(5_000, 3.0)) == 5_000


async def test_a_few_are_told_at_once_also_without_any_grace() -> None:
    assert len(await goodbyes(250, 0.0)) == 250


# While clients are sent away.


@asynccontextmanager
async def draining(
    server: TestServer, seconds: float = 0.0, delay_seconds: float = 0.0
) -> AsyncIterator[None]:
    """Have the server on its way out, as far as these times let it come, until the context ends."""
    drain = asyncio.create_task(server.drain(seconds, delay_seconds))
    try:
        await turns_until(lambda: listener_behind(server).is_draining)
        yield
    finally:
        drain.cancel()
        with suppress(asyncio.CancelledError):
            await drain


def publish(server: TestServer, data: str) -> bytes:
    """Return a signed request that publishes `said` on `orders`."""
    path = f"/apps/{server.app.id}/events"
    body = f'{{"name":"said","channels":["orders"],"data":"{data}"}}'.encode()
    query = signed_query(server.app.key, server.app.secret, "POST", path, body, int(time.time()))
    return request(f"POST {path}?{urlencode(query)}", body=body)


def said(data: str) -> bytes:
    return f'{{"event":"said","channel":"orders","data":"{data}"}}'.encode()


async def subscribe(client: RawClient) -> None:
    await client.send(text({"event": "pusher:subscribe", "data": {"channel": "orders"}}))
    assert b"subscription_succeeded" in await client.receive_text()


async def test_ready_says_first_that_the_server_stops_and_new_clients_still_come_in() -> None:
    async with serving() as server, connected_socket(server) as early:
        await early.send(request("GET /ready"))
        answer = await early.receive_answer()
        assert (answer.status, answer.body) == (200, b'{"ready":true}')
        assert "connection" not in answer.headers

        async with draining(server, delay_seconds=10_000), websocket(server) as client:
            await subscribe(client)
            for path, status, body in (
                ("/ready", 503, b"The server is shutting down"),
                ("/up", 200, b'{"health":"OK"}'),
            ):
                async with connected_socket(server) as prober:
                    await prober.send(request(f"GET {path}"))
                    answer = await prober.receive_answer()
                    assert (answer.status, answer.body) == (status, body)
                    assert answer.headers["connection"] == "close"
                    await prober.receive_end()
            await early.send(publish(server, "1"))
            assert (await early.receive_answer()).status == 200
            assert await client.receive_text() == said("1")


async def test_clients_whose_turn_has_not_come_get_every_event() -> None:
    async with AsyncExitStack() as connections:
        enter = connections.enter_async_context
        server = await enter(serving())
        clients = [await enter(websocket(server)) for _ in range(3)]
        backends = [await enter(connected_socket(server)) for _ in range(3)]
        for client in clients:
            await subscribe(client)
        for backend in backends:
            await backend.send(request("GET /up"))
            assert "connection" not in (await backend.receive_answer()).headers

        async with draining(server, seconds=30_000):
            # One of three is sent away at once, and nobody else for hours.
            first = [asyncio.create_task(client.receive_text()) for client in clients]
            async with asyncio.timeout(PATIENCE):
                [gone], staying = await asyncio.wait(first, return_when="FIRST_COMPLETED")
            assert gone.result() == error_json(4200, GOODBYE)
            with pytest.raises(ConnectionRefusedError):
                async with connected_socket(server):
                    pass
            for number, backend in enumerate(backends):
                await backend.send(publish(server, str(number)))
                answer = await backend.receive_answer()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                await backend.receive_end()
            for task in staying:
                assert await task == said("0")
                client = clients[first.index(task)]
                for number in (1, 2):
                    assert await client.receive_text() == said(str(number))
                await client.is_answered()


async def test_what_follows_the_last_request_of_a_connection_is_not_carried_out() -> None:
    async with serving() as server, websocket(server) as client:
        await subscribe(client)
        async with connected_socket(server) as backend, draining(server, delay_seconds=10_000):
            await backend.send(publish(server, "1") + publish(server, "2"))
            assert (await backend.receive_answer()).headers["connection"] == "close"
            await backend.receive_end()
            assert await client.receive_text() == said("1")
            await client.is_answered()


async def test_who_upgrades_a_connection_while_clients_are_sent_away_is_sent_away_too() -> None:
    async with serving() as server, websocket(server), connected_socket(server) as client:
        await client.send(b"GET /up HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.receive_answer()
        async with draining(server, seconds=10_000):
            with suppress(ConnectionRefusedError):
                while True:
                    async with connected_socket(server):
                        await asyncio.sleep(0)
            await client.send(handshake())
            await client.receive_head()
            await client.receive_hello()
            await client.receive_fatal_error(4200, GOODBYE)


async def test_a_publish_that_is_on_its_way_when_the_server_stops_is_answered() -> None:
    async def finish(server: TestServer, backend: RawClient, rest: bytes) -> None:
        await turns_until(lambda: listener_behind(server).is_draining)
        with suppress(ConnectionRefusedError):
            while True:
                async with connected_socket(server):
                    await asyncio.sleep(0)
        await backend.send(rest)
        answer = await backend.receive_answer()
        assert (answer.status, answer.body) == (200, b"{}")
        assert answer.headers["connection"] == "close"
        await backend.receive_end()

    async with (
        asyncio.timeout(PATIENCE),
        AsyncExitStack() as connections,
        asyncio.TaskGroup() as backends,
        serving(shutdown_seconds=1_000) as server,
    ):
        sent = publish(server, "1")
        for cut in (10, len(sent) - 10):
            backend = await connections.enter_async_context(connected_socket(server))
            await backend.send_apart(sent[:cut])
            backends.create_task(finish(server, backend, sent[cut:]))
