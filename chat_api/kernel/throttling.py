"""How often somebody may do something."""

import math
from collections import OrderedDict
from dataclasses import dataclass

from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import TooMany

__all__ = ["Throttle"]


@dataclass(slots=True)
class _Window:
    ends: float
    hits: int = 0


class Throttle:
    """
    Lets each key through `amount` times in any window of `seconds`, which its first hit opens.

    Counts are kept in this process's memory and forgotten when their window has ended. An amount of
    zero lets everything through.
    """

    def __init__(self, amount: int, seconds: int, message: str, clock: Clock) -> None:
        self._amount = amount
        self._seconds = seconds
        self._message = message
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()  # in the order of their ends

    def hit(self, key: str) -> None:
        """
        Count one attempt.

        Raises:
            TooMany: It is one too many; the error says how long to wait.
        """
        if not self._amount:
            return
        now = self._clock().timestamp()
        self._forget_the_ended(now)
        window = self._windows.setdefault(key, _Window(now + self._seconds))
        if window.hits >= self._amount:
            wait = max(1, math.ceil(window.ends - now))
            raise TooMany(f"{self._message} Try again in {wait} s.", retry_after=wait)
        window.hits += 1

    def give_back(self, key: str) -> None:
        """Take one hit back, for attempts that turn out not to count."""
        window = self._windows.get(key)
        if window is not None and window.hits:
            window.hits -= 1

    def _forget_the_ended(self, now: float) -> None:
        while self._windows:
            key = next(iter(self._windows))
            # A window that ends further away than any could was opened before the clock was put
            # back.
            if now < self._windows[key].ends <= now + self._seconds:
                break
            del self._windows[key]
