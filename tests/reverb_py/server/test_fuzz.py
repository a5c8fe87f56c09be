"""Random and mutated bytes: no exception escapes, nothing hangs, and the server still serves."""

import asyncio
import random

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from reverb_py.testing import PATIENCE, serving
from tests.reverb_py.server.raw_client import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawClient,
    connected_socket,
    frame,
    handshake,
    request,
    serves,
    text,
    websocket,
)

CONVERSATIONS = 40
"""Conversations with one server for each seed."""

fuzzed = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)

MESSAGES = [
    text('{"event":"pusher:ping","data":{}}'),
    text('{"event":"pusher:subscribe","data":{"channel":"orders"}}'),
    text(
        '{"event":"pusher:subscribe","data":"{\\"channel\\":\\"private-a\\",\\"auth\\":\\"k:s\\"}"}'
    ),
    text('{"event":"pusher:unsubscribe","data":{"channel":"orders"}}'),
    text('{"event":"client-typing","channel":"private-a","data":[1,{"a":"\\u00e9"}]}'),
    frame(PING, b"ping"),
    frame(PONG),
    frame(TEXT, b'{"event":', final=False) + frame(CONTINUATION, b'"pusher:ping"}'),
    frame(TEXT, b"x" * 9_000),
    frame(CLOSE, b"\x03\xe8"),
]
REQUESTS = [
    request("GET /up"),
    request("HEAD /up", "Connection: keep-alive"),
    request("POST /apps/1001/events?auth_key=278d425bdf160c739803", body=b'{"name":"made"}'),
    request("POST /apps/1001/events", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
    request("POST /up", "Expect: 100-continue", body=b"{}"),
    request("GET /up", "Connection: Upgrade", "Upgrade: h2c"),
    request("OPTIONS /apps/1001/channels", "Origin: null"),
    handshake(),
    handshake("/app/unknown"),
]


def mutated(source: random.Random, whole: bytes) -> bytes:
    """Return the bytes with a few of them changed, taken away, repeated or added."""
    result = bytearray(whole)
    for _ in range(source.choice((0, 1, 1, 2, 5))):
        place = source.randrange(len(result) + 1)
        match source.randrange(5):
            case 0:
                result[place : place + 1] = source.randbytes(1)
            case 1:
                del result[place : place + source.randrange(1, 8)]
            case 2:
                result[place:place] = result[place : place + source.randrange(1, 300)]
            case 3:
                result[place:place] = source.randbytes(source.randrange(1, 40))
            case _:
                bit = 1 << source.randrange(8)
                result[place : place + 1] = bytes(byte ^ bit for byte in result[place : place + 1])
    return bytes(result)


def conversation(source: random.Random, pieces: list[bytes]) -> list[bytes]:
    """Return what one client sends, in the segments in which it sends it."""
    if source.random() < 0.2:
        return [source.randbytes(source.randrange(1, 2_000))]
    whole = mutated(source, b"".join(source.choices(pieces, k=source.randrange(1, 6))))
    cut = source.randrange(len(whole) + 1)
    return [whole] if source.random() < 0.5 else [whole[:cut], whole[cut:]]


async def say(client: RawClient, segments: list[bytes], politely: bool) -> None:
    """Send everything and leave; a server that says goodbye first is in its right."""
    try:
        await client.send_apart(*segments)
        if politely:
            client.half_close()
            async with asyncio.timeout(PATIENCE):
                await client.reader.read()
        else:
            client.reset()
    except OSError:
        pass


@given(seed=st.integers(0, 2**32))
@fuzzed
async def test_any_frames_leave_the_server_serving(seed: int) -> None:
    source = random.Random(seed)
    async with serving() as server:
        for _ in range(CONVERSATIONS):
            async with websocket(server) as client:
                await say(client, conversation(source, MESSAGES), source.random() < 0.7)
        await serves(server)


@given(seed=st.integers(0, 2**32))
@fuzzed
async def test_any_requests_leave_the_server_serving(seed: int) -> None:
    source = random.Random(seed)
    async with serving() as server:
        for _ in range(CONVERSATIONS):
            async with connected_socket(server) as client:
                await say(client, conversation(source, REQUESTS), source.random() < 0.7)
        await serves(server)


@given(payload=st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
@settings(fuzzed, max_examples=100)
async def test_any_text_is_answered_or_closes_the_connection(payload: bytes) -> None:
    async with serving() as server, connected_socket(server) as client:
        await client.open_websocket()
        await client.send(frame(TEXT, payload) + frame(PING, b"end"))
        opcode, answer = await client.receive()
        while opcode == TEXT and answer.startswith(b'{"event":"pusher'):
            opcode, answer = await client.receive()
        assert (opcode, answer) == (PONG, b"end") or (
            opcode == CLOSE and answer.startswith(b"\x03\xefInvalid UTF-8 at byte ")
        )
