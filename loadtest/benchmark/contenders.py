"""The servers that are measured: how each is started, made ready and ended."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
from machine import pin

from benchmark.scenarios import CHANNEL, DATA, EVENT

LOADTEST = Path(__file__).resolve().parent.parent
START_TIMEOUT = 15.0


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
            name: value for name, value in os.environ.items() if not name.startswith("REVERB_")
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
    """A server to measure: its command line for a WebSocket and an HTTP port."""

    name: str
    command: Callable[[int, int], Sequence[str]]
    has_http_port: bool = False


def reverb_py_command(port: int, http_port: int) -> Sequence[str]:
    """Return the command line of reverb_py."""
    return ["-m", "reverb_py", "start", "--host", "127.0.0.1", "--port", str(port)]


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
def running(contender: Contender, app: App, core: int | None) -> Iterator[Server]:
    """Run a contender on the core from when it is ready until the block ends."""
    port, second_port = free_ports()
    http_port = second_port if contender.has_http_port else port
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        log = Path(directory, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *contender.command(port, http_port)],
                # An empty directory: a .env file of someone else is not read.
                cwd=directory,
                env=app.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            pin(process.pid, core)
            wait_until_ready(process, http_port, log)
            yield Server([process.pid], port, http_port, log)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], http_port: int, log: Path) -> None:
    """Wait until `GET /up` answers 200; BrokenError when that does not happen in time."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BrokenError(f"ended before it was ready:\n{log.read_text(errors='replace')}")
        connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=1)
        try:
            connection.request("GET", "/up")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    tail = log.read_text(errors="replace")[-1500:]
    raise BrokenError(f"GET /up was not answered with 200 within {START_TIMEOUT:.0f} s\n{tail}")


def free_ports() -> tuple[int, int]:
    """Return two ports that the system says are free."""
    address = ("127.0.0.1", 0)
    with socket.create_server(address) as first, socket.create_server(address) as second:
        return first.getsockname()[1], second.getsockname()[1]
