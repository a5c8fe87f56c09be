"""
What both kinds of connection do with their transports: read in turns, and end politely.

What a client may send at once is worth thousands of frames or dozens of requests. Served in one go
they would hold up everybody else; so they are cut into pieces, and between two of them it is looked
at the clock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from reverb_py.server.listener import Listener

__all__ = ["LINGER_BYTES", "PIECE_BYTES", "Receiver", "Turns", "close", "half_close"]

PIECE_BYTES = 2_048
"""Bytes that are served without a look at the clock: whole requests and most messages are less."""

LINGER_BYTES = 33_554_432
"""Bytes that are still read, and thrown away, from a client that has been told the end."""


def close(transport: asyncio.Transport) -> None:
    """Close behind what was written. Safe to call twice, which a TLS transport's own is not."""
    if not transport.is_closing():
        transport.close()


def half_close(transport: asyncio.Transport) -> None:
    """
    End our side of the stream behind what was written; what the client sends is still read.

    Bytes that arrive on a socket that is closed on both sides reset it, and the last words with it.
    TLS has no such end: there the client's answer is waited for, as long as a client may linger.
    """
    if transport.is_closing() or not transport.can_write_eof():
        return
    try:
        transport.write_eof()
    except OSError:
        pass  # The client has reset the connection, which the transport will notice.


class Receiver(Protocol):
    """What takes the pieces."""

    def data_received(self, data: bytes) -> None:
        """Act on one piece."""

    def piece_bytes(self) -> int:
        """Return how many bytes the next piece may have; the rest of one body is one piece."""


class Turns:
    """
    Hands what one client sent to its receiver, in pieces and in order, a moment's worth each turn.

    While something waits for the client's next turn, its transport is not read from: what waits is
    never more than one read, and the end of the stream is noticed behind everything that came
    before it. What waits when the connection breaks is dropped, as what the system has not
    delivered is.
    """

    __slots__ = (
        "_data",
        "_is_due",
        "_listener",
        "_position",
        "_receiver",
        "_transport",
        "is_held",
    )

    def __init__(
        self, listener: Listener, transport: asyncio.Transport, receiver: Receiver
    ) -> None:
        self._listener = listener
        self._transport = transport
        self._receiver = receiver
        self._data = b""
        self._position = 0
        self._is_due = False
        self.is_held = False

    def serve(self, data: bytes) -> None:
        """Hand on what was read, now and in the turns that follow."""
        self._data = data
        self._position = 0
        self._go_on()

    def hold(self) -> None:
        """Hand on nothing more and read nothing more until `release`."""
        self.is_held = True
        self._transport.pause_reading()

    def release(self) -> None:
        """Go on, on the next turn."""
        self.is_held = False
        self._go_on_soon()

    def take_rest(self) -> bytes:
        """Return what waits, which is handed on by somebody else from now on."""
        rest = self._data[self._position :]
        self.is_held = True
        return rest

    def _go_on(self) -> None:
        self._is_due = False
        listener, transport = self._listener, self._transport
        end = listener.time() + listener.deadlines.turn
        while not (self.is_held or transport.is_closing()):
            start = self._position
            if start >= len(self._data):
                self._data = b""
                transport.resume_reading()
                return
            self._position = start + self._receiver.piece_bytes()
            try:
                self._receiver.data_received(self._data[start : self._position])
            except BaseException:
                # In `data_received` it would end the connection as well.
                transport.abort()
                raise
            if self._position < len(self._data) and listener.time() >= end:
                transport.pause_reading()
                self._go_on_soon()
                return

    def _go_on_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._listener.call_soon(self._go_on)
