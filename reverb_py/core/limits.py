"""How often somebody may do something, and how many of one address may be here at a time."""

import math
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "MAX_ADDRESSES",
    "AddressLimits",
    "AddressRates",
    "ClientEventLimits",
    "Objection",
    "TokenBucket",
    "TokenBuckets",
]

MAX_ADDRESSES = 100_000
"""Addresses that fill a table; beyond it, those not heard of lately are forgotten early."""


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

    def seconds_until_next(self) -> float:
        """Return how long after the last take, in seconds, the next one will succeed."""
        return max(0.0, (1 - self._tokens) / self.rate)


class TokenBuckets:
    """
    A bucket of `capacity` and `rate` for each key, as long as it is not full again.

    Who takes tokens under ever new keys fills two generations of buckets, each as long as a bucket
    takes to fill, or of `MAX_ADDRESSES`; the older one is thrown away whole.
    """

    __slots__ = ("_before", "_buckets", "_since", "capacity", "rate")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self.rate = rate
        self.capacity = capacity
        self._since = now
        self._buckets: dict[str, TokenBucket] = {}
        self._before: dict[str, TokenBucket] = {}

    def of(self, key: str, now: float) -> TokenBucket:
        """Return the key's bucket, to take from at `now`."""
        is_over = now - self._since > self.capacity / self.rate
        if is_over or len(self._buckets) >= MAX_ADDRESSES:
            self._before, self._buckets, self._since = self._buckets, {}, now
        bucket = self._buckets.get(key) or self._before.get(key)
        if bucket is None:
            bucket = TokenBucket(self.rate, self.capacity, now)
        self._buckets[key] = bucket
        return bucket

    def __len__(self) -> int:
        """Return how many buckets there are; some may be there twice, in either generation."""
        return len(self._buckets) + len(self._before)


class Objection(NamedTuple):
    """
    Why somebody is turned away, and after how many seconds it is worth another try.

    `limit` is the variable that sets the limit.
    """

    message: str
    retry_after: int
    limit: str


class AddressLimits:
    """
    What one address may do: connections at a time, new ones a minute, HTTP requests a second.

    0 means any number. Addresses without a connection are forgotten within two minutes. `clock`
    returns seconds that never go backwards.
    """

    __slots__ = ("_clock", "_connections", "_connects", "_most", "_requests")

    def __init__(
        self,
        max_connections: int,
        connects_per_minute: int,
        requests_per_second: int,
        clock: Callable[[], float],
    ) -> None:
        self._most = max_connections
        self._clock = clock
        self._connections: dict[str, int] = {}
        self._connects: TokenBuckets | None = None
        if connects_per_minute:
            self._connects = TokenBuckets(connects_per_minute / 60, connects_per_minute, clock())
        self._requests: TokenBuckets | None = None
        if requests_per_second:
            self._requests = TokenBuckets(requests_per_second, requests_per_second, clock())

    def admit(self, address: str) -> Objection | None:
        """Count a new connection, and say why it may not stay, or return None."""
        connections = self._connections[address] = self._connections.get(address, 0) + 1
        if self._most and connections > self._most:
            return Objection(
                f"More than {self._most} connections from one address",
                60,
                "REVERB_MAX_CONNECTIONS_PER_ADDRESS",
            )
        return _objection(
            self._connects,
            address,
            self._clock(),
            "new connections in a minute",
            "REVERB_CONNECTS_PER_MINUTE_PER_ADDRESS",
        )

    def admit_request(self, address: str) -> Objection | None:
        """Count an HTTP request, and say why it is not answered, or return None."""
        return _objection(
            self._requests,
            address,
            self._clock(),
            "requests in a second",
            "REVERB_REQUESTS_PER_SECOND_PER_ADDRESS",
        )

    def release(self, address: str) -> None:
        """Count a connection that has gone, whether or not it was admitted."""
        connections = self._connections[address] - 1
        if connections:
            self._connections[address] = connections
        else:
            del self._connections[address]

    @property
    def addresses(self) -> int:
        """How many entries its tables have; an address may be in several."""
        tables = (self._connections, self._connects or (), self._requests or ())
        return sum(len(table) for table in tables)


class AddressRates:
    """How often a second an app lets each address do one thing."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: TokenBuckets | None = None

    def take(self, rate: int, address: str, now: float) -> bool:
        """
        Count that it was done from an address, or return False: it is more than `rate` a second.

        The rate may change from one call to the next; 0 means any number. A client without an
        address is not counted.
        """
        if not rate or not address:
            return True
        buckets = self._buckets
        if buckets is None or buckets.rate != rate:
            buckets = self._buckets = TokenBuckets(rate, rate, now)
        return buckets.of(address, now).take(now)

    def __len__(self) -> int:
        """Return how many addresses its table has."""
        return 0 if self._buckets is None else len(self._buckets)


class ClientEventLimits:
    """How many client events an app takes a second: from one address, and from everybody."""

    __slots__ = ("_of_addresses", "_of_app")

    def __init__(self) -> None:
        self._of_addresses = AddressRates()
        self._of_app: TokenBucket | None = None

    def objection(
        self, per_address: int, per_app: int, address: str, now: float
    ) -> Objection | None:
        """
        Count a client event, and say why it is not relayed, or return None.

        What one address sends beyond its share is not counted for the app. A client without an
        address has no share. The limits may change from one call to the next; 0 means any number.
        """
        if not self._of_addresses.take(per_address, address, now):
            return Objection(
                f"more than {per_address} in a second from one address",
                1,
                "REVERB_APP_CLIENT_EVENTS_PER_SECOND_PER_ADDRESS",
            )
        if per_app:
            bucket = self._of_app
            if bucket is None or bucket.rate != per_app:
                bucket = self._of_app = TokenBucket(per_app, per_app, now)
            if not bucket.take(now):
                return Objection(
                    f"more than {per_app} in a second from all clients of the app",
                    1,
                    "REVERB_APP_CLIENT_EVENTS_PER_SECOND_PER_APP",
                )
        return None

    @property
    def addresses(self) -> int:
        """How many addresses its table has."""
        return len(self._of_addresses)


def _objection(
    buckets: TokenBuckets | None, address: str, now: float, what: str, limit: str
) -> Objection | None:
    if buckets is None:
        return None
    bucket = buckets.of(address, now)
    if bucket.take(now):
        return None
    return Objection(
        f"More than {buckets.capacity} {what} from one address",
        math.ceil(bucket.seconds_until_next()),
        limit,
    )
