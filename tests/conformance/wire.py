"""
A client and a backend of any Pusher server, which know nothing of it but the wire.

Signatures are computed here with the standard library alone, so that a server which shares its own
mistakes with its own client is found out.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol
from yarl import URL

__all__ = [
    "PATIENCE",
    "Answer",
    "BareConnection",
    "Client",
    "Credentials",
    "PusherApp",
    "WebhookReceiver",
    "compact",
    "frame",
    "fresh",
    "pong",
    "presence",
    "subscribed",
]

PATIENCE = 10.0
"""Seconds after which what a test waits for is taken not to come."""

_REFUSED = 4300

QUERY = "protocol=7&client=js&version=8.6.0&flash=false"

_KEY_ORDER = (
    *("event", "channel", "data", "user_id", "user_info", "presence", "count", "ids", "hash"),
    *("events", "name", "user_ids", "code", "message", "type", "error", "status"),
)


class Credentials(NamedTuple):
    """One app, as its backend knows it. `previous_secret` is still accepted, if there is one."""

    id: str
    key: str
    secret: str
    previous_secret: str = ""


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; comparing two leaves the headers out. Their names are case-insensitive."""

    status: int
    body: str
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)

    def json(self) -> Any:
        """Return the decoded body of an answer that has to be a success."""
        assert self.status == 200, self
        return json.loads(self.body)


def fresh(prefix: str = "") -> str:
    """Return a name that no other test has used, on this server or on a shared one."""
    return f"{prefix}{uuid.uuid4().hex[:16]}"


def compact(value: object) -> str:
    """Return a value as JSON without a space in it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def frame(
    event: str, channel: str | None = None, data: str | None = None, user_id: str | None = None
) -> str:
    """Return the text of a frame whose `data` is a string, with its keys in the usual order."""
    message = {"event": event, "channel": channel, "data": data, "user_id": user_id}
    return compact({key: value for key, value in message.items() if value is not None})


def subscribed(channel: str, data: str = "{}") -> str:
    """Return the acknowledgement of a subscription."""
    return frame("pusher_internal:subscription_succeeded", channel, data)


def presence(channel: str, members: Mapping[str, object]) -> str:
    """Return the acknowledgement of a presence subscription, members in their order of joining."""
    listed = {"count": len(members), "ids": list(members), "hash": members}
    return subscribed(channel, compact({"presence": listed}))


def pong() -> str:
    """Return the answer to `pusher:ping`."""
    return frame("pusher:pong", data="{}")


class PusherApp:
    """
    One app of the server under test, as its clients and its backend see it.

    `urls` are where the server is, `http://host:port` with or without a path in front of `/app` and
    `/apps`; where there are several, connections and requests go to each in turn. With `is_exact`
    what arrives is compared as it is; without, what the protocol leaves open is evened out first:
    the order of keys, the white space in JSON and the data of a pong. Without `has_refusal_code`, a
    refusal for which this project has 4300 may have any code, or none.
    """

    def __init__(
        self,
        urls: Sequence[str],
        credentials: Credentials,
        session: aiohttp.ClientSession,
        *,
        is_exact: bool,
        has_refusal_code: bool,
    ) -> None:
        self._urls = cycle([url.rstrip("/") for url in urls])
        self.id, self.key, self.secret, self.previous_secret = credentials
        self.is_exact = is_exact
        self.has_refusal_code = has_refusal_code
        self._session = session

    @property
    def url(self) -> str:
        """Where the server is: whoever asks is sent to one place after the other."""
        return next(self._urls)

    # Clients.

    @asynccontextmanager
    async def connect(
        self,
        path: str | None = None,
        query: str = QUERY,
        *,
        origin: str | None = None,
        subprotocols: tuple[str, ...] = (),
        compression: str | None = None,
    ) -> AsyncIterator[Client]:
        """Open a WebSocket; the default path is the app's. The hello is still to be received."""
        path = f"/app/{self.key}" if path is None else path
        async with connect(
            f"ws{self.url.removeprefix('http')}{path}?{query}",
            origin=None if origin is None else Origin(origin),
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            compression=compression,
            ping_interval=None,
            max_size=None,
            # A client that stops reading would not notice that the server closes.
            max_queue=None,
            proxy=None,
        ) as websocket:
            yield Client(self, websocket)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """Open a WebSocket and take the hello, so that the client knows its socket id."""
        async with self.connect() as client:
            await client.receive_hello()
            yield client

    @asynccontextmanager
    async def bare_connection(self, *, origin: str = "") -> AsyncIterator[BareConnection]:
        """Open a WebSocket that answers nothing by itself; the hello is still to be received."""
        address = urlsplit(self.url)
        is_secure = address.scheme == "https"
        port = address.port or (443 if is_secure else 80)
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(
                address.hostname, port, ssl=is_secure or None, limit=1 << 16
            )
        try:
            connection = BareConnection(reader, writer)
            target = f"{address.path}/app/{self.key}?{QUERY}"
            await connection.upgrade(address.netloc, target, origin)
            yield connection
        finally:
            writer.transport.abort()

    # Signatures.

    def sign(self, text: str, secret: str | None = None) -> str:
        """Return the hex HMAC-SHA256 of a text, under the app's secret unless another is given."""
        return hmac.new((secret or self.secret).encode(), text.encode(), hashlib.sha256).hexdigest()

    def channel_auth(
        self,
        socket_id: str,
        channel: str,
        channel_data: str | None = None,
        *,
        secret: str | None = None,
    ) -> str:
        """Return what an auth endpoint answers for a private or presence channel."""
        text = f"{socket_id}:{channel}"
        if channel_data is not None:
            text += f":{channel_data}"
        return f"{self.key}:{self.sign(text, secret)}"

    def user_auth(self, socket_id: str, user_data: str, *, secret: str | None = None) -> str:
        """Return what an auth endpoint answers for a signin."""
        return f"{self.key}:{self.sign(f'{socket_id}::user::{user_data}', secret)}"

    def signed_query(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        parameters: Mapping[str, str] | None = None,
        *,
        secret: str | None = None,
    ) -> dict[str, str]:
        """Return the parameters that authenticate a request; `parameters` overrule the usual."""
        query = {
            "auth_key": self.key,
            "auth_timestamp": str(int(time.time())),
            "auth_version": "1.0",
        }
        if body:
            query["body_md5"] = hashlib.md5(body).hexdigest()
        query |= parameters or {}
        lowered = {name.lower(): value for name, value in query.items()}
        pairs = "&".join(f"{name}={value}" for name, value in sorted(lowered.items()))
        return query | {"auth_signature": self.sign(f"{method}\n{path}\n{pairs}", secret)}

    # The backend.

    async def publish(self, name: str, channel: str, data: str, **fields: object) -> None:
        """Publish one event; `fields` go into the body as they are."""
        event = {"name": name, "channels": [channel], "data": data, **fields}
        answer = await self.post("/events", event)
        assert answer == Answer(200, "{}"), answer

    async def post(
        self, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Make a signed request below `/apps/ID`; a body that is not bytes is sent as JSON."""
        content = body if isinstance(body, bytes) else compact(body).encode()
        path = f"/apps/{self.id}{path}"
        query = self.signed_query("POST", path, content)
        return await self.request("POST", path, query, content, headers)

    async def get(self, path: str, **parameters: str) -> Answer:
        """Make a signed request below `/apps/ID`."""
        path = f"/apps/{self.id}{path}"
        return await self.request("GET", path, self.signed_query("GET", path, b"", parameters))

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | str = "",
        body: bytes | AsyncIterator[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make a request exactly as given."""
        text = query if isinstance(query, str) else urlencode(query, quote_via=quote)
        sent = {"Content-Type": "application/json"} | dict(headers or {})
        async with (
            asyncio.timeout(PATIENCE),
            self._session.request(
                method,
                URL(f"{self.url}{path}" + (f"?{text}" if text else ""), encoded=True),
                data=body or None,
                headers=sent,
            ) as response,
        ):
            answer = await response.text()
            if not self.is_exact and response.content_type == "application/json":
                answer = compact(json.loads(answer))
            return Answer(response.status, answer, response.headers)


class Client:
    """One WebSocket client. What it receives comes back as the text that was on the wire."""

    def __init__(self, app: PusherApp, websocket: ClientConnection) -> None:
        self.app = app
        self.websocket = websocket
        self.socket_id = ""

    async def receive_hello(self) -> dict[str, Any]:
        """Take the hello, remember the socket id and return the decoded `data`."""
        hello = json.loads(await self.receive())
        assert hello["event"] == "pusher:connection_established", hello
        details: dict[str, Any] = json.loads(hello["data"])
        self.socket_id = details["socket_id"]
        return details

    async def send(self, message: object) -> None:
        """Send a string as it is, bytes as a binary frame, and anything else as JSON."""
        if not isinstance(message, str | bytes):
            message = compact(message)
        await self.websocket.send(message)

    async def receive(self) -> str:
        """
        Return the next message.

        Raises:
            TimeoutError: None came.
            websockets.ConnectionClosed: The server closed the connection instead.
        """
        async with asyncio.timeout(PATIENCE):
            text = await self.websocket.recv()
        assert isinstance(text, str), "the protocol has no binary frames"
        return text if self.app.is_exact else _evened_out(text)

    async def receive_error(self, code: int) -> str:
        """Take a `pusher:error` with that code, its data an object, and return its message."""
        error = json.loads(await self.receive())
        assert error["event"] == "pusher:error", error
        assert isinstance(error["data"], dict), f"data must be an object: {error}"
        if code != _REFUSED or self.app.has_refusal_code:
            assert error["data"]["code"] == code, error
        message = error["data"]["message"]
        assert isinstance(message, str), error
        assert message, error
        return message

    async def receive_refusal(self, channel: str, kind: str, status: int | None = None) -> None:
        """Take both frames of a refused subscription: the channel's and the connection's."""
        refusal = json.loads(await self.receive())
        details = json.loads(refusal.pop("data"))
        assert refusal == {"event": "pusher:subscription_error", "channel": channel}
        assert details.keys() == {"type", "error", "status"}, details
        assert details["type"] == kind, details
        assert details["error"], details
        assert 400 <= details["status"] <= 499, details
        assert status in (None, details["status"]), details
        await self.receive_error(_REFUSED)

    async def receive_fatal_error(self, code: int) -> None:
        """Take a `pusher:error` and the close frame with the same code behind it."""
        await self.receive_error(code)
        assert (await self.closed())[0] == code

    async def closed(self) -> tuple[int | None, str]:
        """Wait until the connection has ended and return the close frame's code and reason."""
        async with asyncio.timeout(PATIENCE):
            await self.websocket.wait_closed()
        return self.websocket.close_code, self.websocket.close_reason or ""

    async def received_nothing(self) -> None:
        """Take a pong and nothing before it: answers and events keep their order."""
        await self.send({"event": "pusher:ping", "data": {}})
        assert json.loads(await self.receive())["event"] == "pusher:pong"

    async def ask_for(self, channel: str, **fields: object) -> None:
        """Send `pusher:subscribe` with exactly these fields."""
        await self.send({"event": "pusher:subscribe", "data": {"channel": channel, **fields}})

    async def subscribe(self, channel: str) -> None:
        """Subscribe off presence, signing where the name asks for it, and take the success."""
        fields = {}
        if channel.startswith("private-"):
            fields["auth"] = self.app.channel_auth(self.socket_id, channel)
        await self.ask_for(channel, **fields)
        assert await self.receive() == subscribed(channel)

    async def unsubscribe(self, channel: str) -> None:
        """Unsubscribe, which has no answer, and see that there is none."""
        await self.send({"event": "pusher:unsubscribe", "data": {"channel": channel}})
        await self.received_nothing()

    async def ask_to_join(self, channel: str, channel_data: str) -> None:
        """Send a rightly signed presence subscription."""
        auth = self.app.channel_auth(self.socket_id, channel, channel_data)
        await self.ask_for(channel, auth=auth, channel_data=channel_data)

    async def join(self, channel: str, user_id: object, **fields: object) -> str:
        """Join a presence channel as a user; return the acknowledgement."""
        await self.ask_to_join(channel, compact({"user_id": user_id, **fields}))
        return await self.receive()

    async def ask_to_sign_in(self, user_data: str) -> None:
        """Send a rightly signed signin."""
        auth = self.app.user_auth(self.socket_id, user_data)
        await self.send({"event": "pusher:signin", "data": {"auth": auth, "user_data": user_data}})

    async def sign_in(self, user_id: str, **fields: object) -> None:
        """Sign in as a user and take the success."""
        user_data = compact({"id": user_id, **fields})
        await self.ask_to_sign_in(user_data)
        expected = frame("pusher:signin_success", data=compact({"user_data": user_data}))
        assert await self.receive() == expected

    async def whisper(self, event: str, channel: str, **fields: object) -> None:
        """Send a client event."""
        await self.send({"event": event, "channel": channel, **fields})


class BareConnection:
    """A WebSocket frame by frame, for clients that keep silent and clients that do not read."""

    TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def upgrade(self, host: str, target: str, origin: str) -> None:
        """Make the opening handshake."""
        self._writer.write(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n".encode()
            + (f"Origin: {origin}\r\n\r\n" if origin else "\r\n").encode()
        )
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    async def receive(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload."""
        async with asyncio.timeout(PATIENCE):
            first, second = await self._reader.readexactly(2)
            length = second
            if second >= 126:
                width = 2 if second == 126 else 8
                length = int.from_bytes(await self._reader.readexactly(width), "big")
            return first & 0x0F, await self._reader.readexactly(length)

    async def receive_json(self) -> Any:
        """Return the next message, decoded."""
        opcode, payload = await self.receive()
        assert opcode == self.TEXT, (opcode, payload)
        return json.loads(payload)

    def send(self, opcode: int, payload: bytes) -> None:
        """Send one frame, masked as a client has to; a mask of zeros leaves it as it is."""
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 65536:
            length = b"\xfe" + size.to_bytes(2, "big")
        else:
            length = b"\xff" + size.to_bytes(8, "big")
        self._writer.write(bytes([0x80 | opcode]) + length + bytes(4) + payload)


class WebhookReceiver:
    """A backend that is told by webhooks. It refuses the first `refusals` requests with a 500."""

    def __init__(self) -> None:
        self.url = ""
        self.refusals = 0
        self._requests: asyncio.Queue[tuple[Mapping[str, str], bytes]] = asyncio.Queue()
        self._events: list[dict[str, Any]] = []

    @classmethod
    @asynccontextmanager
    async def listening(cls, host: str, port: int) -> AsyncIterator[Self]:
        """Listen for as long as the context lasts; port 0 is any free one."""
        receiver = cls()
        runner = web.ServerRunner(web.Server(receiver._take))
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            receiver.url = f"http://{host}:{runner.addresses[0][1]}/webhooks"
            yield receiver
        finally:
            await runner.cleanup()

    async def _take(self, request: web.BaseRequest) -> web.Response:
        self._requests.put_nowait((request.headers, await request.read()))
        self.refusals -= 1
        return web.Response(status=500 if self.refusals >= 0 else 200)

    async def receive_request(self, channel: str) -> tuple[Mapping[str, str], bytes]:
        """Return the headers and the body of the next request that tells of a channel."""
        async with asyncio.timeout(PATIENCE):
            headers, body = await self._requests.get()
            while compact(channel).encode() not in body:
                headers, body = await self._requests.get()
        return headers, body

    async def receive_event(self, channel: str) -> dict[str, Any]:
        """Return what is told next of one channel; what is told of others is thrown away."""
        while True:
            while self._events:
                if (event := self._events.pop(0))["channel"] == channel:
                    return event
            self._events = json.loads((await self.receive_request(channel))[1])["events"]


def _evened_out(text: str) -> str:
    """Return a frame with its keys in this module's order, and so the JSON the server made."""
    message = _in_order(json.loads(text), depth=1)
    event, data = message["event"], message.get("data")
    if event == "pusher:pong":
        return pong()
    if event.startswith(("pusher:", "pusher_internal:")) and isinstance(data, str):
        try:
            message["data"] = compact(_in_order(json.loads(data), depth=3))
        except ValueError:
            pass  # Text that is no JSON, be it empty, is what it is.
    return compact(message)


def _in_order(value: Any, depth: int) -> Any:
    if isinstance(value, list):
        return [_in_order(item, depth) for item in value]
    if not isinstance(value, dict) or depth == 0:
        return value
    known = [key for key in _KEY_ORDER if key in value]
    others = [key for key in value if key not in known]
    return {key: _in_order(value[key], depth - 1) for key in known + others}
