"""What is too much: for a message, for a connection, for an app."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.conformance.wire import PATIENCE, Answer, PusherApp, compact, fresh


@pytest.mark.parametrize("size", [70_000, 1_000_000])
async def test_a_message_that_is_too_big_ends_the_connection_with_1009(
    app: PusherApp, size: int
) -> None:
    """Reverb takes 10,000 bytes, sockudo 64 kB; Soketi has a limit of 100 MB."""
    async with app.bare_connection() as client:
        await client.receive_json()
        client.send(client.TEXT, compact({"event": "pusher:ping", "data": "x" * size}).encode())
        opcode, payload = await client.receive()
        assert opcode == client.CLOSE
        assert int.from_bytes(payload[:2], "big") == 1009


async def test_a_message_may_have_nearly_ten_thousand_bytes(app: PusherApp) -> None:
    async with app.connected() as client:
        await client.send({"event": "pusher:ping", "data": "x" * 9_900})
        assert json.loads(await client.receive())["event"] == "pusher:pong"


async def test_too_many_messages_of_one_connection_are_refused_with_4301(
    throttled_app: PusherApp,
) -> None:
    """Reverb's limit on everything a client sends; another connection has its own."""
    async with throttled_app.connected() as client, throttled_app.connected() as other:
        for _ in range(8):
            await client.send('{"event":"pusher:ping"}')
        events = [json.loads(await client.receive()) for _ in range(8)]
        assert [event["event"] for event in events] == ["pusher:pong"] * 5 + ["pusher:error"] * 3
        assert {event["data"]["code"] for event in events[5:]} == {4301}
        await other.received_nothing()


@pytest.mark.parametrize("what", ["publish", "batch", "read"])
async def test_too_many_requests_are_refused_with_429(throttled_app: PusherApp, what: str) -> None:
    """
    `Retry-After` says, in whole seconds, when to come back.

    Soketi says it, too; hosted Pusher and sockudo do not, and Reverb takes any number.
    """

    async def ask() -> Answer:
        event = {"name": "x", "channel": fresh("orders-"), "data": "{}"}
        if what == "publish":
            return await throttled_app.post("/events", event)
        if what == "batch":
            return await throttled_app.post("/batch_events", {"batch": [event]})
        return await throttled_app.get("/channels")

    async with asyncio.timeout(PATIENCE):
        while (answer := await ask()).status == 429:
            pass  # an earlier test's requests still count
        assert answer.status == 200, answer
        while (answer := await ask()).status == 200:
            pass
    assert answer.status == 429, answer
    assert answer.body
    assert int(answer.headers["Retry-After"]) >= 1
