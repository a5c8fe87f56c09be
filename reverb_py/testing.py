"""
A server on a free port and a client with verbs, for the tests of this project and of yours.

    async with serving() as server:
        async with server.connect() as client:
            await client.subscribe("orders")
            await server.publish("order-shipped", "orders", '{"id":7}')
            assert await client.receive() == (
                '{"event":"order-shipped","channel":"orders","data":"{\\\\"id\\\\":7}"}'
            )

Both run on the event loop of the test, with real sockets. Whatever does not come within
`PATIENCE` seconds raises TimeoutError.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from websockets.asyncio.client import ClientConnection, connect, unix_connect

from reverb_py.cluster.node import Node
from reverb_py.core.apps import App, Apps
from reverb_py.protocol import signing
from reverb_py.runtime import RunningServer, running_server
from reverb_py.server.listener import Deadlines
from reverb_py.server.tls import TlsFiles
from reverb_py.settings import Settings

__all__ = ["PATIENCE", "PusherClient", "TestServer", "serving"]

PATIENCE = 30.0
"""Seconds after which what a test waits for is taken not to come."""

_APP = App(
    id="1001",
    key="278d425bdf160c739803",
    secret="7ad3773142a6692b25b8",
)


@asynccontextmanager
async def serving(
    *apps: App,
    timer_resolution: float = 1.0,
    deadlines: Deadlines = Deadlines(),  # noqa: B008 - immutable
    **settings: Any,
) -> AsyncIterator[TestServer]:
    """
    Run a server on 127.0.0.1 for as long as the context lasts.

    Without `apps` it has one, with the key and the secret of the protocol's test vectors. Further
    arguments are fields of `Settings`; `deadlines` are those of the clients, and `timer_resolution`
    is how exactly, in seconds, they are kept. A client of a server with `tls` believes the server's
    certificate and no other, whatever name it is for.
    """
    configured = Settings(
        **{
            "apps": Apps(apps or [_APP]),
            "host": "127.0.0.1",
            "port": 0,
            "shutdown_seconds": 10.0,
            **settings,
        }
    )
    async with (
        running_server(
            configured, timer_resolution=timer_resolution, deadlines=deadlines
        ) as running,
        aiohttp.ClientSession(connector=_connector(configured)) as session,
    ):
        yield TestServer((apps or (_APP,))[0], running, session, configured)


def _connector(settings: Settings) -> aiohttp.BaseConnector | None:
    if settings.socket_path is None:
        return None
    return aiohttp.UnixConnector(str(settings.socket_path))


def _client_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.certificate)
    context.check_hostname = False
    return context


class TestServer:
    """A running server, seen from outside as the backend of its first app."""

    __test__ = False

    def __init__(
        self,
        app: App,
        running: RunningServer,
        session: aiohttp.ClientSession,
        settings: Settings,
    ) -> None:
        self.app = app
        self.port = running.port
        self.socket_path = settings.socket_path
        self.tls = None if settings.tls is None else _client_context(settings.tls)
        self.metrics_port = running.metrics_port
        self._running = running
        self._session = session

    @property
    def node(self) -> Node:
        """This server among others, where `scaling` says that there may be any."""
        assert self._running.node is not None, "the server was started without `scaling`"
        return self._running.node

    def reload(self, *apps: App, tls: TlsFiles | None = None) -> None:
        """Go on with these, as the server does on SIGHUP; the first app is this backend's."""
        self._running.reload(apps, tls)
        self.app = apps[0]

    async def drain(self, seconds: float = 0.0, delay_seconds: float = 0.0) -> None:
        """Begin to stop: close the port after the delay, send clients away over `seconds`."""
        await self._running.listener.drain(delay_seconds, seconds)

    @asynccontextmanager
    async def connect(
        self, path: str | None = None, query: str = "protocol=7&client=test&version=1.0"
    ) -> AsyncIterator[PusherClient]:
        """Open a WebSocket; the default path is the app's. The hello is still to be received."""
        path = f"/app/{self.app.key}" if path is None else path
        scheme = "ws" if self.tls is None else "wss"
        url = f"{scheme}://127.0.0.1:{self.port}{path}?{query}"
        options: dict[str, Any] = {"compression": None, "ping_interval": None, "max_size": None}
        if self.tls is not None:
            options["ssl"] = self.tls
        if self.socket_path is None:
            connecting = connect(url, **options)
        else:
            connecting = unix_connect(str(self.socket_path), url, **options)
        async with connecting as websocket:
            yield PusherClient(self.app, websocket)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[PusherClient]:
        """Open a WebSocket and take the hello, so that the client knows its socket id."""
        async with self.connect() as client:
            await client.receive_hello()
            yield client

    async def publish(self, name: str, channel: str, data: str, **fields: Any) -> None:
        """Publish one event, as a backend does; `fields` go into the body as they are."""
        event = {"name": name, "channels": [channel], "data": data, **fields}
        status, body = await self.request("POST", "/events", event)
        assert (status, body) == (200, "{}"), body

    async def request(
        self, method: str, path: str, body: object = None, parameters: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """
        Make one signed request below `/apps/ID` and return its status and its body.

        A body that is not bytes is sent as JSON; None sends no body.
        """
        content = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        full_path = f"/apps/{self.app.id}{path}"
        query = signing.signed_query(
            self.app.key,
            self.app.secret,
            method,
            full_path,
            content,
            int(time.time()),
            parameters,
        )
        return await self.unsigned_request(method, full_path, content, query)

    async def unsigned_request(
        self, method: str, path: str, body: bytes = b"", parameters: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Make one request exactly as given and return its status and its body."""
        async with (
            asyncio.timeout(PATIENCE),
            self._session.request(
                method,
                f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}{path}",
                params=parameters,
                data=body or None,
                ssl=self.tls or True,
            ) as response,
        ):
            return response.status, await response.text()


class PusherClient:
    """One WebSocket client. What it receives comes back as the text that was on the wire."""

    def __init__(self, app: App, websocket: ClientConnection) -> None:
        self._app = app
        self.websocket = websocket
        self.socket_id = ""

    async def receive_hello(self) -> None:
        """Take `pusher:connection_established` and remember the socket id."""
        hello = json.loads(await self.receive())
        assert hello["event"] == "pusher:connection_established", hello
        self.socket_id = json.loads(hello["data"])["socket_id"]

    async def send(self, message: object) -> None:
        """Send text as it is, and anything else as JSON."""
        text = message if isinstance(message, str | bytes) else orjson.dumps(message).decode()
        await self.websocket.send(text)

    async def receive(self) -> str:
        """
        Return the next message.

        Raises:
            TimeoutError: None came.
            websockets.ConnectionClosed: The server closed the connection instead.
        """
        async with asyncio.timeout(PATIENCE):
            text = await self.websocket.recv(decode=True)
        assert isinstance(text, str)
        return text

    def auth_for(self, channel: str, channel_data: str | None = None) -> str:
        """Return what an auth endpoint would answer for this socket and that channel."""
        app = self._app
        return signing.channel_auth(app.key, app.secret, self.socket_id, channel, channel_data)

    async def subscribe(self, channel: str, channel_data: str | None = None) -> Any:
        """
        Subscribe, signing where the channel's name asks for it, and await the success.

        Returns its data, decoded: empty but on presence channels, where `channel_data` says who
        this is.
        """
        data = {"channel": channel}
        if channel.startswith(("private-", "presence-")):
            data["auth"] = self.auth_for(channel, channel_data)
        if channel_data is not None:
            data["channel_data"] = channel_data
        await self.send({"event": "pusher:subscribe", "data": data})
        answer = json.loads(await self.receive())
        assert answer["event"] == "pusher_internal:subscription_succeeded", answer
        assert answer["channel"] == channel, answer
        return json.loads(answer["data"])

    async def sign_in(self, user_data: str) -> None:
        """Sign in as the user that this JSON describes, and await the success."""
        app = self._app
        auth = signing.user_auth(app.key, app.secret, self.socket_id, user_data)
        await self.send({"event": "pusher:signin", "data": {"auth": auth, "user_data": user_data}})
        answer = json.loads(await self.receive())
        assert answer["event"] == "pusher:signin_success", answer

    async def ping(self) -> None:
        """Ask for a pong and take it: whatever was to come before it has come."""
        await self.send('{"event":"pusher:ping","data":{}}')
        answer = await self.receive()
        assert answer == '{"event":"pusher:pong","data":"{}"}', answer

    async def closed(self) -> tuple[int | None, str]:
        """Wait until the connection has ended and return the close frame's code and reason."""
        async with asyncio.timeout(PATIENCE):
            await self.websocket.wait_closed()
        return self.websocket.close_code, self.websocket.close_reason or ""
