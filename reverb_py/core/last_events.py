"""What was said last on the cache channels of one app."""

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["MAX_REMEMBERED", "MAX_REMEMBERED_BYTES", "MISS_SECONDS", "LastEvent", "LastEvents"]

MAX_REMEMBERED = 50_000
"""Channels whose last event is remembered; beyond it, those published longest ago are forgotten."""

MAX_REMEMBERED_BYTES = 67_108_864
"""Bytes of all remembered frames together; beyond it, the same."""

MISS_SECONDS = 10.0
"""Time in which one miss on a channel stands for all that follow it."""


class LastEvent(NamedTuple):
    """An event as it was broadcast, its data, and until when it is remembered."""

    frame: bytes
    data: str
    expires_at: float


class LastEvents:
    """
    The last event of each channel, for as long as it is remembered.

    It knows nothing of subscribers: an event is remembered when nobody was there to hear it, and
    when the last who heard it has left. Times are seconds of a clock that never goes backwards.
    `dropped` counts those that were forgotten early, because there were too many.
    """

    __slots__ = ("_bytes", "_events", "_misses", "dropped")

    def __init__(self) -> None:
        # In the order of publication, so that the oldest are in front.
        self._events: dict[str, LastEvent] = {}
        self._bytes = 0
        self.dropped = 0
        # When each may be told again, the earliest in front.
        self._misses: dict[str, float] = {}

    def remember(self, channel: str, frame: bytes, data: str, seconds: float, now: float) -> None:
        """Remember an event for so many seconds, instead of the channel's one before."""
        events = self._events
        if channel in events:
            self._forget(channel)
        events[channel] = LastEvent(frame, data, now + seconds)
        self._bytes += len(frame)
        if self._misses:
            self._misses.pop(channel, None)
        while events:
            oldest = next(iter(events))
            is_too_much = len(events) > MAX_REMEMBERED or self._bytes > MAX_REMEMBERED_BYTES
            if events[oldest].expires_at > now and not is_too_much:
                break
            self.dropped += events[oldest].expires_at > now
            self._forget(oldest)

    def __len__(self) -> int:
        return len(self._events)

    @property
    def size(self) -> int:
        """Bytes of all remembered frames together."""
        return self._bytes

    @property
    def channels(self) -> Iterable[str]:
        """The channels whose last event is remembered; what is returned changes with them."""
        return self._events.keys()

    def recall(self, channel: str, now: float) -> LastEvent | None:
        """Return the channel's last event, unless there was none lately."""
        event = self._events.get(channel)
        return event if event is not None and event.expires_at > now else None

    def is_first_miss(self, channel: str, now: float) -> bool:
        """
        Tell whether a channel where nothing is remembered is worth a word to the backend.

        A crowd that comes to such a channel is one miss. The next is one when something was said
        in between, or after a while, since the backend may have let the first one pass.
        """
        misses = self._misses
        while misses:
            oldest = next(iter(misses))
            if misses[oldest] > now and len(misses) < MAX_REMEMBERED:
                break
            del misses[oldest]
        if channel in misses:
            return False
        misses[channel] = now + MISS_SECONDS
        return True

    def _forget(self, channel: str) -> None:
        self._bytes -= len(self._events.pop(channel).frame)
