"""How often somebody may do something."""

import math
import time

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from chat_api.kernel.errors import TooMany

__all__ = ["Throttle"]


class Throttle:
    """
    Lets each key through `amount` times in any window of `seconds`, which its first hit opens.

    Counts are kept in this process's memory and forgotten when their window ends. An amount of
    zero lets everything through. Safe to use from any number of tasks of one event loop.
    """

    def __init__(self, amount: int, seconds: int, message: str) -> None:
        self._storage = MemoryStorage()
        self._limiter = FixedWindowRateLimiter(self._storage)
        self._item = RateLimitItemPerSecond(amount, seconds) if amount else None
        self._message = message

    async def hit(self, key: str) -> None:
        """Count one attempt. Raises `TooMany`, with the wait, when it is one too many."""
        if self._item is None or await self._limiter.hit(self._item, key):
            return
        window = await self._limiter.get_window_stats(self._item, key)
        wait = max(1, math.ceil(window.reset_time - time.time()))
        raise TooMany(f"{self._message} Try again in {wait} s.", retry_after=wait)

    async def give_back(self, key: str) -> None:
        """Take one hit back, for attempts that turn out not to count."""
        if self._item is not None:
            await self._storage.decr(self._item.key_for(key))
