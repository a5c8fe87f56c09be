"""Nodes in processes of their own, to be killed and frozen, and clients of them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
from websockets.asyncio.client import connect

from reverb_py.protocol import signing
from reverb_py.testing import PusherClient
from tests.reverb_py.cluster.nodes import APP, LONG_PATIENCE, Deployment

__all__ = ["NodeProcess", "connected_to", "node_process"]


class NodeProcess:
    """A node, or with `--workers` several, started by the command, on `port`."""

    def __init__(
        self, process: asyncio.subprocess.Process, port: int, session: aiohttp.ClientSession
    ) -> None:
        self.process = process
        self.port = port
        self._session = session

    def children(self) -> list[int]:
        """Return the process ids of its workers, where the system is Linux."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def kill_worker(self, pid: int) -> None:
        """Kill one of its workers, at once."""
        os.kill(pid, signal.SIGKILL)

    async def request(
        self, method: str, path: str, body: object = None, parameters: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Make one signed request below `/apps/ID`, on a connection of its own."""
        content = b"" if body is None else orjson.dumps(body)
        path = f"/apps/{APP.id}{path}"
        now = int(time.time())
        query = signing.signed_query(APP.key, APP.secret, method, path, content, now, parameters)
        async with (
            asyncio.timeout(LONG_PATIENCE),
            self._session.request(
                method, f"http://127.0.0.1:{self.port}{path}", params=query, data=content or None
            ) as response,
        ):
            return response.status, await response.text()

    async def publish(self, channel: str, data: str) -> None:
        """Publish one event, `n`."""
        event = {"name": "n", "channel": channel, "data": data}
        assert await self.request("POST", "/events", event) == (200, "{}")

    async def subscribers_of(self, channel: str) -> int:
        """Return how many are subscribed to a channel on all nodes."""
        parameters = {"info": "subscription_count"}
        status, body = await self.request("GET", f"/channels/{channel}", None, parameters)
        assert status == 200, body
        count: int = json.loads(body)["subscription_count"]
        return count

    async def users_of(self, channel: str = "presence-room") -> list[str]:
        """Return the ids of those who are present on all nodes."""
        status, body = await self.request("GET", f"/channels/{channel}/users")
        assert status == 200, body
        return sorted(user["id"] for user in json.loads(body)["users"])

    async def connections(self) -> int:
        """Return how many connections all nodes have together."""
        status, body = await self.request("GET", "/connections")
        assert status == 200, body
        count: int = json.loads(body)["connections"]
        return count


@asynccontextmanager
async def node_process(
    deployment: Deployment, *arguments: str, lease_seconds: float = 1.0, **settings: str
) -> AsyncIterator[NodeProcess]:
    """Run the command for as long as the context lasts; `settings` are further variables."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path.cwd()),
        "REVERB_APP_ID": APP.id,
        "REVERB_APP_KEY": APP.key,
        "REVERB_APP_SECRET": APP.secret,
        "REVERB_SERVER_HOST": "127.0.0.1",
        "REVERB_SERVER_PORT": "0",
        "REVERB_SCALING_ENABLED": "true",
        "REVERB_SCALING_CHANNEL": deployment.prefix.removesuffix(":"),
        "REVERB_NODE_LEASE_SECONDS": str(lease_seconds),
        "REDIS_PORT": str(deployment.redis.port),
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reverb_py", "start", *arguments),
        env=environment,
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    drain = None
    try:
        assert process.stderr is not None
        async with asyncio.timeout(LONG_PATIENCE):
            port = None
            while port is None:
                line = (await process.stderr.readline()).decode()
                assert line, "the node has ended"
                port = re.search(r"Listening.*http://127\.0\.0\.1:(\d+)", line)
        drain = asyncio.create_task(process.stderr.read())
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield NodeProcess(process, int(port[1]), session)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()
        if drain is not None:
            await drain


@asynccontextmanager
async def connected_to(port: int) -> AsyncIterator[PusherClient]:
    """Connect a client to a port, and take the hello."""
    url = f"ws://127.0.0.1:{port}/app/{APP.key}?protocol=7"
    async with connect(url, compression=None, ping_interval=None, max_queue=None) as websocket:
        client = PusherClient(APP, websocket)
        await client.receive_hello()
        yield client
