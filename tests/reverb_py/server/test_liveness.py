"""Silent clients: asked in two ways whether they live, and closed when they do not answer."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from reverb_py.core.apps import App
from reverb_py.server.listener import Deadlines
from reverb_py.testing import TestServer, serving
from tests.reverb_py.server.raw_client import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    RawClient,
    close_frame,
    frame,
    serves,
    text,
    websocket,
)

APP = App(
    id="1001",
    key="278d425bdf160c739803",
    secret="7ad3773142a6692b25b8",
    ping_interval=0.1,
    pong_timeout=0.2,
)
PUSHER_PING = b'{"event":"pusher:ping","data":"{}"}'


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    """Serve an app that asks soon, and see that it still serves."""
    async with serving(APP, timer_resolution=0.02, deadlines=Deadlines(linger=0.1)) as server:
        yield server
        await serves(server)


async def receive_both_pings(client: RawClient) -> None:
    """Take the two questions in their order."""
    assert await client.receive_text() == PUSHER_PING
    assert await client.receive() == Frame(PING, b"")


@pytest.mark.parametrize("subscribed", [False, True])
async def test_a_silent_client_is_asked_twice_and_closed_with_4201(
    server: TestServer, subscribed: bool
) -> None:
    async with websocket(server) as client:
        if subscribed:
            await client.send(text({"event": "pusher:subscribe", "data": {"channel": "orders"}}))
            assert b"subscription_succeeded" in await client.receive_text()
        await receive_both_pings(client)
        await client.receive_fatal_error(4201, "Pong reply not received in time")
    assert await server.request("GET", "/channels") == (200, '{"channels":{}}')


async def test_a_client_whose_line_is_dead_is_cut_off(server: TestServer) -> None:
    async with websocket(server) as client:
        await receive_both_pings(client)
        await client.receive_text()
        assert await client.receive_close() == (4201, "Pong reply not received in time")
        await client.receive_end()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(text('{"event":"pusher:pong","data":{}}'), id="pong"),
        pytest.param(frame(PONG), id="control pong"),
        pytest.param(frame(PONG, b"unasked"), id="another control pong"),
        pytest.param(text("not JSON"), id="nonsense"),
        pytest.param(frame(TEXT, b"{", final=False), id="a fragment"),
        pytest.param(frame(TEXT, b"x" * 100)[:1], id="a byte"),
    ],
)
@pytest.mark.parametrize("questions", [1, 2])
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_anything_that_arrives_is_an_answer(
    server: TestServer, answer: bytes, questions: int
) -> None:
    async with websocket(server) as client:
        assert await client.receive_text() == PUSHER_PING
        if questions == 2:
            assert await client.receive() == Frame(PING, b"")
        await client.send(answer)
        # Being asked in the first way again, and not closed, is what shows it.
        received = await client.receive()
        while received == Frame(PING, b"") or b"Invalid message" in received.payload:
            received = await client.receive()
        assert received == Frame(TEXT, PUSHER_PING)


@pytest.mark.parametrize(
    ("sent", "answered"),
    [(frame(PING), True), (frame(PONG), False), (text('{"event":"pusher:pong"}'), False)],
    ids=["ping", "pong", "pusher:pong"],
)
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_client_that_talks_is_not_asked(sent: bytes, answered: bool) -> None:
    loop = asyncio.get_running_loop()
    async with (
        serving(replace(APP, ping_interval=0.3), timer_resolution=0.02) as server,
        websocket(server) as client,
    ):
        end = loop.time() + 0.6
        while loop.time() < end:
            await client.send(sent)
            if answered:
                assert await client.receive() == Frame(PONG, b"")
            await asyncio.sleep(0.02)
        await client.is_answered()


async def test_who_answers_is_asked_again_after_the_interval_and_who_does_not_gets_its_time() -> (
    None
):
    async with (
        serving(replace(APP, pong_timeout=1_000), timer_resolution=0.02) as server,
        websocket(server) as silent,
        websocket(server) as client,
    ):
        assert await silent.receive_text() == PUSHER_PING
        for _ in range(5):
            assert await client.receive_text() == PUSHER_PING
            await client.send(text('{"event":"pusher:pong","data":{}}'))
        # It would have been asked a second time before the answer, or closed.
        await silent.is_answered()


async def test_being_sent_events_is_no_sign_of_life(server: TestServer) -> None:
    async with websocket(server) as client:
        await client.send(text({"event": "pusher:subscribe", "data": {"channel": "orders"}}))
        assert b"subscription_succeeded" in await client.receive_text()
        received: list[Frame] = []
        while not received or received[-1].opcode != CLOSE:
            await server.publish("made", "orders", "1")
            received.append(await client.receive())
        others = [f for f in received if b'"made"' not in f.payload]
        assert others[0] == Frame(TEXT, PUSHER_PING)
        assert others[1] == Frame(PING, b"")
        assert others[-1].payload[:2] == (4201).to_bytes(2, "big")
        await client.send(close_frame(1000))


async def test_an_unfinished_message_does_not_keep_a_client(server: TestServer) -> None:
    async with websocket(server) as client:
        await client.send(frame(TEXT, b"{", final=False) + frame(CONTINUATION, b"", final=False))
        await receive_both_pings(client)
        await client.receive_fatal_error(4201, "Pong reply not received in time")
