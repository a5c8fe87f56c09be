"""Builds the server from its settings, starts it inside out, and stops it outside in."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from reverb_py.core.delivery import Delivery
from reverb_py.core.hub import Hub, Trace
from reverb_py.server.http_api import HttpApi
from reverb_py.server.listener import Listener
from reverb_py.settings import Settings

__all__ = ["running_server"]


@asynccontextmanager
async def running_server(
    settings: Settings, *, trace: Trace | None = None, timer_resolution: float = 1.0
) -> AsyncIterator[int]:
    """
    Serve for as long as the context lasts; its value is the port.

    Leaving it, for whatever reason, closes the port, tells WebSocket clients to come back and gives
    them `settings.shutdown_seconds` to go. `timer_resolution` is how late, in seconds, a deadline
    may be noticed.

    Raises:
        OSError: The address is in use or not this machine's.
    """
    loop = asyncio.get_running_loop()
    delivery = Delivery(loop.call_soon)
    source = random.SystemRandom()
    hubs = {app.id: Hub(app, delivery, loop.time, source, trace) for app in settings.apps}
    listener = Listener(
        settings.apps,
        hubs,
        HttpApi(settings.apps, hubs, time.time, settings.path_prefix),
        max_request_bytes=settings.max_request_bytes,
        max_buffered_bytes=settings.max_buffered_bytes,
        clock=time.time,
        timer_resolution=timer_resolution,
    )
    port = await listener.start(settings.host, settings.port)
    try:
        yield port
    finally:
        await listener.stop(settings.shutdown_seconds)
