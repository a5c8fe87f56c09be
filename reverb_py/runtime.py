"""Builds the server from its settings, starts it inside out, and stops it outside in."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from reverb_py import __version__
from reverb_py.cluster.node import Node
from reverb_py.core.apps import App
from reverb_py.core.bus import Alone
from reverb_py.core.delivery import Delivery
from reverb_py.core.hub import Hub
from reverb_py.core.hubs import Hubs
from reverb_py.core.limits import AddressLimits
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.measures import measures_of
from reverb_py.protocol import frames
from reverb_py.server.addresses import Addresses
from reverb_py.server.http_api import HttpApi, Request
from reverb_py.server.listener import Deadlines, Listener
from reverb_py.server.sockets import tcp_sockets, unix_socket
from reverb_py.server.tls import TlsFiles, server_context
from reverb_py.settings import Settings
from reverb_py.telemetry.logs import DebugTrace
from reverb_py.telemetry.metrics import Answer, Metrics
from reverb_py.webhooks.dispatch import Webhooks

__all__ = ["RunningServer", "running_server"]


class RunningServer(NamedTuple):
    """A server that is up. `port` is 0 on a Unix socket."""

    port: int
    hubs: Hubs
    webhooks: Webhooks
    node: Node | None
    listener: Listener
    metrics_port: int | None
    """Where metrics are shown; None when they are not, or not at a port."""

    def reload(self, apps: Iterable[App], tls: TlsFiles | None = None) -> None:
        """
        Go on with these apps, and with new connections under these certificates.

        Connections of apps that stay are kept. `tls` changes nothing for a server without TLS.

        Raises:
            WrongSetting: The files can't be used; then nothing has changed.
        """
        apps = tuple(apps)
        if tls is not None and self.listener.tls is not None:
            self.listener.tls = server_context(tls)
        # Connections of apps that are gone leave first, and their webhooks hear of it.
        self.hubs.replace(apps)
        self.webhooks.replace(apps)


@asynccontextmanager
async def running_server(
    settings: Settings,
    *,
    trace: DebugTrace | None = None,
    timer_resolution: float = 1.0,
    deadlines: Deadlines = Deadlines(),  # noqa: B008 - immutable
) -> AsyncIterator[RunningServer]:
    """
    Serve for as long as the context lasts.

    Leaving it, for whatever reason, closes the port and tells WebSocket clients to come back, over
    `settings.drain_seconds`. They get `settings.shutdown_seconds` to go, and in the same time the
    webhooks are sent that are left. `deadlines` are those of the clients, and `timer_resolution` is
    how late, in seconds, one may be noticed.

    Raises:
        OSError: The address is in use or not this machine's.
        MetricsUnavailable: That of the metrics is.
        WrongSetting: The TLS files can't be used.
    """
    tls = None if settings.tls is None else server_context(settings.tls)
    loop = asyncio.get_running_loop()
    delivery = Delivery(loop.call_soon, time.perf_counter)
    wheel = TimerWheel(loop.time(), timer_resolution)
    source = random.SystemRandom()
    node = None if settings.scaling is None else Node(settings.scaling)
    # Among others the bus holds departures, which hears of a return on any node.
    webhooks = Webhooks(holds_departures=node is None)
    make_bus = Alone if node is None else node.bus_of

    error_frame = frames.error_in_a_string if settings.errors_as_strings else frames.error

    def hub_of(app: App) -> Hub:
        return Hub(
            app,
            delivery,
            wheel,
            loop.time,
            source,
            notices=webhooks,
            trace=trace,
            make_bus=make_bus,
            error_frame=error_frame,
        )

    hubs = Hubs(settings.apps, hub_of)
    per_address = (
        settings.max_connections_per_address,
        settings.connects_per_minute_per_address,
        settings.requests_per_second_per_address,
    )

    def trouble() -> str | None:
        if listener.is_draining:
            return "The server is shutting down"
        return None if node is None else node.trouble

    listener = Listener(
        hubs,
        HttpApi(hubs, time.time, settings.path_prefix, trouble=trouble),
        wheel,
        max_request_bytes=settings.max_request_bytes,
        max_buffered_bytes=settings.max_buffered_bytes,
        max_buffered_bytes_total=settings.max_buffered_bytes_total,
        max_waiting_bytes=settings.max_waiting_bytes,
        clock=time.time,
        deadlines=deadlines,
        addresses=Addresses(
            AddressLimits(*per_address, loop.time) if any(per_address) else None,
            settings.trusted_proxies,
        ),
        trace=trace,
        error_frame=error_frame,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(webhooks.running(settings.shutdown_seconds))
        if node is not None:
            await stack.enter_async_context(node.running())
        metrics, metrics_port = None, None
        if settings.metrics is not None:

            def answer(path: str) -> Answer:
                return Answer(*listener.http_api.respond(Request("GET", path, "", b""))[:3])

            # Shown until everybody has gone.
            metrics = Metrics(settings.metrics.prefix, __version__, answer)
            metrics_port = await stack.enter_async_context(metrics.served(settings.metrics))
        if settings.listening_fd is not None:
            sockets = [socket.socket(fileno=settings.listening_fd)]
        elif settings.socket_path is not None:
            place = unix_socket(settings.socket_path, settings.socket_mode)
            sockets = [stack.enter_context(place)]
        else:
            sockets = await tcp_sockets(
                settings.host, settings.port, shares_port=settings.shares_port
            )
        port = 0 if sockets[0].family == socket.AF_UNIX else sockets[0].getsockname()[1]
        await listener.start(
            sockets, tls=tls, proxies=settings.trusted_proxies if settings.proxy_protocol else None
        )
        if metrics is not None:
            metrics.watch(measures_of(port, hubs, delivery, listener, webhooks, node))
        try:
            yield RunningServer(port, hubs, webhooks, node, listener, metrics_port)
        finally:
            try:
                await listener.drain(settings.drain_delay_seconds, settings.drain_seconds)
            finally:
                webhooks.hurry()
                if node is not None:
                    node.hurry()
                await listener.stop(settings.shutdown_seconds)
