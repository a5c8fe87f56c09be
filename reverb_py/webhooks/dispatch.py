"""What happens in an app, sent to those of its webhooks that asked for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp

from reverb_py.core.notices import Notices
from reverb_py.webhooks import payload
from reverb_py.webhooks.endpoint import Endpoint, Limits
from reverb_py.webhooks.holding import Departure, Holding

if TYPE_CHECKING:
    from reverb_py.core.apps import App, Webhook

__all__ = ["Webhooks"]


class Webhooks(Notices):
    """
    Keeps the promise of `Notices` while `running`; outside of it, nothing is sent.

    `clock` returns seconds since 1970 and is what `time_ms` is taken from; `jitter` returns values
    from 0 to 1. Delays are kept by the event loop. A notice costs an attribute look-up when its app
    has no webhooks, and appends to a queue for each webhook that asked for it.

    Each notice brings its app, and a newer configuration of an app replaces the one before. A
    webhook with the same URL as before keeps its queue; what waits for one that is gone is still
    sent.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        limits: Limits = Limits(),  # noqa: B008 - immutable
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._limits = limits
        self._apps: dict[str, _AppWebhooks] = {}
        self._retired: list[Endpoint] = []
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self, drain_seconds: float) -> AsyncIterator[None]:
        """
        Send webhooks while the block runs, and then up to `drain_seconds` more what is left.

        What is held is then sent at once. What can't be sent in that time is lost, and the log says
        how much.
        """
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        ) as session:
            self._session = session
            try:
                yield
            finally:
                try:
                    await self._drain(drain_seconds)
                finally:
                    await self._stop()

    def channel_occupied(self, app: App, channel: str) -> None:
        """Send `channel_occupied`, unless the channel's end is still held: then send neither."""
        own = self._webhooks_of(app)
        if own is not None:
            own.came(Departure(channel))

    def channel_vacated(self, app: App, channel: str) -> None:
        """Send `channel_vacated` when nobody has come back after a while."""
        own = self._webhooks_of(app)
        if own is not None:
            own.went(Departure(channel))

    def member_added(self, app: App, channel: str, user_id: str) -> None:
        """Send `member_added`, unless the user's leaving is still held: then send neither."""
        own = self._webhooks_of(app)
        if own is not None:
            own.came(Departure(channel, user_id))

    def member_removed(self, app: App, channel: str, user_id: str) -> None:
        """Send `member_removed` when the user has not come back after a while."""
        own = self._webhooks_of(app)
        if own is not None:
            own.went(Departure(channel, user_id))

    def client_event(
        self,
        app: App,
        channel: str,
        event: str,
        data: bytes,
        socket_id: str,
        user_id: str | None,
    ) -> None:
        """Send `client_event`, with `data` as a string."""
        own = self._webhooks_of(app)
        if own is not None and (listeners := own.listeners("client_event", channel)):
            content = payload.client_event(channel, event, data, socket_id, user_id)
            for endpoint in listeners:
                endpoint.put(content)

    def cache_miss(self, app: App, channel: str) -> None:
        """Send `cache_miss`."""
        own = self._webhooks_of(app)
        if own is not None:
            own.send("cache_miss", channel)

    def subscription_count(self, app: App, channel: str, count: int) -> None:
        """Send `subscription_count`."""
        own = self._webhooks_of(app)
        if own is not None:
            own.send("subscription_count", channel, subscription_count=count)

    def _webhooks_of(self, app: App) -> _AppWebhooks | None:
        session = self._session
        if session is None or not app.webhooks:
            return None
        own = self._apps.get(app.id)
        if own is not None and own.app is app:
            return own
        if own is None:
            own = self._apps[app.id] = _AppWebhooks(app, self._limits)
        self._retired = [endpoint for endpoint in self._retired if endpoint.task is not None]
        self._retired += own.configure(
            app,
            lambda webhook: Endpoint(
                app, webhook, session, self._clock, self._jitter, self._limits
            ),
        )
        return own

    def _endpoints(self) -> list[Endpoint]:
        current = [endpoint for own in self._apps.values() for endpoint in own.endpoints]
        return current + self._retired

    async def _drain(self, seconds: float) -> None:
        for own in self._apps.values():
            own.release()
        for endpoint in self._endpoints():
            endpoint.hurry()
        tasks = [endpoint.task for endpoint in self._endpoints() if endpoint.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def _stop(self) -> None:
        self._session = None
        endpoints = self._endpoints()
        tasks = [endpoint.task for endpoint in endpoints if endpoint.task is not None]
        for own in self._apps.values():
            own.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for endpoint in endpoints:
            endpoint.close()
        self._apps.clear()
        self._retired.clear()


class _AppWebhooks:
    """The webhooks of one app, and its departures that may still be undone."""

    def __init__(self, app: App, limits: Limits) -> None:
        self.app = app
        self.endpoints: list[Endpoint] = []
        self._by_kind: dict[str, list[Endpoint]] = {}
        self._holding = Holding(limits.hold_seconds, limits.max_held)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def configure(self, app: App, create: Callable[[Webhook], Endpoint]) -> list[Endpoint]:
        """Take over a configuration and return the endpoints that it has no more."""
        retired = self.endpoints
        self.app = app
        self.endpoints = []
        self._by_kind = {}
        for webhook in app.webhooks:
            endpoint = next((e for e in retired if e.webhook.url == webhook.url), None)
            if endpoint is None:
                endpoint = create(webhook)
            else:
                retired.remove(endpoint)
                endpoint.app, endpoint.webhook = app, webhook
            self.endpoints.append(endpoint)
            for kind in webhook.kinds:
                self._by_kind.setdefault(kind, []).append(endpoint)
        return retired

    def listeners(self, kind: str, channel: str) -> list[Endpoint]:
        """Return the endpoints that want to hear of this."""
        return [
            endpoint
            for endpoint in self._by_kind.get(kind, ())
            if payload.is_wanted(endpoint.webhook, channel)
        ]

    def send(self, kind: str, channel: str, **fields: str | int) -> None:
        """Queue one event for each endpoint that wants to hear of it."""
        if listeners := self.listeners(kind, channel):
            content = payload.event(kind, channel, **fields)
            for endpoint in listeners:
                endpoint.put(content)

    def came(self, departure: Departure) -> None:
        """Undo a departure, or send that somebody came."""
        if not self._holding.undo(departure):
            self._tell(departure.kind_of_return, departure)

    def went(self, departure: Departure) -> None:
        """Hold a departure, if it or what would undo it is of interest."""
        if not self._by_kind.keys() & {departure.kind, departure.kind_of_return}:
            return
        early = self._holding.hold(departure, self._loop.time())
        if early is not None:
            self._tell(early.kind, early)
        self._set_timer()

    def release(self) -> None:
        """Send everything that is held, at once."""
        for departure in self._holding.release():
            self._tell(departure.kind, departure)

    def close(self) -> None:
        """Hold nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        due = self._holding.next_due
        if self._timer is None and due is not None:
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for departure in self._holding.due(self._loop.time()):
            self._tell(departure.kind, departure)
        self._set_timer()

    def _tell(self, kind: str, departure: Departure) -> None:
        if departure.user_id is None:
            self.send(kind, departure.channel)
        else:
            self.send(kind, departure.channel, user_id=departure.user_id)
