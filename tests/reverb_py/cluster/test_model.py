"""Joins, leaves, reconnects, crashes and lost connections to Redis, against a simple model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reverb_py.testing import PusherClient, TestServer
from tests.reverb_py.cluster.nodes import LONG_PATIENCE, Deployment, member, until
from tests.reverb_py.cluster.test_faults import becomes, has_users
from tests.support.redis import RedisServer
from tests.support.redis_link import RedisLine, redis_line

ROOM = "presence-room"
NODES = 3
USERS = ("7", "8", "9")
LEASE_SECONDS = 1.0

EXAMPLES = max(1, settings.default.max_examples // 8) if settings.default else 12
"""An example takes seconds; `HYPOTHESIS_PROFILE=thorough` plays ten times as many."""

Step = tuple[str, int, str]

_NODE, _CLIENT, _USER = st.integers(0, NODES - 1), st.integers(0, 20), st.sampled_from(USERS)
_JOIN = st.tuples(st.just("join"), _NODE, _USER)
_STEPS = st.lists(
    st.one_of(
        _JOIN,
        _JOIN,
        st.tuples(st.just("leave"), _CLIENT, st.just("")),
        st.tuples(st.just("hang up"), _CLIENT, st.just("")),
        st.tuples(st.just("reconnect"), _CLIENT, st.just("")),
        st.tuples(st.just("break off"), _NODE, st.just("")),
        st.tuples(st.just("leave behind"), _NODE, st.just("")),
        st.tuples(st.just("arrive late"), _NODE, st.just("")),
        st.tuples(st.just("crash"), _NODE, st.sampled_from(["and come back", "and stay away"])),
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
        async with asyncio.timeout(LONG_PATIENCE):
            while self.present != expected:
                await asyncio.sleep(0.01)
                await self.look()


class Place:
    """One node, the line to its Redis, the member that watches there, and its clients."""

    def __init__(self, number: int, redis: RedisServer) -> None:
        self.number = number
        self._redis = redis
        self._stack = AsyncExitStack()
        self._line: RedisLine
        self.deployment: Deployment
        self.node: TestServer
        self.observer: Observer
        self.present: list[tuple[PusherClient, str]] = []
        self._behind: list[Callable[[], None]] = []

    async def begin(self) -> None:
        """Start the node, and have its observer join."""
        self._stack = AsyncExitStack()
        self._line = await self._stack.enter_async_context(redis_line(self._redis.port))
        self.deployment = Deployment(self._redis, "model:", self._stack)
        self.node = await self.deployment.node(port=self._line.port, lease_seconds=LEASE_SECONDS)
        client, room = await self.deployment.member(self.node, f"observer-{self.number}")
        self.observer = Observer(client, set(room["ids"]))

    async def join(self, user_id: str) -> None:
        """Have a client ask to join, whatever comes of it."""
        client = await self.deployment.client(self.node)
        data = {"channel": ROOM, "channel_data": member(user_id)}
        data["auth"] = client.auth_for(ROOM, data["channel_data"])
        await client.send({"event": "pusher:subscribe", "data": data})
        self.present.append((client, user_id))

    def break_off(self) -> None:
        self._line.break_off()

    def leave_behind(self) -> None:
        """Break off, and have what is under way arrive late or never."""
        self._behind.append(self._line.leave_behind())

    def arrive_late(self) -> None:
        while self._behind:
            self._behind.pop()()

    async def crash(self) -> list[str]:
        """Have the node end without a word to anybody; return who was there."""
        self._line.cut()
        self._line.break_off()
        await until(lambda: self.node.node.trouble is not None)
        for client, _ in self.present:
            client.websocket.transport.abort()
        await self.end()
        there = [user_id for _, user_id in self.present]
        self.present = []
        return there

    async def end(self) -> None:
        await self._stack.aclose()


async def play(redis: RedisServer, steps: list[Step]) -> None:
    """Take the steps, and then let everybody agree."""
    with redis.client() as client:
        client.flushall()
    places = [Place(number, redis) for number in range(NODES)]
    try:
        for place in places:
            await place.begin()
        for step in steps:
            await take(places, *step)
        await agree(places)
    finally:
        for place in places:
            await place.end()


async def take(places: list[Place], what: str, number: int, detail: str) -> None:
    """Take one step; where there is no client to take it with, nothing happens."""
    if what == "join":
        await places[number].join(detail)
    elif what == "break off":
        places[number].break_off()
    elif what == "leave behind":
        places[number].leave_behind()
    elif what == "arrive late":
        places[number].arrive_late()
    elif what == "settle":
        await agree(places)
    elif what == "crash":
        there = await places[number].crash()
        await places[number].begin()
        if detail == "and come back":
            for user_id in there:
                await places[(number + 1) % NODES].join(user_id)
    else:
        there_are = [(place, one) for place in places for one in place.present]
        if not there_are:
            return
        place, one = there_are[number % len(there_are)]
        place.present.remove(one)
        client, user_id = one
        if what == "leave":
            await client.send({"event": "pusher:unsubscribe", "data": {"channel": ROOM}})
            return
        client.websocket.transport.abort()
        if what == "reconnect":
            await places[number % NODES].join(user_id)


async def agree(places: list[Place]) -> None:
    """Wait until every node and every observer knows what the model knows."""
    expected = {f"observer-{number}" for number in range(NODES)}
    connections = NODES
    for place in places:
        expected |= {user_id for _, user_id in place.present}
        connections += len(place.present)
    for place in places:
        await becomes(place.node, is_ready=True)
    for place in places:
        await has_users(place.node, *sorted(expected))
        await place.observer.sees(expected)
        await has_counts(place.node, connections, len(expected))
    await until(lambda: sorted(places[0].deployment.stored_users(ROOM)) == sorted(expected))


async def has_counts(node: TestServer, subscribers: int, users: int) -> None:
    """Wait until a node counts so many: one may have yet to hear that a client has gone."""
    async with asyncio.timeout(LONG_PATIENCE):
        heard: dict[str, object] = {}
        while (heard.get("subscription_count"), heard.get("user_count")) != (subscribers, users):
            parameters = {"info": "subscription_count,user_count"}
            status, body = await node.request("GET", f"/channels/{ROOM}", None, parameters)
            assert status == 200
            heard = json.loads(body)


@pytest.mark.timeout(900)  # a failure is made small, and each try of it takes its patience
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
@example(
    steps=[
        ("join", 0, "7"),
        ("join", 1, "7"),
        ("settle", 0, ""),
        ("crash", 0, "and come back"),
        ("crash", 1, "and stay away"),
    ]
)
@given(steps=_STEPS)
def test_every_node_agrees_and_nobody_is_told_twice(
    shared_redis_of_its_own: RedisServer, steps: list[Step]
) -> None:
    asyncio.run(play(shared_redis_of_its_own, steps))
