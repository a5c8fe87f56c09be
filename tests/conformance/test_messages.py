"""The envelope, errors, and everything a client should not have sent."""

from __future__ import annotations

import json

import pytest

from tests.conformance.wire import PusherApp, compact, frame, fresh, subscribed


@pytest.mark.needs("refusal_code")
async def test_an_error_carries_its_code_and_message_in_an_object(app: PusherApp) -> None:
    """
    The one frame of a server whose data is no string.

    Reverb sends a string: Swift then drops the whole error, and Pysher does not see the code.
    """
    async with app.connected() as client:
        await client.send('{"event":"pusher:unheard-of","data":{}}')
        text = await client.receive()
        message = json.loads(text)["data"]["message"]
        assert text == compact(
            {"event": "pusher:error", "data": {"code": 4300, "message": message}}
        )
        assert message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "hello",
        '{"event":"pusher:ping",}',
        "null",
        "7",
        '"pusher:ping"',
        "[]",
        '[{"event":"pusher:ping"}]',
        "{}",
        '{"data":{}}',
        '{"event":null}',
        '{"event":7}',
        '{"event":["pusher:ping"]}',
        '{"event":""}',
        '{"event":"client-typing","channel":7}',
        pytest.param('{"event":' * 500, id="deep"),
        pytest.param('{"event":"pusher:ping","data":' + "[" * 4000 + "]" * 4000, id="unclosed"),
    ],
)
async def test_a_message_that_is_no_event_is_refused_and_the_connection_goes_on(
    app: PusherApp, text: str
) -> None:
    """Reverb answers 4200, on which Pysher reconnects; Soketi says nothing."""
    async with app.connected() as client:
        await client.send(text)
        await client.receive_error(4300)
        await client.received_nothing()


@pytest.mark.parametrize(
    "event",
    [
        "typing",
        "message",
        "pusher:error",
        "pusher:connection_established",
        "pusher:subscription_succeeded",
        "pusher_internal:subscription_succeeded",
        "pusher_internal:member_added",
        "Client-typing",
        "xclient-typing",
    ],
)
async def test_an_event_that_clients_may_not_send_is_refused(app: PusherApp, event: str) -> None:
    """
    Nothing of it reaches the channel.

    Reverb ignores names without the prefix, Soketi finds `client-` anywhere in them.
    """
    channel = fresh("private-room-")
    async with app.connected() as sender, app.connected() as other:
        await sender.subscribe(channel)
        await other.subscribe(channel)
        await sender.send({"event": event, "channel": channel, "data": {}})
        await sender.receive_error(4300)
        await other.received_nothing()


@pytest.mark.parametrize("event", ["pusher:subscribe", "pusher:unsubscribe"])
@pytest.mark.parametrize(
    "data",
    [
        "",
        ',"data":null',
        ',"data":""',
        ',"data":"x"',
        ',"data":7',
        ',"data":[]',
        ',"data":{}',
        ',"data":"{}"',
        ',"data":{"channel":null}',
        ',"data":{"channel":7}',
        ',"data":{"channel":["orders"]}',
    ],
)
async def test_a_subscription_without_a_channel_is_refused(
    app: PusherApp, event: str, data: str
) -> None:
    """One that lacks `data` takes a Soketi process down."""
    async with app.connected() as client:
        await client.send(f'{{"event":"{event}"{data}}}')
        await client.receive_error(4300)
        await client.received_nothing()


async def test_data_may_be_a_string_that_holds_the_object(app: PusherApp) -> None:
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.send({"event": "pusher:subscribe", "data": compact({"channel": channel})})
        assert await client.receive() == subscribed(channel)


async def test_unknown_keys_are_ignored(app: PusherApp) -> None:
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.send(
            {
                "id": 1,
                "event": "pusher:subscribe",
                "channel": None,
                "data": {"channel": channel, "auth": "", "later": {"x": []}},
                "more": [1, {"x": "y"}],
            }
        )
        assert await client.receive() == subscribed(channel)


async def test_white_space_and_escapes_in_a_message_mean_nothing(app: PusherApp) -> None:
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.send(
            f'\r\n{{ "event" : "pusher\\u003asubscribe",\t"data" : {{"channel": "{channel}"}} }} '
        )
        assert await client.receive() == subscribed(channel)


@pytest.mark.parametrize(
    "data", ["Ürümqi 😀 \u2028", '{"a": 1}', 'a\\b"c\n\t\x00', "", "7", "null"]
)
async def test_event_data_arrives_as_the_string_it_was(app: PusherApp, data: str) -> None:
    """Empty data is a 422 to Reverb and a 400 to Soketi."""
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        await app.publish("shipped ö", channel, data)
        text = await client.receive()
        assert json.loads(text) == json.loads(frame("shipped ö", channel, data))


async def test_a_server_event_has_event_channel_and_data_and_nothing_else(app: PusherApp) -> None:
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        await app.publish("order-shipped", channel, '{"id":7}')
        assert await client.receive() == (
            f'{{"event":"order-shipped","channel":"{channel}","data":"{{\\"id\\":7}}"}}'
        )
