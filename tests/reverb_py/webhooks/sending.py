"""Webhooks that run for the length of a test, what they log, and what the tests expect of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import structlog
from yarl import URL

from reverb_py.core.apps import App, Webhook
from reverb_py.testing import PATIENCE
from reverb_py.webhooks.dispatch import Webhooks
from reverb_py.webhooks.endpoint import Limits
from tests.reverb_py.webhooks.receiver import APP

QUICK = Limits(first_retry_seconds=0.01, longest_retry_seconds=0.02)
"""Retries without delay; departures are held until the end, unless a test says otherwise."""

SHORT_HOLD = replace(QUICK, hold_seconds=0.02)
LONG_HOLD = replace(QUICK, hold_seconds=10 * PATIENCE)
PATIENT = replace(LONG_HOLD, first_retry_seconds=10 * PATIENCE, longest_retry_seconds=10 * PATIENCE)
"""No request that has failed is repeated before the end of the test."""


@asynccontextmanager
async def running(
    limits: Limits = LONG_HOLD, drain_seconds: float = PATIENCE, **seams: Any
) -> AsyncIterator[Webhooks]:
    """Run webhooks for as long as the context lasts; `seams` are arguments of `Webhooks`."""
    webhooks = Webhooks(limits=limits, **seams)
    async with webhooks.running(drain_seconds):
        yield webhooks


class Log:
    """The lines that were logged, as a processor that lets none through."""

    def __init__(self) -> None:
        self.lines: list[MutableMapping[str, Any]] = []
        self._news = asyncio.Event()

    def __call__(
        self, logger: object, level: str, line: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        self.lines.append({**line, "log_level": level})
        self._news.set()
        raise structlog.DropEvent

    async def until(self, is_enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not is_enough():
                self._news.clear()
                await self._news.wait()

    async def says(self, word: str, about: Webhook | None = None) -> MutableMapping[str, Any]:
        """Return the first line, about this webhook, that has a word among its fields."""
        address = None if about is None else str(URL(about.url).origin())

        def found() -> list[MutableMapping[str, Any]]:
            return [
                line
                for line in self.lines
                if word in line and address in (None, line.get("webhook"))
            ]

        await self.until(lambda: bool(found()))
        return found()[0]


@contextmanager
def logged() -> Iterator[Log]:
    """Keep what is logged while the context lasts, and print nothing."""
    log = Log()
    structlog.configure(processors=[log])
    try:
        yield log
    finally:
        structlog.reset_defaults()


def app_with(*webhooks: Webhook, **fields: Any) -> App:
    return replace(APP, webhooks=webhooks, **fields)


def occupied(channel: str) -> dict[str, str]:
    return {"name": "channel_occupied", "channel": channel}


def vacated(channel: str) -> dict[str, str]:
    return {"name": "channel_vacated", "channel": channel}


def missed(channel: str) -> dict[str, str]:
    return {"name": "cache_miss", "channel": channel}
