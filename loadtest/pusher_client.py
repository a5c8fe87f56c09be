"""
A Pusher client for load tests: one WebSocket, read by a greenlet of its own.

Made for locust, whose users are greenlets: nothing here needs an event loop.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import gevent
import orjson
from gevent.event import AsyncResult, Event
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

__all__ = ["PusherClient", "PusherError", "Signed"]

_PATIENCE: Final = 30.0  # seconds that an answer of the server may take

Signed = Mapping[str, str]
"""What a backend's auth endpoint answers: `auth`, and `channel_data` on presence channels."""


class PusherError(Exception):
    """The server refused something, or ended the connection; the text says what it said."""


class PusherClient:
    """
    A connection to one app, open from `__init__` to `close`.

    `on_event` is called with the channel, the event's name and its decoded data, in the greenlet
    that reads; of the protocol's own events only those of members are passed on. When the
    connection ends without `close` or `drop` having been called, `on_lost` is called with the
    reason.

    Raises:
        PusherError: The server does not welcome it.
        OSError: It cannot be reached.
    """

    def __init__(
        self,
        url: str,
        on_event: Callable[[str, str, Any], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._on_event = on_event
        self._on_lost = on_lost
        self._is_closing = False
        self._subscribed: dict[str, AsyncResult[None]] = {}
        self._on_success: dict[str, Callable[[Any], None]] = {}
        self._greeted: AsyncResult[str] = AsyncResult()
        self._pong = Event()
        try:
            # Compression would be measured instead of the server; liveness is the protocol's ping.
            self._socket = connect(
                url,
                compression=None,
                ping_interval=None,
                open_timeout=_PATIENCE,
                proxy=None,
                max_size=1 << 20,
            )
        except InvalidHandshake as refused:
            raise PusherError(str(refused)) from None
        self._reader = gevent.spawn(self._read)
        try:
            self.socket_id = str(self._greeted.get(timeout=_PATIENCE))
        except (PusherError, gevent.Timeout) as error:
            self.close()
            raise PusherError(str(error)) from None

    def subscribe(
        self,
        channel: str,
        signed: Signed | None = None,
        on_success: Callable[[Any], None] = lambda data: None,
    ) -> None:
        """
        Subscribe and wait until the server says that it counts.

        That very moment, before any event of the channel, `on_success` is called in the greenlet
        that reads, with the data of the answer.

        Raises:
            PusherError: The server refuses, or does not answer.
        """
        done: AsyncResult[None] = AsyncResult()
        self._subscribed[channel] = done
        self._on_success[channel] = on_success
        self._send("pusher:subscribe", {"channel": channel, **(signed or {})})
        try:
            done.get(timeout=_PATIENCE)
        except gevent.Timeout:
            raise PusherError(f"no answer to the subscription to {channel}") from None

    def unsubscribe(self, channel: str) -> None:
        """Stop listening to a channel."""
        self._subscribed.pop(channel, None)
        self._send("pusher:unsubscribe", {"channel": channel})

    def ping(self) -> float:
        """
        Return the seconds in which the server answers a ping.

        Raises:
            PusherError: It does not.
        """
        self._pong.clear()
        asked = time.perf_counter()
        self._send("pusher:ping", {})
        if not self._pong.wait(_PATIENCE):
            raise PusherError("no answer to a ping")
        return time.perf_counter() - asked

    def close(self) -> None:
        """End the connection."""
        self._is_closing = True
        self._socket.close()
        self._reader.join(_PATIENCE)

    def drop(self) -> None:
        """End the connection without a word, as when the network is gone."""
        self._is_closing = True
        self._socket.close_socket()
        self._reader.join(_PATIENCE)

    def _send(self, event: str, data: Mapping[str, Any]) -> None:
        try:
            self._socket.send(orjson.dumps({"event": event, "data": data}).decode())
        except ConnectionClosed as closed:
            raise PusherError(_reason(closed)) from None

    def _read(self) -> None:
        try:
            for text in self._socket:
                self._hear(orjson.loads(text))
            reason = "the server closed the connection"
        except ConnectionClosed as closed:
            reason = _reason(closed)
        error = PusherError(reason)
        if not self._greeted.ready():
            self._greeted.set_exception(error)
        for subscribed in self._subscribed.values():
            if not subscribed.ready():
                subscribed.set_exception(error)
        if not self._is_closing:
            self._on_lost(reason)

    def _hear(self, message: dict[str, Any]) -> None:
        event, channel = message["event"], message.get("channel", "")
        data: Any = message.get("data")
        if isinstance(data, str):
            data = orjson.loads(data)
        match event:
            case "pusher:connection_established":
                self._greeted.set(data["socket_id"])
            case "pusher:ping":
                self._send("pusher:pong", {})
            case "pusher:pong":
                self._pong.set()
            case "pusher_internal:subscription_succeeded":
                self._on_success.pop(channel)(data)
                self._subscribed[channel].set(None)
            case "pusher:subscription_error":
                self._subscribed[channel].set_exception(PusherError(f"{channel}: {data}"))
            case "pusher:error":
                if not self._greeted.ready():
                    self._greeted.set_exception(PusherError(str(data)))
            case _ if not event.startswith("pusher:"):
                self._on_event(channel, event, data)


def _reason(closed: ConnectionClosed) -> str:
    close = closed.rcvd or closed.sent
    return "the connection broke" if close is None else f"closed with {close.code} {close.reason}"
