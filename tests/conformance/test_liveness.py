"""Pings, pongs and silence."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.wire import PATIENCE, BareConnection, PusherApp, pong

SERVER_PING = b'{"event":"pusher:ping","data":"{}"}'
CLIENT_PONG = b'{"event":"pusher:pong","data":{}}'


@pytest.mark.parametrize(
    "ping",
    [
        '{"event":"pusher:ping","data":{}}',
        '{"event":"pusher:ping","data":"{}"}',
        '{"event":"pusher:ping","data":""}',
        '{"event":"pusher:ping","data":null}',
        '{"event":"pusher:ping","data":{"data":""}}',
        '{"event":"pusher:ping"}',
    ],
)
async def test_a_ping_is_answered_with_a_pong(app: PusherApp, ping: str) -> None:
    """
    Every spelling here is some client's: JS, k6, Pysher, pusher_client_socket, indaband, Java.

    The pong's data is the string `{}`. Soketi sends an object, Reverb and sockudo send none; the
    empty string once took Reverb down.
    """
    async with app.connected() as client:
        await client.send(ping)
        assert await client.receive() == pong()


@pytest.mark.parametrize("data", [',"data":{}', ',"data":"{}"', ',"data":null', ""])
async def test_a_pong_is_taken_without_an_answer(app: PusherApp, data: str) -> None:
    async with app.connected() as client:
        await client.send(f'{{"event":"pusher:pong"{data}}}')
        await client.received_nothing()


async def test_a_websocket_ping_is_answered_with_the_same_payload(app: PusherApp) -> None:
    """Swift and .NET know no other ping."""
    async with app.connected() as client:
        answered = await client.websocket.ping(b"are you there")
        await asyncio.wait_for(answered, PATIENCE)


async def receive_server_ping(client: BareConnection) -> None:
    """Take the server's question at the protocol's own level, which browsers can see."""
    assert await client.receive() == (client.TEXT, SERVER_PING)


async def test_a_silent_client_is_asked_whether_it_lives(impatient_app: PusherApp) -> None:
    """
    A browser does not see WebSocket pings, so it is asked in a message.

    Soketi never asks; Reverb asks once a minute, and only those who are in a channel.
    """
    async with impatient_app.bare_connection() as client:
        assert (await client.receive_json())["event"] == "pusher:connection_established"
        await receive_server_ping(client)


async def test_a_client_that_answers_with_a_pong_stays(impatient_app: PusherApp) -> None:
    async with impatient_app.bare_connection() as client:
        await client.receive_json()
        for _ in range(3):
            await receive_server_ping(client)
            client.send(client.TEXT, CLIENT_PONG)


async def test_any_message_counts_as_a_sign_of_life(impatient_app: PusherApp) -> None:
    async with impatient_app.bare_connection() as client:
        await client.receive_json()
        for _ in range(3):
            await receive_server_ping(client)
            client.send(client.TEXT, b'{"event":"pusher:unsubscribe","data":{"channel":"orders"}}')


async def test_a_websocket_ping_of_its_own_counts_as_a_sign_of_life(
    impatient_app: PusherApp,
) -> None:
    async with impatient_app.bare_connection() as client:
        await client.receive_json()
        for _ in range(3):
            await receive_server_ping(client)
            client.send(client.PING, b"")
            assert await client.receive() == (client.PONG, b"")


async def test_a_client_that_stays_silent_is_closed_with_4201(impatient_app: PusherApp) -> None:
    """
    Reverb sends the error and drops the line, so that the client sees 1006.

    Soketi looks at the time since it has last sent something itself; sockudo closes after 30 s.
    """
    async with impatient_app.bare_connection() as client:
        await client.receive_json()
        await receive_server_ping(client)
        opcode, payload = await client.receive()
        if (opcode, payload) == (client.PING, b""):
            # Asking once more with a control frame is allowed, and kind to Swift.
            opcode, payload = await client.receive()
        assert opcode == client.TEXT
        assert payload.startswith(b'{"event":"pusher:error","data":{"code":4201,"message":"')
        opcode, payload = await client.receive()
        assert opcode == client.CLOSE
        assert int.from_bytes(payload[:2], "big") == 4201
