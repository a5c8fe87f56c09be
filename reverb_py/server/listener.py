"""
The listening socket, and what all of its connections share.

Everything runs on one event loop: connections are callbacks, deadlines are one wheel, deliveries
are one flush a turn.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Protocol

from websockets.protocol import Protocol as Framing

from reverb_py.core.apps import App
from reverb_py.core.hubs import Hubs
from reverb_py.core.timer_wheel import Timed, TimerWheel
from reverb_py.protocol import frames
from reverb_py.server.addresses import Addresses, Caller, TrustedProxies, address_of
from reverb_py.server.arrivals import Arrivals
from reverb_py.server.http_api import HttpApi
from reverb_py.server.http_connection import HttpConnection
from reverb_py.server.slow_clients import SlowClients

__all__ = ["Connection", "ConnectionTrace", "Deadlines", "Listener"]

_BACKLOG = 4096
_ACCEPTED_AT_ONCE = 64
_RECEIVE_BUFFER_BYTES = 16_384
_WAVE = 100
_WAVE_SECONDS = 0.1
# A connection begins, and is read from, within so many turns of being accepted.
_TURNS_TO_BEGIN = 5
# From Python 3.13 on, the loop would remove the socket's file, which may be shared.
_KEEPING_THE_PATH: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long a client may take for what, in seconds."""

    head: float = 10.0
    """For a request's head, from its first byte or the connection's beginning."""
    body: float = 30.0
    """For a request's body, from the end of its head."""
    keep_alive: float = 75.0
    """To the next request."""
    linger: float = 5.0
    """To go, once it has been told the end."""
    turn: float = 0.001
    """To be served, when it has sent more than a piece at once, until it is everybody's turn."""


class Connection(Timed, Protocol):
    """What the listener asks of a connection, whichever protocol it speaks."""

    @property
    def comes_back(self) -> bool:
        """Whether its client connects again, here or elsewhere, as soon as it is told to go."""

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
    not arrived whole. 0 bounds nothing. `clock` is seconds since 1970. `error_frame` returns the
    `pusher:error` of a refusal or an end, for a code and a message.

    New connections speak TLS under `tls`; one may be put in place of another at any time.
    `is_draining` says that the server is on its way out and wants no new clients.

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
        addresses: Addresses | None = None,
        trace: ConnectionTrace | None = None,
        error_frame: Callable[[int, str], bytes] = frames.error,
    ) -> None:
        self.hubs = hubs
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self.tls: ssl.SSLContext | None = None
        self.addresses = addresses or Addresses()
        self.is_draining = False
        self._listening: list[tuple[socket.socket, asyncio.Server | Arrivals]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._all_closed: asyncio.Event | None = None
        self._sends_away = False
        self._leaving: set[Connection] = set()
        self._all_left = asyncio.Event()
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
        self.limit_hits = self.addresses.limit_hits
        self.wheel = wheel
        self.connections: set[Connection] = set()
        # Parsers at the beginning of a frame, by the message size they allow, for whoever is next.
        self.spare_framings: dict[int, Framing] = {}
        self.call_soon = self._loop.call_soon
        self.time = self._loop.time
        self.deadlines = deadlines
        self.trace = trace
        self.error_frame = error_frame

    async def start(
        self,
        sockets: Sequence[socket.socket],
        *,
        tls: ssl.SSLContext | None = None,
        proxies: TrustedProxies | None = None,
    ) -> None:
        """
        Listen on these sockets, which are closed when listening ends.

        `proxies` are those that say in a PROXY head for whom they connect; nobody else may then.

        Raises:
            OSError: Somebody else listens there.
        """
        self.tls = tls
        for listening in sockets:
            # Accepted connections inherit this bound on what one client may have waiting.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            listening.listen(_BACKLOG)
            server: asyncio.Server | Arrivals
            if tls is not None or proxies is not None:
                server = Arrivals(self, listening, _ACCEPTED_AT_ONCE, proxies)
            elif listening.family == socket.AF_UNIX:
                server = await self._loop.create_unix_server(
                    lambda: HttpConnection(self),
                    sock=listening,
                    backlog=_ACCEPTED_AT_ONCE,
                    **_KEEPING_THE_PATH,
                )
            else:
                server = await self._loop.create_server(
                    lambda: HttpConnection(self), sock=listening, backlog=_ACCEPTED_AT_ONCE
                )
            self._listening.append((listening, server))
            # asyncio accepts as many connections in one go as may wait, before anybody's next turn.
            listening.listen(_BACKLOG)
        self._advance_wheel()

    async def drain(self, delay_seconds: float, seconds: float) -> None:
        """
        Stop being a server to go to, while those who are here are served.

        From now on `is_draining` is true. After the delay, in which new clients still come in, the
        port is closed, and WebSocket clients are told to come back (4200), evenly over `seconds`.
        """
        self.is_draining = True
        if delay_seconds:
            await asyncio.sleep(delay_seconds)
        await self._stop_accepting()
        if seconds:
            await self._send_away(seconds, math.ceil(seconds / _WAVE_SECONDS))

    async def stop(self, grace_seconds: float) -> None:
        """
        Stop listening, close every connection, and wait until they are gone.

        WebSocket clients are told to come back (4200). They do so at once, so a crowd is told in
        waves, within half of the time. Whoever is still there after `grace_seconds` is cut off.
        """
        self.is_draining = True
        await self._stop_accepting()
        self._all_closed = asyncio.Event()
        try:
            async with asyncio.timeout(grace_seconds):
                waves = math.ceil(len(self.connections) / _WAVE)
                await self._send_away(min(grace_seconds / 2, waves * _WAVE_SECONDS), waves)
                self._is_stopping = True
                for connection in list(self.connections):
                    connection.shut_down()
                if self.connections:
                    await self._all_closed.wait()
        except TimeoutError:
            pass
        finally:
            for connection in list(self.connections):
                connection.abort()
            if self._timer is not None:
                self._timer.cancel()

    async def _stop_accepting(self) -> None:
        """Close the port, once what the system has accepted for us has come in."""
        waiting = select.poll()
        for listening, _ in self._listening:
            waiting.register(listening, select.POLLIN)
        turns = _TURNS_TO_BEGIN if self._listening else 0
        # Others may come without end. uvloop accepts one in a turn.
        for _ in range(_BACKLOG):
            if not turns:
                break
            await asyncio.sleep(0)
            turns = _TURNS_TO_BEGIN if waiting.poll(0) else turns - 1
        for _, server in self._listening:
            server.close()
        self._listening = []

    async def _send_away(self, seconds: float, most_waves: int) -> None:
        """Tell clients that come back to go, in waves that are evenly spread."""
        self._sends_away = True
        leaving = [connection for connection in self.connections if connection.comes_back]
        self._leaving = set(leaving)
        self._all_left.clear()
        waves = min(most_waves, len(leaving))
        start = self.time()
        for wave in range(waves):
            if (pause := start + seconds * wave / waves - self.time()) > 0:
                try:
                    async with asyncio.timeout(pause):
                        await self._all_left.wait()
                except TimeoutError:
                    pass
            if not self._leaving:
                return
            first, behind = (len(leaving) * number // waves for number in (wave, wave + 1))
            for connection in leaving[first:behind]:
                if connection in self._leaving:
                    connection.shut_down()

    def caller_at(self, transport: asyncio.BaseTransport) -> Caller | None:
        """Take note of who connects; None when nobody is counted."""
        return self.addresses.caller(address_of(transport))

    def connection_opened(self, connection: Connection) -> None:
        """Take note of a connection; one that begins while its like are sent away goes at once."""
        self.connections.add(connection)
        if self._is_stopping or (self._sends_away and connection.comes_back):
            self.call_soon(connection.shut_down)

    def connection_closed(self, connection: Connection) -> None:
        """Forget a connection, its deadline included. Safe to call twice."""
        self.connections.discard(connection)
        self.wheel.cancel(connection)
        if self._leaving:
            self._leaving.discard(connection)
            if not self._leaving:
                self._all_left.set()
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
