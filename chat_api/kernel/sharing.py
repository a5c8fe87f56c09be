"""What many ask and one finds out."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Shared"]

T = TypeVar("T")


class Shared(Generic[T]):
    """
    Finds something out at most every `every` seconds, however many ask.

    Those who ask meanwhile wait for the one attempt that is under way, or get what the last one
    found. One that fails fails for all who wait for it, and the next who asks tries again.
    """

    def __init__(self, find_out: Callable[[], Awaitable[T]], *, every: float) -> None:
        self._find_out = find_out
        self._every = every
        self._task: asyncio.Task[T] | None = None
        self._begun_at = 0.0

    async def get(self) -> T:
        """Return what was found; raises what finding it out raised."""
        now = asyncio.get_running_loop().time()
        if self._task is None or (self._task.done() and self._is_over(self._task, now)):
            self._begun_at = now
            self._task = asyncio.create_task(self._attempt())
        return await asyncio.shield(self._task)

    async def _attempt(self) -> T:
        return await self._find_out()

    def _is_over(self, task: "asyncio.Task[T]", now: float) -> bool:
        is_old = now - self._begun_at >= self._every
        return is_old or task.cancelled() or task.exception() is not None
