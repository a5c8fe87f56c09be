"""What an operator may watch, as values that are read when somebody looks."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

__all__ = ["Measure", "Samples", "single"]

Samples = Mapping[tuple[str, ...], float]
"""A value for each combination of the labels' values; without labels, for `()`."""


@dataclass(frozen=True, slots=True)
class Measure:
    """
    Something to watch, by a name in Prometheus' style, such as `pushes_owed`, and its meaning.

    What is called `…_total` counts from the start of the process; everything else is as things
    stand. `read` may ask the database, and may fail as that does. Labels have few values, which
    nobody outside can add to.
    """

    name: str
    meaning: str
    read: Callable[[], Awaitable[Samples]]
    labels: tuple[str, ...] = ()


def single(name: str, meaning: str, read: Callable[[], float]) -> Measure:
    """Return a measure without labels whose value is at hand."""

    async def samples() -> Samples:
        return {(): read()}

    return Measure(name, meaning, samples)
