"""What clients say, in every spelling in use and in every wrong one, with the exact answer."""

import random
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import orjson
import pytest

from reverb_py.core.apps import App, ClientEventsFrom, RateLimit
from reverb_py.protocol.signing import channel_auth
from reverb_py.testing import TestServer, serving
from tests.reverb_py.server.raw_client import (
    RawClient,
    connected_socket,
    error_json,
    stop_time,
    text,
    websocket,
)

APP = App(id="1001", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8")
PONG = b'{"event":"pusher:pong","data":"{}"}'
PRIVATE_FOOBAR_DIGEST = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"


def succeeded(channel: str) -> bytes:
    """Return the acknowledgement of a subscription."""
    return (
        b'{"event":"pusher_internal:subscription_succeeded","channel":"%b","data":"{}"}'
        % channel.encode()
    )


def refused(channel: str, kind: str, status: int, message: str) -> list[bytes]:
    """Return the two messages that refuse a subscription."""
    details = orjson.dumps({"type": kind, "error": message, "status": status}).decode()
    return [
        b'{"event":"pusher:subscription_error","channel":%b,"data":%b}'
        % (orjson.dumps(channel), orjson.dumps(details)),
        error_json(4300, message),
    ]


async def subscribe(client: RawClient, channel: str) -> None:
    """Subscribe with a good signature and take the acknowledgement."""
    auth = channel_auth(APP.key, APP.secret, client.socket_id, channel)
    await client.send(
        text({"event": "pusher:subscribe", "data": {"channel": channel, "auth": auth}})
    )
    assert await client.receive_text() == succeeded(channel)


# Ping and pong.


@pytest.mark.parametrize(
    "message",
    [
        '{"event":"pusher:ping","data":{}}',
        '{"event":"pusher:ping","data":""}',
        '{"event":"pusher:ping","data":null}',
        '{"event":"pusher:ping","data":"{}"}',
        '{"event":"pusher:ping","data":"{\\"sent\\":1}"}',
        '{"event":"pusher:ping","data":[1,{"a":null}]}',
        '{"event":"pusher:ping"}',
        '{"data":{},"event":"pusher:ping","unheard":["of"]}',
        '{"event":"pusher:ping","channel":null}',
        '{"event":"pusher:ping","channel":"orders"}',
        ' {\n\t"event" : "pusher\\u003aping" }\r\n',
        '{"event":"pusher:unknown","event":"pusher:ping"}',
    ],
)
async def test_a_ping_is_answered_however_it_is_spelt(server: TestServer, message: str) -> None:
    async with websocket(server) as client:
        await client.send(text(message))
        assert await client.receive_text() == PONG


@pytest.mark.parametrize("data", [b"{}", b'""', b"null", b'"{}"', None])
async def test_a_pong_is_taken_without_an_answer(server: TestServer, data: bytes | None) -> None:
    async with websocket(server) as client:
        await client.send(
            text(b'{"event":"pusher:pong"%b}' % (b"" if data is None else b',"data":' + data))
        )
        await client.is_answered()


# What can't be understood.


@pytest.mark.parametrize(
    ("message", "objection"),
    [
        ("", "Input data was truncated"),
        ("   ", "Input data was truncated"),
        ('{"event":"pusher:ping"', "Input data was truncated"),
        ("hello", "JSON is malformed: invalid character (byte 0)"),
        ("\x00", "JSON is malformed: invalid character (byte 0)"),
        ('\ufeff{"event":"pusher:ping"}', "JSON is malformed: invalid character (byte 0)"),
        ("{'event':'pusher:ping'}", "JSON is malformed: object keys must be strings (byte 1)"),
        ('{"event":"pusher:ping",}', "JSON is malformed: trailing comma in object (byte 23)"),
        ('{"event":"pusher:ping"}{}', "JSON is malformed: trailing characters (byte 24)"),
        ('{"event":"pusher:ping","data":NaN}', "JSON is malformed: invalid character (byte 30)"),
        ("[]", "Expected `object`, got `array`"),
        ('["pusher:ping"]', "Expected `object`, got `array`"),
        ("1", "Expected `object`, got `int`"),
        ("1.5", "Expected `object`, got `float`"),
        ("1e400", "Number out of range"),
        ("null", "Expected `object`, got `null`"),
        ('"pusher:ping"', "Expected `object`, got `str`"),
        ("{}", "Object missing required field `event`"),
        ('{"data":{}}', "Object missing required field `event`"),
        ('{"event":1}', "Expected `str`, got `int` - at `$.event`"),
        ('{"event":null}', "Expected `str`, got `null` - at `$.event`"),
        ('{"event":["pusher:ping"]}', "Expected `str`, got `array` - at `$.event`"),
        (
            '{"event":"pusher:ping","channel":5}',
            "Expected `str | null`, got `int` - at `$.channel`",
        ),
    ],
)
async def test_a_malformed_message_is_refused_and_the_conversation_goes_on(
    server: TestServer, message: str, objection: str
) -> None:
    async with websocket(server) as client:
        await client.send(text(message))
        assert await client.receive_text() == error_json(4300, f"Invalid message: {objection}")
        await client.is_answered()


@pytest.mark.parametrize("escaped", ["\\ud800", "\\udc00\\ud800", "a\\ud83dz"])
@pytest.mark.parametrize(
    "message",
    [
        '{"event":"%s"}',
        '{"event":"pusher:subscribe","data":{"channel":"%s"}}',
        '{"event":"pusher:subscribe","data":{"channel":"private-a","auth":"%s"}}',
        '{"event":"pusher:unsubscribe","data":{"channel":"%s"}}',
        '{"event":"client-%s","channel":"private-a","data":{}}',
    ],
)
async def test_half_a_surrogate_pair_is_refused(
    server: TestServer, message: str, escaped: str
) -> None:
    async with websocket(server) as client:
        await client.send(text(message % escaped))
        answer = orjson.loads(await client.receive_text())
        assert answer["event"] == "pusher:error"
        assert answer["data"]["code"] == 4300
        assert answer["data"]["message"].startswith("Invalid ")
        await client.is_answered()


@pytest.mark.parametrize(
    "message",
    [
        "[" * 1_000_000,
        '{"event":"pusher:subscribe","data":' + "[" * 1_000_000 + "]" * 1_000_000 + "}",
        '{"event":"pusher:subscribe","data":' + '{"a":' * 1_000_000 + "1" + "}" * 1_000_001,
        '{"event":' * 1_000_000,
        '{"event":"client-deep","channel":"private-a","data":'
        + "[" * 1_000_000
        + "]" * 1_000_000
        + "}",
        '{"event":"pusher:subscribe","data":"' + "[" * 1_000_000 + '"}',
    ],
)
async def test_nesting_a_million_deep_is_refused(message: str) -> None:
    app = replace(APP, max_message_bytes=10_000_000)
    async with serving(app) as server, websocket(server) as client:
        await client.send(text(message))
        answer = orjson.loads(await client.receive_text())
        assert answer["event"] == "pusher:error"
        assert answer["data"]["code"] == 4300
        await client.is_answered()


@pytest.mark.parametrize(
    "event",
    [
        "pusher:unheard_of",
        "pusher:connection_established",
        "pusher:error",
        "pusher_internal:subscription_succeeded",
        "pusher_internal:member_added",
        "PUSHER:PING",
        "order-shipped",
        "client",
        "Client-typing",
        "",
    ],
)
async def test_an_event_that_clients_may_not_send_is_refused(
    server: TestServer, event: str
) -> None:
    async with websocket(server) as other, websocket(server) as client:
        await subscribe(other, "private-a")
        await subscribe(client, "private-a")
        await client.send(text({"event": event, "channel": "private-a", "data": {}}))
        assert await client.receive_text() == error_json(
            4300,
            f"Unknown event {event}: clients may send pusher:subscribe, pusher:unsubscribe, "
            "pusher:signin, pusher:ping and events that begin with client-",
        )
        await other.is_answered()


async def test_a_very_long_event_name_is_quoted_only_in_part(server: TestServer) -> None:
    async with websocket(server) as client:
        await client.send(text({"event": "é" * 4_000}))
        assert await client.receive_text() == error_json(
            4300,
            f"Unknown event {'é' * 200}: clients may send pusher:subscribe, pusher:unsubscribe, "
            "pusher:signin, pusher:ping and events that begin with client-",
        )


# Subscribing and unsubscribing.


@pytest.mark.parametrize(
    "data",
    [
        '{"channel":"orders"}',
        '{"channel":"orders","auth":""}',
        '{"channel":"orders","auth":null}',
        '{"channel":"orders","auth":null,"channel_data":null}',
        '{"channel":"orders","auth":"any:thing","channel_data":"at all","more":[]}',
        '"{\\"channel\\":\\"orders\\"}"',
        '"{\\"channel\\":\\"orders\\",\\"auth\\":null}"',
        '"\\u007b\\"channel\\":\\"orders\\"\\u007d"',
    ],
)
async def test_a_public_channel_is_joined_however_the_request_is_spelt(
    server: TestServer, data: str
) -> None:
    async with websocket(server) as client:
        await client.send(text(f'{{"event":"pusher:subscribe","data":{data}}}'))
        assert await client.receive_text() == succeeded("orders")
        await server.publish("made", "orders", '{"id":7}')
        assert await client.receive_text() == (
            b'{"event":"made","channel":"orders","data":"{\\"id\\":7}"}'
        )


@pytest.mark.parametrize("event", ["pusher:subscribe", "pusher:unsubscribe"])
@pytest.mark.parametrize(
    ("data", "objection"),
    [
        (None, "`data` is missing"),
        ("null", "Expected `object`, got `null` in `data`"),
        ("1", "Expected `object`, got `int` in `data`"),
        ("true", "Expected `object`, got `bool` in `data`"),
        ('""', "Input data was truncated in `data`"),
        ('"orders"', "JSON is malformed: invalid character (byte 0) in `data`"),
        ("[]", "Expected `object`, got `array` in `data`"),
        ('["orders"]', "Expected `object`, got `array` in `data`"),
        ('"[]"', "Expected `object`, got `array` in `data`"),
        ('"\\"{}\\""', "Expected `object`, got `str` in `data`"),
        ("{}", "Object missing required field `channel` in `data`"),
        ('{"Channel":"orders"}', "Object missing required field `channel` in `data`"),
        ('{"channel":null}', "Expected `str`, got `null` - at `$.channel` in `data`"),
        ('{"channel":7}', "Expected `str`, got `int` - at `$.channel` in `data`"),
        ('{"channel":["orders"]}', "Expected `str`, got `array` - at `$.channel` in `data`"),
    ],
)
async def test_a_malformed_request_for_a_channel_is_refused(
    server: TestServer, event: str, data: str | None, objection: str
) -> None:
    async with websocket(server) as client:
        written = "" if data is None else f',"data":{data}'
        await client.send(text(f'{{"event":"{event}"{written}}}'))
        assert await client.receive_text() == error_json(4300, f"Invalid {event}: {objection}")
        await client.is_answered()


@pytest.mark.parametrize("field", ["auth", "channel_data"])
@pytest.mark.parametrize(("value", "kind"), [("1", "int"), ("{}", "object"), ("false", "bool")])
async def test_a_signature_of_another_type_is_refused(
    server: TestServer, field: str, value: str, kind: str
) -> None:
    async with websocket(server) as client:
        await client.send(
            text(f'{{"event":"pusher:subscribe","data":{{"channel":"a","{field}":{value}}}}}')
        )
        assert await client.receive_text() == error_json(
            4300,
            f"Invalid pusher:subscribe: Expected `str | null`, got `{kind}` - at `$.{field}` "
            "in `data`",
        )


async def test_a_second_subscription_is_acknowledged_again_and_counts_once(
    server: TestServer,
) -> None:
    async with websocket(server) as client:
        await subscribe(client, "orders")
        await subscribe(client, "orders")
        await server.publish("made", "orders", "1")
        assert await client.receive_text() == b'{"event":"made","channel":"orders","data":"1"}'
        await client.send(text({"event": "pusher:unsubscribe", "data": {"channel": "orders"}}))
        await client.is_answered()
        await server.publish("made", "orders", "2")
        await client.is_answered()


@pytest.mark.parametrize("channel", ["never-joined", "", "#", "no channel", "private-x", "ł" * 300])
async def test_leaving_a_channel_that_was_never_joined_is_ignored(
    server: TestServer, channel: str
) -> None:
    async with websocket(server) as client:
        await client.send(text({"event": "pusher:unsubscribe", "data": {"channel": channel}}))
        await client.is_answered()


async def test_unsubscribing_may_be_spelt_as_a_string_too(server: TestServer) -> None:
    async with websocket(server) as client:
        await subscribe(client, "orders")
        await client.send(
            text('{"event":"pusher:unsubscribe","data":"{\\"channel\\":\\"orders\\"}"}')
        )
        await client.is_answered()
        await server.publish("made", "orders", "1")
        await client.is_answered()


@pytest.mark.parametrize(
    "channel",
    [
        "a",
        "0",
        "-",
        "_-=@,.;",
        "Orders.1;2,3@x=y_z",
        "privateer",
        "my-cache-x",
        "cache-x",
        "presence",
        "n" * 200,
    ],
)
async def test_a_good_name_is_a_channel(server: TestServer, channel: str) -> None:
    async with websocket(server) as client:
        await client.send(text({"event": "pusher:subscribe", "data": {"channel": channel}}))
        assert await client.receive_text() == succeeded(channel)


@pytest.mark.parametrize(
    "channel",
    [
        "",
        " ",
        "two words",
        "tab\t",
        "orders\n",
        "\norders",
        "orders\r",
        "nul\x00",
        'quo"te',
        "back\\slash",
        "żółw",
        "\uff11\uff12",
        "𐐀",
        "a:b",
        "a/b",
        "a#b",
        "##a",
        "a+b",
        "a*",
        "a(b)",
        "n" * 201,
        "private-\n",
        "é" * 3_000,
    ],
)
async def test_a_bad_name_is_refused_with_a_message_to_the_channel_and_one_to_all(
    server: TestServer, channel: str
) -> None:
    async with websocket(server) as client:
        await client.send(text({"event": "pusher:subscribe", "data": {"channel": channel}}))
        for message in refused(
            channel[:200],
            "InvalidChannel",
            400,
            "Invalid channel name: 1 to 200 letters, digits and _ - = @ , . ;",
        ):
            assert await client.receive_text() == message
        await client.is_answered()


@pytest.mark.parametrize(
    ("channel", "objection"),
    [
        ("#server-to-user-7", "#server-to-user-7 is not yours: sign in as its user first"),
        ("#reserved", "Channel names that begin with # are reserved"),
    ],
)
async def test_a_name_with_a_hash_is_refused_to_whom_it_is_not_meant_for(
    server: TestServer, channel: str, objection: str
) -> None:
    async with websocket(server) as client:
        await client.send(text({"event": "pusher:subscribe", "data": {"channel": channel}}))
        for message in refused(channel, "AuthError", 403, objection):
            assert await client.receive_text() == message
        await client.is_answered()


# Signatures.


class SocketIdOfTheVectors(random.SystemRandom):
    """Draws the protocol's own example as the first socket id, and at random afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._first = iter((1234, 1234))

    def getrandbits(self, k: int, /) -> int:
        return next(self._first, None) or super().getrandbits(k)


@pytest.fixture
def _socket_id_of_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "SystemRandom", SocketIdOfTheVectors)


@pytest.mark.usefixtures("_socket_id_of_the_vectors")
@pytest.mark.parametrize(
    ("channel", "digest"),
    [
        ("private-foobar", PRIVATE_FOOBAR_DIGEST),
        (
            "private-encrypted-room",
            "98e84cf417fd22d611fa93b4ec322087ab4298977c873bc416735f8743194648",
        ),
    ],
)
async def test_the_protocols_own_signatures_are_accepted(channel: str, digest: str) -> None:
    async with serving(APP) as server, websocket(server) as client:
        assert client.socket_id == "1234.1234"
        auth = f"278d425bdf160c739803:{digest}"
        await client.send(
            text({"event": "pusher:subscribe", "data": {"channel": channel, "auth": auth}})
        )
        assert await client.receive_text() == succeeded(channel)


@pytest.mark.usefixtures("_socket_id_of_the_vectors")
@pytest.mark.parametrize(
    "auth",
    [
        pytest.param(f"278d425bdf160c739804:{PRIVATE_FOOBAR_DIGEST}", id="another key"),
        pytest.param(f":{PRIVATE_FOOBAR_DIGEST}", id="empty key"),
        pytest.param(PRIVATE_FOOBAR_DIGEST, id="no key"),
        pytest.param(f"278D425BDF160C739803:{PRIVATE_FOOBAR_DIGEST}", id="key in upper case"),
        pytest.param(
            f"278d425bdf160c739803:{PRIVATE_FOOBAR_DIGEST.upper()}", id="digest in upper case"
        ),
        pytest.param(f"278d425bdf160c739803:{PRIVATE_FOOBAR_DIGEST[:-1]}", id="truncated"),
        pytest.param(f"278d425bdf160c739803:{PRIVATE_FOOBAR_DIGEST}0", id="extended"),
        pytest.param(f"278d425bdf160c739803:{PRIVATE_FOOBAR_DIGEST}\n", id="trailing newline"),
        pytest.param(f" 278d425bdf160c739803:{PRIVATE_FOOBAR_DIGEST}", id="leading space"),
        pytest.param(f"278d425bdf160c739803::{PRIVATE_FOOBAR_DIGEST}", id="two colons"),
        pytest.param("278d425bdf160c739803:", id="empty digest"),
        pytest.param("278d425bdf160c739803:" + "0" * 64, id="zeros"),
        pytest.param("278d425bdf160c739803:" + "٣" * 64, id="not ASCII"),
        pytest.param("🔑", id="emoji"),
        pytest.param("\x00", id="NUL"),
        pytest.param("", id="empty"),
        pytest.param(None, id="null"),
        pytest.param(
            "278d425bdf160c739803:98e84cf417fd22d611fa93b4ec322087ab4298977c873bc416735f8743194648",
            id="another channel's",
        ),
        pytest.param(
            "278d425bdf160c739803:"
            + channel_auth("", APP.secret, "1234.1235", "private-foobar")[1:],
            id="another socket's",
        ),
        pytest.param(
            channel_auth(APP.key, "another secret", "1234.1234", "private-foobar"),
            id="another secret's",
        ),
    ],
)
async def test_a_wrong_signature_is_refused_with_what_should_have_been_signed(
    auth: str | None,
) -> None:
    async with serving(APP) as server, websocket(server) as client:
        await client.send(
            text({"event": "pusher:subscribe", "data": {"channel": "private-foobar", "auth": auth}})
        )
        for message in refused(
            "private-foobar",
            "AuthError",
            401,
            "Invalid auth for private-foobar: expected APP_KEY:SIGNATURE, where SIGNATURE is the "
            "hex HMAC-SHA256 of 1234.1234:private-foobar under the app's secret",
        ):
            assert await client.receive_text() == message
        await server.publish("made", "private-foobar", "1")
        await client.is_answered()
        await subscribe(client, "private-foobar")


@pytest.mark.parametrize(
    "channel", ["private-a", "private-cache-a", "private-encrypted-a", "private-encrypted-cache-a"]
)
async def test_every_private_kind_of_channel_asks_for_a_signature(
    server: TestServer, channel: str
) -> None:
    async with websocket(server) as client:
        await client.send(text({"event": "pusher:subscribe", "data": {"channel": channel}}))
        answer = orjson.loads(await client.receive_text())
        assert (answer["event"], answer["channel"]) == ("pusher:subscription_error", channel)
        assert orjson.loads(await client.receive_text())["data"]["code"] == 4300
        await client.is_answered()


async def test_a_refused_second_subscription_leaves_the_first_in_place(
    server: TestServer,
) -> None:
    async with websocket(server) as client:
        await subscribe(client, "private-a")
        await client.send(text({"event": "pusher:subscribe", "data": {"channel": "private-a"}}))
        await client.receive_text()
        await client.receive_text()
        await server.publish("made", "private-a", "1")
        assert await client.receive_text() == b'{"event":"made","channel":"private-a","data":"1"}'


# Client events.


@pytest.mark.parametrize(
    "data",
    [
        b'{"x":1}',
        b'{ "x" :\t[1.0, 1e2 ,"\\u00e9\\/"] }',
        b'"{\\"x\\":1}"',
        b'""',
        b"null",
        b"12345678901234567890123",
        b'["a",{}]',
        '"żółw 🐢"'.encode(),
        None,
    ],
)
async def test_a_client_event_reaches_the_others_byte_for_byte(
    server: TestServer, data: bytes | None
) -> None:
    written = b"" if data is None else b',"data":' + data
    async with websocket(server) as sender, websocket(server) as receiver:
        await subscribe(sender, "private-a")
        await subscribe(receiver, "private-a")
        await sender.send(
            text(b'{ "channel":"private-a" , "event":"client-typing"%b , "user_id":"9"}' % written)
        )
        assert await receiver.receive_text() == (
            b'{"event":"client-typing","channel":"private-a"%b}' % written
        )
        await sender.is_answered()


def client_event(channel: str | None = "private-a", **fields: Any) -> bytes:
    """Return a client event for the channel, or for none."""
    message = {"event": "client-typing", "data": {}} | fields
    return text(message if channel is None else message | {"channel": channel})


@pytest.mark.parametrize(
    ("message", "objection"),
    [
        (client_event(None), "`channel` is missing"),
        (client_event(channel=""), "they go to private and presence channels only"),
        (client_event("orders"), "they go to private and presence channels only"),
        (client_event("cache-a"), "they go to private and presence channels only"),
        (client_event("#server-to-user-7"), "they go to private and presence channels only"),
        (client_event("private-encrypted-a"), "they go to private and presence channels only"),
        (client_event("private-b"), "subscribe to private-b first"),
        (client_event("private-" + "b" * 300), f"subscribe to private-{'b' * 192} first"),
        (client_event(event="client-" + "n" * 194), "its name has more than 200 characters"),
        (client_event(data="x" * 99), "its data has more than 100 bytes"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
async def test_a_client_event_out_of_place_is_refused_and_goes_nowhere(
    message: bytes, objection: str
) -> None:
    app = replace(APP, max_event_data_bytes=100)
    async with serving(app) as server, websocket(server) as sender, websocket(server) as other:
        for channel in ("orders", "cache-a", "private-a", "private-encrypted-a"):
            for client in (sender, other):
                await subscribe(client, channel)
                if channel == "cache-a":
                    assert await client.receive_text() == (
                        b'{"event":"pusher:cache_miss","channel":"cache-a"}'
                    )
        await subscribe(other, "private-b")
        await sender.send(message)
        assert await sender.receive_text() == error_json(4301, f"Client event refused: {objection}")
        await other.is_answered()


async def test_names_and_data_up_to_their_limits_are_relayed() -> None:
    app = replace(APP, max_event_data_bytes=100)
    name = "client-" + "n" * 193
    async with serving(app) as server, websocket(server) as sender, websocket(server) as receiver:
        await subscribe(sender, "private-a")
        await subscribe(receiver, "private-a")
        await sender.send(client_event(event=name, data="x" * 98))
        assert await receiver.receive_text() == (
            b'{"event":"%b","channel":"private-a","data":"%b"}' % (name.encode(), b"x" * 98)
        )


async def test_an_app_may_take_client_events_from_nobody() -> None:
    app = replace(APP, client_events_from=ClientEventsFrom.NONE)
    async with serving(app) as server, websocket(server) as sender, websocket(server) as other:
        await subscribe(sender, "private-a")
        await subscribe(other, "private-a")
        await sender.send(client_event())
        assert await sender.receive_text() == error_json(
            4301, "Client event refused: this app does not accept client events"
        )
        await other.is_answered()


async def test_an_app_may_take_client_events_from_all_its_clients() -> None:
    app = replace(APP, client_events_from=ClientEventsFrom.ALL)
    async with serving(app) as server, websocket(server) as sender, websocket(server) as receiver:
        await subscribe(receiver, "private-a")
        await sender.send(client_event("private-nobody-is-here") + client_event())
        assert await receiver.receive_text() == (
            b'{"event":"client-typing","channel":"private-a","data":{}}'
        )
        await sender.send(client_event("orders"))
        assert await sender.receive_text() == error_json(
            4301, "Client event refused: they go to private and presence channels only"
        )


async def test_more_than_ten_client_events_in_a_second_are_refused(server: TestServer) -> None:
    stop_time(server)
    async with websocket(server) as sender, websocket(server) as receiver:
        await subscribe(sender, "private-a")
        await subscribe(receiver, "private-a")
        await sender.send(b"".join(client_event(data=number) for number in range(11)))
        for number in range(10):
            assert await receiver.receive_text() == (
                b'{"event":"client-typing","channel":"private-a","data":%d}' % number
            )
        assert await sender.receive_text() == error_json(
            4301, "Client event refused: more than 10 in a second"
        )
        await receiver.is_answered()
        await sender.is_answered()


async def test_client_events_of_other_apps_stay_there() -> None:
    other_app = App(id="2", key="another-key", secret="another-secret")
    async with (
        serving(APP, other_app) as server,
        websocket(server) as sender,
        connected_socket(server) as stranger,
    ):
        await stranger.open_websocket("/app/another-key")
        auth = channel_auth(other_app.key, other_app.secret, stranger.socket_id, "private-a")
        await stranger.send(
            text({"event": "pusher:subscribe", "data": {"channel": "private-a", "auth": auth}})
        )
        assert await stranger.receive_text() == succeeded("private-a")
        await subscribe(sender, "private-a")
        await sender.send(client_event())
        await server.publish("made", "private-a", "1")
        assert await sender.receive_text() == b'{"event":"made","channel":"private-a","data":"1"}'
        await stranger.is_answered()


# Rate limiting.


async def test_messages_over_the_rate_limit_are_refused() -> None:
    limit = RateLimit(max_attempts=3, decay_seconds=60, terminate=False)
    async with serving(replace(APP, rate_limit=limit)) as server, websocket(server) as client:
        await client.send(text('{"event":"pusher:ping"}') * 3 + text("{") + text("{}"))
        for _ in range(3):
            assert await client.receive_text() == PONG
        for _ in range(2):
            assert await client.receive_text() == error_json(
                4301, "Rate limit exceeded: 3 messages in 60 s"
            )


async def test_a_client_over_the_rate_limit_may_be_closed() -> None:
    limit = RateLimit(max_attempts=2, decay_seconds=0.5, terminate=True)
    message = "Rate limit exceeded: 2 messages in 0.5 s"
    async with serving(replace(APP, rate_limit=limit)) as server, websocket(server) as client:
        await client.send(text('{"event":"pusher:ping"}') * 50)
        for _ in range(2):
            assert await client.receive_text() == PONG
        assert await client.receive_text() == error_json(4301, message)
        await client.receive_fatal_error(4100, message)


async def test_each_connection_has_its_own_rate_limit() -> None:
    limit = RateLimit(max_attempts=1, decay_seconds=60, terminate=False)
    async with serving(replace(APP, rate_limit=limit)) as server:
        for _ in range(3):
            async with websocket(server) as client:
                await client.is_answered()


async def test_errors_may_have_their_data_in_a_string_as_with_reverb() -> None:
    async with AsyncExitStack() as stack:
        async with serving(APP, errors_as_strings=True) as server:
            stranger = await stack.enter_async_context(server.connect("/app/unknown"))
            assert await stranger.receive() == (
                '{"event":"pusher:error","data":"{\\"code\\":4001,'
                '\\"message\\":\\"Application does not exist: check the app key\\"}"}'
            )
            assert (await stranger.closed())[0] == 4001
            client = await stack.enter_async_context(server.connected())
            await client.send('{"event":"client-x","channel":"orders"}')
            assert await client.receive() == (
                '{"event":"pusher:error","data":"{\\"code\\":4301,\\"message\\":\\"Client event '
                'refused: they go to private and presence channels only\\"}"}'
            )
        assert await client.receive() == (
            '{"event":"pusher:error","data":"{\\"code\\":4200,'
            '\\"message\\":\\"Server is shutting down: reconnect\\"}"}'
        )
        assert (await client.closed())[0] == 4200
