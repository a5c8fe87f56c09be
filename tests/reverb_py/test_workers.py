"""Several processes as one server: what reaches the parent reaches them, and nobody is refused."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect, unix_connect

from tests.support.redis import RedisServer, redis_server

PATIENCE = 60.0
PLAIN = "ws://127.0.0.1:{port}/app/my-key"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Workers:
    """A parent of two, and what all three have said."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.port = 0
        self._lines: list[str] = []
        self._heard = asyncio.Condition()

    async def listen(self) -> None:
        """Take note of every line, to the end."""
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode():
            async with self._heard:
                self._lines.append(line)
                self._heard.notify_all()

    async def said(self, pattern: str, times: int) -> re.Match[str]:
        """Wait until so many lines match, and return the last of them."""
        async with asyncio.timeout(PATIENCE), self._heard:
            while True:
                found = [match for line in self._lines if (match := re.search(pattern, line))]
                if len(found) >= times:
                    return found[-1]
                await self._heard.wait()

    def pids(self) -> list[int]:
        """Return the workers that there are."""
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def ended(self) -> int:
        """Wait for the end and return the exit code."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def two_workers(
    redis: RedisServer, port: int = 0, **environment: str
) -> AsyncIterator[Workers]:
    """Start two workers, and wait until both listen."""
    async with starting_workers(redis, port, **environment) as workers:
        match = await workers.said(r"Listening .*url=http\S*:(\d*)", 2)
        workers.port = int(match[1] or 0)
        yield workers


@asynccontextmanager
async def starting_workers(
    redis: RedisServer, port: int = 0, **environment: str
) -> AsyncIterator[Workers]:
    """Start two workers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reverb_py", "start", "--workers", "2"),
        stdin=DEVNULL,
        stderr=PIPE,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "REVERB_APP_ID": "1001",
            "REVERB_APP_KEY": "my-key",
            "REVERB_APP_SECRET": "p7ZkqT2mVx9sLw4RbN8c",
            "REVERB_SCALING_ENABLED": "true",
            "REVERB_SCALING_CHANNEL": f"test.{secrets.token_hex(4)}",
            "REDIS_PORT": str(redis.port),
            "REVERB_SERVER_HOST": "127.0.0.1",
            "REVERB_SERVER_PORT": str(port),
            **environment,
        },
    )
    workers = Workers(process)
    listening = asyncio.create_task(workers.listen())
    try:
        yield workers
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        # The workers hold the other end of what is listened to.
        async with asyncio.timeout(PATIENCE):
            await listening


async def hello(client: ClientConnection) -> ClientConnection:
    async with asyncio.timeout(PATIENCE):
        assert "pusher:connection_established" in await client.recv(decode=True)
    return client


@asynccontextmanager
async def clients_of(port: int, count: int) -> AsyncIterator[list[ClientConnection]]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        yield [await hello(await enter(connect(PLAIN.format(port=port)))) for _ in range(count)]


async def test_a_signal_that_reaches_the_workers_twice_still_lets_clients_go_in_order(
    redis: RedisServer,
) -> None:
    """As when a supervisor signals to the whole group, and the parent passes its own on."""
    async with (
        two_workers(redis, REVERB_DRAIN_SECONDS="2") as workers,
        clients_of(workers.port, 10) as clients,
    ):
        pids = workers.pids()
        workers.process.terminate()
        await workers.said("Stopping: .* seconds=2", 2)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass  # It may have had none of the clients.
        async with asyncio.timeout(PATIENCE):
            for client in clients:
                await client.wait_closed()
        assert [client.close_code for client in clients] == [4200] * 10
        assert await workers.ended() == 0


async def test_a_second_signal_to_the_parent_ends_all_of_them_at_once(redis: RedisServer) -> None:
    async with (
        two_workers(redis, REVERB_DRAIN_DELAY_SECONDS="3600") as workers,
        clients_of(workers.port, 1) as [client],
    ):
        pids = workers.pids()
        assert len(pids) == 2
        workers.process.terminate()
        await workers.said("Stopping: .* delay=3600", 2)
        workers.process.send_signal(signal.SIGINT)
        assert await workers.ended() == -signal.SIGINT
        async with asyncio.timeout(PATIENCE):
            await client.wait_closed()
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_workers_that_are_asked_to_reload_while_they_start_do_so_when_they_have(
    redis: RedisServer,
) -> None:
    async with starting_workers(redis) as workers:
        async with asyncio.timeout(PATIENCE):
            while len(workers.pids()) < 2:  # noqa: ASYNC110 - nothing says so
                await asyncio.sleep(0.001)
        pids = workers.pids()
        workers.process.send_signal(signal.SIGHUP)

        await workers.said("Reloaded the apps", 2)
        assert workers.pids() == pids, "none had to be started again"
        workers.process.send_signal(signal.SIGHUP)
        await workers.said("Reloaded the apps", 4)
        workers.process.terminate()
        assert await workers.ended() == 0


async def test_new_workers_may_take_over_the_port_of_old_ones(redis: RedisServer) -> None:
    async with two_workers(redis) as old, two_workers(redis, port=old.port) as new:
        assert new.port == old.port
        old.process.terminate()
        assert await old.ended() == 0
        async with clients_of(new.port, 4):
            pass
        new.process.terminate()
        assert await new.ended() == 0


async def test_workers_share_a_unix_socket_and_clients_wait_while_there_is_none(
    redis: RedisServer, tmp_path: Path
) -> None:
    path = tmp_path / "reverb.sock"
    async with two_workers(redis, REVERB_SERVER_SOCKET=str(path)) as workers:
        for round_ in range(2):
            for _ in range(5):
                async with unix_connect(
                    str(path), "ws://localhost/app/my-key", open_timeout=PATIENCE
                ) as client:
                    await hello(client)
            if round_ == 0:
                for pid in workers.pids():
                    os.kill(pid, signal.SIGKILL)
        workers.process.terminate()
        assert await workers.ended() == 0
    assert list_of(tmp_path) == []


def list_of(folder: Path) -> list[Path]:
    return list(folder.iterdir())
