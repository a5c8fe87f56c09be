"""How often somebody may do something."""

from collections.abc import Callable

__all__ = ["AddressLimits", "TokenBucket"]


class TokenBucket:
    """
    Allows `capacity` takes at once and `rate` more per second.

    It has no clock: each take says what time it is, in seconds that never go backwards. Whoever's
    limits change makes a new one.
    """

    __slots__ = ("_at", "_tokens", "capacity", "rate")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self.rate = rate
        self.capacity = capacity
        self._tokens = capacity
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token, or return False and take none."""
        self._tokens = min(self.capacity, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class AddressLimits:
    """
    How many connections one address may have, and how many new ones in a minute; 0 means any.

    Addresses without a connection are forgotten within two minutes. `clock` returns seconds that
    never go backwards.
    """

    __slots__ = ("_buckets", "_clock", "_connections", "_last_buckets", "_most", "_rate", "_turn")

    def __init__(
        self, max_connections: int, connects_per_minute: int, clock: Callable[[], float]
    ) -> None:
        self._most = max_connections
        self._rate = connects_per_minute
        self._clock = clock
        self._connections: dict[str, int] = {}
        # Two generations of buckets: the older is thrown away each minute, whole.
        self._buckets: dict[str, TokenBucket] = {}
        self._last_buckets: dict[str, TokenBucket] = {}
        self._turn = clock()

    def admit(self, address: str) -> str | None:
        """Count a new connection, and say why it may not stay, or return None."""
        connections = self._connections[address] = self._connections.get(address, 0) + 1
        if self._most and connections > self._most:
            return f"More than {self._most} connections from one address"
        if self._rate and not self._bucket(address).take(self._clock()):
            return f"More than {self._rate} new connections in a minute from one address"
        return None

    def release(self, address: str) -> None:
        """Count a connection that has gone, whether or not it was admitted."""
        connections = self._connections[address] - 1
        if connections:
            self._connections[address] = connections
        else:
            del self._connections[address]

    def _bucket(self, address: str) -> TokenBucket:
        now = self._clock()
        if now - self._turn > 60:
            self._last_buckets, self._buckets, self._turn = self._buckets, {}, now
        bucket = self._buckets.get(address) or self._last_buckets.get(address)
        if bucket is None:
            bucket = TokenBucket(self._rate / 60, self._rate, now)
        self._buckets[address] = bucket
        return bucket
