"""What happens in an app, sent to those of its webhooks that asked for it."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from reverb_py.core.holding import Departure, Holding
from reverb_py.core.notices import Notices
from reverb_py.protocol.channel_names import Access, kind_of
from reverb_py.webhooks import payload
from reverb_py.webhooks.endpoint import Endpoint, EndpointFigures, Limits, http_session

if TYPE_CHECKING:
    import aiohttp

    from reverb_py.core.apps import App, Webhook
    from reverb_py.webhooks.resolver import LookUp

__all__ = ["Webhooks"]

_MOST_AT_ONCE = 500
"""Departures that are told in one turn of the event loop: when a network fails, all are due."""


class Webhooks(Notices):
    """
    Keeps the promise of `Notices` while `running`; outside of it, nothing is sent.

    `clock` returns seconds since 1970 and is what `time_ms` is taken from; `jitter` returns values
    from 0 to 1; `look_up` finds the addresses of names and may block. Delays are kept by the event
    loop. A notice costs an attribute look-up when its app has no webhooks, and appends to a queue
    for each webhook that asked for it.

    Each notice brings its app, and a newer configuration of an app replaces the one before. A
    webhook with the same URL as before keeps its queue; what waits for one that is gone is still
    sent, as long as a retry may take.

    Departures are held for a while, in which they may be undone, unless `holds_departures` is
    False: then whoever gives notice has done so, and each is sent as it is told.

    `figures` are those of each app that ever had something to tell, by its id.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        limits: Limits = Limits(),  # noqa: B008 - immutable
        look_up: LookUp = socket.getaddrinfo,
        *,
        holds_departures: bool = True,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._limits = limits
        self._look_up = look_up
        self._holds_departures = holds_departures
        self.figures: dict[str, EndpointFigures] = {}
        self._apps: dict[str, _AppWebhooks] = {}
        self._retired: set[Endpoint] = set()
        self._session: aiohttp.ClientSession | None = None
        self._drain_seconds = 0.0
        self._deadline: float | None = None

    @asynccontextmanager
    async def running(self, drain_seconds: float) -> AsyncIterator[None]:
        """
        Send webhooks while the block runs, and then what is left.

        There are `drain_seconds` for that, from the end of the block or from an earlier call of
        `hurry` on. What can't be sent in that time is lost, and the log says how much.
        """
        async with http_session(self._look_up) as session:
            self._session = session
            self._drain_seconds = drain_seconds
            try:
                yield
            finally:
                try:
                    await self._drain()
                finally:
                    await self._stop()

    def hurry(self) -> None:
        """
        Note that the server is stopping.

        Nobody can come back to it, so departures are told at once from now on. Nothing waits for
        a batch to fill any more, nor for the pause before a retry that is going on.
        """
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._drain_seconds
            for own in self._apps.values():
                own.hurry()
            for endpoint in self._retired:
                endpoint.hurry()

    def replace(self, apps: Iterable[App]) -> None:
        """
        Go on with these apps, also with what waits or is to be repeated.

        Nobody can come back to an app that is gone, so its departures are told at once, and what
        waits is sent as it was configured last, as long as a retry may take.
        """
        configured = {app.id: app for app in apps}
        for app_id, own in list(self._apps.items()):
            if app_id in configured:
                self._configure(own, configured[app_id])
            else:
                own.hurry()
                for endpoint in own.endpoints:
                    self._retire(endpoint)
                del self._apps[app_id]

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
                endpoint.put(channel, content)

    def cache_miss(self, app: App, channel: str) -> None:
        """Send `cache_miss`."""
        own = self._webhooks_of(app)
        if own is not None:
            own.send("cache_miss", channel)

    def subscription_count(self, app: App, channel: str, count: int) -> None:
        """Send `subscription_count`, but not of a presence channel, which has members instead."""
        own = self._webhooks_of(app)
        if own is not None and kind_of(channel).access is not Access.PRESENCE:
            own.send("subscription_count", channel, subscription_count=count)

    def _webhooks_of(self, app: App) -> _AppWebhooks | None:
        if self._session is None or not app.webhooks:
            return None
        own = self._apps.get(app.id)
        if own is None:
            own = self._apps[app.id] = _AppWebhooks(app, self._limits, holds=self._holds_departures)
        elif own.app is app:
            return own
        self._configure(own, app)
        return own

    def _configure(self, own: _AppWebhooks, app: App) -> None:
        session = self._session
        assert session is not None, "there are apps while it is running"
        gone = own.configure(
            app,
            lambda webhook: Endpoint(
                app,
                webhook,
                session,
                self._clock,
                self._jitter,
                self._limits,
                self.figures.setdefault(app.id, EndpointFigures()),
            ),
        )
        for endpoint in gone:
            self._retire(endpoint)
        if self._deadline is not None:
            own.hurry()

    def _retire(self, endpoint: Endpoint) -> None:
        endpoint.retire()
        if endpoint.task is not None:
            self._retired.add(endpoint)
            endpoint.task.add_done_callback(lambda _: self._retired.discard(endpoint))

    def waiting(self) -> dict[str, int]:
        """Return how many events wait to be taken, those under way included, by the app's id."""
        waiting = dict.fromkeys(self.figures, 0)
        for endpoint in self._endpoints():
            waiting[endpoint.app.id] += endpoint.backlog
        return waiting

    def held(self) -> dict[str, int]:
        """Return how many departures are held that may still be undone, by the app's id."""
        return {app_id: own.held for app_id, own in self._apps.items()}

    async def _drain(self) -> None:
        self.hurry()
        tasks = [endpoint.task for endpoint in self._endpoints() if endpoint.task is not None]
        if tasks:
            assert self._deadline is not None
            left = self._deadline - asyncio.get_running_loop().time()
            await asyncio.wait(tasks, timeout=max(0.0, left))

    async def _stop(self) -> None:
        self._session = self._deadline = None
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

    def _endpoints(self) -> list[Endpoint]:
        current = [endpoint for own in self._apps.values() for endpoint in own.endpoints]
        return [*current, *self._retired]


class _AppWebhooks:
    """The webhooks of one app, and its departures that may still be undone."""

    def __init__(self, app: App, limits: Limits, *, holds: bool) -> None:
        self.app = app
        self._holds = holds
        self.endpoints: list[Endpoint] = []
        self._by_kind: dict[str, list[Endpoint]] = {}
        self._holding = Holding(limits.hold_seconds, limits.max_held)
        self._is_hurried = False
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
            endpoint for endpoint in self._by_kind.get(kind, ()) if endpoint.webhook.covers(channel)
        ]

    def send(self, kind: str, channel: str, **fields: str | int) -> None:
        """Queue one event for each endpoint that wants to hear of it."""
        if listeners := self.listeners(kind, channel):
            content = payload.event(kind, channel, **fields)
            for endpoint in listeners:
                endpoint.put(channel, content)

    def came(self, departure: Departure) -> None:
        """Undo a departure, or send that somebody came."""
        if not self._holding.undo(departure):
            self._tell(departure.kind_of_return, departure)

    def went(self, departure: Departure) -> None:
        """Hold a departure, if it or what would undo it is of interest."""
        if self._is_hurried or not self._holds:
            self._tell(departure.kind, departure)
        elif departure.is_wanted(self.app):
            early = self._holding.hold(departure, self._loop.time())
            if early is not None:
                self._tell(early.kind, early)
            self._set_timer()

    def hurry(self) -> None:
        """Hold nothing from now on, and have nothing wait that need not."""
        self._is_hurried = True
        for departure in self._holding.release():
            self._tell(departure.kind, departure)
        self.close()
        for endpoint in self.endpoints:
            endpoint.hurry()

    @property
    def held(self) -> int:
        """How many departures may still be undone."""
        return len(self._holding)

    def close(self) -> None:
        """Look no more for departures that are due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        due = self._holding.next_due
        if self._timer is None and due is not None:
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for departure in self._holding.due(self._loop.time(), _MOST_AT_ONCE):
            self._tell(departure.kind, departure)
        self._set_timer()

    def _tell(self, kind: str, departure: Departure) -> None:
        if departure.user_id is None:
            self.send(kind, departure.channel)
        else:
            self.send(kind, departure.channel, user_id=departure.user_id)
