"""A real Redis server from this machine's programs: to be stopped, frozen and brought back."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["RedisServer", "redis_server"]

_PATIENCE = 30.0  # seconds

# Ends the server when its own standard input ends, and so even if the tests are killed.
_GUARD = """
"$@" </dev/null >/dev/null 2>&1 &
echo $!
cat >/dev/null
kill -CONT $! 2>/dev/null
kill -KILL $!
wait $!
"""


class RedisServer:
    """One server on `port` of this machine; what it knows is gone when it ends."""

    def __init__(self, program: str, folder: Path, options: tuple[str, ...] = ()) -> None:
        self._program = program
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0
        self.port = _free_port()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        self._process = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", *command, *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests, which end the server themselves
        )
        assert self._process.stdout is not None
        self._pid = int(self._process.stdout.readline())
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except (RedisConnectionError, BusyLoadingError):
                assert time.monotonic() < deadline, "Redis does not start"
                time.sleep(0.02)

    def stop(self) -> None:
        """End it at once; what it knew is lost. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait(_PATIENCE)
            process.stdout.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it do nothing, with every connection open, for as long as the context lasts."""
        os.kill(self._pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)

    def client(self, *, username: str | None = None, password: str | None = None) -> Redis:
        """Return a client for what tests look up."""
        return Redis(port=self.port, username=username, password=password, protocol=2)

    def keys(self, pattern: str = "*") -> list[str]:
        """Return the names of the keys it has, in order."""
        with self.client() as client:
            return sorted(key.decode() for key in client.scan_iter(pattern, count=1000))


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """
    Run a server for as long as the context lasts.

    Fails the test where Redis is not installed.
    """
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.fail(
            "Redis' server is missing: install it (Debian and Ubuntu: apt-get install "
            "redis-server; macOS: brew install redis) or put it on the PATH",
            pytrace=False,
        )
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(program, folder, options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
