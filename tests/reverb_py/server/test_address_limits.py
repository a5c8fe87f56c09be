"""One address may not take everything, where that is set."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from reverb_py.core.apps import App
from reverb_py.server.listener import Deadlines
from reverb_py.testing import PATIENCE, TestServer, serving
from tests.reverb_py.server.raw_client import (
    BINARY,
    SWITCHING_PROTOCOLS,
    RawClient,
    close_frame,
    connected_socket,
    error_json,
    frame,
    handshake,
    request,
    stop_time,
    text,
    websocket,
)

APP = App(id="1001", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8")


async def refusal_of(server: TestServer, code: int, message: str) -> None:
    async with server.connect() as client:
        assert await client.receive() == (
            f'{{"event":"pusher:error","data":{{"code":{code},"message":"{message}"}}}}'
        )
        assert await client.closed() == (code, message)


async def test_connections_beyond_those_of_one_address_are_asked_to_wait() -> None:
    async with (
        serving(max_connections_per_address=2) as server,
        websocket(server),
        websocket(server),
    ):
        await refusal_of(server, 4100, "More than 2 connections from one address")
        async with connected_socket(server) as client:
            await client.send(request("GET /up"))
            answer = await client.receive_answer()
    assert answer.status == 429
    assert answer.headers["retry-after"] == "60"
    assert answer.body == b"More than 2 connections from one address"


async def test_who_connects_too_often_is_asked_to_wait() -> None:
    async with serving(connects_per_minute_per_address=2) as server:
        for _ in range(2):
            async with websocket(server):
                pass
        await refusal_of(server, 4100, "More than 2 new connections in a minute from one address")


async def test_a_place_is_free_again_when_its_connection_has_gone() -> None:
    async with serving(max_connections_per_address=1) as server:
        for _ in range(20):
            async with websocket(server) as client:
                await client.send(close_frame(1000))
                assert await client.receive_close() == (1000, "")
                await client.receive_end()


@contextlib.asynccontextmanager
async def websocket_if_admitted(server: TestServer) -> AsyncIterator[bool]:
    """Try to open a WebSocket; tell whether it was admitted."""
    async with connected_socket(server) as client:
        is_admitted = False
        # A test that is held up may miss the server's deadlines.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await client.send(handshake())
            if await client.receive_head() == SWITCHING_PROTOCOLS:
                is_admitted = b"connection_established" in await client.receive_text()
        yield is_admitted


async def both_places_are_free(server: TestServer) -> None:
    """See that two connections get in, soon, and a third does not."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with (
                websocket_if_admitted(server) as one,
                websocket_if_admitted(server) as two,
                websocket_if_admitted(server) as three,
            ):
                if (one, two, three) == (True, True, False):
                    return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /up HTT",
        b"garbage\r\n\r\n",
        request("GET /up"),
        request("GET /up", "Connection: close"),
        request("POST /up", "Content-Length: 5") + b"{",
        handshake(),
        handshake("/app/unknown"),
        handshake() + text("{"),
        handshake() + frame(BINARY),
        handshake() + text("x" * 20_000),
        handshake() + close_frame(1000),
    ],
)
@pytest.mark.parametrize("end", ["closed", "half closed", "reset", "waited for"])
async def test_a_place_is_free_again_however_its_connection_came_to_its_end(
    sent: bytes, end: str
) -> None:
    short = Deadlines(head=0.05, body=0.05, keep_alive=0.05, linger=0.05)
    app = App(
        id="1",
        key="278d425bdf160c739803",
        secret="secret",
        ping_interval=0.05,
        pong_timeout=0.05,
    )
    async with serving(
        app, max_connections_per_address=2, timer_resolution=0.02, deadlines=short
    ) as server:
        for _ in range(2):
            async with connected_socket(server) as client:
                client.writer.write(sent)
                await asyncio.sleep(0)
                if end == "half closed":
                    client.half_close()
                elif end == "reset":
                    client.reset()
                if end in ("half closed", "waited for"):
                    async with asyncio.timeout(PATIENCE):
                        with contextlib.suppress(ConnectionError):
                            await client.reader.read()
        await both_places_are_free(server)


async def test_an_address_that_asks_too_often_is_told_when_to_come_back() -> None:
    async with serving(requests_per_second_per_address=2) as server:
        async with connected_socket(server) as client:
            await client.send(request("GET /up") * 3)
            for _ in range(2):
                assert (await client.receive_answer()).status == 200
            await is_told_to_wait(client)
        async with connected_socket(server) as client:
            await client.send(request("POST /apps/1001/events", body=b"{}"))
            await is_told_to_wait(client)
            # WebSocket clients are counted elsewhere.
            await client.send(handshake())
            await client.receive_head()
            await client.receive_hello()


async def is_told_to_wait(client: RawClient) -> None:
    """Take the refusal of a request that came too soon; the connection goes on."""
    answer = await client.receive_answer()
    assert answer.status == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.body == b"More than 2 requests in a second from one address"


async def test_client_events_of_one_address_are_counted_together() -> None:
    app = App(
        id="1001",
        key="278d425bdf160c739803",
        secret="7ad3773142a6692b25b8",
        client_events_per_second_per_address=3,
    )
    refusal = error_json(
        4301, "Client event refused: more than 3 in a second from one address"
    ).decode()
    event = '{"event":"client-x","channel":"private-room","data":1}'
    async with serving(app) as server, server.connected() as one, server.connected() as two:
        stop_time(server)
        for client in (one, two):
            await client.subscribe("private-room")
        for _ in range(2):
            await one.send(event)
            assert await two.receive() == event
        await two.send(event)
        assert await one.receive() == event
        await two.send(event)
        assert await two.receive() == refusal
