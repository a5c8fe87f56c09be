"""Thousands of clients that cost little: each is one socket and a few counters."""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter
from collections.abc import Callable

import pytest

from reverb_py.core.apps import App
from reverb_py.protocol import signing

__all__ = ["Crowd", "allow_connections"]

_HANDSHAKE = (
    "GET /app/%s?protocol=7&client=crowd&version=1 HTTP/1.1\r\nHost: localhost\r\n"
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def allow_connections(number: int) -> None:
    """
    Have this process allowed to open so many sockets, beside what else it has open.

    Fails the test where the system does not allow it.
    """
    needed = number + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.fail(
            f"This test opens {number} sockets, and the system allows {hard} open files: raise "
            f"the hard limit to {needed} or more (`ulimit -Hn`, or LimitNOFILE= of a service)",
            pytrace=False,
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Crowd:
    """
    Clients that subscribe to one private channel, and come back at once when they are cut off.

    `port_of` says where client number so-and-so connects, also each time it comes back.
    """

    def __init__(self, app: App, channel: str, size: int, port_of: Callable[[int], int]) -> None:
        self.app = app
        self.channel = channel
        self.port_of = port_of
        self.members = [_Member(self, number) for number in range(size)]
        self.subscribed = 0
        self.lost = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._is_over = False

    def connect(self) -> None:
        """Have everybody connect and subscribe."""
        for member in self.members:
            self.connect_one(member)

    def connect_one(self, member: _Member) -> None:
        if not self._is_over:
            task = asyncio.create_task(self._connect(member))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, member: _Member) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                port = self.port_of(member.number)
                await loop.create_connection(lambda: member, "127.0.0.1", port)
                return
            except OSError:
                await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[], bool], patience: float) -> None:
        """Wait up to so many seconds until something is so of which clients hear."""
        try:
            async with asyncio.timeout(patience):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(
                f"{self.subscribed} of {len(self.members)} are subscribed, {self.lost} connections "
                f"were lost, and {sum(bool(m.heard) for m in self.members)} have heard something"
            ) from None

    def changed(self) -> None:
        self._changed.set()

    def heard(self) -> Counter[tuple[str, ...]]:
        """Return what clients have heard, the data of all events in order, and how many have."""
        return Counter(tuple(member.heard) for member in self.members)

    async def leave(self) -> None:
        """Have everybody hang up, for good."""
        self._is_over = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for member in self.members:
            member.hang_up()
        await asyncio.sleep(0)


class _Member(asyncio.Protocol):
    """One client; what the server says is short, so that a frame's length is in its head."""

    __slots__ = ("_buffer", "_crowd", "_is_subscribed", "_transport", "heard", "number")

    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd = crowd
        self._buffer = b""
        self._is_subscribed = False
        self._transport: asyncio.Transport | None = None
        self.number = number
        self.heard: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""
        transport.write((_HANDSHAKE % self._crowd.app.key).encode())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._buffer.startswith(b"HTTP/1.1"):
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                # On a machine that is too busy a request may come too late; then it comes again.
                self.hang_up()
                return
            self._buffer = rest
        while len(self._buffer) >= 4:
            length, start = self._buffer[1], 2
            assert length < 127, "the server says more than such a client understands"
            if length == 126:
                length, start = int.from_bytes(self._buffer[2:4], "big"), 4
            if len(self._buffer) < start + length:
                return
            opcode, payload = self._buffer[0] & 15, self._buffer[start : start + length]
            self._buffer = self._buffer[start + length :]
            if opcode == 1:
                self._told(json.loads(payload))

    def connection_lost(self, exc: Exception | None) -> None:
        crowd = self._crowd
        self._transport = None
        crowd.lost += 1
        if self._is_subscribed:
            self._is_subscribed = False
            crowd.subscribed -= 1
        crowd.changed()
        crowd.connect_one(self)

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _told(self, message: dict[str, str]) -> None:
        crowd, event = self._crowd, message["event"]
        if event == "pusher:connection_established":
            socket_id = json.loads(message["data"])["socket_id"]
            app = crowd.app
            auth = signing.channel_auth(app.key, app.secret, socket_id, crowd.channel)
            self._say("pusher:subscribe", {"channel": crowd.channel, "auth": auth})
        elif event == "pusher_internal:subscription_succeeded":
            assert not self._is_subscribed, "subscribed twice"
            self._is_subscribed = True
            crowd.subscribed += 1
            crowd.changed()
        elif event == "pusher:ping":
            self._say("pusher:pong", {})
        elif event != "pusher:pong":
            assert not event.startswith("pusher:"), message
            self.heard.append(message["data"])
            crowd.changed()

    def _say(self, event: str, data: object) -> None:
        payload = json.dumps({"event": event, "data": data}).encode()
        length = len(payload)
        head = (
            bytes([0x81, 0x80 | length])
            if length < 126
            else b"\x81\xfe%b" % length.to_bytes(2, "big")
        )
        assert self._transport is not None
        # A mask of zeros leaves what it masks as it is.
        self._transport.write(head + bytes(4) + payload)
