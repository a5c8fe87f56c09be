"""
Several processes on one port: a parent that starts them, keeps them running and passes signals on.

Each worker is a server like any other; the system distributes connections among them, and Redis
joins them. A port they share by each listening there; the socket at a path is their parent's, and
they accept from it. A worker ends when its parent does, however that ended: its standard input ends
with it.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import structlog

from reverb_py.hang_up import HANG_UP, ends_with_terminal, hold_hang_up, take_hang_up
from reverb_py.telemetry.metrics import MetricsPlace, WorkersMetrics

__all__ = ["Place", "reserved", "run_workers"]

_STEADY_SECONDS = 10.0
_PAUSES = (0.5, 30.0)


class Place(NamedTuple):
    """Where workers listen: the options that tell them, and the open files that come with them."""

    options: Sequence[str]
    files: Sequence[int] = ()


async def run_workers(
    number: int, place: Place, options: Sequence[str], metrics: MetricsPlace | None = None
) -> signal.Signals | None:
    """
    Run so many workers until SIGTERM or SIGINT, which are passed on, as SIGHUP is.

    A worker that ends by itself is started again, after a pause that grows while it does not last.
    `options` are further options of the command. `metrics` is where those of all workers are shown.
    A second signal kills the workers and is returned.

    Raises:
        MetricsUnavailable: The address of the metrics is in use or not this machine's.
    """
    command = [sys.executable, "-m", "reverb_py", "start", "--worker", *place.options, *options]
    commands = [command] * number
    workers = _Workers(place.files)
    async with AsyncExitStack() as stack:
        if metrics is not None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="reverb-")))
            sockets = [folder / str(worker) for worker in range(number)]
            commands = [[*command, "--metrics-socket", str(socket)] for socket in sockets]
            merged = WorkersMetrics(metrics.prefix, sockets)
            metrics_port = await stack.enter_async_context(merged.served(metrics))
            assert metrics_port is not None, "the parent shows them on a port"
            log = structlog.get_logger("reverb_py")
            log.info("Showing metrics", url=metrics.url(metrics_port))
        await workers.run(commands)
    return workers.killed_by


class _Workers:
    def __init__(self, files: Sequence[int]) -> None:
        self._files = files
        self._processes: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()
        self.killed_by: signal.Signals | None = None
        self._log = structlog.get_logger("reverb_py")

    async def run(self, commands: Sequence[Sequence[str]]) -> None:
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self._stop, one)
        hang_up = self._stop if ends_with_terminal() else self._pass_on
        loop.add_signal_handler(HANG_UP, hang_up, HANG_UP)
        take_hang_up()
        async with asyncio.TaskGroup() as group:
            for command in commands:
                group.create_task(self._keep_one(command))

    async def _keep_one(self, command: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        pause = _PAUSES[0]
        while not self._stopping.is_set():
            started = loop.time()
            try:
                code = await self._run_one(command)
            except OSError as exc:
                # The system has no room for a process now; the other workers go on.
                self._log.error("A worker can't be started", reason=str(exc), seconds=pause)
            else:
                if self._stopping.is_set():
                    return
                if loop.time() - started > _STEADY_SECONDS:
                    pause = _PAUSES[0]
                self._log.error("A worker has ended; another one starts", code=code, seconds=pause)
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                pause = min(2 * pause, _PAUSES[1])

    async def _run_one(self, command: Sequence[str]) -> int:
        """Run a worker to its end, and return its exit code."""
        async with self._starting:
            # It begins with SIGHUP held, and takes it when it can.
            hold_hang_up()
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C is for the parent, which passes it on
                    pass_fds=self._files,
                )
            finally:
                take_hang_up()
        self._processes.add(process)
        if self.killed_by is not None:
            process.kill()
        elif self._stopping.is_set():
            process.send_signal(signal.SIGTERM)
        code = await process.wait()
        self._processes.discard(process)
        return code

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            self.killed_by = number
            self._pass_on(signal.SIGKILL)
            return
        self._stopping.set()
        self._pass_on(signal.SIGTERM if number == signal.SIGHUP else number)

    def _pass_on(self, number: signal.Signals) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.send_signal(number)


def reserved(host: str, port: int) -> socket.socket:
    """
    Return a socket that has the address, without listening, so that nobody else takes it.

    Raises:
        OSError: The address is in use or not this machine's.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    place = socket.socket(family, kind, protocol)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            place.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        place.bind(address)
    except OSError:
        place.close()
        raise
    return place
