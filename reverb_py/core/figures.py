"""
What is counted: plain numbers beside what they count, which whoever looks reads.

Counting is an addition to an attribute and knows nothing of who looks. A `Measure` says how a
number is read and what it means; `reverb_py.measures` lists all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

__all__ = ["AppFigures", "Histogram", "Measure", "Sample"]


class AppFigures:
    """
    What happened in one app on this node since it was configured: totals, which only grow.

    `channels` are those open now, by the access that their names ask for; `subscriptions` and
    `unsubscriptions` are by the same. `closed` are the connections that the server closed, by their
    code, and `limit_hits` how often a limit had an effect, by the variable that sets it.
    """

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "channels",
        "closed",
        "connections",
        "http_bytes_received",
        "http_bytes_sent",
        "http_calls",
        "limit_hits",
        "messages_received",
        "messages_sent",
        "subscriptions",
        "unsubscriptions",
    )

    def __init__(self) -> None:
        self.connections = 0
        self.messages_received = 0
        self.messages_sent = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.http_calls = 0
        self.http_bytes_received = 0
        self.http_bytes_sent = 0
        self.channels: Counter[str] = Counter()
        self.subscriptions: Counter[str] = Counter()
        self.unsubscriptions: Counter[str] = Counter()
        self.closed: Counter[int] = Counter()
        self.limit_hits: Counter[str] = Counter()


class Histogram:
    """
    How values are distributed over buckets whose upper bounds, themselves included, are `bounds`.

    `counts` has one number for each bound and one for what is beyond the last; `total` is the sum
    of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Sample(NamedTuple):
    """One number, or one distribution, with the values of its measure's labels in their order."""

    labels: tuple[str, ...]
    value: float | Histogram


class Measure(NamedTuple):
    """
    Something that can be read at any time, for as much as an addition costs for each sample.

    `kind` is `counter`, `gauge` or `histogram`; `labels` are the names of what its samples differ
    in. Times are seconds and sizes bytes unless `meaning` says otherwise.
    """

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...]
    read: Callable[[], Iterable[Sample]]
