"""
Departures that may be undone: pure.

Whoever reloads a page leaves and is back a second later. Hosted Pusher therefore holds
`channel_vacated` and `member_removed` for three seconds, and when the channel or the user comes
back in time, neither the departure nor the return is told. On the only node webhooks hold them;
among several the bus does, which knows of a return on any of them.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from reverb_py.core.apps import App

__all__ = ["HOLD_SECONDS", "MAX_HELD", "Departure", "Holding"]

HOLD_SECONDS = 3.0
"""For how long a departure may be undone (hosted Pusher's figure)."""

MAX_HELD = 100_000
"""Departures of one app that are held at once."""


class Departure(NamedTuple):
    """A user's leaving of a presence channel, or everybody's leaving of a channel."""

    channel: str
    user_id: str | None = None

    @property
    def kind(self) -> str:
        """The event that tells it."""
        return "channel_vacated" if self.user_id is None else "member_removed"

    @property
    def kind_of_return(self) -> str:
        """The event that tells its opposite."""
        return "channel_occupied" if self.user_id is None else "member_added"

    def is_wanted(self, app: App) -> bool:
        """Tell whether a webhook of the app wants to hear of it, or of what would undo it."""
        kinds = {self.kind, self.kind_of_return}
        return any(
            not kinds.isdisjoint(webhook.kinds) and webhook.covers(self.channel)
            for webhook in app.webhooks
        )


class Holding:
    """
    The departures of one app that may still be undone, oldest first.

    Each is held for `seconds`; there are `most` at once. It has no clock: each call says what time
    it is, in seconds that never go backwards.
    """

    __slots__ = ("_held", "_most", "_seconds")

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._held: dict[Departure, float] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, departure: Departure, now: float) -> Departure | None:
        """Hold one more; return the oldest, no longer held, if that makes too many."""
        # A repetition goes to the end: the order of the table is the order of becoming due.
        self._held.pop(departure, None)
        self._held[departure] = now + self._seconds
        if len(self._held) <= self._most:
            return None
        oldest = next(iter(self._held))
        del self._held[oldest]
        return oldest

    def undo(self, departure: Departure) -> bool:
        """Forget a departure; return False if it was not held, so that the return is news."""
        return self._held.pop(departure, None) is not None

    def due(self, now: float, most: int) -> list[Departure]:
        """Return up to `most` that have been held long enough, in order; hold them no longer."""
        result = []
        for departure, until in islice(self._held.items(), most):
            if until > now:
                break
            result.append(departure)
        for departure in result:
            del self._held[departure]
        return result

    def release(self) -> list[Departure]:
        """Return everything that is held, in order, and hold it no longer."""
        result = list(self._held)
        self._held.clear()
        return result

    @property
    def next_due(self) -> float | None:
        """When the oldest becomes due; None when nothing is held."""
        return next(iter(self._held.values()), None)
