"""Clients that do not read what they are sent: bounded, told why, and nobody else waits."""

import asyncio

import orjson
import pytest

from reverb_py.core.apps import App
from reverb_py.server.listener import Deadlines
from reverb_py.server.transports import PIECE_BYTES
from reverb_py.testing import PATIENCE, TestServer, serving
from tests.reverb_py.server.raw_client import (
    CLOSE,
    PING,
    PONG,
    SWITCHING_PROTOCOLS,
    RawClient,
    close_frame,
    connected_socket,
    error_json,
    frame,
    handshake,
    hub_behind,
    request_with_long_answer,
    serves,
    text,
)
from tests.support.sessions import RecordingSession

BUFFERED = 100_000
TOO_SLOW = f"Too slow: more than {BUFFERED} bytes are waiting"
APP = App(
    id="1001",
    key="278d425bdf160c739803",
    secret="7ad3773142a6692b25b8",
    max_event_data_bytes=50_000,
)
DATA = "x" * 50_000
MESSAGE = '{"event":"made","channel":"orders","data":"' + DATA + '"}'


async def read_to_the_end(client: RawClient) -> list[bytes]:
    """Take messages until the close frame, and see the connection end."""
    messages: list[bytes] = []
    while True:
        opcode, payload = await client.receive()
        if opcode == CLOSE:
            assert payload == (4100).to_bytes(2, "big") + TOO_SLOW.encode()
            await client.send(close_frame(4100))
            await client.receive_end()
            return messages
        messages.append(payload)


async def is_occupied_by(server: TestServer, count: int) -> bool:
    """Tell whether `orders` has so many subscribers."""
    _, body = await server.request(
        "GET", "/channels/orders", parameters={"info": "subscription_count"}
    )
    return bool(orjson.loads(body)["subscription_count"] == count)


async def test_a_slow_client_is_closed_with_4100_while_a_fast_one_gets_everything() -> None:
    async with (
        serving(APP, max_buffered_bytes=BUFFERED) as server,
        server.connected() as fast,
    ):
        await fast.subscribe("orders")
        async with connected_socket(server, receive_buffer=4_096) as slow:
            await slow.open_websocket()
            await slow.send(text({"event": "pusher:subscribe", "data": {"channel": "orders"}}))
            await slow.receive_text()
            published = 0
            async with asyncio.timeout(PATIENCE):
                while not await is_occupied_by(server, 1):
                    await server.publish("made", "orders", DATA)
                    published += 1
                    assert await fast.receive() == MESSAGE
            await server.publish("made", "orders", DATA)
            assert await fast.receive() == MESSAGE
            await fast.ping()
            messages = await read_to_the_end(slow)
            assert messages[-1] == error_json(4100, TOO_SLOW)
            assert set(messages[:-1]) == {MESSAGE.encode()}
            assert len(messages) - 1 < published
        await serves(server)


async def test_a_client_that_never_reads_its_pongs_is_closed_too() -> None:
    many = frame(PING, b"p" * 125) * 500
    async with serving(
        APP, max_buffered_bytes=BUFFERED, timer_resolution=0.02, deadlines=Deadlines(linger=0.1)
    ) as server:
        async with connected_socket(server, receive_buffer=4_096) as slow:
            await slow.open_websocket()
            await slow.send_until_cut_off(many)
        await serves(server)


async def test_a_client_that_says_goodbye_and_never_reads_is_cut_off() -> None:
    async with serving(
        APP, max_buffered_bytes=50_000_000, timer_resolution=0.02, deadlines=Deadlines(linger=0.1)
    ) as server:
        async with connected_socket(server, receive_buffer=4_096) as slow:
            await slow.open_websocket()
            await slow.send(text({"event": "pusher:subscribe", "data": {"channel": "orders"}}))
            await slow.receive_text()
            for _ in range(200):
                await server.publish("made", "orders", DATA)
            await slow.send(close_frame(1000))
            await slow.send_until_cut_off(frame(PONG))
        await serves(server)


@pytest.mark.parametrize("bound", [10_000_000, 0])
async def test_a_client_that_catches_up_in_time_loses_nothing(bound: int) -> None:
    rounds = 100
    async with (
        serving(APP, max_buffered_bytes=bound) as server,
        connected_socket(server, receive_buffer=4_096) as client,
    ):
        await client.open_websocket()
        await client.send(text({"event": "pusher:subscribe", "data": {"channel": "orders"}}))
        await client.receive_text()
        for _ in range(3):
            for _ in range(rounds):
                await server.publish("made", "orders", DATA)
            for _ in range(rounds):
                assert await client.receive_text() == MESSAGE.encode()
            await client.is_answered()


async def test_answers_left_unread_before_the_upgrade_count_as_well() -> None:
    count = 3
    async with (
        serving(APP, max_buffered_bytes=BUFFERED) as server,
        server.connected() as occupant,
        connected_socket(server, receive_buffer=4_096) as slow,
    ):
        asked = await request_with_long_answer(server, occupant)
        # Answers longer than what the system takes for a client that does not read.
        RecordingSession.begun(hub_behind(server), *(f"{number:->200}" for number in range(10_000)))
        subscribe = text({"event": "pusher:subscribe", "data": {"channel": "orders"}})
        sent = asked * count + handshake() + subscribe
        # More would be served only when these have been read.
        assert len(sent) <= PIECE_BYTES
        await slow.send(sent)
        await occupant.ping()
        assert await is_occupied_by(server, 0)
        for _ in range(count):
            assert (await slow.receive_answer()).status == 200
        assert await slow.receive_head() == SWITCHING_PROTOCOLS
        await slow.receive_hello()
        assert (await read_to_the_end(slow))[-1] == error_json(4100, TOO_SLOW)
        await serves(server)
