"""A backend at the edge of the network that is told by webhooks: checks and remembers requests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

from aiohttp import web

from reverb_py.core.apps import App, Webhook
from reverb_py.testing import PATIENCE
from reverb_py.webhooks.payload import KINDS

APP = App(id="1001", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8")


class Request(NamedTuple):
    """One request as it arrived."""

    path: str
    key: str
    signature: str
    headers: dict[str, str]
    body: bytes

    @property
    def time_ms(self) -> int:
        time_ms = json.loads(self.body)["time_ms"]
        assert isinstance(time_ms, int)
        return time_ms

    @property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(self.body)["events"]
        return events


class Receiver:
    """
    Answers 200, or what it was told to, and knows every request it got, in order.

    A request that is not signed with `secret` fails the test when the receiver goes down.
    """

    def __init__(self, secret: str = APP.secret) -> None:
        self.secret = secret
        self.requests: list[Request] = []
        self.taken: list[Request] = []
        """Those that were answered with 200."""
        self.answers: list[web.Response] = []
        """The next answers, before it goes on with `answer`."""
        self.answer: Callable[[Request], web.Response] = lambda request: web.Response()
        self.gate = asyncio.Event()
        """While not set, requests are taken and not answered."""
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0
        self.port = 0
        self._wrongly_signed = 0
        self._news = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.go_up()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.go_down()
        assert self._wrongly_signed == 0

    async def go_up(self) -> None:
        """Listen, on the same port as before if there was one."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def go_down(self) -> None:
        """Close the port and all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def webhook(self, *kinds: str, path: str = "/hook", **fields: Any) -> Webhook:
        """Return a webhook that leads here; without `kinds` it wants all of them."""
        url = f"http://127.0.0.1:{self.port}{path}"
        return Webhook(url=url, kinds=frozenset(kinds or KINDS), **fields)

    async def gets(self, count: int) -> list[Request]:
        """Return all requests, once there are `count`, whatever they were answered."""
        await self.until(lambda: len(self.requests) >= count)
        return self.requests

    async def hears(self, count: int) -> list[dict[str, Any]]:
        """Return all events of requests answered with 200, once there are `count`."""
        await self.until(lambda: len(self.events) >= count)
        return self.events

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for request in self.taken for event in request.events]

    async def until(self, is_enough: Callable[[], bool]) -> None:
        """Wait until it is so; looks at each request and each answer."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(is_enough)

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        arrived = Request(
            request.path,
            request.headers["X-Pusher-Key"],
            request.headers["X-Pusher-Signature"],
            dict(request.headers),
            body,
        )
        expected = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        self._wrongly_signed += arrived.signature != expected
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            async with self._news:
                self.requests.append(arrived)
                self._news.notify_all()
            await self.gate.wait()
            answer = self.answers.pop(0) if self.answers else self.answer(arrived)
            async with self._news:
                if answer.status == 200:
                    self.taken.append(arrived)
                self._news.notify_all()
            return answer
        finally:
            self.at_once -= 1


@asynccontextmanager
async def receiving(secret: str = APP.secret) -> AsyncIterator[Receiver]:
    """Run a receiver for as long as the context lasts."""
    async with Receiver(secret) as receiver:
        yield receiver
