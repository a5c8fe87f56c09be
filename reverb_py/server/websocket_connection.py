"""
One connection once it is a WebSocket: frames in, frames out, liveness, slow clients, and the end.

`websockets` parses and checks what comes in (RFC 6455). What goes out was encoded elsewhere, once
for everybody, and is written as it is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote

from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, CloseCode, Frame
from websockets.protocol import OPEN, SERVER
from websockets.protocol import Protocol as Framing
from websockets.typing import BytesLike
from websockets.utils import apply_mask

from reverb_py.core.apps import BURST_SECONDS
from reverb_py.core.session import Session
from reverb_py.protocol import frames
from reverb_py.protocol.addresses import network_of
from reverb_py.protocol.errors import ErrorCode
from reverb_py.server.addresses import address_of
from reverb_py.server.transports import LINGER_BYTES, PIECE_BYTES, Turns, close, half_close

if TYPE_CHECKING:
    from reverb_py.core.hub import Hub
    from reverb_py.server.addresses import Caller
    from reverb_py.server.listener import Listener

__all__ = ["WebSocketConnection", "upgrade_to_websocket"]

_SUPPORTED_PROTOCOLS = ("5", "6", "7")
_PROTOCOL = re.compile("(?:^|&)protocol=([^&]*)")
_TEXT_FRAME_BYTE = 0x81
_CLOSE_FRAME_BYTE = 0x88
_MASKED = 0x80
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
    answer: bytes,
    path: str,
    query: str,
    origin: bytes | None,
    caller: Caller | None,
) -> WebSocketConnection:
    """
    Hand over a connection, to a session or to a cheap refusal.

    `answer` is the 101 answer to its handshake, which goes out in one write with what comes first.
    `origin` is the request's header: where the page that connects came from. `caller` is who
    connects, where addresses are counted, and whether it may.

    A refused client gets `pusher:error` and a close frame with the same code, because some clients
    read only the one and some only the other.
    """
    connection = WebSocketConnection(listener, transport, caller)
    try:
        if caller is not None and caller.objection is not None:
            raise _Refused(ErrorCode.OVER_CAPACITY, caller.objection.message)
        hub = _hub_to_join(listener, path, query, origin)
    except _Refused as refusal:
        connection.refuse(answer, path, refusal.code, refusal.message)
    else:
        connection.begin(answer, hub)
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
    protocol = _PROTOCOL.search(query)
    if protocol is not None and protocol[1] not in _SUPPORTED_PROTOCOLS:
        raise _Refused(
            ErrorCode.UNSUPPORTED_PROTOCOL, "Unsupported protocol version: use 5, 6 or 7"
        )
    if hub.is_full:
        hub.figures.limit_hits["REVERB_APP_MAX_CONNECTIONS"] += 1
        raise _Refused(ErrorCode.OVER_CONNECTION_QUOTA, "Application is over its connection quota")
    return hub


class WebSocketConnection(asyncio.Protocol):
    """
    A WebSocket from its upgrade to its end.

    Without a session it is closing: everything has been said, and what still arrives is thrown away
    until the client has gone or its time is up.

    A parser of frames is borrowed for as long as a frame or a fragmented message is unfinished,
    which for nearly every client is the length of one call: parsers are most of what a connection
    would weigh. `_unparsed_bytes` tells when nothing is left in it. A message that comes alone and
    whole needs no parser.

    `_asked` is the tick of the last of the `_unanswered_pings`.

    `_allowance` is how many more frames the client may send, now that so much time has passed. It
    grows when the wheel ticks, which is cheaper than looking at a clock for every frame.
    """

    __slots__ = (
        "_allowance",
        "_asked",
        "_caller",
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

    comes_back: ClassVar[bool] = True

    def __init__(
        self, listener: Listener, transport: asyncio.Transport, caller: Caller | None
    ) -> None:
        self._listener = listener
        self._caller = caller
        self._transport = transport
        self._session: Session | None = None
        self._framing: Framing | None = None
        self._fragments: bytearray | None = None
        self._last_received = listener.wheel.tick
        self._allowance: float = 0
        self._unanswered_pings = 0
        self._asked = 0
        self._unparsed_bytes = 0
        self.timer_due = 0
        self.timer_slot = 0
        listener.connection_opened(self)
        transport.set_protocol(self)

    def begin(self, answer: bytes, hub: Hub) -> None:
        """Open a session with one app; its hello goes out behind `answer`."""
        write = self._transport.write

        def write_hello(hello: bytes) -> None:
            session.deliver = write
            write(answer + hello)

        session = self._session = Session(hub, write_hello, self)
        self._allowance = hub.app.messages_per_second * BURST_SECONDS or math.inf
        self._listener.wheel.schedule(self, hub.app.ping_interval)
        session.begin()

    def refuse(self, answer: bytes, path: str, code: ErrorCode, message: str) -> None:
        """Say, behind `answer`, why there will be no session, and close."""
        if self._listener.trace is not None:
            self._listener.trace.connection_refused(path, code, message)
        self._listener.refused[code] += 1
        error, close = self._listener.error_frame(code, message), frames.close_frame(code, message)
        self._transport.write(answer + error + close)
        self._linger()

    # What the session asks of its client.

    @property
    def address(self) -> str:
        """What stands for the client's address where addresses are counted."""
        if self._caller is not None:
            return self._caller.network
        return network_of(address_of(self._transport))

    def close(self, code: ErrorCode, reason: str) -> None:
        """Close for a reason that is Pusher's: a message and a close frame with the same code."""
        session = self._session
        if session is None:
            return
        self._deliver_pending(code, reason)
        error = self._listener.error_frame(code, reason)
        figures = session.hub.figures
        figures.closed[code] += 1
        figures.messages_sent += 1
        figures.bytes_sent += len(error)
        self._transport.write(error + frames.close_frame(code, reason))
        self._end_session()
        self._linger()

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        session = self._session
        if session is None:
            self._discard(data)
            return
        if len(data) > PIECE_BYTES:
            Turns(self._listener, self._transport, self).serve(data)
            return
        hub = session.hub
        hub.figures.bytes_received += len(data)
        listener, app = self._listener, hub.app
        if self._last_received != listener.wheel.tick:
            self._note_time(app.messages_per_second)
        self._unanswered_pings = 0
        max_size = app.max_message_bytes
        if self._framing is None and self._allowance >= 1:
            payload = _payload_of_whole_text(data, max_size)
            if payload is not None:
                self._allowance -= 1
                self._text_received(payload)
                return
        spare_framings = listener.spare_framings
        framing = self._framing or spare_framings.pop(max_size, None)
        if framing is None:
            framing = Framing(SERVER, max_size=max_size or None, logger=_framing_log)
        self._framing = framing
        framing.receive_data(data)
        unparsed = self._unparsed_bytes + len(data)
        # Behind the handshake, frames are all there is.
        received: list[Any] = framing.events_received()
        count = len(received)
        # Each bit of a frame that dribbles in costs as much as a frame.
        self._allowance -= count or len(data) < PIECE_BYTES
        if self._allowance < 0:
            del received[count + math.floor(self._allowance) :]
        for frame in received:
            if listener.trace is not None and frame.opcode in _CONTROL:
                self._trace_control_frame(session, f"Received: {frame.opcode.name.lower()}")
            unparsed -= _wire_length(len(frame.data))
            self._frame_received(frame)
            if self._session is None or (count > 1 and self._transport.is_closing()):
                return
        if self._allowance < 0:
            hub.figures.limit_hits["REVERB_APP_MESSAGES_PER_SECOND"] += 1
            self.close(
                ErrorCode.OVER_CAPACITY, f"More than {app.messages_per_second} messages in a second"
            )
            return
        if framing.writes:
            self._write_control_frames(framing)
            if self._session is None:
                return
        self._unparsed_bytes = unparsed
        if unparsed == 0 and framing.current_size is None:
            self._framing = None
            if (framing.max_message_size or 0) == max_size:
                spare_framings[max_size] = framing
            else:
                # It was made before the app's limit changed, and must not outlive its message.
                framing.parser.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._caller is not None:
            self._caller.leave()
        self._listener.slow_clients.discard(self)
        self._listener.connection_closed(self)
        self._end_session()

    def pause_writing(self) -> None:
        session = self._session
        if session is not None and session.deliver is not _discard_frame:
            session.deliver = self._deliver_to_slow_client
        self._listener.slow_clients.add(self, None if session is None else session.hub)

    def resume_writing(self) -> None:
        self._listener.slow_clients.discard(self)
        if self._session is not None and self._session.deliver is not _discard_frame:
            self._session.deliver = self._transport.write

    # What its turns, the timer wheel and the listener call.

    def piece_bytes(self) -> int:
        """Return how much is served at once."""
        return PIECE_BYTES

    def on_timer(self) -> None:
        """Ask a silent client whether it lives, ask once more, then close; or end the lingering."""
        session = self._session
        if session is None:
            self._transport.abort()
            return
        wheel, app = self._listener.wheel, session.hub.app
        interval, patience = app.ping_interval, app.pong_timeout / 2
        if self._unanswered_pings == 0:
            waited, due = wheel.seconds_since(self._last_received), interval
        else:
            waited, due = wheel.seconds_since(self._asked), patience
        if waited < due:
            wheel.schedule(self, min(interval, due - waited))
            return
        self._unanswered_pings += 1
        self._asked = wheel.tick
        if self._unanswered_pings == 1:
            session.reply(frames.PING)
        elif self._unanswered_pings == 2:
            # Swift and .NET do not react to pusher:ping; every stack answers a control frame.
            session.deliver(frames.WEBSOCKET_PING)
            self._trace_control_frame(session, "Sent: ping")
        else:
            self.close(ErrorCode.PONG_NOT_RECEIVED, "Pong reply not received in time")
            return
        # Whoever answers meanwhile is asked again after the interval, be it shorter.
        wheel.schedule(self, min(interval, patience))

    def shut_down(self) -> None:
        """Tell the client to come back at once, and close."""
        self.close(ErrorCode.RECONNECT, "Server is shutting down: reconnect")

    def abort(self) -> None:
        """Cut the connection off."""
        self._transport.abort()

    # Incoming frames.

    def _note_time(self, messages_per_second: int) -> None:
        """Note that the client lives, and what it may send for the time that has passed."""
        wheel = self._listener.wheel
        if messages_per_second:
            earned = wheel.seconds_since(self._last_received) * messages_per_second
            most = messages_per_second * BURST_SECONDS
            self._allowance = min(most, self._allowance + earned)
        else:
            self._allowance = math.inf
        self._last_received = wheel.tick

    def _frame_received(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is TEXT:
            if frame.fin:
                self._text_received(frame.data)
            else:
                self._fragments = bytearray(frame.data)
        elif opcode is CONT and self._fragments is not None:
            # In one piece: thousands of fragments of a byte would each weigh as much as fifty.
            self._fragments += frame.data
            if frame.fin:
                text = self._fragments
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
        most = self._listener.max_buffered_bytes
        if not most or self._transport.get_write_buffer_size() + len(frame) <= most:
            self._transport.write(frame)
            self._listener.slow_clients.wrote(self, len(frame))
        else:
            self.give_up(
                "REVERB_MAX_BUFFERED_SIZE", f"Too slow: more than {most} bytes are waiting"
            )

    @property
    def is_ending(self) -> bool:
        """Whether everything has been said, and only what waits has to leave."""
        return self._session is None

    def waiting_bytes(self) -> int:
        """Return how much its client has not taken."""
        return self._transport.get_write_buffer_size()

    def give_up(self, limit: str, message: str) -> None:
        """Close with 4100 on the next turn; cut off a client that has been told the end."""
        session = self._session
        if session is None:
            self._transport.abort()
        elif session.deliver is not _discard_frame:
            # Leaving the channels now would disturb the delivery that is going on.
            session.deliver = _discard_frame
            session.hub.figures.limit_hits[limit] += 1
            self._listener.call_soon(self.close, ErrorCode.OVER_CAPACITY, message)

    # The end.

    def _write_control_frames(self, framing: Framing) -> None:
        """Write the pongs and close frames that RFC 6455 asks for; end when it ended there."""
        session = self._session
        assert session is not None
        # The end of the stream stands among them as no bytes at all.
        session.deliver(b"".join(framing.data_to_send()))
        sent = framing.close_sent
        if sent is not None and self._listener.trace is not None:
            self._listener.trace.connection_ending(
                session.hub.app, session.socket_id, sent.code, sent.reason
            )
        if framing.state is not OPEN:
            self._end_session()
            if framing.close_rcvd is not None:
                close(self._transport)
            elif sent is not None:
                figures = session.hub.figures
                figures.closed[sent.code] += 1
                if sent.code == CloseCode.MESSAGE_TOO_BIG:
                    figures.limit_hits["REVERB_APP_MAX_MESSAGE_SIZE"] += 1
            self._linger()

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Close for a reason that is WebSocket's, not Pusher's."""
        self._deliver_pending(code, reason)
        if self._session is not None:
            self._session.hub.figures.closed[code] += 1
        self._transport.write(frames.close_frame(code, reason))
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
            self._session = self._framing = self._fragments = None
            self._unparsed_bytes = 0
            session.deliver = _discard_frame
            session.end()

    def _linger(self) -> None:
        # A client that neither answers nor takes its last frames would hold back the end for ever.
        half_close(self._transport)
        self._listener.wheel.schedule(self, self._listener.deadlines.linger)

    def _discard(self, data: bytes) -> None:
        """Throw away what comes behind the end; close when it is the answer to our close frame."""
        self._unparsed_bytes += len(data)
        if _is_close_frame(data):
            close(self._transport)
        elif self._unparsed_bytes > LINGER_BYTES:
            self._transport.pause_reading()


def _payload_of_whole_text(data: bytes, max_size: int) -> bytes | None:
    """
    Return the payload when one unfragmented text frame, and nothing else, was read; else None.

    That is what nearly every client sends nearly every time, and so it is spared the parser, which
    takes several times as long. What is not right is left to the parser to say.
    """
    if len(data) < 6 or data[0] != _TEXT_FRAME_BYTE or data[1] < _MASKED:
        return None
    length, start = data[1] - _MASKED, 6
    if length >= 126:
        if length == 127 or len(data) < 8:
            return None
        length, start = data[2] << 8 | data[3], 8
    if len(data) != start + length or 0 < max_size < length:
        return None
    return apply_mask(data[start:], data[start - 4 : start])


def _is_close_frame(data: bytes) -> bool:
    """Tell whether a client's close frame, and nothing else, was read."""
    return (
        len(data) >= 2
        and data[0] == _CLOSE_FRAME_BYTE
        and len(data) == _wire_length(data[1] - _MASKED)
    )


def _wire_length(payload_bytes: int) -> int:
    """Return the bytes of a client's frame on the wire: header, length, mask and payload."""
    if payload_bytes < 126:
        return payload_bytes + 6
    return payload_bytes + (8 if payload_bytes < 65536 else 14)


def _discard_frame(frame: bytes) -> None:
    """Take the frames of a session that has ended."""
