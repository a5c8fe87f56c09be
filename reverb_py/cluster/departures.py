"""
The departures of one app that this node holds back, because somebody may come back on any node.

In Redis, each lies under its channel with the name of the node that holds it. Whoever comes back,
wherever that is, takes it away in the same step, and then neither the departure nor the return is
told. Here, only the time is kept: when it is over, Redis is asked whether the departure is certain.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from reverb_py.core.holding import MAX_HELD, Departure, Holding

__all__ = ["Departures"]

_MOST_AT_ONCE = 500


class Departures:
    """
    What is held for `seconds`; then `when_due` is called with it.

    It counts as held until it is `settled`. There are up to `MAX_HELD` that are not yet due; beyond
    that the oldest is due early.
    """

    def __init__(self, seconds: float, when_due: Callable[[Departure], None]) -> None:
        self._when_due = when_due
        self._loop = asyncio.get_running_loop()
        self._is_hurried = False
        self._timer: asyncio.TimerHandle | None = None
        self._holding = Holding(seconds, MAX_HELD)
        self._unsettled: set[Departure] = set()
        self._by_channel: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._unsettled)

    def has_any_of(self, channel: str) -> bool:
        """Tell whether anybody's departure from a channel is held."""
        return channel in self._by_channel

    def hold(self, departure: Departure) -> None:
        """Hold one, from now on if it is held already."""
        if departure not in self._unsettled:
            self._unsettled.add(departure)
            self._by_channel[departure.channel] += 1
        if self._is_hurried:
            self._when_due(departure)
            return
        early = self._holding.hold(departure, self._loop.time())
        if early is not None:
            self._when_due(early)
        self._set_timer()

    def settled(self, departure: Departure) -> None:
        """Forget one, which need not be held: it was told, or undone."""
        self._holding.undo(departure)
        if departure in self._unsettled:
            self._unsettled.remove(departure)
            self._by_channel[departure.channel] -= 1
            if not self._by_channel[departure.channel]:
                del self._by_channel[departure.channel]

    def hurry(self) -> None:
        """Have everything be due at once, now and from now on."""
        self._is_hurried = True
        for departure in self._holding.release():
            self._when_due(departure)

    def forget(self) -> None:
        """Hold nothing: what Redis knows of it is held anew when that is heard."""
        self._holding.release()
        self._unsettled.clear()
        self._by_channel.clear()
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
            self._when_due(departure)
        self._set_timer()
