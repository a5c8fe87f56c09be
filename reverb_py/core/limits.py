"""How often somebody may do something."""

__all__ = ["TokenBucket"]


class TokenBucket:
    """
    Allows `capacity` takes at once and `rate` more per second.

    It has no clock: each take says what time it is, in seconds that never go backwards.
    """

    __slots__ = ("_at", "_capacity", "_rate", "_tokens")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = capacity
        self._tokens = capacity
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token, or return False and take none."""
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
