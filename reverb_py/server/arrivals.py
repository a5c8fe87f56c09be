"""
Connections that have something to go through before they speak HTTP.

That is a PROXY head, where proxies send one, and a TLS handshake, in this order. Until then a
connection is a socket and a deadline; nothing of what a client does wrong there is worth a line.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, ClassVar

import structlog

from reverb_py.protocol.proxy_heads import MAX_HEAD_BYTES, InvalidProxyHead, decode_proxy_head
from reverb_py.server.addresses import Caller, TrustedProxies
from reverb_py.server.http_connection import HttpConnection

if TYPE_CHECKING:
    from reverb_py.server.listener import Listener

__all__ = ["Arrivals"]

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS = 1.0
_WRITE_BUFFER_BYTES = 65_536


class Arrivals:
    """
    Accepts the connections of a listening socket, so many in a turn.

    They shake hands with what is the listener's `tls` then; None is plain. With `proxies`, each
    comes from one of them and says in a PROXY head for whom; others are closed at once.
    """

    def __init__(
        self,
        listener: Listener,
        listening: socket.socket,
        at_once: int,
        proxies: TrustedProxies | None,
    ) -> None:
        self.listener = listener
        self.proxies = proxies
        self.loop = asyncio.get_running_loop()
        self._listening = listening
        self._at_once = at_once
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Accept nothing more, and close the listening socket."""
        self.loop.remove_reader(self._listening)
        if self._pause is not None:
            self._pause.cancel()
        self._listening.close()

    def _resume(self) -> None:
        self._pause = None
        self.loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(self._at_once):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                if exc.errno not in _OUT_OF_RESOURCES:
                    raise
                structlog.get_logger("reverb_py").error(
                    "Can't accept connections", reason=exc.strerror, seconds=_PAUSE_SECONDS
                )
                self.loop.remove_reader(self._listening)
                self._pause = self.loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            connection.setblocking(False)
            peer = str(address[0]) if isinstance(address, tuple) else ""
            if self.proxies is None:
                _Arrival(self, connection, peer).shake_hands(self.listener.addresses.caller(peer))
            elif self.proxies.trusts(peer):
                _Arrival(self, connection, peer).await_head()
            else:
                connection.close()


class _Arrival:
    """One accepted socket, until its connection begins."""

    __slots__ = (
        "_arrivals",
        "_handshake",
        "_head",
        "_peer",
        "_socket",
        "timer_due",
        "timer_slot",
    )

    comes_back: ClassVar[bool] = False

    def __init__(self, arrivals: Arrivals, connection: socket.socket, peer: str) -> None:
        self._arrivals = arrivals
        self._socket: socket.socket | None = connection
        self._peer = peer
        self._head = b""
        self._handshake: asyncio.Task[None] | None = None
        self.timer_due = 0
        self.timer_slot = 0
        arrivals.listener.connection_opened(self)

    def await_head(self) -> None:
        """Read the PROXY head, and then shake hands."""
        listener = self._arrivals.listener
        listener.wheel.schedule(self, listener.deadlines.head)
        assert self._socket is not None
        self._arrivals.loop.add_reader(self._socket, self._read_head, self._socket)

    def shake_hands(self, caller: Caller | None) -> None:
        """Begin the connection of this caller, with TLS where that is spoken."""
        listener = self._arrivals.listener
        connection = HttpConnection(listener, caller)

        def ended(handshake: asyncio.Task[None]) -> None:
            if caller is not None and not connection.has_begun:
                caller.leave()
            if self._socket is not None:
                self._socket.close()
            listener.connection_closed(self)

        self._handshake = self._arrivals.loop.create_task(self._begin(connection))
        self._handshake.add_done_callback(ended)

    # What the timer wheel and the listener call.

    def on_timer(self) -> None:
        """Give up on a head that does not arrive."""
        self.abort()

    def shut_down(self) -> None:
        """Cut the connection off: it has not begun."""
        self.abort()

    def abort(self) -> None:
        """Cut the connection off."""
        if self._handshake is not None:
            self._handshake.cancel()
            return
        if self._socket is not None:
            self._arrivals.loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        self._arrivals.listener.connection_closed(self)

    def _read_head(self, connection: socket.socket) -> None:
        try:
            # The head ends somewhere in what is there, and what follows is for somebody else.
            seen = connection.recv(MAX_HEAD_BYTES, socket.MSG_PEEK)
            if not seen:
                self.abort()
                return
            head = decode_proxy_head(self._head + seen)
            taken = len(seen) if head is None else head.size - len(self._head)
            self._head += connection.recv(taken)
        except (BlockingIOError, InterruptedError):
            return
        except (InvalidProxyHead, OSError):
            self.abort()
            return
        if head is not None:
            arrivals = self._arrivals
            arrivals.loop.remove_reader(connection)
            arrivals.listener.wheel.cancel(self)
            peer = self._peer if head.source is None else head.source
            self.shake_hands(Caller(arrivals.listener.addresses, peer))

    async def _begin(self, connection: HttpConnection) -> None:
        listener = self._arrivals.listener
        tls = listener.tls
        accepted, self._socket = self._socket, None
        assert accepted is not None
        try:
            transport, _ = await self._arrivals.loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else listener.deadlines.head,
                ssl_shutdown_timeout=None if tls is None else listener.deadlines.linger,
            )
            # TLS would let eight times as much wait before it says that a client is slow.
            transport.set_write_buffer_limits(_WRITE_BUFFER_BYTES)
        except OSError:  # with ssl.SSLError, which is one
            pass  # The client speaks something else, or has gone, or took too long.
