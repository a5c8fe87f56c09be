"""
The two servers that `bench.py` measures reverb_py against, each started as a child process.

`websockets` is a broadcast server as most people would write it: `websockets.asyncio.server` with
its `broadcast()`, aiohttp beside it for the publishes, orjson and uvloop under both. It checks the
same signatures as reverb_py and every setting is the library's default, except that compression and
the access log are off, which is in its favour. It knows presence channels and client events, too,
and counts nobody's limits.

`raw` is the limit for anyone who sends one message per system call: one `write()` for each
subscriber in a plain loop, with no protocol at all. A connection's first byte says what it is:

    S  a subscriber; the server answers S
    T  one publish: the frame is written to every subscriber, then the server answers T; repeatable
    G  the readiness check, `GET /up`, answered with 200

The app's credentials come from REVERB_APP_ID, REVERB_APP_KEY and REVERB_APP_SECRET.
"""

import asyncio
import hashlib
import hmac
import os
import random
import select
import socket
import struct
from collections.abc import Callable
from urllib.parse import parse_qsl

import click
import orjson
from aiohttp import web
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
try:
    import uvloop
except ImportError:
    pass
else:
    new_event_loop = uvloop.new_event_loop


class BroadcastServer:
    """The channels of one app, its WebSocket handler and its signed publish handler."""

    def __init__(self, app_id: str, key: str, secret: str) -> None:
        self._app_id = app_id
        self._key = key
        self._secret = secret.encode()
        self._channels: dict[str, set[ServerConnection]] = {}
        self._members: dict[str, dict[str, object]] = {}

    async def run(self, port: int, http_port: int) -> None:
        """Serve WebSocket connections on one port and HTTP on the other until cancelled."""
        application = web.Application()
        application.router.add_get("/up", self.up)
        application.router.add_post("/apps/{app_id}/events", self.publish)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        async with serve(self.connection, "127.0.0.1", port, compression=None):
            await web.TCPSite(runner, "127.0.0.1", http_port).start()
            await asyncio.get_running_loop().create_future()

    async def connection(self, connection: ServerConnection) -> None:
        """Greet one connection and answer its messages until it goes."""
        request = connection.request
        if request is None or request.path.partition("?")[0] != f"/app/{self._key}":
            await connection.close(4001, "Application does not exist")
            return
        socket_id = f"{random.randrange(10**9)}.{random.randrange(10**9)}"
        established = orjson.dumps({"socket_id": socket_id, "activity_timeout": 30}).decode()
        joined: dict[str, str | None] = {}
        try:
            await self._send(connection, "pusher:connection_established", established)
            async for text in connection:
                message = orjson.loads(text)
                match message["event"]:
                    case "pusher:subscribe":
                        await self._subscribe(connection, socket_id, message["data"], joined)
                    case "pusher:unsubscribe":
                        self._leave(connection, message["data"]["channel"], joined)
                    case "pusher:ping":
                        await self._send(connection, "pusher:pong", "{}")
                    case event if event.startswith("client-") and message["channel"] in joined:
                        channel = message["channel"]
                        relayed = {"event": event, "channel": channel, "data": message["data"]}
                        others = self._channels[channel] - {connection}
                        broadcast(others, orjson.dumps(relayed), text=True)
        except ConnectionClosed:
            pass
        finally:
            for channel in tuple(joined):
                self._leave(connection, channel, joined)

    async def _subscribe(
        self,
        connection: ServerConnection,
        socket_id: str,
        wanted: dict[str, str],
        joined: dict[str, str | None],
    ) -> None:
        channel, auth = wanted["channel"], wanted.get("auth", "")
        channel_data = wanted.get("channel_data", "")
        if not self._may_subscribe(socket_id, channel, auth, channel_data):
            error = {"code": None, "message": "Connection is unauthorized"}
            await self._send(connection, "pusher:error", error)
            return
        user_id, data = None, "{}"
        subscribers = self._channels.setdefault(channel, set())
        if channel.startswith("presence-"):
            member = orjson.loads(channel_data)
            user_id = member["user_id"]
            members = self._members.setdefault(channel, {})
            members[user_id] = member.get("user_info")
            presence = {"count": len(members), "ids": list(members), "hash": members}
            data = orjson.dumps({"presence": presence}).decode()
            self._tell(subscribers, "pusher_internal:member_added", channel, member)
        event = "pusher_internal:subscription_succeeded"
        subscribers.add(connection)
        joined[channel] = user_id
        await self._send(connection, event, data, channel=channel)

    def _leave(
        self, connection: ServerConnection, channel: str, joined: dict[str, str | None]
    ) -> None:
        user_id = joined.pop(channel)
        subscribers = self._channels[channel]
        subscribers.discard(connection)
        if user_id is not None:
            # One connection for each user is all that is asked of it.
            del self._members[channel][user_id]
            event = "pusher_internal:member_removed"
            self._tell(subscribers, event, channel, {"user_id": user_id})

    def _tell(
        self, subscribers: set[ServerConnection], event: str, channel: str, data: object
    ) -> None:
        message = {"event": event, "channel": channel, "data": orjson.dumps(data).decode()}
        broadcast(subscribers, orjson.dumps(message), text=True)

    async def publish(self, request: web.Request) -> web.Response:
        """Answer `POST /apps/{id}/events`: check the signature, broadcast, answer `{}`."""
        body = await request.read()
        if request.match_info["app_id"] != self._app_id or not self._is_signed(request, body):
            return web.Response(status=401, text="Authentication signature invalid.")
        event = orjson.loads(body)
        for channel in event.get("channels") or [event["channel"]]:
            message = {"event": event["name"], "channel": channel, "data": event["data"]}
            broadcast(self._channels.get(channel, ()), orjson.dumps(message), text=True)
        return web.json_response({})

    async def up(self, request: web.Request) -> web.Response:
        """Answer the readiness check."""
        return web.json_response({"health": "OK"})

    async def _send(
        self, connection: ServerConnection, event: str, data: object, **extra: str
    ) -> None:
        await connection.send(orjson.dumps({"event": event, **extra, "data": data}), text=True)

    def _may_subscribe(self, socket_id: str, channel: str, auth: str, channel_data: str) -> bool:
        if not channel.startswith(("private-", "presence-")):
            return True
        text = f"{socket_id}:{channel}"
        if channel_data:
            text += f":{channel_data}"
        signature = hmac.digest(self._secret, text.encode(), "sha256").hex()
        return hmac.compare_digest(auth.encode(), f"{self._key}:{signature}".encode())

    def _is_signed(self, request: web.Request, body: bytes) -> bool:
        query = dict(parse_qsl(request.query_string))
        given = query.pop("auth_signature", "")
        query["body_md5"] = hashlib.md5(body).hexdigest()
        pairs = "&".join(f"{name}={query[name]}" for name in sorted(query))
        text = f"{request.method}\n{request.path}\n{pairs}"
        signature = hmac.digest(self._secret, text.encode(), "sha256").hex()
        return hmac.compare_digest(given.encode(), signature.encode())


def run_raw(port: int, frame: bytes) -> None:
    """Serve the `raw` protocol of the module's description on one port until killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    subscribers: list[int] = []
    while True:
        for descriptor, _ in epoll.poll():
            if descriptor == listener.fileno():
                connection, _ = listener.accept()
                # Blocking: a full socket buffer holds the loop up instead of losing a frame.
                connection.setblocking(True)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                epoll.register(connection, select.EPOLLIN)
                continue
            connection = connections[descriptor]
            match connection.recv(4096)[:1]:
                case b"T":
                    for subscriber in subscribers:
                        os.write(subscriber, frame)
                    connection.send(b"T")
                case b"S":
                    subscribers.append(descriptor)
                    connection.send(b"S")
                case first_byte:
                    if first_byte == b"G":
                        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    if descriptor in subscribers:
                        subscribers.remove(descriptor)
                    del connections[descriptor]
                    connection.close()


@click.group()
def main() -> None:
    """Run one of the servers that bench.py compares reverb_py with."""


@main.command()
@click.option("--port", type=int, required=True, help="Port of the WebSocket listener.")
@click.option("--http-port", type=int, required=True, help="Port of the HTTP listener.")
def websockets(port: int, http_port: int) -> None:
    """Run websockets' broadcast() with aiohttp beside it."""
    app_id, key, secret = (os.environ[f"REVERB_APP_{name}"] for name in ("ID", "KEY", "SECRET"))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(BroadcastServer(app_id, key, secret).run(port, http_port))


@main.command()
@click.option("--port", type=int, required=True, help="Port of the listener.")
@click.option("--message", required=True, help="What one publish sends, as one text frame.")
def raw(port: int, message: str) -> None:
    """Run one write() per subscriber in a plain loop."""
    payload = message.encode()
    if len(payload) < 126:
        head = struct.pack(">BB", 0x81, len(payload))
    else:
        head = struct.pack(">BBH", 0x81, 126, len(payload))
    run_raw(port, head + payload)


if __name__ == "__main__":
    main()
