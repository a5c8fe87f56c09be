"""
One webhook: what waits for it, and the one request that is under way.

Nothing is shared between endpoints but the HTTP session, which does not limit its connections: one
that is slow, dead or wrong delays only itself.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import structlog
from yarl import URL

from reverb_py.webhooks import payload
from reverb_py.webhooks.retries import Retries, retry_after

if TYPE_CHECKING:
    from reverb_py.core.apps import App, Webhook

__all__ = ["MAX_BATCH", "MAX_BATCH_BYTES", "Endpoint", "Limits"]

MAX_BATCH = 100
"""Events in one request."""

MAX_BATCH_BYTES = 262_144
"""Bytes of events in one request of several: web servers commonly take bodies of up to 1 MB."""

_MAX_ANSWER_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    How long and how much, for every webhook alike.

    A departure is held for `hold_seconds`, `max_held` of them per app; beyond that the oldest is
    told early. An attempt takes at most `timeout_seconds`. After one that failed there is a pause,
    from `first_retry_seconds` doubling up to `longest_retry_seconds`, and `give_up_seconds` after
    its first attempt an event is dropped. `max_waiting` events of `max_waiting_bytes` of JSON may
    wait for one webhook; beyond that the oldest is dropped, but never the newest. There is one log
    line about a webhook in `report_seconds`.
    """

    hold_seconds: float = 3.0
    max_held: int = 100_000
    timeout_seconds: float = 10.0
    first_retry_seconds: float = 1.0
    longest_retry_seconds: float = 60.0
    give_up_seconds: float = 300.0
    max_waiting: int = 100_000
    max_waiting_bytes: int = 16_777_216
    report_seconds: float = 60.0


class Endpoint:
    """
    The queue of one webhook of one app, and the task that empties it while there is something.

    Events are sent in the order in which they were put, one request at a time. `app` and `webhook`
    may be replaced at any time by a newer configuration, which counts from the next attempt on.
    `session` is used, not closed; `clock` returns seconds since 1970, `jitter` values from 0 to 1.
    Everything runs on the event loop it was made on.
    """

    def __init__(
        self,
        app: App,
        webhook: Webhook,
        session: aiohttp.ClientSession,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        limits: Limits,
    ) -> None:
        self.app = app
        self.webhook = webhook
        self.task: asyncio.Task[None] | None = None
        self._session = session
        self._clock = clock
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._timeout = aiohttp.ClientTimeout(total=limits.timeout_seconds)
        self._retries = Retries(
            limits.first_retry_seconds, limits.longest_retry_seconds, limits.give_up_seconds, jitter
        )
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._under_way: list[bytes] = []
        self._is_hurried = False
        self._hurry = asyncio.Event()
        self._troubles = _Troubles(self, limits.report_seconds)

    def put(self, event: bytes) -> None:
        """Have one event sent. When too much waits, the oldest are dropped. Never blocks."""
        limits = self._limits
        waiting = self._waiting
        waiting.append(event)
        self._waiting_bytes += len(event)
        while len(waiting) > 1 and (
            len(waiting) > limits.max_waiting or self._waiting_bytes > limits.max_waiting_bytes
        ):
            self._waiting_bytes -= len(waiting.popleft())
            self._troubles.overflowed()
        if self.task is None:
            self.task = self._loop.create_task(self._run(), name="webhook")

    def hurry(self) -> None:
        """Cut short the pause there may be, and no longer wait for batches to fill."""
        self._is_hurried = True
        self._hurry.set()

    def close(self) -> None:
        """Say in the log what is lost, if anything is; the task has ended by then."""
        self._troubles.close(len(self._under_way) + len(self._waiting))

    @property
    def backlog(self) -> int:
        """How many events wait for the request that is under way."""
        return len(self._waiting)

    async def _run(self) -> None:
        try:
            while self._waiting:
                window = self.app.webhook_batch_seconds
                if window > 0 and len(self._waiting) < MAX_BATCH and not self._is_hurried:
                    await self._pause(window)
                self._under_way = self._take()
                await self._deliver()
        finally:
            self.task = None

    def _take(self) -> list[bytes]:
        waiting = self._waiting
        batch = [waiting.popleft()]
        size = len(batch[0])
        if self.app.webhook_batch_seconds > 0:
            while waiting and len(batch) < MAX_BATCH and size + len(waiting[0]) <= MAX_BATCH_BYTES:
                size += len(waiting[0])
                batch.append(waiting.popleft())
        self._waiting_bytes -= size
        return batch

    async def _deliver(self) -> None:
        """Try until the batch is taken or given up, and then wait as long as the next one must."""
        retries = self._retries
        retries.begin(self._loop.time())
        while (failure := await self._attempt()) is not None:
            pause = retries.failed(self._loop.time(), failure.wish)
            if not pause.again:
                self._troubles.gave_up(len(self._under_way), failure.reason)
                self._under_way = []
                await self._pause(pause.seconds)
                return
            if retries.failures > 1:
                # One failure is everyday life: a deployment, a connection that had gone stale.
                self._troubles.failed(failure.reason)
            await self._pause(pause.seconds)
        retries.succeeded()
        self._under_way = []

    async def _attempt(self) -> _Failure | None:
        now = self._clock()
        content = payload.body(self._under_way, int(now * 1000))
        try:
            async with self._session.post(
                URL(self.webhook.url),
                data=content,
                headers=payload.headers(self.app, self.webhook, content),
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                try:
                    # Read to its end, the connection can be used again; the words don't matter.
                    await response.content.readexactly(_MAX_ANSWER_BYTES)
                except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError):
                    pass
                status = response.status
                wish = response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _Failure(_reason(error), 0.0)
        if 200 <= status < 300:
            return None
        return _Failure(f"it answered {status}", retry_after(wish, now))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return
        # Hurrying ends one pause, not each: what fails again is still not tried without end.
        self._hurry.clear()


class _Failure(NamedTuple):
    reason: str
    wish: float


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name is not known"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not valid"
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

    def overflowed(self) -> None:
        self._overflowed += 1
        self._say_in_time()

    def close(self, lost: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._failed or self._overflowed:
            self._say()
        if lost:
            self._log.warning(
                "Webhook events were not delivered before the stop", **self._whose(), lost=lost
            )

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
