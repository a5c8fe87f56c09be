"""
A client that speaks bytes: HTTP as it is written, WebSocket frames with every bit in reach.

A real client library refuses to send what these tests have to send, and hides what they assert.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlencode

import orjson

from reverb_py.core.hub import Hub
from reverb_py.protocol.signing import signed_query
from reverb_py.server.listener import Listener
from reverb_py.testing import PATIENCE, PusherClient, TestServer

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "SWITCHING_PROTOCOLS",
    "TEXT",
    "Answer",
    "Frame",
    "RawClient",
    "close_frame",
    "connected_socket",
    "error_json",
    "frame",
    "handshake",
    "hub_behind",
    "listener_behind",
    "request",
    "request_with_long_answer",
    "serves",
    "stop_time",
    "text",
    "turns_until",
    "websocket",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

SWITCHING_PROTOCOLS = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    b"\r\n"
)
"""The answer to `handshake()`: RFC 6455's own example, and no subprotocol and no extension."""

_MASK = b"\x37\xfa\x21\x3d"
_HANDSHAKE = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


class Frame(NamedTuple):
    """One frame from the server, which never fragments and never masks."""

    opcode: int
    payload: bytes


class Answer(NamedTuple):
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """
    Return a client's frame.

    `reserved` is the three reserved bits as a number; `length` is announced in place of the real
    one, in the eight-byte form.
    """
    first = (0x80 if final else 0) | reserved << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if length is not None:
        head = struct.pack("!BBQ", first, mask_bit | 127, length)
    elif len(payload) < 126:
        head = struct.pack("!BB", first, mask_bit | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, mask_bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, len(payload))
    if not masked:
        return head + payload
    repeated = _MASK * (len(payload) // 4 + 1)
    mixed = bytes(byte ^ mask for byte, mask in zip(payload, repeated, strict=False))
    return head + _MASK + mixed


def text(message: object) -> bytes:
    """Return one text frame; what is not a string or bytes is sent as JSON."""
    if isinstance(message, str):
        return frame(TEXT, message.encode())
    return frame(TEXT, message if isinstance(message, bytes) else orjson.dumps(message))


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a client's close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


def handshake(
    path: str = "/app/278d425bdf160c739803?protocol=7",
    *,
    start: str = "GET {path} HTTP/1.1",
    **headers: str | None,
) -> bytes:
    """
    Return a WebSocket handshake.

    Headers are given with `_` for `-`; None takes one away that is there by default.
    """
    merged: dict[str, str | None] = dict(_HANDSHAKE)
    by_lower = {name.lower(): name for name in merged}
    for keyword, value in headers.items():
        name = keyword.replace("_", "-")
        merged[by_lower.get(name.lower(), name)] = value
    lines = [start.format(path=path)]
    lines += [f"{name}: {value}" for name, value in merged.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode()


def request(start: str, *headers: str, body: bytes = b"") -> bytes:
    """Return an HTTP/1.1 request; a body is announced by its length."""
    lines = [f"{start} HTTP/1.1", "Host: 127.0.0.1", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def error_json(code: int, message: str) -> bytes:
    """Return `pusher:error` as it is on the wire."""
    return b'{"event":"pusher:error","data":{"code":%d,"message":%b}}' % (
        code,
        orjson.dumps(message),
    )


class RawClient:
    """A TCP connection. Whatever does not come within `PATIENCE` seconds raises TimeoutError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.socket_id = ""

    async def send(self, data: bytes) -> None:
        """Send bytes, in one write."""
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def send_apart(self, *pieces: bytes) -> None:
        """Send pieces that the server reads one by one."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            await self.send(piece)
            # The server is on this loop: it takes what is there before it is our turn again.
            for _ in range(3):
                await asyncio.sleep(0)

    async def send_until_cut_off(self, data: bytes) -> None:
        """Send the same again and again, reading nothing, until the connection is gone."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await self.send(data)
                except ConnectionError:
                    return
                await asyncio.sleep(0)

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.writer.write_eof()

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    # HTTP.

    async def receive_head(self) -> bytes:
        """Return the next answer's head, its empty line included."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def receive_answer(self, *, head_only: bool = False) -> Answer:
        """Return the next HTTP answer."""
        lines = (await self.receive_head()).decode("latin-1").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, lines
            headers[name.lower()] = value
        length = 0 if head_only else int(headers.get("content-length", 0))
        async with asyncio.timeout(PATIENCE):
            return Answer(int(status), headers, await self.reader.readexactly(length))

    # WebSocket.

    async def receive(self) -> Frame:
        """Return the next frame."""
        async with asyncio.timeout(PATIENCE):
            first, second = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80
            length = second
            if second == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif second == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return Frame(first & 0x0F, await self.reader.readexactly(length))

    async def receive_text(self) -> bytes:
        """Return the next message."""
        opcode, payload = await self.receive()
        assert opcode == TEXT, (opcode, payload)
        return payload

    async def receive_close(self) -> tuple[int, str]:
        """Take a close frame and return its code and reason."""
        opcode, payload = await self.receive()
        assert opcode == CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    async def receive_hello(self) -> None:
        """Take `pusher:connection_established` and remember the socket id."""
        hello = orjson.loads(await self.receive_text())
        assert hello["event"] == "pusher:connection_established"
        self.socket_id = orjson.loads(hello["data"])["socket_id"]

    async def open_websocket(self, path: str = "/app/278d425bdf160c739803?protocol=7") -> None:
        """Shake hands and take the hello."""
        await self.send(handshake(path))
        assert await self.receive_head() == SWITCHING_PROTOCOLS
        await self.receive_hello()

    async def receive_fatal_error(self, code: int, message: str) -> None:
        """Take the message and the close frame with the same words, answer it, and see the end."""
        assert await self.receive_text() == error_json(code, message)
        assert await self.receive_close() == (code, message)
        await self.send(close_frame(1000))
        await self.receive_end()

    async def receive_end(self) -> None:
        """See the server close its side with nothing further said."""
        async with asyncio.timeout(PATIENCE):
            assert await self.reader.read() == b""

    async def is_answered(self) -> None:
        """See that the conversation goes on."""
        await self.send(text('{"event":"pusher:ping"}'))
        assert await self.receive_text() == b'{"event":"pusher:pong","data":"{}"}'


@asynccontextmanager
async def connected_socket(
    server: TestServer,
    *,
    receive_buffer: int | None = None,
    source: str | None = None,
    head: bytes = b"",
) -> AsyncIterator[RawClient]:
    """
    Connect to the server's port and say nothing yet.

    `receive_buffer` is the bytes the system may keep for a client that does not read, `source` the
    address that it connects from, and `head` what it says before anything else, TLS included.
    """
    path = server.socket_path
    connection = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
    connection.setblocking(False)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        if source is not None:
            connection.bind((source, 0))
        address = ("127.0.0.1", server.port) if path is None else str(path)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except OSError:
        connection.close()
        raise
    if head:
        # The system adds it to what follows.
        connection.send(head, socket.MSG_MORE if server.tls is not None else 0)
    # The limit is what the reader takes off the socket before a test asks for it.
    reader, writer = await asyncio.open_connection(
        sock=connection,
        limit=65_536,
        ssl=server.tls,
        server_hostname=None if server.tls is None else "localhost",
    )
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await writer.wait_closed()
        except OSError:
            pass


@asynccontextmanager
async def websocket(server: TestServer) -> AsyncIterator[RawClient]:
    """Open a WebSocket to the server's first app and take the hello."""
    async with connected_socket(server) as client:
        await client.open_websocket(f"/app/{server.app.key}?protocol=7")
        yield client


async def request_with_long_answer(server: TestServer, occupant: PusherClient) -> bytes:
    """Have a client occupy many channels; return a request whose answer of 30 kB lists them."""
    for number in range(150):
        await occupant.subscribe(f"{number:_>200}")
    path = f"/apps/{server.app.id}/channels"
    query = signed_query(server.app.key, server.app.secret, "GET", path, b"", int(time.time()))
    return request(f"GET {path}?{urlencode(query)}")


def hub_behind(server: TestServer) -> Hub:
    """Return the state of the server's first app, for what can't be seen from outside."""
    return next(iter(server._running.hubs))


def listener_behind(server: TestServer) -> Listener:
    """Return what listens for the server, for what can't be seen from outside."""
    return server._running.listener


def stop_time(server: TestServer) -> None:
    """Have no time pass for what the server's first app allows in a second."""
    hub = hub_behind(server)
    now = hub.clock()
    hub.clock = lambda: now


async def turns_until(condition: Callable[[], bool]) -> int:
    """Count the turns of the event loop, which is the server's too, until something holds."""
    count = 0
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)
            count += 1
    return count


async def serves(server: TestServer) -> None:
    """See that a new client can connect, subscribe and receive what a backend publishes."""
    async with server.connected() as client:
        await client.subscribe("still-serving")
        await server.publish("checked", "still-serving", "1")
        assert await client.receive() == (
            '{"event":"checked","channel":"still-serving","data":"1"}'
        )
