"""Several nodes, their clients, and what tests wait for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from reverb_py.cluster.connections import RedisAddress
from reverb_py.cluster.node import Scaling
from reverb_py.core.apps import App
from reverb_py.core.holding import HOLD_SECONDS
from reverb_py.testing import PusherClient, TestServer, serving
from tests.support.redis import RedisServer

__all__ = ["APP", "COUNTING", "LONG_PATIENCE", "Deployment", "member", "until"]

APP = App(id="1001", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8")
COUNTING = App(
    id="1002", key="counting-key", secret="7ad3773142a6692b25b8", subscription_counts=True
)

LONG_PATIENCE = 60.0
"""Seconds after which what a test asks for again and again is taken not to come."""


class Deployment:
    """Nodes that share a Redis and a prefix; they end with the test."""

    def __init__(
        self, redis: RedisServer, prefix: str, stack: AsyncExitStack, **address: Any
    ) -> None:
        self.redis = redis
        self.prefix = prefix
        self.stack = stack
        self._address = address

    async def node(
        self,
        *apps: App,
        lease_seconds: float = 10.0,
        hold_seconds: float = HOLD_SECONDS,
        port: int | None = None,
        **settings: Any,
    ) -> TestServer:
        """Start a node; `port` is that of what stands between it and Redis."""
        return await self.stack.enter_async_context(
            serving(
                *(apps or (APP,)),
                scaling=replace(
                    self.scaling(lease_seconds=lease_seconds, port=port), hold_seconds=hold_seconds
                ),
                **settings,
            )
        )

    def scaling(self, *, lease_seconds: float = 10.0, port: int | None = None) -> Scaling:
        """Return the settings of the deployment's nodes."""
        return Scaling(
            redis=RedisAddress(
                **{"port": port or self.redis.port, "timeout": 1.0, **self._address}
            ),
            prefix=self.prefix,
            lease_seconds=lease_seconds,
        )

    async def nodes(self, number: int, *apps: App, **settings: Any) -> list[TestServer]:
        """Start several nodes."""
        return [await self.node(*apps, **settings) for _ in range(number)]

    async def client(self, node: TestServer) -> PusherClient:
        """Connect a client to a node."""
        return await self.stack.enter_async_context(node.connected())

    async def member(
        self, node: TestServer, user_id: str, channel: str = "presence-room"
    ) -> tuple[PusherClient, Any]:
        """Connect a client and have it join; return it and whom it was told of."""
        client = await self.client(node)
        data = await client.subscribe(channel, member(user_id))
        return client, data["presence"]

    def stored_users(self, channel: str = "presence-room") -> list[str]:
        """Return the users that Redis knows to be in a channel of the first app."""
        with self.redis.client() as client:
            counts = client.hgetall(f"{self.prefix}{{{APP.id}:{channel}}}:counts")
            assert isinstance(counts, dict)
            return sorted(user.decode() for user in counts)

    def stored_departures(self, channel: str = "presence-room") -> dict[str, str]:
        """Return who has left a channel of the first app and may be back, and which node says."""
        with self.redis.client() as client:
            departures = client.hgetall(f"{self.prefix}{{{APP.id}:{channel}}}:departures")
            assert isinstance(departures, dict)
            return {user.decode(): node.decode() for user, node in departures.items()}

    def stored_nodes(self) -> list[str]:
        """Return the nodes that Redis knows of."""
        with self.redis.client() as client:
            nodes = client.zrange(f"{self.prefix}{{nodes}}", 0, -1)
            assert isinstance(nodes, list)
            return sorted(node.decode() for node in nodes)

    def stored_graves(self) -> list[str]:
        """Return the names that were given up and are not buried yet."""
        with self.redis.client() as client:
            names = client.zrange(f"{self.prefix}{{nodes}}.gone", 0, -1)
            assert isinstance(names, list)
            return sorted(name.decode() for name in names)

    def ghosts(self) -> list[str]:
        """Return the keys in Redis of what is held under names of which nobody lives."""
        living = tuple(f":at:{name}" for name in self.stored_nodes())
        return [key for key in self.stored_keys() if ":at:" in key and not key.endswith(living)]

    @asynccontextmanager
    async def leaving(self) -> AsyncIterator[Deployment]:
        """Lend the same deployment; what is started by it ends with the context."""
        async with AsyncExitStack() as stack:
            yield Deployment(self.redis, self.prefix, stack, **self._address)

    def stored_keys(self) -> list[str]:
        """Return the keys that the deployment has in Redis, without its prefix."""
        return [key.removeprefix(self.prefix) for key in self.redis.keys(f"{self.prefix}*")]


def member(user_id: str) -> str:
    """Return the channel_data of a member."""
    return json.dumps({"user_id": user_id, "user_info": {"name": f"User {user_id}"}})


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so that nothing announces."""
    async with asyncio.timeout(LONG_PATIENCE):
        while not condition():  # noqa: ASYNC110 - nothing else says so
            await asyncio.sleep(0.01)
