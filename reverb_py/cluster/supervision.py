"""Tasks that run side by side, begin together and end together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

__all__ = ["end", "go_on", "until_one_fails"]

_CANCEL_SECONDS = 0.2
_PAUSE_SECONDS = 1.0


async def go_on(what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """
    Run what only ends when it is cancelled or has nothing left to do.

    A mistake in it is logged under the name of `what`, and after a second it begins again.
    """
    while True:
        try:
            return await work()
        except Exception:
            structlog.get_logger("reverb_py").exception("A task begins again", task=what)
            await asyncio.sleep(_PAUSE_SECONDS)


async def until_one_fails(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """
    Run what never ends by itself, all at once, until one of them raises.

    What it raised is raised here, when the others have ended.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await end(tasks)


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: the Redis client loses some of the cancellations."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=_CANCEL_SECONDS)
        except asyncio.CancelledError:
            pass  # It has been heard; whoever called goes on to end.
    for task in tasks:
        if not task.cancelled():
            task.exception()  # Somebody else's was first.
