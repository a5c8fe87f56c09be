"""What waits for one webhook, and what of it may go now: pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["Backlog", "Batch", "Event"]


class Event(NamedTuple):
    """One event as JSON, and the channel whose events keep their order."""

    channel: str
    content: bytes


class Batch:
    """
    The events of one request, from when it is first made until it is taken or given up.

    `behind` is what else happened on the same channels, as far as its turn would have come.
    """

    __slots__ = ("behind", "events")

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.behind: deque[Event] = deque()


class Backlog:
    """
    The events of one webhook, in the order in which they happened.

    Those of one channel never overtake each other: while some of them are out, in a batch, the
    others of that channel wait behind it. A batch that is refused for long therefore delays nothing
    but its own channels.

    There are at most `most` events of `most_bytes` together, those that are out included. Beyond
    that the oldest are dropped, but never one that is out and never the newest.
    """

    __slots__ = ("_blocked", "_bytes", "_count", "_most", "_most_bytes", "_out", "_waiting")

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[Event] = deque()
        self._out: dict[Batch, None] = {}
        self._blocked: dict[str, Batch] = {}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def waiting(self) -> int:
        """How many events there are to choose from; some may turn out to wait behind a batch."""
        return len(self._waiting)

    @property
    def out(self) -> int:
        """How many batches have been taken and not settled."""
        return len(self._out)

    def put(self, event: Event) -> int:
        """Add what happened just now; return how many events were dropped for it."""
        self._waiting.append(event)
        self._add(event, 1)
        dropped = 0
        while self._count > self._most or self._bytes > self._most_bytes:
            line = self._oldest_line()
            if line is None:
                break
            self._add(line.popleft(), -1)
            dropped += 1
        return dropped

    def take(self, most: int, most_bytes: int) -> Batch | None:
        """
        Return the next events that may go, or None when there is none.

        They are at most `most`, and together `most_bytes` unless the first alone is larger.
        """
        waiting, blocked = self._waiting, self._blocked
        events: list[Event] = []
        size = 0
        while waiting and len(events) < most:
            event = waiting[0]
            batch = blocked.get(event.channel)
            if batch is not None:
                batch.behind.append(waiting.popleft())
                continue
            size += len(event.content)
            if events and size > most_bytes:
                break
            events.append(waiting.popleft())
        if not events:
            return None
        batch = Batch(events)
        self._out[batch] = None
        self._block(batch)
        return batch

    def halve(self, batch: Batch) -> bool:
        """
        Keep only the first half of a batch out; return False if it is a single event.

        One event that is never taken thus holds up those it happened to be sent with for a short
        time only.
        """
        middle = len(batch.events) // 2
        if middle == 0:
            return False
        self._unblock(batch)
        self._waiting.extendleft(reversed(batch.events[middle:]))
        del batch.events[middle:]
        self._block(batch)
        return True

    def settle(self, batch: Batch) -> None:
        """Forget a batch; what waited behind it is next."""
        self._unblock(batch)
        del self._out[batch]
        for event in batch.events:
            self._add(event, -1)

    def clear(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        self._out.clear()
        self._blocked.clear()
        self._count = self._bytes = 0

    def _add(self, event: Event, sign: int) -> None:
        self._count += sign
        self._bytes += sign * len(event.content)

    def _oldest_line(self) -> deque[Event] | None:
        # What waits behind a batch stood in front of all that is waiting now.
        for batch in self._out:
            if batch.behind:
                return batch.behind
        return self._waiting if len(self._waiting) > 1 else None

    def _block(self, batch: Batch) -> None:
        for event in batch.events:
            self._blocked[event.channel] = batch

    def _unblock(self, batch: Batch) -> None:
        for event in batch.events:
            self._blocked.pop(event.channel, None)
        self._waiting.extendleft(reversed(batch.behind))
        batch.behind.clear()
