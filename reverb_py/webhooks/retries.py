"""When a request that failed is made again, and when it is given up: pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

__all__ = ["Retries", "retry_after"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """
    How a webhook's requests are repeated: after `first` seconds, then ever longer, up to `longest`.

    A request is given up once it has been tried for `give_up` seconds. `jitter` returns values from
    0 to 1, and a pause is between a half and the whole of what it could be, so that requests which
    failed together are not all repeated together.
    """

    first: float
    longest: float
    give_up: float
    jitter: Callable[[], float]

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after so many failures, one or more, in a row."""
        full = min(self.longest, self.first * 2.0 ** min(failures - 1, 32))
        return full * (0.5 + self.jitter() / 2)

    def next_pause(self, failures: int, tried: float, wish: float = 0.0) -> float | None:
        """
        Return the seconds until a request is to be repeated, or None if it is given up.

        It has failed so many times in a row, and was made for the first time `tried` seconds ago.
        `wish` is the pause that the endpoint asked for; it gets it as far as the time allows, and
        the last attempt is made when the time is up.
        """
        left = self.give_up - tried
        return min(max(self.pause(failures), wish), left) if left > 0 else None


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
