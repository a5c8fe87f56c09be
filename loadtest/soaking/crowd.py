"""
The clients of a soak, and the backend: they come, do a bit of everything, and leave in every way.

`Witness` clients stay all the time and must hear every numbered event, once and in order.
"""

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Sequence

import aiohttp
import orjson
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from reverb_py.core.apps import App
from reverb_py.protocol import signing

__all__ = ["PATIENCE", "Backend", "Crowd"]

PATIENCE = 60.0
"""Seconds after which what a server owes is taken not to come."""

WITNESSED = "soak-witnessed"
_ROOMS = 5
_STEPS = {"channel_occupied": 1, "channel_vacated": -1, "member_added": 1, "member_removed": -1}


class Crowd:
    """Who is there; `done` counts what they did, and `wrong` is what should not have happened."""

    def __init__(self, app: App, ports: Sequence[int]) -> None:
        self.done: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.connections = 0
        self._app = app
        self._ports = ports

    async def live(self) -> None:
        """Live one life after the other, until cancelled."""
        while True:
            port = random.choice(self._ports)
            self.connections += 1
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._live_once(port)
            except TimeoutError:
                self.wrong["an answer that did not come"] += 1
            except (ConnectionClosed, InvalidHandshake, OSError) as error:
                # Whose user is terminated is closed with 4009, and that is right.
                closed = error.rcvd if isinstance(error, ConnectionClosed) else None
                if closed is None or closed.code != 4009:
                    self.wrong[f"a connection that broke: {error!r}"] += 1
            finally:
                self.connections -= 1
            self.done["lives"] += 1

    async def witness(self, port: int, due: int, is_ready: asyncio.Event) -> None:
        """Hear every numbered event, from the one that is due first, until cancelled."""
        self.connections += 1
        try:
            async with self._connect(port) as websocket:
                client = _Client(self._app, websocket)
                await client.greet()
                await client.subscribe(WITNESSED)
                is_ready.set()
                while True:
                    message = await client.receive()
                    if message["event"] != "numbered":
                        continue
                    number = orjson.loads(message["data"])["number"]
                    if number != due:
                        self.wrong["an event that a witness missed or heard twice"] += 1
                    due = number + 1
                    self.done["witnessed"] += 1
        finally:
            self.connections -= 1

    async def _live_once(self, port: int) -> None:
        async with self._connect(port) as websocket:
            client = _Client(self._app, websocket)
            await client.greet()
            user_id = f"user-{random.randrange(40)}"
            if random.random() < 0.3:
                watched = [f"user-{number}" for number in range(3)]
                await client.sign_in({"id": user_id, "watchlist": watched})
                self.done["signins"] += 1
            channels = [
                f"soak-{random.randrange(_ROOMS)}",
                f"soak-once-{secrets.token_hex(6)}",
                f"private-soak-{random.randrange(_ROOMS)}",
                f"presence-soak-{random.randrange(_ROOMS)}",
                f"presence-cache-soak-{secrets.token_hex(6)}",
                f"cache-soak-{random.randrange(_ROOMS)}",
            ]
            random.shuffle(channels)
            joined = channels[: random.randint(1, len(channels))]
            for channel in joined:
                await client.subscribe(channel, user_id)
                self.done["subscriptions"] += 1
            for channel in joined:
                if channel.startswith(("private-", "presence-")):
                    await client.send("client-soak", {"hello": "all"}, channel=channel)
                    self.done["client events"] += 1
            for channel in joined[::2]:
                await client.send("pusher:unsubscribe", {"channel": channel})
            if random.random() < 0.1:
                await websocket.send("this is no message")
            await client.ping()
            for _ in range(random.randrange(4)):
                await asyncio.sleep(random.random())
                await client.ping()
            match random.randrange(4):
                case 0:  # as when the network is gone; the end of the socket is all that is seen
                    websocket.transport.abort()
                case 1:  # in the middle of joining
                    await client.ask_for(f"presence-soak-{random.randrange(_ROOMS)}", user_id)
                    websocket.transport.abort()
                case 2:
                    await client.ask_for(f"soak-once-{secrets.token_hex(6)}")

    def _connect(self, port: int) -> connect:
        url = f"ws://127.0.0.1:{port}/app/{self._app.key}?protocol=7&client=soak&version=1.0"
        # With a full queue the client stops reading, and so would not see that it is closed.
        return connect(
            url, compression=None, ping_interval=None, close_timeout=PATIENCE, max_queue=None
        )


class _Client:
    """One connection; what it receives while it waits for something is only counted."""

    def __init__(self, app: App, websocket: ClientConnection) -> None:
        self._app = app
        self._websocket = websocket
        self._socket_id = ""

    async def greet(self) -> None:
        hello = await self._wait_for("pusher:connection_established")
        self._socket_id = orjson.loads(hello["data"])["socket_id"]

    async def sign_in(self, user: dict[str, object]) -> None:
        data = orjson.dumps(user).decode()
        auth = signing.user_auth(self._app.key, self._app.secret, self._socket_id, data)
        await self.send("pusher:signin", {"auth": auth, "user_data": data})
        await self._wait_for("pusher:signin_success")

    async def ask_for(self, channel: str, user_id: str = "") -> None:
        subscription = {"channel": channel}
        if channel.startswith("presence-"):
            user = {"user_id": user_id, "user_info": {"name": user_id}}
            subscription["channel_data"] = orjson.dumps(user).decode()
        if channel.startswith(("private-", "presence-")):
            subscription["auth"] = signing.channel_auth(
                self._app.key,
                self._app.secret,
                self._socket_id,
                channel,
                subscription.get("channel_data"),
            )
        await self.send("pusher:subscribe", subscription)

    async def subscribe(self, channel: str, user_id: str = "") -> None:
        await self.ask_for(channel, user_id)
        await self._wait_for("pusher_internal:subscription_succeeded", channel)

    async def ping(self) -> None:
        await self.send("pusher:ping", {})
        await self._wait_for("pusher:pong")

    async def send(self, event: str, data: object, **fields: str) -> None:
        await self._websocket.send(orjson.dumps({"event": event, **fields, "data": data}).decode())

    async def receive(self) -> dict[str, str]:
        message: dict[str, str] = orjson.loads(await self._websocket.recv())
        if message["event"] == "pusher:ping":
            await self.send("pusher:pong", {})
        return message

    async def _wait_for(self, event: str, channel: str | None = None) -> dict[str, str]:
        while True:
            message = await self.receive()
            if message["event"] == event and channel in (None, message.get("channel")):
                return message


class Backend:
    """The application: it publishes, reads, ends connections, and is told by webhooks."""

    def __init__(self, app: App, ports: Sequence[int], crowd: Crowd) -> None:
        self.told: Counter[str] = Counter()
        self.begun: dict[tuple[str, str], int] = {}
        """Of what was told to begin, how often more than to end; nothing where that is even."""
        self.published = 0
        self.is_over = False
        self._app = app
        self._ports = ports
        self._crowd = crowd

    async def publish_numbered(self, session: aiohttp.ClientSession) -> None:
        """Publish numbered events to the witnesses, on one node, until it `is_over`."""
        while not self.is_over:
            event = _event("numbered", [WITNESSED], {"number": self.published + 1})
            await self.request(session, self._ports[0], "POST", "/events", event)
            self.published += 1
            await asyncio.sleep(0.02)

    async def publish_last_event(self, session: aiohttp.ClientSession, port: int) -> None:
        """Publish, on one node, what a channel without subscribers remembers."""
        event = _event("news", ["cache-soak-0"], {"text": "the last"})
        await self.request(session, port, "POST", "/events", event)

    async def work(self, session: aiohttp.ClientSession) -> None:
        """Do a bit of everything on any node until it `is_over`."""
        rooms = [
            f"{kind}-{number}"
            for kind in ("soak", "private-soak", "presence-soak", "cache-soak")
            for number in range(_ROOMS)
        ]
        while not self.is_over:
            port = random.choice(self._ports)
            channel = random.choice(rooms)
            event = _event("news", [channel], {"text": "x" * random.randrange(2000)})
            match random.randrange(20):
                case 0:
                    await self.request(session, port, "GET", "/channels")
                case 1:
                    await self.request(session, port, "GET", f"/channels/{channel}")
                case 2:
                    path = f"/users/user-{random.randrange(40)}/terminate_connections"
                    await self.request(session, port, "POST", path, {})
                case 3:
                    one = {"name": "news", "channel": channel, "data": "{}"}
                    await self.request(session, port, "POST", "/batch_events", {"batch": [one] * 5})
                case 4:
                    once = _event("news", [f"nobody-{secrets.token_hex(6)}"], {})
                    await self.request(session, port, "POST", "/events", once)
                case _:
                    await self.request(session, port, "POST", "/events", event)
            await asyncio.sleep(0.005)

    async def request(
        self,
        session: aiohttp.ClientSession,
        port: int,
        method: str,
        path: str,
        body: object = None,
    ) -> dict[str, object]:
        """Make one signed request below `/apps/ID`; return its answer, empty if it was refused."""
        content = b"" if body is None else orjson.dumps(body)
        full_path = f"/apps/{self._app.id}{path}"
        query = signing.signed_query(
            self._app.key, self._app.secret, method, full_path, content, int(time.time())
        )
        url = f"http://127.0.0.1:{port}{full_path}"
        async with session.request(method, url, params=query, data=content or None) as response:
            answer = await response.read()
        self._crowd.done["requests"] += 1
        if response.status != 200:
            self._crowd.wrong[f"{method} that was answered with {response.status}"] += 1
            return {}
        found: dict[str, object] = orjson.loads(answer)
        return found

    async def take_webhook(self, request: web.Request) -> web.Response:
        """Count the events of a webhook, if it is signed."""
        body = await request.read()
        signature = request.headers.get("X-Pusher-Signature", "")
        if signature != signing.sign(self._app.secret, body):
            self._crowd.wrong["a webhook with a wrong signature"] += 1
        for event in orjson.loads(body)["events"]:
            self.told[event["name"]] += 1
            self._note_pair(event)
        return web.Response()

    def _note_pair(self, event: dict[str, str]) -> None:
        step = _STEPS.get(event["name"])
        if step is not None:
            what = (event["channel"], event.get("user_id", ""))
            self.begun[what] = self.begun.get(what, 0) + step
            if not self.begun[what]:
                del self.begun[what]


def _event(name: str, channels: list[str], data: object) -> dict[str, object]:
    return {"name": name, "channels": channels, "data": orjson.dumps(data).decode()}
