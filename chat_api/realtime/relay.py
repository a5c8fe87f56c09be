"""
The task that pays what the outbox owes.

Events go out strictly in commit order, one request at a time, so those of a channel can never
overtake each other; a request carries up to ten publications, which is also how a backlog is worked
off quickly. An event leaves the outbox only after the server took it, so a crash at any point loses
nothing: at worst the same publications are sent again, under the keys by which the server knows
them. A key names an event *and* a channel, and so stays the same however events are grouped.

An event that is worthless late (typing) carries an expiry and is dropped when its time has passed.
While the server is reachable it takes the same ordered path as everything else.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import structlog

from chat_api.kernel.clock import Clock
from chat_api.realtime.reverb import MAX_BATCH, Publication, Refused, ReverbClient, Unavailable
from chat_api.store.outbox import Outbox, OwedEvent

__all__ = ["Backoff", "Relay"]

_log = structlog.get_logger("chat_api.relay")

_FETCH = 200  # events read from the outbox at once
_SAFETY_POLL = 5.0  # seconds; wakes by commit are the rule, this covers other processes' writes
_REMIND_EVERY = 60.0  # seconds between warnings while the server stays away


class Backoff(NamedTuple):
    """How long to wait before trying again, in seconds: doubling from `first` up to `longest`."""

    first: float = 0.1
    longest: float = 5.0

    def delay(self, failures: int, jitter: Callable[[], float]) -> float:
        """Return the wait after so many failures in a row; `jitter` returns values from 0 to 1."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return full * (0.5 + jitter() / 2)


class Relay:
    """
    Moves events from one outbox to one server while `running`.

    An outbox has one relay: two would each keep its own order and send everything twice.
    """

    def __init__(
        self,
        outbox: Outbox,
        reverb: ReverbClient,
        clock: Clock,
        *,
        backoff: Backoff = Backoff(),  # noqa: B008 - immutable
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._reverb = reverb
        self._clock = clock
        self._backoff = backoff
        self._jitter = jitter
        self._awake = asyncio.Event()
        self._idle = asyncio.Event()
        self._failures = 0
        self._warned_at: float | None = None

    def wake(self) -> None:
        """Say that the outbox may hold something new."""
        self._idle.clear()
        self._awake.set()

    @asynccontextmanager
    async def running(self, *, drain: float) -> AsyncIterator[None]:
        """
        Relay while the block runs, and then up to `drain` seconds more to empty the outbox.

        What is left stays in the outbox for the next start.
        """
        self.wake()
        task = asyncio.create_task(self._run(), name="relay")
        try:
            yield
            if self._failures == 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(drain):
                        await self._idle.wait()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            try:
                await self._work_off()
                self._idle.set()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_SAFETY_POLL):
                        await self._awake.wait()
            except Unavailable as error:
                self._server_is_away(error)
                await self._wait(at_least=error.retry_after)
            except Exception:
                # Whatever it is (a full disk, a locked database), what is owed is still owed.
                _log.exception("The relay failed and tries again")
                await self._wait()

    async def _work_off(self) -> None:
        while True:
            self._awake.clear()
            events = await self._outbox.oldest(_FETCH)
            now = self._clock()
            live = [event for event in events if not event.has_expired(now)]
            if len(live) < len(events):
                await self._outbox.settle([event.id for event in events if event.has_expired(now)])
            for group in _groups(live):
                await self._send(group)
                self._server_is_back()
            if len(events) < _FETCH and not self._awake.is_set():
                return

    async def _send(self, group: Sequence[OwedEvent]) -> None:
        publications = [item for event in group for item in _publications(event)]
        try:
            for start in range(0, len(publications), MAX_BATCH):
                await self._reverb.publish(publications[start : start + MAX_BATCH])
        except Refused as refusal:
            if len(group) == 1 and len(publications) == 1:
                await self._set_aside(group[0], refusal)
            else:
                await self._send_one_by_one(group)
            return
        await self._outbox.settle([event.id for event in group])

    async def _send_one_by_one(self, group: Sequence[OwedEvent]) -> None:
        """Find out which of a refused batch is the one, and deliver the others."""
        for event in group:
            refusals = []
            for publication in _publications(event):
                try:
                    await self._reverb.publish([publication])
                except Refused as refusal:
                    refusals.append(refusal)
            if refusals:
                await self._set_aside(event, refusals[0])
            else:
                await self._outbox.settle([event.id])

    async def _set_aside(self, event: OwedEvent, refusal: Refused) -> None:
        _log.error(
            "The realtime server refuses an event; it stays in the table outbox with its reason",
            outbox_id=event.id,
            event_name=event.name,
            reason=str(refusal),
        )
        await self._outbox.set_aside(event.id, str(refusal), self._clock())

    async def _wait(self, at_least: float = 0.0) -> None:
        self._failures += 1
        await asyncio.sleep(max(at_least, self._backoff.delay(self._failures, self._jitter)))

    def _server_is_away(self, error: Unavailable) -> None:
        now = asyncio.get_running_loop().time()
        if self._warned_at is None or now - self._warned_at >= _REMIND_EVERY:
            self._warned_at = now
            _log.warning(
                "The realtime server does not take events; they are kept and sent when it does",
                server=self._reverb.address,
                reason=str(error),
            )

    def _server_is_back(self) -> None:
        self._failures = 0
        if self._warned_at is not None:
            self._warned_at = None
            _log.info("The realtime server takes events again", server=self._reverb.address)


def _publications(event: OwedEvent) -> list[Publication]:
    return [
        Publication(f"{event.event_key}-{index}", channel, event.name, event.data, event.socket_id)
        for index, channel in enumerate(event.channels)
    ]


def _groups(events: Sequence[OwedEvent]) -> Iterator[list[OwedEvent]]:
    """Cut the queue, in order, where the next event's channels would overfill a request."""
    group: list[OwedEvent] = []
    size = 0
    for event in events:
        if group and size + len(event.channels) > MAX_BATCH:
            yield group
            group, size = [], 0
        group.append(event)
        size += len(event.channels)
    if group:
        yield group
