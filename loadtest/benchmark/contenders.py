"""The servers that are measured: how each is started, made ready and ended."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import orjson
from machine import child_processes, listeners, pin

from benchmark.scenarios import CHANNEL, DATA, EVENT

LOADTEST = Path(__file__).resolve().parent.parent
START_TIMEOUT = 15.0
NO_REDIS = (
    "redis-server is not installed (Debian and Ubuntu: apt-get install redis-server; macOS: brew "
    "install redis)"
)


class BrokenError(Exception):
    """A contender did not start, or did not do what a correct server does."""


@dataclass(frozen=True)
class App:
    """The credentials of the app that every contender serves."""

    id: str
    key: str
    secret: str

    def environment(self) -> dict[str, str]:
        """Return the environment of a server of this app, free of anyone else's settings."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("REVERB_", "REDIS_"))
        }
        path = os.pathsep.join(filter(None, [str(LOADTEST.parent), inherited.get("PYTHONPATH")]))
        return inherited | {
            "PYTHONPATH": path,
            "REVERB_APP_ID": self.id,
            "REVERB_APP_KEY": self.key,
            "REVERB_APP_SECRET": self.secret,
        }


@dataclass(frozen=True)
class Contender:
    """
    A server to measure: its command line for a WebSocket and an HTTP port.

    Where it has `workers`, these are so many processes on one port, with a Redis to join them.
    """

    name: str
    command: Callable[[int, int], Sequence[str]]
    has_http_port: bool = False
    workers: int = 0


def reverb_py_command(port: int, http_port: int) -> Sequence[str]:
    """Return the command line of reverb_py."""
    return ["-m", "reverb_py", "start", "--host", "127.0.0.1", "--port", str(port)]


def workers_command(workers: int, port: int, http_port: int) -> Sequence[str]:
    """Return the command line of so many workers of reverb_py."""
    return [*reverb_py_command(port, http_port), "--workers", str(workers)]


def baseline_command(port: int, http_port: int) -> Sequence[str]:
    """Return the command line of the baseline."""
    script = str(LOADTEST / "baseline.py")
    return [script, "websockets", "--port", str(port), "--http-port", str(http_port)]


def raw_command(port: int, http_port: int) -> Sequence[str]:
    """Return the command line of the raw server, which sends what the others make of a publish."""
    data = DATA.replace("{stamp}", "0" * 20)
    message = orjson.dumps({"event": EVENT, "channel": CHANNEL, "data": data}).decode()
    return [str(LOADTEST / "baseline.py"), "raw", "--port", str(port), "--message", message]


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("reverb_py", reverb_py_command),
        Contender("baseline", baseline_command, has_http_port=True),
        Contender("raw", raw_command),
        Contender("one-worker", partial(workers_command, 1), workers=1),
        Contender("two-workers", partial(workers_command, 2), workers=2),
    )
}


@dataclass(frozen=True)
class Server:
    """A contender that runs and is ready."""

    pids: list[int]
    port: int
    http_port: int
    log: Path


@contextmanager
def running(
    contender: Contender,
    app: App,
    cores: Collection[int] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Server]:
    """Run a contender on these cores, or on any, from when it is ready until the block ends."""
    port, second_port = free_ports()
    http_port = second_port if contender.has_http_port else port
    environment = app.environment() | dict(settings)
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        pids = []
        if contender.workers:
            redis_port, redis_pid = stack.enter_context(running_redis(cores))
            environment |= {
                "REVERB_SCALING_ENABLED": "true",
                "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
            }
            pids.append(redis_pid)
        log = Path(directory, "log")
        command = [sys.executable, *contender.command(port, http_port)]
        process = stack.enter_context(started(command, directory, log, environment, cores))
        wait_until(lambda: answers_up(http_port), process, log)
        if contender.workers > 1:
            wait_until(lambda: len(listeners(port)) == contender.workers, process, log)
        # Workers do the work, and their parent nothing.
        pids += child_processes(process.pid) if contender.workers > 1 else [process.pid]
        yield Server(pids, port, http_port, log)


@contextmanager
def started(
    command: Sequence[str],
    directory: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    cores: Collection[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, whose output is the log, and what it starts, until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            # An empty directory: a .env file of someone else is not read.
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        pin(process.pid, cores)
        yield process
    finally:
        # Workers, which have sessions of their own, end when their parent does.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def redis_program() -> str | None:
    """Return where Redis' server is, or None when it is not installed."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


@contextmanager
def running_redis(cores: Collection[int] = ()) -> Iterator[tuple[int, int]]:
    """
    Run a Redis that keeps nothing until the block ends; yields its port and its process id.

    Raises:
        BrokenError: It is not installed, or does not start.
    """
    program = redis_program()
    if program is None:
        raise BrokenError(NO_REDIS)
    port, _ = free_ports()
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        log = Path(directory, "log")
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with started([program, *options], directory, log, cores=cores) as process:
            wait_until(lambda: bool(listeners(port)), process, log)
            yield port, process.pid


def wait_until(is_true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server is ready; BrokenError with what it logged when that does not happen."""
    deadline = time.monotonic() + START_TIMEOUT
    while not is_true():
        if process.poll() is not None:
            raise BrokenError(f"ended before it was ready:\n{log.read_text(errors='replace')}")
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-1500:]
            raise BrokenError(f"not ready within {START_TIMEOUT:.0f} s\n{tail}")
        time.sleep(0.02)


def answers_up(http_port: int) -> bool:
    """Tell whether `GET /up` is answered with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=1)
    try:
        connection.request("GET", "/up")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_ports() -> tuple[int, int]:
    """Return two ports that the system says are free."""
    address = ("127.0.0.1", 0)
    with socket.create_server(address) as first, socket.create_server(address) as second:
        return first.getsockname()[1], second.getsockname()[1]
