"""Telling how many are subscribed, without flooding a crowd with its own arrivals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reverb_py.core.timer_wheel import TimerWheel

if TYPE_CHECKING:
    from reverb_py.core.channel import Channel

__all__ = ["CROWD", "CROWD_SECONDS", "SubscriptionCounts"]

CROWD = 100
"""Subscribers up to which every change is told at once."""

CROWD_SECONDS = 5.0
"""Time between two announcements to a larger crowd (the protocol's figure)."""


class SubscriptionCounts:
    """
    Decides when the count of a channel is announced; `announce` is called with the channel.

    A crowd hears of itself once in `CROWD_SECONDS`, also when it was smaller for a moment: who
    comes and goes at the border makes no more noise than who comes and goes below it.
    """

    __slots__ = ("_announce", "_waiting", "_wheel")

    def __init__(self, wheel: TimerWheel, announce: Callable[[Channel], None]) -> None:
        self._wheel = wheel
        self._announce = announce
        self._waiting: dict[Channel, _Pause] = {}

    def changed(self, channel: Channel) -> None:
        """
        Somebody has come or gone, and somebody is still there.

        Crowds go one by one: when the last has left, nothing is due any more.
        """
        pause = self._waiting.get(channel)
        if channel.count <= CROWD:
            if pause is not None:
                pause.is_due = False
            self._announce(channel)
        elif pause is not None:
            pause.is_due = True
        else:
            self._announce(channel)
            pause = self._waiting[channel] = _Pause(self, channel)
            self._wheel.schedule(pause, CROWD_SECONDS)

    def _pause_is_over(self, pause: _Pause) -> None:
        if pause.is_due:
            pause.is_due = False
            self._announce(pause.channel)
            self._wheel.schedule(pause, CROWD_SECONDS)
        else:
            del self._waiting[pause.channel]


class _Pause:
    """The time after an announcement to a crowd, in which changes are only noted."""

    __slots__ = ("_counts", "channel", "is_due", "timer_due", "timer_slot")

    def __init__(self, counts: SubscriptionCounts, channel: Channel) -> None:
        self._counts = counts
        self.channel = channel
        self.is_due = False
        self.timer_due = 0
        self.timer_slot = 0

    def on_timer(self) -> None:
        self._counts._pause_is_over(self)
