"""Work that is done again and again, beside everything else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from chat_api.kernel.errors import Unavailable

__all__ = ["Rounds"]

_log = structlog.get_logger("chat_api")


class Rounds:
    """
    Does one thing in rounds while `running`.

    `work` returns in how many seconds the next round is due. A round that fails ends nothing: after
    `pause` seconds there is another. `Unavailable` was logged by what is out of reach; every other
    exception is logged here, under the work's `name`.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[float]], *, pause: float) -> None:
        self._name = name
        self._work = work
        self._pause = pause
        self._awake = asyncio.Event()

    def wake(self) -> None:
        """Have the next round begin now, or when the one that is under way has ended."""
        self._awake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do it while the block runs, at once for the first time; its end cancels a round."""
        task = asyncio.create_task(self._run(), name=self._name)
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            self._awake.clear()
            wait = self._pause
            try:
                wait = await self._work()
            except Unavailable:
                pass
            except Exception:
                _log.exception("Work in the background failed and is tried again", work=self._name)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._awake.wait()
