"""When a request that failed is made again, and when it is given up: pure."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import NamedTuple

__all__ = ["Pause", "Retries", "retry_after"]


class Pause(NamedTuple):
    """How many seconds to wait after a failure, and whether the same request is then repeated."""

    seconds: float
    again: bool


class Retries:
    """
    The retries of one endpoint: after `first` seconds, then ever longer, up to `longest`.

    A request is given up once it has been tried for `give_up` seconds. The next one starts with the
    pauses of the last: only a success makes them short again. `jitter` returns values from 0 to 1,
    and a pause is between a half and the whole of what it could be, so that endpoints which failed
    together are not all tried together. Times are seconds of one clock that never goes backwards.
    """

    __slots__ = ("_first", "_give_up", "_jitter", "_longest", "_until", "failures")

    def __init__(
        self, first: float, longest: float, give_up: float, jitter: Callable[[], float]
    ) -> None:
        self._first = first
        self._longest = longest
        self._give_up = give_up
        self._jitter = jitter
        self._until = 0.0
        self.failures = 0

    def begin(self, now: float) -> None:
        """Note that a request is about to be made for the first time."""
        self._until = now + self._give_up

    def succeeded(self) -> None:
        """Note that the request was taken."""
        self.failures = 0

    def failed(self, now: float, wish: float = 0.0) -> Pause:
        """
        Note that an attempt failed and say what comes next.

        `wish` is the pause that the endpoint asked for; it gets it as far as the time allows, and
        the last attempt is made when the time is up.
        """
        self.failures += 1
        full = min(self._longest, self._first * 2.0 ** min(self.failures - 1, 32))
        seconds = max(full * (0.5 + self._jitter() / 2), min(wish, self._give_up))
        left = self._until - now
        return Pause(min(seconds, left), again=True) if left > 0 else Pause(seconds, again=False)


def retry_after(header: str, now: float) -> float:
    """
    Return the seconds that a `Retry-After` header asks for, and 0 for one that can't be read.

    It holds whole seconds or a date; `now` is in seconds since 1970.
    """
    if header.isascii() and header.isdigit() and len(header) < 10:
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0
