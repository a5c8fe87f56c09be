"""
One connection while it speaks HTTP: request heads, bodies, limits, deadlines, and the upgrade.

httptools finds the parts of a request; this module collects them, holds them against the limits
and hands whole requests on. Requests that arrive together (pipelining) are answered in order.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import enum
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, cast

import httptools
from websockets.utils import accept_key

from reverb_py.server.http_api import EMPTY, Request, Response, text_response
from reverb_py.server.transports import LINGER_BYTES, PIECE_BYTES, Turns, close, half_close
from reverb_py.server.websocket_connection import upgrade_to_websocket

if TYPE_CHECKING:
    from reverb_py.core.limits import Objection
    from reverb_py.server.addresses import Caller
    from reverb_py.server.listener import Listener

__all__ = ["HttpConnection"]

MAX_HEAD_BYTES = 16_384
"""Bytes of a request's first line and headers together."""

MAX_HEADERS = 200
"""Headers of a request: each costs more memory than its bytes."""

_SMALL_BODY_BYTES = 16_384
"""Bytes of a body that anybody may have waiting, as of a head; nearly all events are less."""

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = "Connection: close\r\n"
_FORWARDED_FOR = b"x-forwarded-for"
_LISTS = (_FORWARDED_FOR, b"transfer-encoding", b"upgrade")
"""Headers that are read here and may be given in several lines."""
_AUTHORITY = re.compile(b"[a-z][a-z0-9+.-]*://[^/?]*", re.IGNORECASE)


class _Stage(enum.Enum):
    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    CLOSING = enum.auto()


# Members of an enum are looked up slowly, and every request looks up several.
_IDLE, _HEAD, _BODY, _CLOSING = _Stage


class _Refusal(Exception):
    """Stops the parser: the request is answered without being read to its end."""

    def __init__(self, status: int, message: str, headers: str = "") -> None:
        self.response = text_response(status, message, headers)


class _Ended(Exception):
    """Stops the parser: what follows the last request is not answered."""


class _LateAnswer:
    """An answer that is not known yet, or that waits for one that is not."""

    __slots__ = ("connection", "request", "response", "task")

    def __init__(self, request: Request, response: Response, connection: str) -> None:
        self.request = request
        self.response = response
        self.connection = connection
        self.task: asyncio.Future[Response] | None = None


def _result_of(answer: asyncio.Future[Response]) -> Response:
    if answer.cancelled() or (exception := answer.exception()) is not None:
        if not answer.cancelled():
            context = {"message": "A request failed", "exception": exception}
            answer.get_loop().call_exception_handler(context)
        return text_response(500, "The server could not finish this; its log says why")
    return answer.result()


def _retry_after(objection: Objection) -> str:
    return f"Retry-After: {objection.retry_after}\r\n"


class HttpConnection(asyncio.Protocol):
    """
    A client of the HTTP API, or a WebSocket client before its upgrade.

    It is its parser's callback object. Nothing in it waits; a client that does not read its answers
    is not read from either. `caller` is who is known to be calling, where the transport can't tell.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_caller",
        "_content_length",
        "_head_bytes",
        "_headers",
        "_is_signed",
        "_is_slow",
        "_late",
        "_listener",
        "_parser",
        "_stage",
        "_transport",
        "_turns",
        "_unfinished_bytes",
        "_url",
        "_waiting_bytes",
        "timer_due",
        "timer_slot",
    )

    comes_back: ClassVar[bool] = False

    def __init__(self, listener: Listener, caller: Caller | None = None) -> None:
        self._listener = listener
        self._transport = cast(asyncio.Transport, None)
        self._caller = caller
        self._turns: Turns | None = None
        self._late: list[_LateAnswer] = []
        self._is_slow = False
        self._waiting_bytes = 0
        self.timer_due = 0
        self.timer_slot = 0
        self._stage = _IDLE
        self.on_message_begin()
        self._stage = _IDLE

    @property
    def has_begun(self) -> bool:
        """Whether there was ever a transport, whose end is the end of the caller's visit."""
        return self._transport is not None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        if self._caller is None:
            self._caller = self._listener.caller_at(transport)
        self._listener.connection_opened(self)
        self._listener.wheel.schedule(self, self._listener.deadlines.head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._caller is not None:
            self._caller.leave()
        self._end()

    def _end(self) -> None:
        self._stage = _CLOSING
        self._release_body()
        self._listener.slow_clients.discard(self)
        self._listener.connection_closed(self)
        # Both refer to this object: apart, all are freed without the garbage collector.
        del self._parser
        self._turns = None

    def data_received(self, data: bytes) -> None:
        stage, headers = self._stage, self._headers
        if stage is _CLOSING:
            self._discard(data)
            return
        if len(data) > PIECE_BYTES and len(data) > self.piece_bytes():
            self._own_turns().serve(data)
            return
        taken = self._head_bytes + self._body_bytes
        try:
            self._feed(data)
            if self._stage is _HEAD or self._stage is _BODY:
                if self._headers is headers and self._head_bytes + self._body_bytes == taken:
                    self._count_unfinished(len(data))
                else:
                    self._unfinished_bytes = 0
                if len(self._headers) > MAX_HEADERS:
                    raise _Refusal(431, f"The request has more than {MAX_HEADERS} headers")
                if self._body_bytes > _SMALL_BODY_BYTES and not self._is_signed:
                    self._count_waiting()
        except httptools.HttpParserCallbackError as exc:
            if isinstance(exc.__context__, _Refusal):
                self._end_with(exc.__context__.response)
            elif not isinstance(exc.__context__, _Ended):
                raise
        except httptools.HttpParserError as exc:
            # What comes behind a request that ends the connection is not answered.
            if self._stage is not _CLOSING:
                self._end_with(text_response(400, f"This is not an HTTP/1.1 request: {exc}"))
        except _Refusal as refusal:
            self._end_with(refusal.response)
        else:
            # Every request has its own headers: other headers are another request.
            if self._stage is not stage or self._headers is not headers:
                self._set_deadline()

    def _discard(self, data: bytes) -> None:
        self._unfinished_bytes += len(data)
        if self._unfinished_bytes > LINGER_BYTES:
            self._transport.pause_reading()

    def _own_turns(self) -> Turns:
        if self._turns is None:
            self._turns = Turns(self._listener, self._transport, self)
        return self._turns

    def pause_writing(self) -> None:
        self._is_slow = True
        self._own_turns().hold()
        self._listener.slow_clients.add(self, None)

    def resume_writing(self) -> None:
        self._is_slow = False
        self._listener.slow_clients.discard(self)
        if not self._late:
            self._own_turns().release()

    # What its turns, the timer wheel and the listener call.

    def piece_bytes(self) -> int:
        """Return how much is served at once: whatever is left of a body is one request at most."""
        return max(PIECE_BYTES, self._content_length - self._body_bytes)

    def on_timer(self) -> None:
        """Give up on a request that does not arrive, or close a connection that idles."""
        if self._stage is _CLOSING:
            self._transport.abort()
        elif self._stage is _IDLE:
            self.shut_down()
        else:
            self._end_with(text_response(408, "The request took too long to arrive"))

    def shut_down(self) -> None:
        """
        Close the connection once the answers given so far have left.

        A request that is on its way is answered before, or given up in its time.
        """
        if self._stage is _HEAD or self._stage is _BODY:
            return
        self._stage = _CLOSING
        if not self._late:
            close(self._transport)
        # A client that never reads would hold back the end for ever.
        self._listener.wheel.schedule(self, self._listener.deadlines.linger)

    def abort(self) -> None:
        """Cut the connection off."""
        self._transport.abort()

    @property
    def is_ending(self) -> bool:
        """Whether nothing more is answered."""
        return self._stage is _CLOSING

    def waiting_bytes(self) -> int:
        """Return how much of its answers the client has not taken."""
        return self._transport.get_write_buffer_size()

    def give_up(self, limit: str, message: str) -> None:
        """Cut off a client that does not read: behind half an answer nothing can be said."""
        self._listener.limit_hits[limit] += 1
        self._transport.abort()

    # What the parser calls. Exceptions leave `feed_data` as the context of a callback error.

    def on_message_begin(self) -> None:
        if self._stage is _CLOSING:
            raise _Ended
        self._stage = _HEAD
        self._head_bytes = 0
        self._unfinished_bytes = 0
        self._body_bytes: int = 0
        self._content_length: int = 0
        self._is_signed = False
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise self._head_too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            raise self._head_too_long()
        if self._stage is _BODY:
            return  # A trailer: no proxy looks at these, so they say nothing of the request.
        headers, lowercase = self._headers, name.lower()
        if lowercase in headers:
            if lowercase == b"host":
                raise _Refusal(400, "A request has one Host header")
            if lowercase in _LISTS:
                # Some proxies put a line of their own below the one they were sent.
                value = headers[lowercase] + b"," + value
        headers[lowercase] = value

    def on_headers_complete(self) -> None:
        headers = self._headers
        if b"host" not in headers and self._parser.get_http_version() == "1.1":
            raise _Refusal(400, "A request of HTTP/1.1 has a Host header")
        if self._url[:1] != b"/":
            self._forget_authority()
        if self._parser.should_upgrade():
            return
        self._stage = _BODY
        length = headers.get(b"content-length")
        if length is not None:
            self._content_length = int(length)
        elif b"transfer-encoding" in headers:
            self._check_coding(headers[b"transfer-encoding"])
        if 0 < self._listener.max_request_bytes < self._content_length:
            raise self._body_too_long()
        if expectation := headers.get(b"expect"):
            if expectation.strip().lower() != b"100-continue":
                raise _Refusal(417, "The only expectation that can be met is 100-continue")
            # A client of HTTP/1.0 would take it for the answer.
            if self._parser.get_http_version() != "1.0":
                self._transport.write(_CONTINUE)

    def _forget_authority(self) -> None:
        """Keep the path and the query of a whole address (RFC 9112, section 3.2.2)."""
        authority = _AUTHORITY.match(self._url)
        if authority is not None:
            below = self._url[authority.end() :]
            self._url = below if below.startswith(b"/") else b"/" + below

    def _check_coding(self, coding: bytes) -> None:
        """Refuse a body that is framed otherwise than in plain chunks (RFC 9112, section 6.1)."""
        if self._parser.get_http_version() == "1.0":
            raise _Refusal(400, "A request of HTTP/1.0 has no Transfer-Encoding")
        if coding.strip().lower() != b"chunked":
            raise _Refusal(501, "The only Transfer-Encoding that is understood is chunked")

    def on_body(self, chunk: bytes) -> None:
        self._body_bytes += len(chunk)
        if 0 < self._listener.max_request_bytes < self._body_bytes:
            raise self._body_too_long()
        if not self._body:
            self._body = chunk
        else:
            if isinstance(self._body, bytes):
                # Thousands of chunks of a byte would each weigh as much as fifty.
                self._body = bytearray(self._body)
            self._body += chunk

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade() or self._stage is _CLOSING:
            return
        caller = self._caller
        if caller is not None and caller.objection is not None:
            raise _Refusal(429, caller.objection.message, _retry_after(caller.objection))
        self._stage = _IDLE
        path, _, query = self._url.decode("latin-1").partition("?")
        method = self._parser.get_method().decode()
        request = Request(method, path, query, bytes(self._body), self._headers)
        if self._waiting_bytes:
            self._release_body()
        objection: Objection | None = None
        if caller is not None:
            objection = caller.objection_to_request(self._headers.get(_FORWARDED_FOR))
        if objection is None:
            response = self._listener.http_api.respond(request)
        else:
            response = text_response(429, objection.message, _retry_after(objection))
        if response.coming is not None or self._late:
            self._answer_in_turn(request, response)
            return
        self._trace_answer(request, response)
        self._answer(response, self._connection_header(), head_only=request.method == "HEAD")

    def _count_unfinished(self, size: int) -> None:
        # A header, or a trailer behind a chunked body, comes to `on_header` only when it has ended.
        self._unfinished_bytes += size
        if self._head_bytes + self._unfinished_bytes > MAX_HEAD_BYTES:
            raise self._head_too_long()

    def _count_waiting(self) -> None:
        """Bound what anybody at all may have waiting, a little on each of many connections."""
        if self._waiting_bytes == 0:
            path, _, query = self._url.decode("latin-1").partition("?")
            method = self._parser.get_method().decode()
            self._is_signed = self._listener.http_api.is_signed(Request(method, path, query, b""))
            if self._is_signed:
                return
        self._listener.waiting_bytes += self._body_bytes - self._waiting_bytes
        self._waiting_bytes = self._body_bytes
        if 0 < self._listener.max_waiting_bytes < self._listener.waiting_bytes:
            self._listener.limit_hits["REVERB_MAX_WAITING_SIZE"] += 1
            raise _Refusal(
                503, "Too many requests are on their way; try again", "Retry-After: 1\r\n"
            )

    def _release_body(self) -> None:
        self._listener.waiting_bytes -= self._waiting_bytes
        self._waiting_bytes = 0
        self._body = b""

    def _head_too_long(self) -> _Refusal:
        return _Refusal(431, f"The request's head is longer than {MAX_HEAD_BYTES} bytes")

    def _body_too_long(self) -> _Refusal:
        limit = self._listener.max_request_bytes
        self._listener.limit_hits["REVERB_MAX_REQUEST_SIZE"] += 1
        return _Refusal(413, f"The request is larger than {limit} bytes (REVERB_MAX_REQUEST_SIZE)")

    def _set_deadline(self) -> None:
        deadlines = self._listener.deadlines
        if self._stage is _IDLE:
            self._listener.wheel.schedule(self, deadlines.keep_alive)
        elif self._stage is _HEAD:
            self._listener.wheel.schedule(self, deadlines.head)
        elif self._stage is _BODY:
            self._listener.wheel.schedule(self, deadlines.body)

    def _answer_in_turn(self, request: Request, response: Response) -> None:
        """Answer when the answer is known, behind those to earlier requests; read on afterwards."""
        connection = self._connection_header()
        if connection is _CLOSE:
            self._stage = _CLOSING
        late = _LateAnswer(request, response, connection)
        self._late.append(late)
        self._own_turns().hold()
        if response.coming is not None:
            late.task = asyncio.ensure_future(response.coming)
            late.task.add_done_callback(lambda _: self._answer_late())

    def _answer_late(self) -> None:
        while self._late and (self._late[0].task is None or self._late[0].task.done()):
            late = self._late.pop(0)
            response = late.response if late.task is None else _result_of(late.task)
            self._trace_answer(late.request, response)
            self._answer(response, late.connection, head_only=late.request.method == "HEAD")
        if self._late:
            return
        if self._stage is _CLOSING:
            close(self._transport)
        elif not self._is_slow:
            self._own_turns().release()

    def _trace_answer(self, request: Request, response: Response) -> None:
        if self._listener.trace is not None:
            self._listener.trace.request_answered(
                request.method, request.path, response.status, response.body
            )

    def _connection_header(self) -> str:
        if self._listener.is_draining or not self._parser.should_keep_alive():
            return _CLOSE
        # HTTP/1.0 clients have to ask for it, and to be told.
        return "Connection: keep-alive\r\n" if b"connection" in self._headers else ""

    def _answer(self, response: Response, connection: str, *, head_only: bool = False) -> None:
        if self._transport.is_closing():
            # A line is logged for each answer that is written to nobody.
            return
        self._transport.write(self._serialized(response, connection, head_only=head_only))
        if connection is _CLOSE:
            self.shut_down()

    def _end_with(self, response: Response) -> None:
        """Answer, then close: without losing the answer of a client that is still sending."""
        self._stage = _CLOSING
        self._unfinished_bytes = 0
        self._release_body()
        request = Request("-", self._url.decode("latin-1").partition("?")[0], "", b"")
        if self._late:
            self._late.append(_LateAnswer(request, response, _CLOSE))
            return
        self._trace_answer(request, response)
        self._transport.write(self._serialized(response, _CLOSE))
        half_close(self._transport)
        self._listener.wheel.schedule(self, self._listener.deadlines.linger)

    def _serialized(self, response: Response, connection: str, *, head_only: bool = False) -> bytes:
        listener = self._listener
        date = listener.date_header()
        is_usual = response is EMPTY and not connection and not head_only
        if is_usual and listener.usual_answer[0] is date:
            return listener.usual_answer[1]
        status, body, content_type, headers, _ = response
        if status >= 400:
            listener.errors[status] += 1
        content = f"Content-Type: {content_type}\r\n" if body else ""
        length = "" if status == 204 else f"Content-Length: {len(body)}\r\n"
        head = (
            f"{_STATUS_LINES[status]}{date}{content}{length}"
            f"Access-Control-Allow-Origin: *\r\n{headers}{connection}\r\n"
        )
        serialized = head.encode("latin-1") + (b"" if head_only else body)
        if is_usual:
            listener.usual_answer = (date, serialized)
        return serialized

    # The upgrade.

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse; behind an offer to upgrade go on as what was agreed."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            offers = self._headers.get(b"upgrade", b"").lower().split(b",")
            if b"websocket" in [offer.strip() for offer in offers]:
                self._upgrade(bytes(data))
                return
            self._ignore_upgrade()

    def _upgrade(self, rest: bytes) -> None:
        if self._late:
            raise _Refusal(400, "A WebSocket handshake waits for the answers before it")
        key = self._websocket_key()
        path, _, query = self._url.decode("latin-1").partition("?")
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_key(key).encode()
        )
        transport, turns = self._transport, self._turns
        if self._caller is not None:
            self._caller.become_client(self._headers.get(_FORWARDED_FOR))
        protocol = upgrade_to_websocket(
            self._listener,
            transport,
            answer,
            path,
            query,
            self._headers.get(b"origin"),
            self._caller,
        )
        self._end()
        if turns is not None:
            if turns.is_held:
                # Answers to earlier requests still wait: the WebSocket begins as a slow client.
                protocol.pause_writing()
            rest += turns.take_rest()
            transport.resume_reading()
        if rest:
            protocol.data_received(rest)

    def _websocket_key(self) -> str:
        """Return the handshake's key, or raise a refusal (RFC 6455, section 4.2.1)."""
        headers = self._headers
        if self._parser.get_method() != b"GET" or self._parser.get_http_version() != "1.1":
            raise _Refusal(400, "A WebSocket handshake is a GET request of HTTP/1.1")
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            raise _Refusal(400, "A WebSocket handshake has no body")
        if headers.get(b"sec-websocket-version", b"").strip() != b"13":
            raise _Refusal(426, "Sec-WebSocket-Version must be 13", "Sec-WebSocket-Version: 13\r\n")
        key = headers.get(b"sec-websocket-key", b"").strip()
        try:
            nonce = base64.b64decode(key, validate=True)
        except binascii.Error:
            nonce = b""
        if len(nonce) != 16:
            raise _Refusal(400, "Sec-WebSocket-Key must be 16 bytes in base64")
        return key.decode("ascii")

    def _ignore_upgrade(self) -> None:
        """
        Read on as HTTP/1.1 when the offer is not a WebSocket, as Java's client offers h2c.

        The parser has given up on the request's body by now; a new one gets the head without the
        offer, and then what follows it.
        """
        method, url = self._parser.get_method(), self._url
        if method == b"CONNECT":
            raise _Refusal(405, "This is not a proxy", "Allow: GET, HEAD, OPTIONS, POST\r\n")
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (method, url, version)]
        lines += [
            b"%b: %b\r\n" % (name, value)
            for name, value in self._headers.items()
            if name not in (b"upgrade", b"http2-settings")
        ]
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"".join([*lines, b"\r\n"]))
