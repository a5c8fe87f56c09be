"""What was said last on the cache channels of one app."""

from typing import NamedTuple

__all__ = ["MAX_REMEMBERED", "LastEvent", "LastEvents"]

MAX_REMEMBERED = 50_000
"""Channels whose last event is remembered; beyond it, those published longest ago are forgotten."""


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
    """

    __slots__ = ("_events",)

    def __init__(self) -> None:
        # In the order of publication, so that the oldest are in front.
        self._events: dict[str, LastEvent] = {}

    def remember(self, channel: str, frame: bytes, data: str, seconds: float, now: float) -> None:
        """Remember an event for so many seconds, instead of the channel's one before."""
        events = self._events
        events.pop(channel, None)
        events[channel] = LastEvent(frame, data, now + seconds)
        while events:
            oldest = next(iter(events))
            if events[oldest].expires_at > now and len(events) <= MAX_REMEMBERED:
                break
            del events[oldest]

    def recall(self, channel: str, now: float) -> LastEvent | None:
        """Return the channel's last event, unless there was none lately."""
        event = self._events.get(channel)
        return event if event is not None and event.expires_at > now else None
