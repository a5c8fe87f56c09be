"""
The task that pays what the outbox owes.

Events go out strictly in commit order, one request at a time, so those of a channel can never
overtake each other; a request carries up to ten publications, which is also how a backlog is worked
off quickly. An event leaves the outbox only after the server took it, so a crash at any point loses
nothing: at worst the same publications are sent again, under the keys by which the server knows
them. A key names an event *and* a channel, and so stays the same however events are grouped.

A server that was away has lost its clients, and what is published before they are back reaches
nobody. For a while after its return, what is owed to a channel therefore waits until somebody
listens there; other channels do not wait for it.

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
_LOOK_AGAIN = 0.25  # seconds between looks at who is back
_REMIND_EVERY = 60.0  # seconds between warnings while the server stays away


class Backoff(NamedTuple):
    """
    How long to wait before trying again, in seconds: doubling from `first` up to `longest`.

    `return_of_clients` is how long, after a server was away, a channel may wait for its listeners:
    pusher-js tries again after 15 seconds, most mobile clients sooner.
    """

    first: float = 0.1
    longest: float = 5.0
    return_of_clients: float = 20.0

    def delay(self, failures: int, jitter: Callable[[], float]) -> float:
        """Return the wait after so many failures in a row; `jitter` returns values from 0 to 1."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return full * (0.5 + jitter() / 2)


class _Parcel(NamedTuple):
    """An event, what of it can go out now, and whether some of it waits for listeners."""

    event: OwedEvent
    publications: list[Publication]
    is_waiting: bool


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
        self._clients_are_away = False
        self._clients_expected_until: float | None = None
        self._taken: set[str] = set()

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
            deserted = await self._deserted_channels(live)
            for group in _groups([self._parcel(event, deserted) for event in live]):
                await self._send(group)
                self._server_is_back()
            if deserted:
                await asyncio.sleep(_LOOK_AGAIN)
            elif len(events) < _FETCH and not self._awake.is_set():
                return

    async def _deserted_channels(self, events: Sequence[OwedEvent]) -> set[str]:
        """Return the channels whose listeners may still come back; asks only after an outage."""
        if not self._clients_are_away or not events:
            return set()
        occupied = await self._reverb.occupied_channels()
        now = asyncio.get_running_loop().time()
        if self._clients_expected_until is None:
            self._clients_expected_until = now + self._backoff.return_of_clients
        if now >= self._clients_expected_until:
            self._clients_are_away = False
            return set()
        return {channel for event in events for channel in event.channels} - occupied

    def _parcel(self, event: OwedEvent, deserted: set[str]) -> _Parcel:
        publications = [
            publication
            for publication in _publications(event)
            if publication.channel not in deserted and publication.key not in self._taken
        ]
        return _Parcel(event, publications, not deserted.isdisjoint(event.channels))

    async def _send(self, group: Sequence[_Parcel]) -> None:
        publications = [item for parcel in group for item in parcel.publications]
        try:
            for start in range(0, len(publications), MAX_BATCH):
                await self._reverb.publish(publications[start : start + MAX_BATCH])
        except Refused as refusal:
            if len(publications) == 1:
                [parcel] = [parcel for parcel in group if parcel.publications]
                await self._set_aside(parcel.event, refusal)
                await self._settle([other for other in group if other is not parcel])
            else:
                await self._send_one_by_one(group)
            return
        await self._settle(group)

    async def _send_one_by_one(self, group: Sequence[_Parcel]) -> None:
        """Find out which of a refused batch is the one, and deliver the others."""
        for parcel in group:
            refusals = []
            for publication in parcel.publications:
                try:
                    await self._reverb.publish([publication])
                except Refused as refusal:
                    refusals.append(refusal)
            if refusals:
                await self._set_aside(parcel.event, refusals[0])
            else:
                await self._settle([parcel])

    async def _settle(self, group: Sequence[_Parcel]) -> None:
        """Forget the events that went out whole; of the others, remember what did."""
        waiting = [parcel for parcel in group if parcel.is_waiting]
        self._taken |= {item.key for parcel in waiting for item in parcel.publications}
        whole = [parcel.event for parcel in group if not parcel.is_waiting]
        if whole:
            await self._outbox.settle([event.id for event in whole])
            self._taken -= {item.key for event in whole for item in _publications(event)}

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
        if error.is_away:
            self._clients_are_away = True
            self._clients_expected_until = None
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


def _groups(parcels: Sequence[_Parcel]) -> Iterator[list[_Parcel]]:
    """Cut the queue, in order, where the next event's channels would overfill a request."""
    group: list[_Parcel] = []
    size = 0
    for parcel in parcels:
        if group and size + len(parcel.publications) > MAX_BATCH:
            yield group
            group, size = [], 0
        group.append(parcel)
        size += len(parcel.publications)
    if group:
        yield group
