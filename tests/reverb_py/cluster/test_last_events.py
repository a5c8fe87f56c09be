"""Which event of a cache channel is the last one: on all nodes the same, also when Redis forgot."""

from __future__ import annotations

import asyncio
import json

from redis import Redis

from reverb_py.testing import TestServer
from tests.reverb_py.cluster.nodes import APP, LONG_PATIENCE, Deployment, until
from tests.reverb_py.cluster.test_faults import becomes

LIFETIME = APP.last_event_seconds * 1000


async def last_on(node: TestServer, channel: str) -> str | None:
    """Return the data of the last event that a node knows of a channel."""
    status, body = await node.request("GET", f"/channels/{channel}", None, {"info": "cache"})
    assert status == 200, body
    cache = json.loads(body)["cache"]
    return None if cache is None else cache["data"]


def lifetime(redis: Redis, channel: str) -> int:
    """Return for how many milliseconds Redis keeps a channel's last event in `fragile`."""
    return redis.pttl(f"test:{{{APP.id}:{channel}}}:last")


async def becomes_last(node: TestServer, channel: str, expected: str) -> None:
    async with asyncio.timeout(LONG_PATIENCE):
        while await last_on(node, channel) != expected:
            pass


async def test_nodes_that_publish_at_once_agree_on_the_last_event(deployment: Deployment) -> None:
    here, there = nodes = await deployment.nodes(2)
    clients = [await deployment.client(node) for node in nodes]
    for client in clients:
        await client.subscribe("cache-orders")
        assert await client.receive() == ('{"event":"pusher:cache_miss","channel":"cache-orders"}')

    for number in range(20):
        await asyncio.gather(
            here.publish("n", "cache-orders", f"here {number}"),
            there.publish("n", "cache-orders", f"there {number}"),
        )
        for client in clients:
            heard = [json.loads(await client.receive())["data"] for _ in nodes]
            assert sorted(heard) == [f"here {number}", f"there {number}"]
        late = await deployment.node()
        lasts = {await last_on(node, "cache-orders") for node in (here, there, late)}
        assert len(lasts) == 1


async def test_a_redis_that_forgot_them_is_told_the_last_events_again(fragile: Deployment) -> None:
    here, there = await fragile.nodes(2)
    client = await fragile.client(there)
    await client.subscribe("cache-orders")
    assert "cache_miss" in await client.receive()
    # Of each, one node knows better: one was not there to hear what the other has said since.
    await here.publish("n", "cache-orders", "1")
    await there.publish("n", "cache-alone", "older")
    with fragile.redis.client() as redis:
        # How old an event is, is known to some milliseconds.
        await until(lambda: lifetime(redis, "cache-alone") < LIFETIME - 500)
    await here.publish("n", "cache-alone", "younger")
    assert json.loads(await client.receive())["data"] == "1"

    fragile.redis.restart()
    for node in (here, there):
        await becomes(node, is_ready=True)

    third = await fragile.node()
    await becomes_last(third, "cache-orders", "1")
    await becomes_last(third, "cache-alone", "younger")
    for node in (here, there):
        await becomes_last(node, "cache-alone", "younger")
    with fragile.redis.client() as redis:
        assert 0 < lifetime(redis, "cache-orders") < LIFETIME - 500


async def test_what_was_said_while_redis_was_away_is_the_last_event_when_it_is_back(
    fragile: Deployment,
) -> None:
    here, there = await fragile.nodes(2)
    client = await fragile.client(there)
    await client.subscribe("cache-orders")
    assert "cache_miss" in await client.receive()
    await here.publish("n", "cache-orders", "before")
    assert json.loads(await client.receive())["data"] == "before"

    fragile.redis.stop()
    for node in (here, there):
        await becomes(node, is_ready=False)
    await here.publish("n", "cache-orders", "meanwhile")
    fragile.redis.start()
    for node in (here, there):
        await becomes(node, is_ready=True)

    for node in (here, there):
        await becomes_last(node, "cache-orders", "meanwhile")
