"""What the backend hears when people leave one node and come back on another: as from one node."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverb_py.core.apps import App, Webhook
from reverb_py.server.listener import Deadlines
from reverb_py.testing import PusherClient, TestServer
from tests.reverb_py.cluster.nodes import APP, LONG_PATIENCE, Deployment, member, until
from tests.reverb_py.cluster.test_faults import becomes
from tests.reverb_py.cluster.test_model import EXAMPLES
from tests.reverb_py.cluster.test_presence import leave
from tests.reverb_py.webhooks.receiver import Receiver, receiving
from tests.reverb_py.webhooks.sending import occupied, vacated
from tests.support.redis import RedisServer
from tests.support.redis_link import redis_line

ROOM = "presence-room"
PAIRED = ("channel_occupied", "channel_vacated", "member_added", "member_removed")
LONG = 100 * LONG_PATIENCE
"""Seconds that do not pass in a test: a departure is held until the last node stops."""
SHORT = 0.05
SHORT_LEASE = 1.0


def came(user_id: str) -> dict[str, str]:
    return {"name": "member_added", "channel": ROOM, "user_id": user_id}


def went(user_id: str) -> dict[str, str]:
    return {"name": "member_removed", "channel": ROOM, "user_id": user_id}


ONE_VISIT = [occupied(ROOM), came("ada"), went("ada"), vacated(ROOM)]


class Scene:
    """Nodes that come and go by themselves, and the backend that they tell."""

    def __init__(self, deployment: Deployment, receiver: Receiver, app: App) -> None:
        self.deployment = deployment
        self.receiver = receiver
        self.app = app
        self._stacks: dict[TestServer, AsyncExitStack] = {}

    async def node(
        self, hold_seconds: float = LONG, port: int | None = None, **settings: Any
    ) -> TestServer:
        """Start a node."""
        stack = AsyncExitStack()
        own = Deployment(self.deployment.redis, self.deployment.prefix, stack)
        node = await own.node(
            self.app, hold_seconds=hold_seconds, lease_seconds=SHORT_LEASE, port=port, **settings
        )
        self._stacks[node] = stack
        return node

    async def joins(self, node: TestServer, user_id: str = "ada") -> PusherClient:
        """Have a user join the room by a node."""
        client = await self._stacks[node].enter_async_context(node.connected())
        await client.subscribe(ROOM, member(user_id))
        return client

    async def leaves(self, client: PusherClient, user_id: str = "ada") -> None:
        """Have a user leave the room, until Redis knows that this may be undone."""
        await leave(client)
        await until(lambda: user_id in self.deployment.stored_departures())

    async def stop(self, *nodes: TestServer) -> None:
        """Stop nodes, all at the same time."""
        await asyncio.gather(*(self._stacks.pop(node).aclose() for node in nodes))

    async def stop_all(self) -> None:
        """Stop the nodes that are left, one after the other."""
        for node in list(self._stacks):
            await self.stop(node)

    async def is_held_by(self, node: TestServer, number: int) -> None:
        """Wait until a node holds so many departures."""
        await until(lambda: sum(node.node.held().values()) == number)


@asynccontextmanager
async def told(deployment: Deployment) -> AsyncIterator[Scene]:
    """Have a backend that is told of those that come and go, until every node has stopped."""
    async with receiving() as receiver:
        webhook = receiver.webhook(*PAIRED)
        scene = Scene(deployment, receiver, replace(APP, webhooks=(webhook,)))
        try:
            yield scene
        finally:
            await scene.stop_all()


async def test_somebody_who_comes_back_on_another_node_was_never_away(
    deployment: Deployment,
) -> None:
    async with told(deployment) as scene:
        here, there = await scene.node(), await scene.node()
        await scene.leaves(await scene.joins(here))
        await scene.joins(there)
        assert deployment.stored_departures() == {}

        await scene.stop(here)
        assert scene.receiver.events == [occupied(ROOM), came("ada")]

    assert scene.receiver.events == ONE_VISIT


async def test_a_departure_is_told_by_its_node_when_nobody_came_back(
    deployment: Deployment,
) -> None:
    async with told(deployment) as scene:
        here, _ = await scene.node(SHORT), await scene.node()
        await leave(await scene.joins(here))

        assert await scene.receiver.hears(4) == ONE_VISIT
        assert deployment.stored_departures() == {}
        await scene.is_held_by(here, 0)


async def test_a_return_that_a_node_did_not_see_is_found_when_the_time_is_over(
    deployment: Deployment,
) -> None:
    async with told(deployment) as scene:
        here, there = await scene.node(hold_seconds=1.0), await scene.node()
        await leave(await scene.joins(here))
        await scene.joins(there)
        await scene.is_held_by(here, 0)

    # On a machine so slow that the second has passed, the return was told as well.
    names = Counter(event["name"] for event in scene.receiver.events)
    assert set(names) == set(PAIRED)
    assert len(set(names.values())) == 1


async def test_of_nodes_that_hold_the_same_departure_the_last_one_tells_it(
    deployment: Deployment,
) -> None:
    async with told(deployment) as scene:
        here, there = await scene.node(), await scene.node(SHORT)
        await scene.leaves(await scene.joins(here))
        assert await scene.receiver.hears(2) == ONE_VISIT[:2]
        await leave(await scene.joins(there))

        assert await scene.receiver.hears(4) == ONE_VISIT
        await scene.is_held_by(here, 2)

    assert scene.receiver.events == ONE_VISIT


async def test_coming_and_going_between_nodes_is_one_visit(deployment: Deployment) -> None:
    async with told(deployment) as scene:
        nodes = [await scene.node() for _ in range(3)]
        for number in range(12):
            await scene.leaves(await scene.joins(nodes[number % 3]))
        await scene.stop(*nodes)

    assert scene.receiver.events == ONE_VISIT


async def test_who_returns_to_the_node_that_holds_the_departure_undoes_it_there(
    deployment: Deployment,
) -> None:
    async with told(deployment) as scene:
        here, _ = await scene.node(), await scene.node()
        await scene.leaves(await scene.joins(here))
        await scene.is_held_by(here, 2)
        await scene.joins(here)
        await scene.is_held_by(here, 0)

    assert scene.receiver.events == ONE_VISIT


async def test_another_user_undoes_the_end_of_the_channel_only(deployment: Deployment) -> None:
    async with told(deployment) as scene:
        here, there = await scene.node(SHORT), await scene.node()
        other = await scene.node()
        visitor = await scene.joins(other, "bob")
        first = await scene.joins(here)
        await scene.leaves(visitor, "bob")
        await leave(first)
        await scene.receiver.until(lambda: went("ada") in scene.receiver.events)
        await scene.joins(there, "bob")
        await scene.stop(here, other)

    assert Counter(event["name"] for event in scene.receiver.events)["member_added"] == 2
    assert scene.receiver.events.count(went("bob")) == 1


async def test_of_plain_channels_it_is_the_same(deployment: Deployment) -> None:
    async with told(deployment) as scene:
        here, there = await scene.node(), await scene.node()
        for node in (here, there, here):
            async with node.connected() as client:
                await client.subscribe("orders")
                # What is over before Redis hears of it has not been.
                await until(lambda: deployment.stored_users("orders") == [""])
            await until(lambda: deployment.stored_departures("orders") != {})

    assert scene.receiver.events == [occupied("orders"), vacated("orders")]


async def test_a_node_that_stops_leaves_its_departures_to_the_others(
    deployment: Deployment,
) -> None:
    async with told(deployment) as scene:
        here, there = await scene.node(), await scene.node()
        await scene.joins(here)
        await scene.stop(here)
        assert scene.receiver.events == ONE_VISIT[:2]

        await scene.is_held_by(there, 2)
        await scene.joins(there)
        await scene.is_held_by(there, 0)

    assert scene.receiver.events == ONE_VISIT


async def test_the_last_node_tells_departures_before_every_client_has_gone(
    deployment: Deployment,
) -> None:
    async with told(deployment) as scene:
        node = await scene.node(
            shutdown_seconds=LONG_PATIENCE, deadlines=Deadlines(linger=LONG_PATIENCE)
        )
        async with node.connected() as stubborn:
            await scene.joins(node)
            transport = stubborn.websocket.transport
            assert isinstance(transport, asyncio.ReadTransport)
            transport.pause_reading()
            stopping = asyncio.create_task(scene.stop(node))
            try:
                assert await scene.receiver.hears(4) == ONE_VISIT
            finally:
                transport.resume_reading()
                await stopping

    assert scene.receiver.events == ONE_VISIT


async def test_nodes_that_stop_together_tell_everything_once(deployment: Deployment) -> None:
    async with told(deployment) as scene:
        nodes = [await scene.node() for _ in range(3)]
        for number, node in enumerate(nodes):
            await scene.joins(node, f"user-{number}")
        await scene.stop(*nodes)

    users = [f"user-{number}" for number in range(3)]
    expected = [occupied(ROOM), vacated(ROOM), *map(came, users), *map(went, users)]
    assert sorted(scene.receiver.events, key=str) == sorted(expected, key=str)
    assert deployment.stored_keys() == []


@pytest.mark.parametrize("comes_back", [True, False])
async def test_the_departures_of_a_dead_node_are_told_unless_they_are_undone(
    deployment: Deployment, comes_back: bool
) -> None:
    async with redis_line(deployment.redis.port) as line, told(deployment) as scene:
        there = await scene.node()
        here = await scene.node(port=line.port)
        await scene.leaves(await scene.joins(here))
        await scene.is_held_by(here, 2)
        line.cut()
        line.break_off()
        await until(lambda: here.node.trouble is not None)
        await scene.stop(here)
        if comes_back:
            await scene.joins(there)
            assert deployment.stored_departures() == {}
        else:
            await scene.is_held_by(there, 2)
        # While a node counts as alive, the last one leaves it what it holds.
        await until(lambda: len(deployment.stored_nodes()) == 1)
        assert scene.receiver.events == ONE_VISIT[:2]

    assert scene.receiver.events == ONE_VISIT


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_node_that_lost_redis_holds_on_when_it_is_back(
    deployment: Deployment, comes_back: bool
) -> None:
    async with redis_line(deployment.redis.port) as line, told(deployment) as scene:
        here, there = await scene.node(port=line.port), await scene.node()
        await scene.leaves(await scene.joins(here))
        await scene.is_held_by(here, 2)
        line.cut()
        line.break_off()
        await becomes(here, is_ready=False)
        if comes_back:
            await scene.joins(there)
        line.mend()
        await becomes(here, is_ready=True)
        if not comes_back:
            await until(lambda: sum(sum(n.node.held().values()) for n in (here, there)) == 2)
        assert scene.receiver.events == ONE_VISIT[:2]

    assert scene.receiver.events == ONE_VISIT


async def test_an_answer_of_redis_that_was_lost_loses_no_departure(fragile: Deployment) -> None:
    async with told(fragile) as scene:
        here = await scene.node(hold_seconds=1.0)
        client = await scene.joins(here)
        assert await scene.receiver.hears(2) == ONE_VISIT[:2]
        await leave(client)
        await scene.is_held_by(here, 2)
        with fragile.redis.frozen():
            # It is asked meanwhile, does what it was asked, and nobody hears of it.
            await becomes(here, is_ready=False)

        assert await scene.receiver.hears(4) == ONE_VISIT
        await becomes(here, is_ready=True)

    assert scene.receiver.events == ONE_VISIT


@pytest.mark.parametrize(
    "webhooks",
    [
        (),
        (Webhook(url="http://127.0.0.1:9/", kinds=frozenset({"cache_miss"})),),
        (Webhook(url="http://127.0.0.1:9/", kinds=frozenset(PAIRED), prefixes=("private-",)),),
    ],
)
async def test_nothing_is_kept_where_no_webhook_wants_to_hear(
    deployment: Deployment, webhooks: tuple[Webhook, ...]
) -> None:
    app = replace(APP, webhooks=webhooks)
    here, there = await deployment.nodes(2, app)
    watcher, _ = await deployment.member(there, "watcher")
    client, _ = await deployment.member(here, "ada")
    await leave(client)
    for expected in ("member_added", "member_removed"):
        assert expected in await watcher.receive()

    assert deployment.stored_departures() == {}
    assert here.node.held() == {APP.id: 0}


Step = tuple[str, int, str]

_NUMBER, _USER = st.integers(0, 20), st.sampled_from(["ada", "bob"])
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), _NUMBER, _USER),
        st.tuples(st.just("move"), _NUMBER, _USER),
        st.tuples(st.just("move"), _NUMBER, _USER),
        st.tuples(st.just("leave"), _NUMBER, _USER),
        st.tuples(st.just("deploy"), _NUMBER, _USER),
        st.tuples(st.just("settle"), _NUMBER, _USER),
    ),
    max_size=20,
)


async def play(redis: RedisServer, steps: list[Step]) -> None:
    """Take the steps; at the end everybody has left, and the backend believes so."""
    with redis.client() as client:
        client.flushall()
    came_in: set[str] = set()
    async with AsyncExitStack() as stack, told(Deployment(redis, "model:", stack)) as scene:
        nodes = [await scene.node(SHORT) for _ in range(3)]
        there_are: list[tuple[TestServer, PusherClient, str]] = []
        for what, number, user_id in steps:
            index = number % len(nodes)
            if what == "deploy":
                await scene.stop(nodes[index])
                there_are = [one for one in there_are if one[0] is not nodes[index]]
                nodes[index] = await scene.node(SHORT)
            elif what == "join":
                there_are.append((nodes[index], await scene.joins(nodes[index], user_id), user_id))
                came_in.add(user_id)
            elif what == "settle":
                if not there_are:
                    await scene.receiver.until(lambda: not unpaired(scene.receiver))
            elif there_are:
                _, client, who = there_are.pop(number % len(there_are))
                client.websocket.transport.abort()
                if what == "move":
                    there_are.append((nodes[index], await scene.joins(nodes[index], who), who))
    assert unpaired(scene.receiver) == {}
    assert {event["user_id"] for event in scene.receiver.events if "user_id" in event} == came_in
    with redis.client() as client:
        assert client.keys() == []


def unpaired(receiver: Receiver) -> dict[tuple[str, str], int]:
    """Return of whom and what the beginning was told more often than the end, or less often."""
    balance: Counter[tuple[str, str]] = Counter()
    for event in receiver.events:
        begins = event["name"] in ("channel_occupied", "member_added")
        balance[event["channel"], event.get("user_id", "")] += 1 if begins else -1
    return {what: number for what, number in balance.items() if number}


@pytest.mark.timeout(900)  # a failure is made small, and each try of it takes its patience
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
@given(steps=_STEPS)
def test_whatever_people_do_the_backend_hears_pairs(
    shared_redis_of_its_own: RedisServer, steps: list[Step]
) -> None:
    asyncio.run(play(shared_redis_of_its_own, steps))
