"""The `reverb-py` command."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from socket import gaierror
from typing import Any

import click
import structlog

from reverb_py import __version__
from reverb_py.hang_up import HANG_UP, ends_with_terminal, take_hang_up
from reverb_py.runtime import RunningServer, running_server
from reverb_py.server.sockets import unix_socket
from reverb_py.settings import Settings, WrongSetting, load_environment
from reverb_py.telemetry.logs import DebugTrace, configure_logs
from reverb_py.telemetry.metrics import MetricsPlace, MetricsUnavailable
from reverb_py.workers import Place, reserved, run_workers

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="reverb-py")
def main() -> None:
    """A WebSocket broadcast server for Pusher clients, compatible with Laravel Reverb.

    Settings come from the environment or a .env file in the current folder, under Laravel Reverb's
    names.

    \b
    Examples:
      REVERB_APP_ID=1001 REVERB_APP_KEY=my-key REVERB_APP_SECRET=… reverb-py start
      reverb-py start --port 6001 --debug
      reverb-py check
    """


@main.command()
@click.option("--host", help="Address to listen on [REVERB_SERVER_HOST, else 0.0.0.0].")
@click.option("--port", type=click.IntRange(0, 65535), help="Port [REVERB_SERVER_PORT, else 8080].")
@click.option("--socket", help="Unix socket to listen on instead [REVERB_SERVER_SOCKET].")
@click.option(
    "--workers", type=click.IntRange(1, 1024), default=1, metavar="N", help="Processes [1]."
)
@click.option("--debug", is_flag=True, help="Show every message that comes and goes.")
@click.option("--worker", is_flag=True, hidden=True)
@click.option("--listening-fd", type=int, hidden=True)
@click.option("--metrics-socket", hidden=True)
def start(
    host: str | None,
    port: int | None,
    socket: str | None,
    workers: int,
    debug: bool,
    worker: bool,
    listening_fd: int | None,
    metrics_socket: str | None,
) -> None:
    """Start the server; Ctrl-C stops it, and a second Ctrl-C at once.

    Several processes share the port, and need the Redis of REVERB_SCALING_ENABLED=true.
    """
    if socket is not None and (host is not None or port is not None):
        raise click.UsageError("--socket is instead of --host and --port: use one of them")
    settings = _settings_or_exit(host, port, socket)
    if workers > 1 and settings.scaling is None:
        raise click.ClickException(
            f"--workers {workers} needs Redis to join them: set REVERB_SCALING_ENABLED=true and "
            "REDIS_URL"
        )
    configure_logs(debug=debug, as_json=settings.logs_as_json)
    try:
        if workers > 1:
            options = ["--debug"] if debug else []
            with _place_of_workers(settings) as place:
                killed_by = asyncio.run(run_workers(workers, place, options, settings.metrics))
            if killed_by is not None:
                _end_as_if_unhandled(killed_by)
        else:
            if worker:
                metrics = _of_worker(settings.metrics, metrics_socket)
                settings = replace(
                    settings, shares_port=True, listening_fd=listening_fd, metrics=metrics
                )
            _run(lambda: _serve(settings, debug=debug))
    except (MetricsUnavailable, WrongSetting) as exc:
        raise click.ClickException(str(exc)) from None
    except OSError as exc:
        option = "port or REVERB_SERVER_PORT"
        if settings.socket_path is not None:
            option = "socket or REVERB_SERVER_SOCKET"
        elif isinstance(exc, gaierror) or exc.errno == errno.EADDRNOTAVAIL:
            option = "host or REVERB_SERVER_HOST"
        raise click.ClickException(
            f"can't listen on {settings.place}: {(exc.strerror or str(exc)).lower()} "
            f"(choose another with --{option})"
        ) from None


@main.command()
def check() -> None:
    """Read the settings, say what they mean, and start nothing."""
    settings = _settings_or_exit(None, None, None)
    tls = "" if settings.tls is None else f" with TLS, by {settings.tls.certificate}"
    below = settings.path_prefix
    if below and settings.socket_path is not None:
        below = f" below {below}"
    click.echo(f"Listens on {settings.place}{below}{tls}")
    if settings.proxy_protocol:
        click.echo("Takes connections from trusted proxies only, with PROXY heads")
    if settings.metrics is not None:
        click.echo(f"Shows metrics on {settings.metrics}")
    if settings.scaling is not None:
        click.echo(f"Shares Redis at {settings.scaling.redis} with its other nodes")
    for app in settings.apps:
        click.echo(f"App {app.id} with key {app.key}")
    click.echo("The settings are good.")


def _of_worker(metrics: MetricsPlace | None, socket: str | None) -> MetricsPlace | None:
    """Return where a worker shows its metrics: where its parent asks, or nowhere."""
    return replace(metrics, socket=socket) if metrics is not None and socket is not None else None


def _settings_or_exit(host: str | None, port: int | None, socket: str | None) -> Settings:
    try:
        environment = load_environment(os.environ, Path.cwd())
        return Settings.from_environment(environment, host=host, port=port, socket=socket)
    except WrongSetting as exc:
        raise click.ClickException(str(exc)) from None


def _reload(running: RunningServer, settings: Settings) -> None:
    """Read apps and certificates again; a mistake in them changes nothing and is said."""
    log = structlog.get_logger("reverb_py")
    try:
        environment = load_environment(os.environ, Path.cwd())
        # It goes on listening where it listens.
        socket = None if settings.socket_path is None else str(settings.socket_path)
        renewed = Settings.from_environment(
            environment, host=settings.host, port=settings.port, socket=socket
        )
        running.reload(renewed.apps, renewed.tls)
    except WrongSetting as exc:
        log.error("The apps were not reloaded", reason=str(exc))
    else:
        tls = {} if renewed.tls is None else {"certificate": str(renewed.tls.certificate)}
        log.info("Reloaded the apps", apps=[app.id for app in renewed.apps], **tls)


def _relax_garbage_collector() -> None:
    """
    Have the collector look less often.

    Connections and requests are freed by their reference counts, so it finds nothing; but a full
    look at a hundred thousand connections holds every client up.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _allow_many_connections() -> None:
    """Use as many file descriptors as the system allows, instead of as many as is usual."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(settings: Settings, *, debug: bool) -> None:
    _relax_garbage_collector()
    _allow_many_connections()
    log = structlog.get_logger("reverb_py")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running_server(
        settings, trace=DebugTrace(as_json=settings.logs_as_json) if debug else None
    ) as running:
        reload = partial(_reload, running, settings)
        loop.add_signal_handler(HANG_UP, stop.set if ends_with_terminal() else reload)
        take_hang_up()
        log.info("Listening", url=_url(settings, running.port))
        if settings.metrics is not None and running.metrics_port is not None:
            log.info("Showing metrics", url=settings.metrics.url(running.metrics_port))
        if settings.shares_port:
            # The parent says nothing there; it ends when the parent does.
            loop.add_reader(sys.stdin.fileno(), _stop_with_parent, loop, stop)
        await stop.wait()
        if not settings.shares_port:
            # A worker's parent, and whoever signals to a whole group, may both have the first word.
            _leave_signals_to_the_system(loop)
        times = {"delay": settings.drain_delay_seconds, "seconds": settings.drain_seconds}
        log.info(
            "Stopping: connections are closed with 4200, so that clients come back",
            **{name: seconds for name, seconds in times.items() if seconds},
        )
    log.info("Stopped")


def _url(settings: Settings, port: int) -> str:
    scheme = "http" if settings.tls is None else "https"
    if settings.socket_path is not None:
        return f"{scheme}+unix:{settings.socket_path}"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{port}{settings.path_prefix}"


def _leave_signals_to_the_system(loop: asyncio.AbstractEventLoop) -> None:
    """Have the next signal end the process at once, whatever it waits for."""
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)


def _end_as_if_unhandled(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def _place_of_workers(settings: Settings) -> Iterator[Place]:
    """Have the address or the path that workers are going to share."""
    if settings.socket_path is None:
        with reserved(settings.host, settings.port) as place:
            yield Place(["--host", settings.host, "--port", str(place.getsockname()[1])])
    else:
        path = settings.socket_path
        with unix_socket(path, settings.socket_mode) as place:
            place.listen()
            number = place.fileno()
            yield Place(["--socket", str(path), "--listening-fd", str(number)], [number])


def _stop_with_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    loop.remove_reader(sys.stdin.fileno())
    stop.set()


def _run(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a program to its end on uvloop, or on asyncio where there is no uvloop."""
    with asyncio.Runner(loop_factory=_event_loop_factory()) as runner:
        runner.run(program())


def _event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
