"""A real Redis server from this machine's programs: to be stopped, frozen and brought back."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["RedisServer", "free_port", "redis_cluster", "redis_sentinel", "redis_server"]

_PATIENCE = 30.0  # seconds

# Ends the server when its own standard input ends, and so even if the tests are killed.
_GUARD = """
"$@" </dev/null >/dev/null 2>&1 &
echo $!
cat >/dev/null
kill -CONT $! 2>/dev/null
kill -KILL $!
wait $! 2>/dev/null
"""


class RedisServer:
    """One server on `port` of this machine; what it knows is gone when it ends."""

    def __init__(
        self,
        program: str,
        folder: Path,
        options: tuple[str, ...] = (),
        first: tuple[str, ...] = (),
    ) -> None:
        self.program = program
        self.options = options
        self._folder = folder
        self._first = first
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0
        self.port = free_port()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [self.program, *self._first, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self._folder)]
        if not self._first:
            command += ["--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", *command, *self.options],
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


@contextmanager
def redis_cluster(size: int = 3) -> Iterator[list[RedisServer]]:
    """Run a Redis Cluster of so many primaries for as long as the context lasts."""
    with ExitStack() as stack:
        servers = []
        for _ in range(size):
            bus_port = str(free_port())
            options = ("--cluster-enabled", "yes", "--cluster-port", bus_port)
            servers.append(stack.enter_context(redis_server(*options)))
        share = 16_384 // size + 1
        for number, server in enumerate(servers):
            first, last = number * share, min((number + 1) * share, 16_384) - 1
            bus_port = server.options[-1]
            with server.client() as client, servers[0].client() as meeting:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                if number:
                    meeting.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus_port)
        deadline = time.monotonic() + _PATIENCE
        for server in servers:
            with server.client() as client:
                while b"cluster_state:ok" not in _raw(client, "CLUSTER", "INFO"):
                    assert time.monotonic() < deadline, "the Redis Cluster does not form"
                    time.sleep(0.05)
        yield servers


@contextmanager
def redis_sentinel(primary: RedisServer) -> Iterator[int]:
    """Run a Sentinel that watches a server under the name `mymaster`; lend its port."""
    folder = Path(tempfile.mkdtemp(prefix="sentinel-"))
    configuration = folder / "sentinel.conf"
    configuration.write_text(
        f"sentinel monitor mymaster 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds mymaster 500\n"
        "sentinel failover-timeout mymaster 2000\n"
    )
    server = RedisServer(primary.program, folder, (), (str(configuration), "--sentinel"))
    try:
        server.start()
        yield server.port
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _raw(client: Redis, *command: str) -> bytes:
    client.set_response_callback(command[0] + " " + command[1], lambda answer, **_: answer)
    answer = client.execute_command(*command)  # type: ignore[no-untyped-call]
    return answer if isinstance(answer, bytes) else str(answer).encode()


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
