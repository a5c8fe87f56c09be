"""A realtime server's HTTP API at the edge of the network: checks signatures, remembers events."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Self

import msgspec
from aiohttp import web

from chat_api.realtime.reverb import ReverbApp
from reverb_py.protocol.signing import is_signature_valid, parse_query, request_strings_to_sign

APP_ID, APP_KEY, APP_SECRET = "1001", "app-key", "app-secret"


class Received(NamedTuple):
    """One event on one channel, as published."""

    channel: str
    name: str
    data: Any
    socket_id: str | None
    key: str


class RealtimeReceiver:
    """
    Accepts publications on a port that stays the same when it goes down and up again.

    `received` has every publication it read, repetitions included; `delivered` only those whose key
    it had not seen, which is what clients would hear.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.delivered: list[Received] = []
        self.requests: list[str] = []
        self.answers: list[int] = []
        """Statuses for the next requests, whose events are ignored."""
        self.refuses: Callable[[Received], bool] = lambda event: False
        self.hang_up_after = 0
        """How many of the next requests to take without ever answering."""
        self.answers_late: asyncio.Event | None = None
        """While set, requests are taken and answered when it happens."""
        self.occupied = {"private-user.1", "private-user.2"}
        """The channels that somebody is said to listen to."""
        self.looks: list[str] = []
        """What was asked about them: `channels`, or the name of a single one."""
        self.tells = True
        """Whether such questions are answered."""
        self.present: dict[str, set[str]] | None = None
        """Who is present on which channel; None: nobody is told."""
        self.is_joined = True
        """Whether it says that it knows what all of its nodes know."""
        self.before_telling: Callable[[str], Awaitable[object]] | None = None
        """What happens when it has seen who is present on a channel, and not yet said so."""
        self.port = 0
        self._keys: set[str] = set()
        self._news = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @property
    def app(self) -> ReverbApp:
        return ReverbApp(APP_ID, APP_KEY, APP_SECRET, "127.0.0.1", self.port)

    async def __aenter__(self) -> Self:
        await self.go_up()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.go_down()

    async def go_up(self) -> None:
        app = web.Application()
        app.router.add_post(f"/apps/{APP_ID}/events", self._events)
        app.router.add_post(f"/apps/{APP_ID}/batch_events", self._events)
        app.router.add_get(f"/apps/{APP_ID}/channels", self._channels)
        app.router.add_get(f"/apps/{APP_ID}/channels/{{name}}", self._channels)
        app.router.add_get(f"/apps/{APP_ID}/channels/{{name}}/users", self._users)
        app.router.add_get("/up", self._up)
        app.router.add_get("/ready", self._ready)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def go_down(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def until(self, is_enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self._news:
            await self._news.wait_for(is_enough)

    async def hears(self, count: int) -> list[Received]:
        """Return everything delivered, once it is `count` events."""
        await self.until(lambda: len(self.delivered) >= count)
        return self.delivered

    async def _up(self, request: web.Request) -> web.Response:
        return web.json_response({"health": "OK"})

    async def _ready(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_joined else 503)

    async def _users(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.looks.append(name)
        if self.answers:
            status = self.answers.pop(0)
            return web.Response(
                status=status, headers={"Retry-After": "1"} if status == 429 else {}
            )
        if self.present is None:
            return web.Response(status=403, text="not you")
        users = [{"id": user} for user in sorted(self.present.get(name, ()))]
        if self.before_telling is not None:
            await self.before_telling(name)
        return web.json_response({"users": users})

    async def _channels(self, request: web.Request) -> web.Response:
        if not _is_signed(request, b""):
            return web.Response(status=401, text="Authentication signature invalid.")
        name = request.match_info.get("name")
        async with self._news:
            self.looks.append(name or "channels")
            self._news.notify_all()
        if not self.tells:
            return web.Response(status=403, text="not you")
        if name is not None:
            return web.json_response({"occupied": name in self.occupied})
        return web.json_response({"channels": {name: {} for name in self.occupied}})

    async def _events(self, request: web.Request) -> web.Response:
        body = await request.read()
        if not _is_signed(request, body):
            return web.Response(status=401, text="Authentication signature invalid.")
        async with self._news:
            self.requests.append(request.path.rpartition("/")[2])
            self._news.notify_all()
            if self.answers:
                return web.Response(status=self.answers.pop(0), text="not now")
            envelope = msgspec.json.decode(body)
            events = [
                Received(
                    item["channel"],
                    item["name"],
                    msgspec.json.decode(item["data"]),
                    item.get("socket_id"),
                    item["idempotency_key"],
                )
                for item in envelope.get("batch", [envelope])
            ]
            if any(self.refuses(event) for event in events):
                return web.Response(status=413, text="Payload too large.")
            self.received += events
            for event in events:
                if event.key not in self._keys:
                    self._keys.add(event.key)
                    self.delivered.append(event)
            self._news.notify_all()
        if self.answers_late is not None:
            await self.answers_late.wait()
        if self.hang_up_after:
            self.hang_up_after -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({})


def _is_signed(request: web.Request, body: bytes) -> bool:
    query = parse_query(request.query_string)
    strings = request_strings_to_sign(
        request.method, [request.path], query, hashlib.md5(body).hexdigest() if body else None
    )
    return is_signature_valid(query["auth_signature"], (APP_SECRET,), strings)
