"""
The listening socket, and what all of its connections share.

Everything runs on one event loop: connections are callbacks, deadlines are one wheel, deliveries
are one flush a turn.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Protocol

from websockets.protocol import Protocol as Framing

from reverb_py.core.apps import App
from reverb_py.core.hubs import Hubs
from reverb_py.core.limits import AddressLimits, Objection, network_of
from reverb_py.core.timer_wheel import Timed, TimerWheel
from reverb_py.server.http_api import HttpApi
from reverb_py.server.http_connection import HttpConnection
from reverb_py.server.slow_clients import SlowClients

__all__ = ["Connection", "ConnectionTrace", "Deadlines", "Listener"]

_BACKLOG = 4096
_ACCEPTED_AT_ONCE = 64
_RECEIVE_BUFFER_BYTES = 16_384
_WAVE = 100
_WAVE_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long a client may take for what, in seconds."""

    head: float = 10.0
    """For a request's head, from its first byte or the connection's beginning."""
    body: float = 30.0
    """For a request's body, from the end of its head."""
    keep_alive: float = 75.0
    """To the next request."""
    pong: float = 30.0
    """To say anything at all, from the first of two pings on."""
    linger: float = 5.0
    """To go, once it has been told the end."""
    turn: float = 0.001
    """To be served, when it has sent more than a piece at once, until it is everybody's turn."""


class Connection(Timed, Protocol):
    """What the listener asks of a connection, whichever protocol it speaks."""

    def shut_down(self) -> None:
        """Tell the client, close, and leave `Listener.connections` when it has gone."""

    def abort(self) -> None:
        """Cut the connection off."""


class ConnectionTrace(Protocol):
    """Where refusals, close and control frames and HTTP answers are shown to whoever debugs."""

    def connection_refused(self, path: str, code: int, reason: str) -> None: ...

    def connection_ending(self, app: App, socket_id: str, code: int, reason: str) -> None: ...

    def control_frame(self, app: App, socket_id: str, title: str) -> None: ...

    def request_answered(self, method: str, path: str, status: int, answer: bytes) -> None: ...


class Listener:
    """
    Accepts connections and gives each what it needs.

    `wheel` keeps the deadlines of all of them and is advanced here. `max_request_bytes` bounds an
    HTTP request's body. `max_buffered_bytes` bounds what may wait for one slow WebSocket client
    before it is closed with 4100, `max_buffered_bytes_total` what may wait for all of them
    together, and `max_waiting_bytes` all bodies together of requests that are not signed and have
    not arrived whole. 0 bounds nothing. `clock` is seconds since 1970.

    Where no app is known yet, it is counted here: `refused` handshakes by their code, HTTP
    `errors` by their status, and `limit_hits` by the variable of the limit.
    """

    def __init__(
        self,
        hubs: Hubs,
        http_api: HttpApi,
        wheel: TimerWheel,
        *,
        max_request_bytes: int,
        max_buffered_bytes: int,
        max_buffered_bytes_total: int = 0,
        max_waiting_bytes: int = 0,
        clock: Callable[[], float],
        deadlines: Deadlines = Deadlines(),
        address_limits: AddressLimits | None = None,
        trace: ConnectionTrace | None = None,
    ) -> None:
        self.hubs = hubs
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._all_closed: asyncio.Event | None = None
        self._is_stopping = False
        self._date = (0, "")
        # What nearly every publish is answered in the second of this header.
        self.usual_answer = ("", b"")
        self.http_api = http_api
        self.max_request_bytes = max_request_bytes
        self.max_buffered_bytes = max_buffered_bytes
        self.max_waiting_bytes = max_waiting_bytes
        self.waiting_bytes = 0
        self.slow_clients = SlowClients(max_buffered_bytes_total)
        self.refused: Counter[int] = Counter()
        self.errors: Counter[int] = Counter()
        self.limit_hits: Counter[str] = Counter()
        self.wheel = wheel
        self.connections: set[Connection] = set()
        # Parsers at the beginning of a frame, by the message size they allow, for whoever is next.
        self.spare_framings: dict[int, Framing] = {}
        self.call_soon = self._loop.call_soon
        self.time = self._loop.time
        self.deadlines = deadlines
        self._address_limits = address_limits
        self._addresses: dict[asyncio.Transport, str] = {}
        self.trace = trace

    async def start(self, host: str, port: int, *, shares_port: bool = False) -> int:
        """
        Listen, and return the port, which the system picks when `port` is 0.

        With `shares_port` other processes may listen there as well; each connection comes to one.

        Raises:
            OSError: The address is in use or not this machine's.
        """
        self._server = await self._loop.create_server(
            lambda: HttpConnection(self),
            host,
            port,
            backlog=_ACCEPTED_AT_ONCE,
            reuse_port=shares_port or None,
        )
        for listening in self._server.sockets:
            # Accepted connections inherit this bound on what one client may have waiting.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            # asyncio accepts as many connections in one go as may wait, before anybody's next turn.
            with socket.socket(fileno=os.dup(listening.fileno())) as same:
                same.listen(_BACKLOG)
        self._advance_wheel()
        listening_port: int = self._server.sockets[0].getsockname()[1]
        return listening_port

    async def stop(self, grace_seconds: float) -> None:
        """
        Stop listening, close every connection, and wait until they are gone.

        WebSocket clients are told to come back (4200). They do so at once, so a crowd is told in
        waves, within half of the time. Whoever is still there after `grace_seconds` is cut off.
        """
        self._is_stopping = True
        if self._server is not None:
            self._server.close()
        self._all_closed = asyncio.Event()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._shut_down_in_waves(grace_seconds / 2)
                if self.connections:
                    await self._all_closed.wait()
        except TimeoutError:
            for connection in list(self.connections):
                connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    async def _shut_down_in_waves(self, seconds: float) -> None:
        leaving = list(self.connections)
        waves = range(0, len(leaving), _WAVE)
        pause = min(_WAVE_SECONDS, seconds / max(1, len(waves)))
        for start in waves:
            if start and pause:
                await asyncio.sleep(pause)
            for connection in leaving[start : start + _WAVE]:
                if connection in self.connections:
                    connection.shut_down()

    def transport_opened(self, transport: asyncio.Transport) -> Objection | None:
        """Count a connection against its address's limits; return why it may not stay, or None."""
        if self._address_limits is None:
            return None
        address = self._addresses[transport] = _address(transport)
        return self._counted(self._address_limits.admit(address))

    def objection_to_request(self, transport: asyncio.Transport) -> Objection | None:
        """Count an HTTP request against its address's limit; return why it is refused, or None."""
        if self._address_limits is None:
            return None
        return self._counted(self._address_limits.admit_request(self._addresses[transport]))

    def _counted(self, objection: Objection | None) -> Objection | None:
        if objection is not None:
            self.limit_hits[objection.limit] += 1
        return objection

    @property
    def addresses(self) -> int:
        """How many entries the tables of the addresses' limits have."""
        return 0 if self._address_limits is None else self._address_limits.addresses

    def address_of(self, transport: asyncio.Transport) -> str:
        """Return what stands for the client's address where addresses are counted."""
        if self._address_limits is None:
            return _address(transport)
        return self._addresses[transport]

    def transport_closed(self, transport: asyncio.Transport) -> None:
        """Forget a connection that was counted."""
        if self._address_limits is not None:
            self._address_limits.release(self._addresses.pop(transport))

    def connection_opened(self, connection: Connection) -> None:
        """Take note of a connection; one that was accepted while the server stops goes at once."""
        self.connections.add(connection)
        if self._is_stopping:
            self.call_soon(connection.shut_down)

    def connection_closed(self, connection: Connection) -> None:
        """Forget a connection, its deadline included. Safe to call twice."""
        self.connections.discard(connection)
        self.wheel.cancel(connection)
        if self._all_closed is not None and not self.connections:
            self._all_closed.set()

    def date_header(self) -> str:
        """Return the header line with the current second, `Date: …` and CRLF."""
        now = int(self._clock())
        if self._date[0] != now:
            self._date = (now, f"Date: {formatdate(now, usegmt=True)}\r\n")
        return self._date[1]

    def _advance_wheel(self) -> None:
        loop = self._loop
        self._timer = loop.call_later(self.wheel.resolution, self._advance_wheel)
        self.wheel.advance(loop.time())


def _address(transport: asyncio.Transport) -> str:
    peer = transport.get_extra_info("peername")
    return network_of(str(peer[0])) if peer else ""
