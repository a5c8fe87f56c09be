"""Thousands of clients are dropped at once, and come back at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.reverb_py.cluster.nodes import APP, LONG_PATIENCE, Deployment
from tests.reverb_py.cluster.processes import NodeProcess, node_process
from tests.support.crowd import Crowd, allow_connections

CLIENTS = 5_000
CHANNEL = "private-storm"


async def counts(node: NodeProcess, expected: int) -> None:
    """Wait until a node counts so many connections and subscribers, wherever they are."""
    async with asyncio.timeout(LONG_PATIENCE):
        heard = (-1, -1)
        while heard != (expected, expected):
            heard = (await node.connections(), await node.subscribers_of(CHANNEL))


async def test_five_thousand_clients_of_a_killed_node_are_all_back(deployment: Deployment) -> None:
    allow_connections(CLIENTS)
    async with (
        node_process(deployment, lease_seconds=3) as doomed,
        node_process(deployment, lease_seconds=3) as one,
        node_process(deployment, lease_seconds=3) as other,
    ):
        crowd = Crowd(APP, CHANNEL, CLIENTS, lambda number: doomed.port)

        def all_have_heard(*events: str) -> Callable[[], bool]:
            """Return whether every client has heard exactly these, in this order."""
            return lambda: crowd.heard() == {events: CLIENTS}

        try:
            crowd.connect()
            await crowd.until(lambda: crowd.subscribed == CLIENTS, LONG_PATIENCE)
            await counts(one, CLIENTS)
            await one.publish(CHANNEL, "before")
            await crowd.until(all_have_heard("before"), LONG_PATIENCE)

            survivors = [one, other]
            crowd.port_of = lambda number: survivors[number % 2].port
            all_lost = crowd.lost + CLIENTS
            doomed.process.kill()
            await crowd.until(
                lambda: crowd.lost >= all_lost and crowd.subscribed == CLIENTS, LONG_PATIENCE
            )

            for node in survivors:
                await counts(node, CLIENTS)
            await one.publish(CHANNEL, "after")
            await crowd.until(all_have_heard("before", "after"), LONG_PATIENCE)
            await other.publish(CHANNEL, "last")
            await crowd.until(all_have_heard("before", "after", "last"), LONG_PATIENCE)
        finally:
            await crowd.leave()
