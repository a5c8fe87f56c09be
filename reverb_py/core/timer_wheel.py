"""
One timer for all connections.

A timer of the event loop for each of a hundred thousand connections would cost memory and a heap
operation for every message. Here connections sit in slots of a wheel, and being rescheduled to a
later time costs two comparisons: a connection moves when its old slot comes up.
"""

import math
from typing import Protocol

__all__ = ["Timed", "TimerWheel"]


class Timed(Protocol):
    """Something with one deadline at a time. Both attributes start as 0 and belong to the wheel."""

    timer_due: int
    timer_slot: int

    def on_timer(self) -> None:
        """Act on the deadline; may schedule the next one."""


class TimerWheel:
    """
    Calls `on_timer` of whatever is due, each time it is advanced.

    `resolution` is the length of a tick in seconds: a time is counted in whole ticks, rounded up,
    and its deadline is kept up to one tick late and never early. `tick` counts them and is the
    cheapest clock there is.
    """

    __slots__ = ("_slots", "_start", "resolution", "tick")

    def __init__(self, now: float, resolution: float = 1.0) -> None:
        self.resolution = resolution
        self.tick = 1
        self._start = now - resolution
        self._slots: dict[int, set[Timed]] = {}

    def schedule(self, timed: Timed, seconds: float) -> None:
        """Have `on_timer` called once, `seconds` from now, instead of any time set before."""
        due = self.tick + math.ceil(seconds / self.resolution) + 1
        timed.timer_due = due
        slot = timed.timer_slot
        if slot == 0 or due < slot:
            if slot:
                self._slots[slot].discard(timed)
            self._put(timed, due)

    def cancel(self, timed: Timed) -> None:
        """Forget the deadline and the object. Safe when there is none."""
        slot = timed.timer_slot
        if slot:
            self._slots[slot].discard(timed)
            timed.timer_due = timed.timer_slot = 0

    def seconds_since(self, tick: int) -> float:
        """Return the seconds between an earlier tick and this one."""
        return (self.tick - tick) * self.resolution

    def advance(self, now: float) -> None:
        """
        Run everything that is due at `now`, in seconds of the clock the wheel was made with.

        After a pause, however long, each object's deadline comes once: what `on_timer` schedules
        counts from `now`.
        """
        first = self.tick + 1
        self.tick = max(self.tick, int((now - self._start) / self.resolution))
        for number in range(first, self.tick + 1):
            slot = self._slots.get(number)
            if slot is None:
                continue
            # The slot stays in place while it empties, so that what runs here may cancel the rest.
            while slot:
                timed = slot.pop()
                timed.timer_slot = 0
                if timed.timer_due > self.tick:
                    self._put(timed, timed.timer_due)
                else:
                    timed.timer_due = 0
                    timed.on_timer()
            del self._slots[number]

    def _put(self, timed: Timed, slot: int) -> None:
        timed.timer_slot = slot
        if slot in self._slots:
            self._slots[slot].add(timed)
        else:
            self._slots[slot] = {timed}
