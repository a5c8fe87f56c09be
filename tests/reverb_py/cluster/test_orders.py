"""Terminating a user reaches every node, also one that is away at the moment."""

from __future__ import annotations

import pytest

from reverb_py.testing import PusherClient, TestServer
from tests.reverb_py.cluster.nodes import Deployment, until
from tests.reverb_py.cluster.test_faults import becomes
from tests.reverb_py.server.raw_client import hub_behind
from tests.support.redis_link import redis_line


async def user_on(deployment: Deployment, node: TestServer, user_id: str) -> PusherClient:
    client = await deployment.client(node)
    await client.sign_in(f'{{"id":"{user_id}"}}')
    return client


async def terminate(node: TestServer, user_id: str) -> None:
    path = f"/users/{user_id}/terminate_connections"
    assert await node.request("POST", path, {}) == (200, "{}")


async def test_a_node_that_is_away_closes_a_terminated_user_when_it_is_back(
    fragile: Deployment,
) -> None:
    async with redis_line(fragile.redis.port) as line:
        here, there = await fragile.node(), await fragile.node(port=line.port)
        banned, other = await user_on(fragile, there, "7"), await user_on(fragile, there, "8")
        line.cut()
        await becomes(there, is_ready=False)

        await terminate(here, "7")
        await banned.ping()

        line.mend()
        assert (await banned.closed())[0] == 4009
        await other.ping()


async def test_who_terminates_a_user_while_redis_is_away_is_obeyed_when_it_is_back(
    fragile: Deployment,
) -> None:
    async with redis_line(fragile.redis.port) as line:
        here, there = await fragile.node(), await fragile.node(port=line.port)
        banned, other = await user_on(fragile, there, "7"), await user_on(fragile, there, "8")
        fragile.redis.stop()
        for node in (here, there):
            await becomes(node, is_ready=False)
        line.cut()

        await terminate(here, "7")

        fragile.redis.start()
        await becomes(here, is_ready=True)
        line.mend()
        assert (await banned.closed())[0] == 4009
        await other.ping()


async def test_an_order_that_was_under_way_when_the_connection_broke_is_given_again(
    fragile: Deployment,
) -> None:
    async with redis_line(fragile.redis.port) as line:
        here, there = await fragile.node(port=line.port), await fragile.node()
        banned = await user_on(fragile, there, "7")
        line.cut()
        await terminate(here, "7")
        await becomes(here, is_ready=False)
        await banned.ping()
        line.break_off()
        line.mend()

        assert (await banned.closed())[0] == 4009


async def test_who_comes_back_after_an_order_is_not_closed_when_the_node_hears_it_again(
    deployment: Deployment,
) -> None:
    async with redis_line(deployment.redis.port) as line:
        here, there = await deployment.node(), await deployment.node(port=line.port)
        first = await user_on(deployment, there, "7")
        await terminate(here, "7")
        assert (await first.closed())[0] == 4009
        second = await user_on(deployment, there, "7")

        line.break_off()
        await until(lambda: there.node.breaks == 1)
        await becomes(there, is_ready=True)
        await second.ping()

        newcomer = await deployment.node()
        third = await user_on(deployment, newcomer, "7")
        await third.ping()


async def test_orders_that_are_kept_for_nodes_that_are_away_are_bounded(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reverb_py.cluster.outgoing.MAX_MESSAGES", 5)
    node = await deployment.node()
    for number in range(8):
        await terminate(node, str(number))

    key = f"{deployment.prefix}orders{{{deployment.prefix}control}}"
    with deployment.redis.client() as redis:
        kept = redis.zrange(key, 0, -1)
        assert isinstance(kept, list)
        assert len(kept) == 5
        assert b"\xa17" in kept[-1]
        assert 0 < redis.pttl(key) <= 86_400_000
    assert hub_behind(node).sessions == {}


async def test_a_key_of_somebody_else_keeps_no_order_from_those_who_listen(
    deployment: Deployment,
) -> None:
    here, there = await deployment.nodes(2)
    with deployment.redis.client() as redis:
        redis.set(f"{deployment.prefix}orders{{{deployment.prefix}control}}", "nonsense")
    banned = await user_on(deployment, there, "7")

    await terminate(here, "7")

    assert (await banned.closed())[0] == 4009
    assert (here.node.breaks, there.node.breaks) == (0, 0)
