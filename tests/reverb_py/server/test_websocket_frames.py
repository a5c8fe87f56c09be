"""RFC 6455 on the wire: every well-formed frame is understood, every malformed one is answered."""

import asyncio
import struct
import tracemalloc

import pytest

from reverb_py.core.apps import App
from reverb_py.server.listener import Deadlines
from reverb_py.testing import PATIENCE, TestServer, serving
from tests.reverb_py.server.raw_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    RawClient,
    close_frame,
    connected_socket,
    frame,
    handshake,
    serves,
    text,
    websocket,
)

PING_MESSAGE = b'{"event":"pusher:ping"}'
PONG_MESSAGE = b'{"event":"pusher:pong","data":"{}"}'
SUBSCRIBE = b'{"event":"pusher:subscribe","data":{"channel":"orders"}}'
SUBSCRIBED = b'{"event":"pusher_internal:subscription_succeeded","channel":"orders","data":"{}"}'


async def receive_failure(client: RawClient, code: int, reason: str) -> None:
    """Take the close frame, answer it, and see the server end the connection."""
    assert await client.receive_close() == (code, reason)
    await client.send(close_frame(code))
    await client.receive_end()


# What is well-formed.


async def test_a_frame_may_arrive_byte_by_byte(server: TestServer) -> None:
    sent = text(SUBSCRIBE) + frame(PING, b"here")
    async with websocket(server) as client:
        await client.send_apart(*(sent[i : i + 1] for i in range(len(sent))))
        assert await client.receive_text() == SUBSCRIBED
        assert await client.receive() == Frame(PONG, b"here")


async def test_frames_of_several_clients_may_arrive_in_alternating_pieces(
    server: TestServer,
) -> None:
    """A parser serves one client after the other, and only between frames."""
    pieces = [text(PING_MESSAGE + b" " * padding) for padding in (0, 10, 120)]
    async with websocket(server) as one, websocket(server) as two, websocket(server) as three:
        for position in range(max(map(len, pieces))):
            for client, piece in zip((one, two, three), pieces, strict=True):
                if piece[position : position + 1]:
                    await client.send_apart(piece[position : position + 1])
        for client in (one, two, three):
            assert await client.receive_text() == PONG_MESSAGE
            await client.send(text(PING_MESSAGE))
            assert await client.receive_text() == PONG_MESSAGE


@pytest.mark.parametrize("size", [23, 124, 125, 126, 127, 255, 256, 2_040, 2_041, 9_999, 10_000])
async def test_a_message_that_comes_alone_may_have_any_length_up_to_the_limit(
    server: TestServer, size: int
) -> None:
    async with websocket(server) as client:
        message = PING_MESSAGE + b" " * (size - len(PING_MESSAGE))
        for _ in range(2):
            await client.send_apart(text(message))
            assert await client.receive_text() == PONG_MESSAGE


async def test_a_message_that_comes_alone_may_not_stand_in_another(server: TestServer) -> None:
    async with websocket(server) as client:
        await client.send_apart(frame(TEXT, b"{", final=False))
        await client.send_apart(text(PING_MESSAGE))
        await receive_failure(client, 1002, "expected a continuation frame")


async def test_many_frames_in_one_segment_are_answered_in_order(server: TestServer) -> None:
    async with websocket(server) as client:
        sent = [{"event": "pusher:subscribe", "data": {"channel": f"c-{n}"}} for n in range(500)]
        await client.send(b"".join(map(text, sent)))
        for number in range(500):
            assert await client.receive_text() == (
                b'{"event":"pusher_internal:subscription_succeeded","channel":"c-%d","data":"{}"}'
                % number
            )


async def test_a_fragmented_message_may_have_control_frames_between(server: TestServer) -> None:
    async with websocket(server) as client:
        await client.send(
            frame(TEXT, SUBSCRIBE[:10], final=False)
            + frame(PING, b"between")
            + frame(CONTINUATION, b"", final=False)
            + frame(PONG, b"unasked")
            + frame(CONTINUATION, SUBSCRIBE[10:30], final=False)
        )
        assert await client.receive() == Frame(PONG, b"between")
        await client.send(frame(CONTINUATION, SUBSCRIBE[30:]))
        assert await client.receive_text() == SUBSCRIBED


async def test_a_character_may_be_split_between_fragments(server: TestServer) -> None:
    message = '{"event":"żółć"}'.encode()
    async with websocket(server) as client:
        await client.send(
            frame(TEXT, message[:11], final=False) + frame(CONTINUATION, message[11:])
        )
        assert b"Unknown event \xc5\xbc\xc3\xb3\xc5\x82\xc4\x87: " in await client.receive_text()
        await client.is_answered()


async def test_a_message_may_consist_of_fragments_without_bytes(server: TestServer) -> None:
    async with websocket(server) as client:
        await client.send(
            frame(TEXT, b"", final=False)
            + frame(CONTINUATION, b"", final=False) * 5_000
            + frame(CONTINUATION, PING_MESSAGE)
        )
        assert await client.receive_text() == PONG_MESSAGE


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("fragment", [b"", b"  "])
async def test_fragments_weigh_no_more_than_their_bytes(fragment: bytes) -> None:
    app = App(
        id="1",
        key="278d425bdf160c739803",
        secret="7ad3773142a6692b25b8",
        max_message_bytes=100_000,
        messages_per_second=0,
    )
    many = frame(CONTINUATION, fragment, final=False) * 10_000
    async with serving(app) as server, websocket(server) as client:
        await client.send(frame(TEXT, b"", final=False) + many)
        await client.send(frame(PING))
        assert await client.receive() == Frame(PONG, b"")
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(3):
                await client.send(many + frame(PING))
                assert await client.receive() == Frame(PONG, b"")
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 200_000
        await client.send(frame(CONTINUATION, PING_MESSAGE))
        assert await client.receive_text() == PONG_MESSAGE


async def test_a_message_as_long_as_the_limit_is_read(server: TestServer) -> None:
    head, tail = b'{"event":"pusher:ping","data":"', b'"}'
    filling = b"x" * (10_000 - len(head) - len(tail))
    message = head + filling + tail
    async with websocket(server) as client:
        await client.send(text(message))
        assert await client.receive_text() == PONG_MESSAGE
        await client.send(
            frame(TEXT, message[:5_000], final=False) + frame(CONTINUATION, message[5_000:])
        )
        assert await client.receive_text() == PONG_MESSAGE


@pytest.mark.parametrize("payload", [b"", b"\x00\xff", b"p" * 125])
async def test_a_ping_is_answered_with_its_own_payload(server: TestServer, payload: bytes) -> None:
    async with websocket(server) as client:
        await client.send(frame(PING, payload))
        assert await client.receive() == Frame(PONG, payload)


async def test_an_unasked_pong_is_not_answered(server: TestServer) -> None:
    async with websocket(server) as client:
        await client.send(frame(PONG, b"alive"))
        await client.is_answered()


async def test_a_length_may_be_written_in_more_bytes_than_it_needs(server: TestServer) -> None:
    async with websocket(server) as client:
        await client.send(frame(TEXT, PING_MESSAGE, length=len(PING_MESSAGE)))
        assert await client.receive_text() == PONG_MESSAGE


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        struct.pack("!H", 1000),
        struct.pack("!H", 1001) + b"going away",
        struct.pack("!H", 3000),
        struct.pack("!H", 4999) + "€".encode(),
        struct.pack("!H", 1011) + b"r" * 123,
    ],
)
async def test_a_close_frame_is_echoed_and_the_connection_ends(
    server: TestServer, payload: bytes
) -> None:
    async with websocket(server) as client:
        await client.send(frame(CLOSE, payload))
        assert await client.receive() == Frame(CLOSE, payload)
        await client.receive_end()


async def test_nothing_behind_a_close_frame_is_acted_on(server: TestServer) -> None:
    async with websocket(server) as client:
        await client.send(text(PING_MESSAGE) + close_frame(1000) + text(SUBSCRIBE))
        assert await client.receive_text() == PONG_MESSAGE
        assert await client.receive_close() == (1000, "")
        await client.receive_end()


# What is malformed.


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        pytest.param(frame(TEXT, b"{}", reserved=4), 1002, "reserved bits must be 0", id="rsv1"),
        pytest.param(frame(TEXT, b"{}", reserved=2), 1002, "reserved bits must be 0", id="rsv2"),
        pytest.param(frame(TEXT, b"{}", reserved=1), 1002, "reserved bits must be 0", id="rsv3"),
        pytest.param(frame(PING, b"", reserved=7), 1002, "reserved bits must be 0", id="rsv ping"),
        *(
            pytest.param(frame(opcode, b"{}"), 1002, "invalid opcode", id=f"opcode {opcode}")
            for opcode in (0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF)
        ),
        pytest.param(
            frame(TEXT, PING_MESSAGE, masked=False), 1002, "incorrect masking", id="unmasked text"
        ),
        pytest.param(frame(PING, b"", masked=False), 1002, "incorrect masking", id="unmasked ping"),
        pytest.param(
            frame(PING, b"p" * 126), 1002, "control frame too long", id="ping of 126 bytes"
        ),
        pytest.param(
            frame(CLOSE, b"\x03\xe8" + b"p" * 124), 1002, "control frame too long", id="long close"
        ),
        pytest.param(
            frame(PING, b"", final=False), 1002, "fragmented control frame", id="fragmented ping"
        ),
        pytest.param(
            frame(CONTINUATION, b"{}"), 1002, "unexpected continuation frame", id="continuation"
        ),
        pytest.param(
            frame(TEXT, b"{", final=False) + frame(TEXT, b"}"),
            1002,
            "expected a continuation frame",
            id="text in text",
        ),
        pytest.param(
            frame(TEXT, b"{", final=False) + close_frame(1000),
            1002,
            "incomplete fragmented message",
            id="close in text",
        ),
        pytest.param(frame(CLOSE, b"\x03"), 1002, "close frame too short", id="close of one byte"),
        *(
            pytest.param(close_frame(code), 1002, "invalid status code", id=f"close {code}")
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
        ),
        pytest.param(
            frame(CLOSE, b"\x03\xe8\xff"),
            1007,
            "invalid start byte at position 0",
            id="close in no UTF-8",
        ),
        pytest.param(frame(TEXT, b"\xff"), 1007, "Invalid UTF-8 at byte 0", id="no UTF-8"),
        pytest.param(
            frame(TEXT, b'{"event":"\xed\xa0\x80"}'),
            1007,
            "Invalid UTF-8 at byte 10",
            id="surrogate in UTF-8",
        ),
        pytest.param(
            frame(TEXT, b"\xc5", final=False) + frame(CONTINUATION, b"{"),
            1007,
            "Invalid UTF-8 at byte 0",
            id="half a character",
        ),
        pytest.param(
            frame(BINARY, PING_MESSAGE),
            1003,
            "Binary frames are not part of the protocol",
            id="binary",
        ),
        pytest.param(
            frame(BINARY, b"", final=False),
            1003,
            "Binary frames are not part of the protocol",
            id="beginning of binary",
        ),
        pytest.param(
            text(b"x" * 10_001),
            1009,
            "frame with 10001 bytes exceeds limit of 10000 bytes",
            id="oversized",
        ),
        pytest.param(
            frame(TEXT, length=2**63),
            1009,
            f"frame with {2**63} bytes exceeds limit of 10000 bytes",
            id="absurd length",
        ),
        pytest.param(
            frame(TEXT, length=2**64 - 1),
            1009,
            f"frame with {2**64 - 1} bytes exceeds limit of 10000 bytes",
            id="most absurd length",
        ),
        pytest.param(
            frame(TEXT, b"x" * 6_000, final=False) + frame(CONTINUATION, b"x" * 4_001),
            1009,
            "frame with 4001 bytes after reading 6000 bytes exceeds limit of 10000 bytes",
            id="oversized in fragments",
        ),
    ],
)
async def test_a_malformed_frame_closes_with_its_code_and_reason(
    server: TestServer, sent: bytes, code: int, reason: str
) -> None:
    async with websocket(server) as client:
        await client.send(sent)
        await receive_failure(client, code, reason)


async def test_what_came_before_a_malformed_frame_is_acted_on_and_nothing_behind_it(
    server: TestServer,
) -> None:
    async with websocket(server) as client:
        await client.send(text(SUBSCRIBE) + frame(BINARY, b"{}") + text(PING_MESSAGE))
        assert await client.receive_text() == SUBSCRIBED
        await receive_failure(client, 1003, "Binary frames are not part of the protocol")


@pytest.mark.parametrize("behind", [b"", frame(TEXT, b"{}") * 1_000])
async def test_a_client_that_ignores_its_close_frame_is_cut_off(behind: bytes) -> None:
    async with serving(timer_resolution=0.02, deadlines=Deadlines(linger=0.05)) as server:
        async with websocket(server) as client:
            await client.send(frame(BINARY, b"{}") + behind)
            assert await client.receive_close() == (
                1003,
                "Binary frames are not part of the protocol",
            )
            await client.send_until_cut_off(text(PING_MESSAGE))
        await serves(server)


async def test_the_limit_is_the_apps() -> None:
    app = App(
        id="1", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8", max_message_bytes=300
    )
    async with serving(app) as server, websocket(server) as client:
        await client.send(text(b" " * (300 - len(PING_MESSAGE)) + PING_MESSAGE))
        assert await client.receive_text() == PONG_MESSAGE
        await client.send(text(b" " * 301))
        await receive_failure(client, 1009, "frame with 301 bytes exceeds limit of 300 bytes")


async def test_a_message_may_have_no_limit() -> None:
    app = App(
        id="1", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8", max_message_bytes=0
    )
    async with serving(app) as server, websocket(server) as client:
        for size in (1_000, 100_000, 3_000_000):
            await client.send(text(b" " * size + PING_MESSAGE))
            assert await client.receive_text() == PONG_MESSAGE


# Connections that break.


async def test_a_client_that_resets_its_connection_leaves_its_channels(
    server: TestServer,
) -> None:
    async with server.connected() as staying:
        await staying.subscribe("orders")
        async with websocket(server) as client:
            await client.send(text(SUBSCRIBE))
            assert await client.receive_text() == SUBSCRIBED
            assert await server.request(
                "GET", "/channels/orders", parameters={"info": "subscription_count"}
            ) == (200, '{"occupied":true,"subscription_count":2}')
            client.reset()
        await server.publish("made", "orders", "1")
        assert await staying.receive() == '{"event":"made","channel":"orders","data":"1"}'
        await until_subscription_count(server, 1)


@pytest.mark.parametrize(
    "started",
    [
        b"",
        text(SUBSCRIBE)[:1],
        text(SUBSCRIBE)[:20],
        frame(TEXT, SUBSCRIBE, final=False),
        frame(TEXT, b"x" * 200)[:3],
    ],
    ids=["nothing", "a byte", "a frame", "a message", "a length"],
)
@pytest.mark.parametrize("politely", [True, False])
async def test_a_connection_may_break_in_the_middle_of_anything(
    server: TestServer, started: bytes, politely: bool
) -> None:
    async with websocket(server) as client:
        await client.send(text(SUBSCRIBE))
        assert await client.receive_text() == SUBSCRIBED
        await client.send_apart(started)
        if politely:
            client.half_close()
            await client.receive_end()
        else:
            client.reset()
    await until_subscription_count(server, 0)


async def test_a_refused_client_may_reset_its_connection(server: TestServer) -> None:
    for _ in range(20):
        async with connected_socket(server) as client:
            await client.send(handshake("/app/unknown"))
            client.reset()


async def until_subscription_count(server: TestServer, count: int) -> None:
    """Ask until the channel `orders` has so many subscribers."""
    wanted = f'{{"occupied":{"true" if count else "false"},"subscription_count":{count}}}'
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await server.request(
                "GET", "/channels/orders", parameters={"info": "subscription_count"}
            )
            if answer == (200, wanted):
                return
