"""Joins, leaves, lost connections to Redis and forgetful Redises, against a simple model."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverb_py.testing import PATIENCE, PusherClient, TestServer
from tests.reverb_py.cluster.nodes import Deployment, member
from tests.reverb_py.cluster.test_faults import becomes, has_users
from tests.support.redis import RedisServer
from tests.support.redis_link import RedisLine, redis_line

ROOM = "presence-room"
NODES = 3
USERS = ("7", "8", "9")

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, NODES - 1), st.sampled_from(USERS)),
        st.tuples(st.just("join"), st.integers(0, NODES - 1), st.sampled_from(USERS)),
        st.tuples(st.just("leave"), st.integers(0, 20), st.just("")),
        st.tuples(st.just("hang up"), st.integers(0, 20), st.just("")),
        st.tuples(st.just("break off"), st.integers(0, NODES - 1), st.just("")),
        st.tuples(st.just("settle"), st.just(0), st.just("")),
    ),
    max_size=30,
)


class Observer:
    """A member on one node that believes what it is told, and complains when it makes no sense."""

    def __init__(self, client: PusherClient, present: set[str]) -> None:
        self._client = client
        self.present = present

    async def look(self) -> None:
        """Take everything that has been said so far."""
        await self._client.send('{"event":"pusher:ping","data":{}}')
        while (message := json.loads(await self._client.receive()))["event"] != "pusher:pong":
            user_id = json.loads(message["data"])["user_id"]
            if message["event"] == "pusher_internal:member_added":
                assert user_id not in self.present, "added twice"
                self.present.add(user_id)
            else:
                assert message["event"] == "pusher_internal:member_removed", message
                assert user_id in self.present, "removed twice"
                self.present.remove(user_id)

    async def sees(self, expected: set[str]) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.present != expected:
                await asyncio.sleep(0.01)
                await self.look()


async def play(redis: RedisServer, steps: list[tuple[str, int, str]]) -> None:
    """Take the steps, and then let everybody agree."""
    with redis.client() as client:
        client.flushall()
    async with AsyncExitStack() as stack:
        deployment = Deployment(redis, "model:", stack)
        lines: list[RedisLine] = []
        nodes: list[TestServer] = []
        observers: list[Observer] = []
        for number in range(NODES):
            line = await stack.enter_async_context(redis_line(redis.port))
            lines.append(line)
            nodes.append(await deployment.node(port=line.port))
            client, room = await deployment.member(nodes[-1], f"observer-{number}")
            observers.append(Observer(client, set(room["ids"])))
        present: list[tuple[PusherClient, str]] = []
        for what, number, user_id in steps:
            if what == "join":
                client = await deployment.client(nodes[number])
                data = {"channel": ROOM, "channel_data": member(user_id)}
                data["auth"] = client.auth_for(ROOM, data["channel_data"])
                await client.send({"event": "pusher:subscribe", "data": data})
                present.append((client, user_id))
            elif what == "break off":
                lines[number].break_off()
            elif what == "settle":
                await agree(nodes, observers, present)
            elif present:
                client, _ = present.pop(number % len(present))
                if what == "leave":
                    await client.send({"event": "pusher:unsubscribe", "data": {"channel": ROOM}})
                else:
                    client.websocket.transport.abort()
        await agree(nodes, observers, present)


async def agree(
    nodes: list[TestServer], observers: list[Observer], present: list[tuple[PusherClient, str]]
) -> None:
    expected = {user_id for _, user_id in present} | {f"observer-{n}" for n in range(NODES)}
    for node in nodes:
        await becomes(node, is_ready=True)
    for node, observer in zip(nodes, observers, strict=True):
        await has_users(node, *sorted(expected))
        await observer.sees(expected)
        status, body = await node.request(
            "GET", f"/channels/{ROOM}", None, {"info": "subscription_count,user_count"}
        )
        answer = json.loads(body)
        assert status == 200
        assert answer["user_count"] == len(expected)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
@given(steps=_STEPS)
def test_every_node_agrees_and_nobody_is_told_twice(
    shared_redis_of_its_own: RedisServer, steps: list[tuple[str, int, str]]
) -> None:
    asyncio.run(play(shared_redis_of_its_own, steps))
