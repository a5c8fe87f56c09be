"""
One connection once it is a WebSocket: frames in, frames out, liveness, slow clients, and the end.

`websockets` parses and checks what comes in (RFC 6455). What goes out was encoded elsewhere, once
for everybody, and is written as it is.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, CloseCode, Frame
from websockets.protocol import OPEN, SEND_EOF, SERVER
from websockets.protocol import Protocol as Framing
from websockets.typing import BytesLike

from reverb_py.core.session import Session
from reverb_py.protocol import frames
from reverb_py.protocol.errors import ErrorCode
from reverb_py.protocol.signing import parse_query

if TYPE_CHECKING:
    from reverb_py.core.hub import Hub
    from reverb_py.server.listener import Listener

__all__ = ["WebSocketConnection", "upgrade_to_websocket"]

LINGER_SECONDS = 5.0
"""Time a client has to answer a close frame before its connection is cut."""

PONG_SECONDS = 30.0
"""Time a silent client has to answer, from the first ping on."""

_SUPPORTED_PROTOCOLS = ("5", "6", "7")
_CLOSE_FRAME_BYTE = 0x88
_CONTROL = (PING, PONG, CLOSE)

# A line per closed connection says nothing; what matters is logged where it is decided.
_framing_log = logging.getLogger("reverb_py.framing")
_framing_log.setLevel(logging.ERROR)


class _Refused(Exception):
    def __init__(self, code: ErrorCode, message: str) -> None:
        self.code = code
        self.message = message


def upgrade_to_websocket(
    listener: Listener,
    transport: asyncio.Transport,
    path: str,
    query: str,
    origin: bytes | None,
    objection: str | None,
) -> WebSocketConnection:
    """
    Hand over a connection whose 101 answer is written, to a session or to a cheap refusal.

    `origin` is the request's header: where the page that connects came from. `objection` says why
    its address may have no further connection.

    A refused client gets `pusher:error` and a close frame with the same code, because some clients
    read only the one and some only the other.
    """
    connection = WebSocketConnection(listener, transport)
    try:
        if objection is not None:
            raise _Refused(ErrorCode.OVER_CAPACITY, objection)
        hub = _hub_to_join(listener, path, query, origin)
    except _Refused as refusal:
        connection.refuse(path, refusal.code, refusal.message)
    else:
        connection.begin(hub)
    return connection


def _hub_to_join(listener: Listener, path: str, query: str, origin: bytes | None) -> Hub:
    root, _, key = listener.http_api.without_prefix(path).rpartition("/")
    if root != "/app":
        raise _Refused(ErrorCode.PATH_NOT_FOUND, "Path not found: connect to /app/APP_KEY")
    hub = listener.hubs.with_key(unquote(key))
    if hub is None:
        raise _Refused(ErrorCode.UNKNOWN_APP, "Application does not exist: check the app key")
    if not hub.app.enabled:
        raise _Refused(ErrorCode.APP_DISABLED, "Application is disabled")
    if origin is not None and not hub.app.allows_origin(origin.decode("latin-1")):
        raise _Refused(ErrorCode.UNAUTHORIZED, "Origin not allowed")
    if parse_query(query).get("protocol", "7") not in _SUPPORTED_PROTOCOLS:
        raise _Refused(
            ErrorCode.UNSUPPORTED_PROTOCOL, "Unsupported protocol version: use 5, 6 or 7"
        )
    if hub.is_full:
        raise _Refused(ErrorCode.OVER_CONNECTION_QUOTA, "Application is over its connection quota")
    return hub


class WebSocketConnection(asyncio.Protocol):
    """
    A WebSocket from its upgrade to its end.

    Without a session it is closing: everything has been said, and what still arrives is thrown away
    until the client has gone or its time is up.

    A parser of frames is borrowed for as long as a frame or a fragmented message is unfinished,
    which for nearly every client is the length of one call: parsers are most of what a connection
    would weigh. `_unparsed_bytes` tells when nothing is left in it.
    """

    __slots__ = (
        "_fragments",
        "_framing",
        "_last_received",
        "_listener",
        "_session",
        "_transport",
        "_unanswered_pings",
        "_unparsed_bytes",
        "timer_due",
        "timer_slot",
    )

    def __init__(self, listener: Listener, transport: asyncio.Transport) -> None:
        self._listener = listener
        self._transport = transport
        self._session: Session | None = None
        self._framing: Framing | None = None
        self._fragments: list[BytesLike] | None = None
        self._last_received = listener.wheel.tick
        self._unanswered_pings = 0
        self._unparsed_bytes = 0
        self.timer_due = 0
        self.timer_slot = 0
        listener.connection_opened(self)
        transport.set_protocol(self)

    def begin(self, hub: Hub) -> None:
        """Open a session with one app."""
        self._session = Session(hub, self._transport.write, self._close)
        self._listener.wheel.schedule(self, hub.app.ping_interval)
        self._session.begin()

    def refuse(self, path: str, code: ErrorCode, message: str) -> None:
        """Say why there will be no session, and close."""
        if self._listener.trace is not None:
            self._listener.trace.connection_refused(path, code, message)
        self._transport.write(frames.error(code, message) + frames.close_frame(code, message))
        self._linger()

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        session = self._session
        if session is None:
            if data[0] == _CLOSE_FRAME_BYTE:
                self._transport.close()
            return
        self._last_received = self._listener.wheel.tick
        self._unanswered_pings = 0
        max_size = session.hub.app.max_message_bytes
        spare_framings = self._listener.spare_framings
        framing = self._framing or spare_framings.pop(max_size, None)
        if framing is None:
            framing = Framing(SERVER, max_size=max_size, logger=_framing_log)
        self._framing = framing
        framing.receive_data(data)
        unparsed = self._unparsed_bytes + len(data)
        for event in framing.events_received():
            frame = cast(Frame, event)
            if self._listener.trace is not None and frame.opcode in _CONTROL:
                self._trace_control_frame(session, f"Received: {frame.opcode.name.lower()}")
            unparsed -= _wire_length(len(frame.data))
            self._frame_received(frame)
            if self._session is None:
                return
        if framing.writes:
            self._write_control_frames(framing)
            if self._session is None:
                return
        self._unparsed_bytes = unparsed
        if unparsed == 0 and framing.current_size is None:
            self._framing = None
            if framing.max_message_size == max_size:
                spare_framings[max_size] = framing
            else:
                # It was made before the app's limit changed, and must not outlive its message.
                framing.parser.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.transport_closed(self._transport)
        self._listener.connection_closed(self)
        self._end_session()

    def pause_writing(self) -> None:
        if self._session is not None:
            self._session.deliver = self._deliver_to_slow_client

    def resume_writing(self) -> None:
        if self._session is not None and self._session.deliver is not _discard:
            self._session.deliver = self._transport.write

    # What the timer wheel and the listener call.

    def on_timer(self) -> None:
        """Ask a silent client whether it lives, ask once more, then close; or end the lingering."""
        session = self._session
        if session is None:
            self._transport.abort()
            return
        wheel = self._listener.wheel
        interval = session.hub.app.ping_interval
        silence = wheel.seconds_since(self._last_received)
        if self._unanswered_pings == 0 and silence < interval:
            wheel.schedule(self, interval - silence)
            return
        self._unanswered_pings += 1
        if self._unanswered_pings == 1:
            session.reply(frames.PING)
        elif self._unanswered_pings == 2:
            # Swift and .NET do not react to pusher:ping; every stack answers a control frame.
            session.deliver(frames.WEBSOCKET_PING)
            self._trace_control_frame(session, "Sent: ping")
        else:
            self._close(ErrorCode.PONG_NOT_RECEIVED, "Pong reply not received in time")
            return
        wheel.schedule(self, PONG_SECONDS / 2)

    def shut_down(self) -> None:
        """Tell the client to come back at once, and close."""
        self._close(ErrorCode.RECONNECT, "Server is shutting down: reconnect")

    def abort(self) -> None:
        """Cut the connection off."""
        self._transport.abort()

    # Incoming frames.

    def _frame_received(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is TEXT:
            if frame.fin:
                self._text_received(frame.data)
            else:
                self._fragments = [frame.data]
        elif opcode is CONT and self._fragments is not None:
            # Empty fragments are legal, and no limit would ever stop them from piling up.
            if frame.data:
                self._fragments.append(frame.data)
            if frame.fin:
                text = b"".join(self._fragments)
                self._fragments = None
                self._text_received(text)
        elif opcode is BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "Binary frames are not part of the protocol")

    def _text_received(self, data: BytesLike) -> None:
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError as exc:
            self._fail(CloseCode.INVALID_DATA, f"Invalid UTF-8 at byte {exc.start}")
            return
        assert self._session is not None
        self._session.receive(text)

    # Slow clients.

    def _deliver_to_slow_client(self, frame: bytes) -> None:
        buffered = self._transport.get_write_buffer_size()
        if buffered + len(frame) <= self._listener.max_buffered_bytes:
            self._transport.write(frame)
        elif self._session is not None:
            # Leaving the channels now would disturb the delivery that is going on.
            self._session.deliver = _discard
            self._listener.call_soon(self._overflowed)

    def _overflowed(self) -> None:
        self._close(
            ErrorCode.OVER_CAPACITY,
            f"Too slow: more than {self._listener.max_buffered_bytes} bytes are waiting",
        )

    # The end.

    def _write_control_frames(self, framing: Framing) -> None:
        """Write the pongs and close frames that RFC 6455 asks for; end when it ended there."""
        session = self._session
        assert session is not None
        for chunk in framing.data_to_send():
            if chunk != SEND_EOF:
                session.deliver(chunk)
        sent = framing.close_sent
        if sent is not None and self._listener.trace is not None:
            self._listener.trace.connection_ending(
                session.hub.app, session.socket_id, sent.code, sent.reason
            )
        if framing.state is not OPEN:
            self._end_session()
            if framing.close_rcvd is not None:
                self._transport.close()
            self._linger()

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Close for a reason that is WebSocket's, not Pusher's."""
        self._deliver_pending(code, reason)
        self._transport.write(frames.close_frame(code, reason))
        self._end_session()
        self._linger()

    def _close(self, code: ErrorCode, reason: str) -> None:
        """Close for a reason that is Pusher's: a message and a close frame with the same code."""
        if self._session is None:
            return
        self._deliver_pending(code, reason)
        self._transport.write(frames.error(code, reason) + frames.close_frame(code, reason))
        self._end_session()
        self._linger()

    def _deliver_pending(self, code: int, reason: str) -> None:
        # Nothing may follow a close frame, so what waits for the end of the tick goes first.
        session, trace = self._session, self._listener.trace
        if session is not None:
            session.hub.delivery.flush()
            if trace is not None:
                trace.connection_ending(session.hub.app, session.socket_id, code, reason)

    def _trace_control_frame(self, session: Session, title: str) -> None:
        trace = self._listener.trace
        if trace is not None:
            trace.control_frame(session.hub.app, session.socket_id, title)

    def _end_session(self) -> None:
        session = self._session
        if session is not None:
            if self._framing is not None:
                # Its generator refers to it: without this, only the garbage collector frees both.
                self._framing.parser.close()
            self._session = self._framing = None
            session.deliver = _discard
            session.end()

    def _linger(self) -> None:
        # Bytes that arrive on a closed socket reset it, and the close frame with it: read on. And a
        # client that does not take its last frames would hold back the end for ever.
        self._listener.wheel.schedule(self, LINGER_SECONDS)


def _wire_length(payload_bytes: int) -> int:
    """Return the bytes of a client's frame on the wire: header, length, mask and payload."""
    if payload_bytes < 126:
        return payload_bytes + 6
    return payload_bytes + (8 if payload_bytes < 65536 else 14)


def _discard(frame: bytes) -> None:
    """Take the frames of a session that has ended."""
