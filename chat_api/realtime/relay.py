"""
The task that pays what the outbox owes.

Events go out in commit order, one request at a time, so those of a channel can never overtake each
other; a request carries up to ten, which is also how a backlog is worked off quickly. An event
leaves the outbox only after the server took it, and while the next are sent, so a crash at any
point loses nothing: at worst up to a hundred events are sent again, in their order and under the
keys by which the server knows them.

A server that was away has lost its clients, and what is published before they are back reaches
nobody. For a while after its return, what is owed to a channel therefore waits until somebody
listens there; other channels do not wait for it. So it is after a start of this process too, which
cannot know what happened before.

An event that is worthless late (typing) carries an expiry and is dropped when its time has passed.
While the server is reachable it takes the same ordered path as everything else.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import structlog

from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Unavailable as DatabaseUnavailable
from chat_api.kernel.measures import Measure, single
from chat_api.realtime.reverb import MAX_BATCH, Publication, Refused, ReverbClient, Unavailable
from chat_api.store.outbox import Outbox, OwedEvent

__all__ = ["Backoff", "Relay"]

_log = structlog.get_logger("chat_api.relay")

_FETCH = 200  # events read from the outbox at once
_SAFETY_POLL = 5.0  # seconds; wakes by commit are the rule, this covers other processes' writes
_REMIND_EVERY = 60.0  # seconds between warnings while the server stays away
_MOST_UNSETTLED = 100  # events that the server has and the outbox may still hold
_MOST_ASKED_SINGLY = 10  # channels; for more, the whole list is one request
_LAST_SETTLEMENT = 3.0  # seconds, of which a database that answers needs a hundredth
_NOBODY_IS = -math.inf  # expected back


class Backoff(NamedTuple):
    """
    How long to wait, in seconds: before trying again, doubling from `first` up to `longest`.

    `return_of_clients` is how long, after a server was away, a channel may wait for its listeners:
    pusher-js tries again after 15 seconds, most mobile clients sooner. `look_again` is how often
    the server is asked meanwhile who is back. A relay that has done nothing for `stuck_after` is
    stuck: ten looks take 100 seconds at most, and the server's wishes are heard up to 60.
    """

    first: float = 0.1
    longest: float = 5.0
    return_of_clients: float = 20.0
    look_again: float = 0.5
    stuck_after: float = 180.0

    def delay(self, failures: int, jitter: Callable[[], float]) -> float:
        """Return the wait after so many failures in a row; `jitter` returns values from 0 to 1."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return full * (0.5 + jitter() / 2)


class Relay:
    """
    Moves events from one outbox to one server while `running`.

    Two would each keep its own order and send everything twice. So of all processes that share an
    outbox one relays at a time, and the others tell it when they have added something; when it
    ends, another goes on.
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
        self._listeners = _Listeners(reverb, backoff)
        self._awake = asyncio.Event()
        self._idle = asyncio.Event()
        self._failures = 0
        self._warned_at: float | None = None
        self._leads = False
        self._has_met_server = False
        self._task: asyncio.Task[None] | None = None
        self._moved_at = 0.0
        self._sent = 0
        self._failed = 0
        self._settlement = _Settlement(outbox)

    def wake(self) -> None:
        """Say that the outbox may hold something new."""
        self._idle.clear()
        self._awake.set()

    @asynccontextmanager
    async def running(self, *, drain: float) -> AsyncIterator[None]:
        """
        Relay while the block runs, and then up to `drain` seconds more to send what can be sent.

        What is left stays in the outbox for the next start.
        """
        task = self._task = asyncio.create_task(self._run(), name="relay")
        try:
            yield
            if self._leads and self._failures == 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(drain):
                        await self._idle.wait()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    @property
    def leads(self) -> bool:
        """Tell whether, of all processes that share the outbox, this is the one that relays."""
        return self._leads

    def on_return(self, callback: Callable[[], None]) -> None:
        """
        Have `callback` called whenever the server may have lost its clients before now.

        That is when it answers after it was away, and when this process begins to relay, as it
        cannot know what happened before. Clients are expected back within `return_of_clients`.
        """
        self._listeners.on_return(callback)

    @property
    def is_working(self) -> bool:
        """Tell whether there is no need to start this process anew: it goes on by itself."""
        if self._task is None or self._task.done():
            return False
        return not self._leads or _now() - self._moved_at < self._backoff.stuck_after

    def measures(self) -> tuple[Measure, ...]:
        """Return what tells whether it relays, and how much."""
        return (
            single(
                "relay_leads",
                "Whether, of all processes on the database, this is the one that relays.",
                lambda: self._leads,
            ),
            single(
                "relay_events_sent_total",
                "Events that the realtime server has taken.",
                lambda: self._sent,
            ),
            single(
                "relay_failures_total",
                "Times that the realtime server was away, had an error, or refused an event.",
                lambda: self._failed,
            ),
        )

    async def _run(self) -> None:
        while True:
            try:
                await self._outbox.lead(self._relay, self._awake)
            except DatabaseUnavailable:
                pass  # the store has said so
            except Exception:
                _log.exception("The relay failed and tries again")
            await self._wait()

    async def _relay(self) -> None:
        """Relay until cancelled."""
        self._leads = True
        self._moved_at = _now()
        self._listeners.expect()
        self.wake()
        try:
            while True:
                await self._relay_what_is_owed()
        finally:
            self._leads = False
            # So that nobody sends again what was taken. If that fails, it is what a crash does.
            with suppress(Exception):
                async with asyncio.timeout(_LAST_SETTLEMENT):
                    await self._settlement.finish()

    async def _relay_what_is_owed(self) -> None:
        try:
            if not self._has_met_server:
                await self._meet_server()
            await self._work_off()
            self._failures = 0
            await self._sleep(_SAFETY_POLL)
        except Unavailable as error:
            self._server_is_away(error)
            await self._wait(at_least=error.retry_after)
        except DatabaseUnavailable:
            await self._wait()  # the store has said so
        except Exception:
            # Whatever it is, what is owed is still owed.
            _log.exception("The relay failed and tries again")
            await self._wait()

    async def _meet_server(self) -> None:
        """Find out, while there is nothing to send, whether it could be."""
        self._moved_at = _now()
        if not await self._outbox.oldest(1):
            try:
                await self._reverb.check()
            except Unavailable as error:
                if error.is_away:
                    raise
                # Whether it takes what is published, only publishing tells.
                self._server_is_away(error)
            else:
                self._server_is_back()
        self._has_met_server = True

    async def _work_off(self) -> None:
        """
        Send what is owed; return once nothing is, not even to listeners who may still come back.

        What has to wait stays in the outbox and is passed over by its id. Who listens is the same
        from the oldest event to the newest: within such a sweep, either all events of a channel go
        out or none does, so none can overtake another.
        """
        await self._settlement.finish()
        passed = 0
        waiting: set[str] = set()
        while True:
            self._awake.clear()
            self._moved_at = _now()
            events = await self._outbox.oldest(_FETCH, after=passed)
            heard = []
            for event in await self._without_expired(events):
                if self._listeners.hear(event.channel):
                    heard.append(event)
                elif len(waiting) <= _MOST_ASKED_SINGLY:  # of more it is enough that they are more
                    waiting.add(event.channel)
            await self._send(heard)
            if events:
                passed = events[-1].id
            if len(events) == _FETCH and not self._listeners.are_all_away:
                continue
            if waiting and self._listeners.next_look() <= 0:
                await self._settlement.finish()  # as what is in the outbox will be read again
                if await self._listeners.look(waiting):
                    passed, waiting = 0, set()
                continue
            await self._settlement.finish(or_when=self._awake)
            if self._awake.is_set():
                continue
            if not waiting:
                return
            await self._sleep(self._listeners.next_look())

    async def _sleep(self, seconds: float) -> None:
        """Have nothing to do until somebody calls, for so long at most."""
        if not self._awake.is_set():
            self._idle.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        self._idle.clear()

    async def _without_expired(self, events: Sequence[OwedEvent]) -> Sequence[OwedEvent]:
        now = self._clock()
        if expired := [event.id for event in events if event.has_expired(now)]:
            await self._settlement.add(expired)
        return [event for event in events if not event.has_expired(now)]

    async def _send(self, events: Sequence[OwedEvent]) -> None:
        for start in range(0, len(events), MAX_BATCH):
            batch = events[start : start + MAX_BATCH]
            try:
                await self._publish(batch)
            except Refused as refusal:
                if len(batch) == 1:
                    await self._set_aside(batch[0], refusal)
                else:
                    await self._send_one_by_one(batch)

    async def _send_one_by_one(self, batch: Sequence[OwedEvent]) -> None:
        """Find out which of a refused batch is the one, and deliver the others."""
        for event in batch:
            try:
                await self._publish([event])
            except Refused as refusal:
                await self._set_aside(event, refusal)

    async def _publish(self, batch: Sequence[OwedEvent]) -> None:
        await self._reverb.publish([_publication(event) for event in batch])
        self._sent += len(batch)
        self._moved_at = _now()
        self._server_is_back()
        await self._settlement.add([event.id for event in batch])

    async def _set_aside(self, event: OwedEvent, refusal: Refused) -> None:
        self._failed += 1
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
        self._failed += 1
        if error.is_away:
            self._listeners.leave()
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


class _Settlement:
    """
    Takes out of the outbox what need not be sent any more, while other things are done.

    One unit of work at a time; the next takes whatever has come together meanwhile.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._ids: list[int] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, ids: Sequence[int]) -> None:
        """
        Take these out soon; waits only when too many are left.

        Raises what the store raised for any of them so far. Nothing may be sent then until `finish`
        has succeeded, above all not the same again.
        """
        self._ids += ids
        if self._task is not None and self._task.done():
            self._end()
        if self._task is None:
            self._task = asyncio.create_task(self._settle(), name="settlement")
        if len(self._ids) >= _MOST_UNSETTLED:
            await self.finish()

    async def finish(self, or_when: asyncio.Event | None = None) -> None:
        """
        Wait until all are out, or something happens before that.

        Raises what the store raises; they are left then, and the next call tries again.
        """
        if self._task is None and self._ids:
            self._task = asyncio.create_task(self._settle(), name="settlement")
        if self._task is None:
            return
        if or_when is None:
            await asyncio.wait([self._task])
        else:
            happens = asyncio.create_task(or_when.wait())
            try:
                await asyncio.wait([self._task, happens], return_when=asyncio.FIRST_COMPLETED)
            finally:
                happens.cancel()
        if self._task.done():
            self._end()

    async def _settle(self) -> None:
        while self._ids:
            ids = self._ids[:]
            await self._outbox.settle(ids)
            del self._ids[: len(ids)]

    def _end(self) -> None:
        assert self._task is not None, "it has been seen to be done"
        task, self._task = self._task, None
        task.result()


class _Listeners:
    """
    Who can hear: everybody, or after an outage only those who are known to be back.

    What `hear` says changes only in `look`, `leave` and `expect`.
    """

    def __init__(self, reverb: ReverbClient, backoff: Backoff) -> None:
        self._reverb = reverb
        self._backoff = backoff
        self._expected_until = _NOBODY_IS
        self._next_look = 0.0
        self._back: set[str] = set()
        self._callbacks: list[Callable[[], None]] = []

    def on_return(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever clients begin to come back."""
        self._callbacks.append(callback)

    def leave(self) -> None:
        """Take it that all have lost their connection, as the server is away."""
        self._expected_until = math.inf
        self._next_look = 0.0
        self._back = set()

    def expect(self) -> None:
        """Take it that all may have lost their connection some time before now."""
        self.leave()
        self._begin_to_return()

    def hear(self, channel: str) -> bool:
        """Tell whether there is no reason to keep what is for this channel."""
        return self._expected_until == _NOBODY_IS or channel in self._back

    @property
    def are_all_away(self) -> bool:
        """Tell whether the server has not answered since it was away."""
        return self._expected_until == math.inf

    def next_look(self) -> float:
        """Return in how many seconds `look` has something to do."""
        return min(self._next_look, self._expected_until) - _now()

    async def look(self, waiting: Collection[str]) -> bool:
        """
        Find out who is back, of those `waiting` or of all if they are many.

        Returns whether more can hear than before.

        Raises:
            Unavailable: The server is away again.
        """
        if _now() >= self._expected_until:
            self._expected_until = _NOBODY_IS
            return True
        known = len(self._back)
        try:
            if len(waiting) > _MOST_ASKED_SINGLY:
                self._back |= await self._reverb.occupied_channels()
            else:
                self._back |= {name for name in waiting if await self._reverb.is_occupied(name)}
        except (Unavailable, Refused) as error:
            if isinstance(error, Unavailable) and error.is_away:
                raise
            # Where the server does not tell, what could reach nobody waits out its time.
            _log.debug("The realtime server does not say who listens", reason=str(error))
        if self.are_all_away:
            self._begin_to_return()
        self._next_look = _now() + self._backoff.look_again
        return len(self._back) > known

    def _begin_to_return(self) -> None:
        self._expected_until = _now() + self._backoff.return_of_clients
        for callback in self._callbacks:
            callback()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _publication(event: OwedEvent) -> Publication:
    return Publication(event.key, event.channel, event.name, event.data, event.socket_id)
