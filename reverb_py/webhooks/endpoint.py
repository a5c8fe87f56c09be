"""
One webhook: what waits for it, and the requests that are under way.

Nothing is shared between endpoints but the HTTP session, which does not limit its connections: one
that is slow, dead or wrong delays only itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import structlog
from yarl import URL

from reverb_py.core.holding import HOLD_SECONDS, MAX_HELD
from reverb_py.webhooks import payload
from reverb_py.webhooks.backlog import Backlog, Batch, Event
from reverb_py.webhooks.resolver import LookUp, Resolver
from reverb_py.webhooks.retries import Retries, retry_after

if TYPE_CHECKING:
    from reverb_py.core.apps import App, Webhook

__all__ = [
    "MAX_BATCH",
    "MAX_BATCH_BYTES",
    "MAX_OUT",
    "MAX_WAITING_SINGLY",
    "Endpoint",
    "EndpointFigures",
    "Limits",
    "http_session",
]

MAX_BATCH = 100
"""Events in one request."""

MAX_BATCH_BYTES = 262_144
"""Bytes of events in one request of several: web servers commonly take bodies of up to 1 MB."""

MAX_WAITING_SINGLY = 10
"""Events that wait while each is a request of its own, without a batch window; more go together."""

MAX_OUT = 16
"""Requests of one webhook at a time: the one for new events, and those that are repeated."""

_MAX_ANSWER_BYTES = 16_384
_MAX_ANSWER_SECONDS = 1.0

# All that an endpoint has sent is parsed in one go, before anybody's next turn: with the system's
# buffers, one that never stops sending would hold up every client for tens of milliseconds a turn.
_RECEIVE_BUFFER_BYTES = 4_096

_NO_TIMEOUT = aiohttp.ClientTimeout()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    How long and how much, for every webhook alike.

    A departure is held for `hold_seconds`, `max_held` of them per app; beyond that the oldest is
    told early. An endpoint has `timeout_seconds` to answer. After an attempt that failed there is a
    pause, from `first_retry_seconds` doubling up to `longest_retry_seconds`, and `give_up_seconds`
    after its first attempt an event is dropped. `max_waiting` events of `max_waiting_bytes` of JSON
    may wait for one webhook, those under way included; beyond that the oldest is dropped, but never
    the newest. There is one log line about a webhook in `report_seconds`.
    """

    hold_seconds: float = HOLD_SECONDS
    max_held: int = MAX_HELD
    timeout_seconds: float = 10.0
    first_retry_seconds: float = 1.0
    longest_retry_seconds: float = 60.0
    give_up_seconds: float = 300.0
    max_waiting: int = 100_000
    max_waiting_bytes: int = 16_777_216
    report_seconds: float = 60.0


@asynccontextmanager
async def http_session(look_up: LookUp) -> AsyncIterator[aiohttp.ClientSession]:
    """Open what endpoints make their requests with; `look_up` is `socket.getaddrinfo`."""
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, resolver=Resolver(look_up), socket_factory=_small_socket
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trace_configs=[trace],
    ) as session:
        yield session


class EndpointFigures:
    """
    What became of the events of one app's webhooks: totals.

    `sent` were taken, `failed` are requests that were not; `given_up` are events that nobody took
    for long, `dropped` those of which too many waited.
    """

    __slots__ = ("dropped", "failed", "given_up", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.failed = 0
        self.given_up = 0
        self.dropped = 0


class Endpoint:
    """
    The queue of one webhook of one app, and the task that empties it while there is something.

    One request at a time tells what is new, in the order in which it was put: of one event, or of
    many when there is a batch window or much waits. A request that fails is repeated aside, in ever
    smaller parts: events of its channels wait for it, others go on. `app` and `webhook` may be
    replaced at any time by a newer configuration, which counts from the next attempt on. `session`
    is used, not closed; `clock` returns seconds since 1970, `jitter` values from 0 to 1. Everything
    runs on the event loop it was made on.
    """

    def __init__(
        self,
        app: App,
        webhook: Webhook,
        session: aiohttp.ClientSession,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        limits: Limits,
        figures: EndpointFigures | None = None,
    ) -> None:
        self.app = app
        self._figures = EndpointFigures() if figures is None else figures
        self.webhook = webhook
        self.task: asyncio.Task[None] | None = None
        self._session = session
        self._clock = clock
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._retries = Retries(
            first=limits.first_retry_seconds,
            longest=limits.longest_retry_seconds,
            give_up=limits.give_up_seconds,
            jitter=jitter,
        )
        self._backlog = Backlog(limits.max_waiting, limits.max_waiting_bytes)
        self._failures_in_a_row = 0
        self._is_hurried = False
        self._change = asyncio.Event()
        self._success = _Pulse()
        self._hurry = _Pulse()
        self._troubles = _Troubles(self, limits.report_seconds)

    def put(self, channel: str, content: bytes) -> None:
        """Have one event sent. When too much waits, the oldest are dropped. Never blocks."""
        dropped = self._backlog.put(Event(channel, content))
        if dropped:
            self._figures.dropped += dropped
            self._troubles.overflowed(dropped)
        if self.task is None:
            self.task = self._loop.create_task(self._run(), name="webhook")
        else:
            self._change.set()

    def hurry(self) -> None:
        """
        Cut one pause short, and no longer wait for batches to fill.

        That goes for each request that failed or is going to: it is repeated once without delay.
        """
        self._is_hurried = True
        self._success.beat()
        self._hurry.beat()

    def retire(self) -> None:
        """
        Give up, after the time that a retry may take, whatever has not been taken by then.

        Nothing may be put from now on.
        """
        task = self.task
        if task is None:
            self.close()
            return
        timer = self._loop.call_later(self._limits.give_up_seconds, task.cancel)

        def end(_: object) -> None:
            timer.cancel()
            self.close("Events of a webhook that was removed are lost")

        task.add_done_callback(end)

    def close(self, title: str = "Webhook events were not delivered before the stop") -> None:
        """Say in the log how many events are lost, if any are; the task has ended by then."""
        self._troubles.close(title, len(self._backlog))
        self._backlog.clear()

    @property
    def backlog(self) -> int:
        """How many events have not been taken yet."""
        return len(self._backlog)

    async def _run(self) -> None:
        try:
            while self._backlog:
                async with asyncio.TaskGroup() as aside:
                    await self._send(aside)
        finally:
            self.task = None

    async def _send(self, aside: asyncio.TaskGroup) -> None:
        """Tell what is new, and have what fails repeated aside, until nothing is left."""
        backlog = self._backlog
        was_hurried = False
        while backlog:
            self._change.clear()
            batch = await self._next_batch() if backlog.out < MAX_OUT else None
            if batch is None:
                await self._change.wait()
                continue
            begun = self._loop.time()
            failure = await self._attempt(batch)
            if failure is None:
                backlog.settle(batch)
                self._failures_in_a_row = 0
                continue
            aside.create_task(self._repeat(batch, failure, begun), name="webhook")
            self._failures_in_a_row += 1
            if failure.wish:
                pause = min(failure.wish, self._limits.give_up_seconds)
                was_hurried = await self._pause(self._hurry, pause, was_hurried)
            elif self._failures_in_a_row > 1:
                # It may be the endpoint and not the event. A repetition that succeeds tells.
                pause = self._retries.pause(self._failures_in_a_row - 1)
                was_hurried = await self._pause(self._success, pause, was_hurried)

    async def _next_batch(self) -> Batch | None:
        backlog = self._backlog
        window = self.app.webhook_batch_seconds
        if window > 0 and 0 < backlog.waiting < MAX_BATCH and not self._is_hurried:
            await self._hurry.wait(window)
        # Strangers can make more events than an endpoint takes one by one.
        goes_together = window > 0 or backlog.waiting > MAX_WAITING_SINGLY
        return backlog.take(MAX_BATCH if goes_together else 1, MAX_BATCH_BYTES)

    async def _repeat(self, batch: Batch, failure: _Failure | None, begun: float) -> None:
        """Make a request that failed again until it is taken or given up."""
        failures = 0
        was_hurried = False
        while failure is not None:
            if self._backlog.halve(batch):
                self._change.set()
                failures = 0
            failures += 1
            tried = self._loop.time() - begun
            pause = self._retries.next_pause(failures, tried, failure.wish)
            if pause is None:
                self._figures.given_up += len(batch.events)
                self._troubles.gave_up(len(batch.events), failure.reason)
                break
            if failures > 1:
                # One failure is everyday life: a deployment, for example.
                self._troubles.failed(failure.reason)
            was_hurried = await self._pause(self._hurry, pause, was_hurried)
            failure = await self._attempt(batch)
        else:
            self._failures_in_a_row = 0
            self._success.beat()
        self._backlog.settle(batch)
        self._change.set()

    async def _pause(self, pulse: _Pulse, seconds: float, was_hurried: bool) -> bool:
        """Wait, and return whether there was a hurry by now: it cuts one pause, not each."""
        if self._is_hurried == was_hurried:
            await pulse.wait(seconds)
        return self._is_hurried

    async def _attempt(self, batch: Batch) -> _Failure | None:
        failure = await self._try(batch)
        if failure is None:
            self._figures.sent += len(batch.events)
        else:
            self._figures.failed += 1
        return failure

    async def _try(self, batch: Batch) -> _Failure | None:
        deadline = self._loop.time() + self._limits.timeout_seconds
        connection = SimpleNamespace(is_reused=False)
        try:
            try:
                return await self._request(batch, deadline, connection)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # Servers close idle connections, also just when the next request comes.
                if not connection.is_reused:
                    raise
                return await self._request(batch, deadline, connection)
        except Exception as error:  # whatever it is, the webhook goes on
            return _Failure(_reason(error), 0.0)

    async def _request(
        self, batch: Batch, deadline: float, connection: SimpleNamespace
    ) -> _Failure | None:
        now = self._clock()
        content = payload.body([event.content for event in batch.events], int(now * 1000))
        async with asyncio.timeout_at(deadline):
            response = await self._session.post(
                URL(self.webhook.url),
                data=content,
                headers=payload.headers(self.app, self.webhook, content),
                timeout=_NO_TIMEOUT,
                allow_redirects=False,
                trace_request_ctx=connection,
            )
        async with response:
            try:
                # Read to its end, the connection can be used again; the words don't matter.
                async with asyncio.timeout(_MAX_ANSWER_SECONDS):
                    await response.content.readexactly(_MAX_ANSWER_BYTES)
            except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError):
                pass
        if 200 <= response.status < 300:
            return None
        wish = retry_after(response.headers.get("Retry-After", ""), now)
        return _Failure(f"it answered {response.status}", wish)


class _Failure(NamedTuple):
    reason: str
    wish: float


class _Pulse:
    """Wakes those who wait at this moment, and nobody who comes later."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        self._event.set()
        self._event.clear()

    async def wait(self, seconds: float) -> None:
        """Wait for the next beat, or for so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass


def _small_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    small = socket.socket(family, kind, protocol)
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    return small


async def _note_reuse(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    parameters: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    context.trace_request_ctx.is_reused = True


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name is not known"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not valid"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "it does not speak TLS as it should"
    if isinstance(error, aiohttp.ClientConnectorError) and error.errno:
        return f"it can't be reached ({os.strerror(error.errno)})"
    # The text of other errors may repeat the address, and an address may hold a secret.
    return f"the request failed ({type(error).__name__})"


class _Troubles:
    """Says what goes wrong with one webhook: at once the first time, then once in a while."""

    def __init__(self, endpoint: Endpoint, seconds: float) -> None:
        self._endpoint = endpoint
        self._seconds = seconds
        self._log = structlog.get_logger("reverb_py")
        self._timer: asyncio.TimerHandle | None = None
        self._forget()

    def failed(self, reason: str) -> None:
        self._failed += 1
        self._reason = reason
        self._say_in_time()

    def gave_up(self, count: int, reason: str) -> None:
        self._given_up += count
        self.failed(reason)

    def overflowed(self, count: int) -> None:
        self._overflowed += count
        self._say_in_time()

    def close(self, title: str, lost: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._failed or self._overflowed:
            self._say()
        if lost:
            self._log.warning(title, **self._whose(), lost=lost)

    def _say_in_time(self) -> None:
        if self._timer is None:
            self._say()
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._say_again)

    def _say_again(self) -> None:
        self._timer = None
        if self._failed or self._overflowed:
            self._say_in_time()

    def _say(self) -> None:
        words = self._whose()
        if self._failed:
            words |= {"failed_attempts": self._failed, "reason": self._reason}
        if self._given_up:
            words["lost_after_retries"] = self._given_up
        if self._overflowed:
            words["lost_oldest_of_too_many"] = self._overflowed
        if self._given_up or self._overflowed:
            title = "Webhook events are lost"
        else:
            title = "Webhook is not taken, trying again"
        self._log.warning(title, **words, waiting=self._endpoint.backlog)
        self._forget()

    def _forget(self) -> None:
        self._failed = self._given_up = self._overflowed = 0
        self._reason = ""

    def _whose(self) -> dict[str, str | int]:
        try:
            # Credentials and tokens sit in the other parts of an address.
            address = str(URL(self._endpoint.webhook.url).origin())
        except ValueError:
            address = "malformed url"
        return {"app": self._endpoint.app.id, "webhook": address}
