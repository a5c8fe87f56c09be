"""Stopping: WebSocket clients are sent away to come back, requests in progress are not kept."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from reverb_py.server import websocket_connection
from reverb_py.testing import PATIENCE, TestServer, serving
from tests.reverb_py.server.raw_client import (
    connected_socket,
    error_json,
    handshake,
    request,
    text,
)

GOODBYE = "Server is shutting down: reconnect"


@pytest.fixture
def _endless_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but the clients' own answers end their connections."""
    monkeypatch.setattr(websocket_connection, "LINGER_SECONDS", 1_000)


@pytest.mark.usefixtures("_endless_patience")
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
        serving(shutdown_seconds=1_000) as server,
    ):
        clients.create_task(stay(server))
        clients.create_task(stay(server, "orders"))
        clients.create_task(stay(server, "orders", "stock"))
        for _ in range(3):
            await opened.acquire()


@pytest.mark.usefixtures("_endless_patience")
async def test_clients_that_do_not_answer_are_cut_off_when_the_grace_is_over() -> None:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as connections:
        async with serving(shutdown_seconds=0.1) as server:
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
