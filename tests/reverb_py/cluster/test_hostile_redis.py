"""Garbage on the bus, and a Redis that misbehaves: nodes go on, say why, and recover."""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from reverb_py.cluster.messages import Ask, Terminate, encode, encode_published
from reverb_py.cluster.topics import Topic
from reverb_py.protocol import frames
from reverb_py.testing import PusherClient, TestServer
from tests.reverb_py.cluster.nodes import (
    APP,
    COUNTING,
    LONG_PATIENCE,
    Deployment,
    member,
    until,
)
from tests.reverb_py.cluster.test_faults import becomes, crosses, has_users
from tests.reverb_py.cluster.test_presence import added, leave, removed
from tests.support.redis import RedisServer
from tests.support.redis_link import RedisLine, redis_line

FRAME = frames.event("n", "orders", "1")

GARBAGE = [
    b"",
    b"\x00" * 100,
    b"E",
    b"E" + encode(["node", [[b"no frame", None, None]]]),
    b"E" + encode(["node", [[FRAME[:-1], None, None]]]),
    b"E" + encode(["node", [[FRAME, 7, None]]]),
    b"E" + encode({"node": "another version"}),
    encode_published("node", [(FRAME, None, None)])[:-3],
    b"=one two three",
    b"=one -5",
    b"+",
    b"+1 99999999999999999999 1\n7{",
    b"-x y z\n7",
    b'{"event":"n","channels":["orders"]}',
    b"App\\Events\\Message\x00serialized",
    encode(Ask("node", "1001", 7, "", None))[:-1],
    encode(["become", "node", "1001"]),
    encode(["terminate", "node", [], {}]),
    encode(["ask", "node", "1001", "7", None, 3]),
    encode([1, {"orders": [-1, []]}, 1]),
    b"\x91" * 10_000,
    secrets.token_bytes(1_000),
]


class Scene:
    """Two nodes, each with a member, and what has to work between them."""

    def __init__(
        self, deployment: Deployment, nodes: list[TestServer], members: list[PusherClient]
    ) -> None:
        self.deployment = deployment
        self.nodes = nodes
        self.members = members
        self._number = 0
        self._names = set(deployment.stored_nodes())

    @classmethod
    async def set(cls, deployment: Deployment, nodes: list[TestServer]) -> Scene:
        here, there = nodes
        first, _ = await deployment.member(here, "7")
        second, _ = await deployment.member(there, "8")
        assert await first.receive() == added("8")
        return cls(deployment, nodes, [first, second])

    async def works(self) -> None:
        """See that events cross both ways, and that members come and go, each told once."""
        self._number += 1
        for node in self.nodes:
            await becomes(node, is_ready=True)
        await has_users(self.nodes[0], "7", "8")
        await has_users(self.nodes[1], "7", "8")
        for node in self.nodes:
            mark = f"mark-{self._number}-{self.nodes.index(node)}"
            await node.publish("n", "presence-room", mark)
            for client in self.members:
                while json.loads(heard := await client.receive())["data"] != mark:
                    assert "member_" not in heard, heard
        visitor, room = await self.deployment.member(self.nodes[0], "visitor")
        assert sorted(room["ids"]) == ["7", "8", "visitor"]
        for client in self.members:
            assert await client.receive() == added("visitor")
        await leave(visitor)
        for client in self.members:
            assert await client.receive() == removed("visitor")

    async def begin_again(self) -> None:
        """Wait until every node is there under another name than before."""

        def are_new() -> bool:
            names = set(self.deployment.stored_nodes())
            return len(names) == len(self.nodes) and not names & self._names

        await until(are_new)
        self._names = set(self.deployment.stored_nodes())

    async def serves_its_own(self, channel: str) -> None:
        """See that a node that is by itself goes on for its own clients."""
        for node in self.nodes:
            client = await self.deployment.client(node)
            await client.subscribe(channel)
            await crosses(node, client, channel, 1)
            status, body = await node.request("GET", f"/channels/{channel}")
            assert (status, json.loads(body)["occupied"]) == (200, True)
            assert (await node.unsigned_request("GET", "/up"))[0] == 200

    async def stir(self) -> None:
        """Have every node run a script."""
        for node in self.nodes:
            client = await self.deployment.client(node)
            await client.subscribe(f"stirred-{secrets.token_hex(4)}")

    async def are_away(self, *reasons: str) -> None:
        """Wait until every node says that it is not ready, and for which of the reasons."""
        await self.stir()
        for node in self.nodes:
            async with asyncio.timeout(LONG_PATIENCE):
                heard = ""
                while not any(reason in heard for reason in reasons):
                    _, heard = await node.unsigned_request("GET", "/ready")


@pytest_asyncio.fixture
async def patient(shared_redis: RedisServer) -> AsyncIterator[Deployment]:
    """A deployment to which Redis is not away, and no node dead, however slow the machine is."""
    async with AsyncExitStack() as stack:
        prefix = f"test.{secrets.token_hex(4)}:"
        yield Deployment(shared_redis, prefix, stack, timeout=LONG_PATIENCE)


@pytest_asyncio.fixture
async def scene(patient: Deployment) -> Scene:
    return await Scene.set(patient, await patient.nodes(2, lease_seconds=LONG_PATIENCE))


@pytest_asyncio.fixture
async def fragile_scene(fragile: Deployment) -> Scene:
    return await Scene.set(fragile, await fragile.nodes(2, lease_seconds=LONG_PATIENCE))


@pytest_asyncio.fixture
async def line(shared_redis: RedisServer) -> AsyncIterator[RedisLine]:
    """What stands between the second node and Redis."""
    async with redis_line(shared_redis.port) as line:
        yield line


@pytest.mark.parametrize("kind", ["channel", "presence channel", "user", "control", "node"])
async def test_garbage_is_passed_over_and_counted(scene: Scene, kind: str) -> None:
    here, there = scene.nodes
    deployment = scene.deployment
    await scene.members[0].subscribe("orders")
    await scene.members[0].sign_in('{"id":"7","watchlist":["9"]}')
    assert "offline" in await scene.members[0].receive()
    topic = (
        deployment.prefix
        + {
            "channel": "{1001:orders}",
            "presence channel": "{1001:presence-room}",
            "user": "{1001:#online.9}",
            "control": "control",
            "node": f"node.{here.node.id}",
        }[kind]
    )
    names = deployment.stored_nodes()

    with deployment.redis.client() as redis:
        heard = [redis.publish(topic, message) for message in GARBAGE]

    assert min(heard) >= 1
    await until(lambda: here.node.unintelligible == len(GARBAGE))
    await scene.works()
    assert deployment.stored_nodes() == names, "no node has begun again"
    assert there.node.unintelligible in (0, len(GARBAGE))


async def test_garbage_is_logged_now_and_then(scene: Scene) -> None:
    here = scene.nodes[0]
    with capture_logs() as logs, scene.deployment.redis.client() as redis:
        for _ in range(100):
            redis.publish(f"{scene.deployment.prefix}node.{here.node.id}", b"garbage")
        await until(lambda: here.node.unintelligible == 100)
    [line] = [line for line in logs if line["log_level"] == "warning"]
    assert "passed over" in line["event"]
    assert line["size"] == 7


@pytest.mark.parametrize(
    "forged",
    [
        b"+5 9 1\n6{}",
        b"-5 9 1\n7",
        b"+5 9999999999999999999 1\n6{}",
        b"-0 9999999999999999999 1\n6",
    ],
)
async def test_a_change_that_never_was_is_set_right_by_what_redis_knows(
    scene: Scene, forged: bytes
) -> None:
    with scene.deployment.redis.client() as redis:
        redis.publish(f"{scene.deployment.prefix}{{1001:presence-room}}", forged)

    await scene.works()


async def test_changes_after_one_that_never_was_are_heard(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    watcher = await deployment.client(here)
    await watcher.sign_in('{"id":"1","watchlist":["9"]}')
    assert "offline" in await watcher.receive()
    with deployment.redis.client() as redis:
        redis.publish(f"{deployment.prefix}{{1001:#online.9}}", b"+0 9999999999999999999 1\n9")
    assert "online" in await watcher.receive()

    watched = await deployment.client(there)
    await watched.sign_in('{"id":"9"}')

    await until(lambda: "{1001:#online.9}:counts" in deployment.stored_keys())
    watched.websocket.transport.abort()
    assert "offline" in await watcher.receive()


async def test_a_request_of_another_versions_node_changes_nothing(scene: Scene) -> None:
    with scene.deployment.redis.client() as redis:
        for message in (
            encode([*["terminate", "another", "1001", "nobody"], "and", "more"]),
            encode(Terminate("another", "no such app", "7")),
            encode(Ask("another", "no such app", 1, "", None)),
            encode(Ask("another\0{}", "1001", 1, "", ["orders"] * 1_000)),
        ):
            assert redis.publish(f"{scene.deployment.prefix}control", message) == 2
    await scene.works()
    assert [node.node.unintelligible for node in scene.nodes] == [0, 0]


@pytest.mark.parametrize("size", [8_000_000, 40_000_000])
async def test_a_gigantic_message_harms_nobody_for_long(fragile_scene: Scene, size: int) -> None:
    # Redis itself cuts off whoever is sent more than 32 MB at once.
    with fragile_scene.deployment.redis.client() as redis:
        redis.publish(f"{fragile_scene.deployment.prefix}control", b"x" * size)
    if size < 32_000_000:
        await until(lambda: [node.node.unintelligible for node in fragile_scene.nodes] == [1, 1])
    else:
        await fragile_scene.begin_again()
    await fragile_scene.works()


@pytest.mark.parametrize(
    "refusal",
    [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "NOSCRIPT No matching script. Please use EVAL.",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM this user has no permissions to run the 'evalsha' command",
        "MOVED 3999 127.0.0.1:1",
        "CLUSTERDOWN The cluster is down",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "BUSY Redis is busy running a script.",
        "ERR max number of clients reached",
        "",
    ],
)
async def test_a_redis_that_refuses_everything_is_away(
    deployment: Deployment, line: RedisLine, refusal: str
) -> None:
    here = await deployment.node(lease_seconds=LONG_PATIENCE)
    there = await deployment.node(lease_seconds=LONG_PATIENCE, port=line.port)
    scene = await Scene.set(deployment, [here, there])

    line.refusal = refusal
    await there.publish("n", "elsewhere", "1")
    await becomes(there, is_ready=False)
    status, reason = await there.unsigned_request("GET", "/ready")
    alone = await deployment.client(there)
    await alone.subscribe("orders")
    await crosses(there, alone, "orders", 1)
    await crosses(there, scene.members[1], "presence-room", 2)

    line.refusal = None
    await becomes(there, is_ready=True)
    await crosses(here, alone, "orders", 3)
    await scene.works()
    assert status == 503
    assert refusal.partition(" ")[0] in reason, reason


async def test_scripts_that_redis_forgot_are_there_again(fragile_scene: Scene) -> None:
    with fragile_scene.deployment.redis.client() as redis:
        for _ in range(3):
            names = fragile_scene.deployment.stored_nodes()
            redis.script_flush()
            await fragile_scene.stir()
            # Whichever node notices first loads them for all.
            await until(lambda names=names: names != fragile_scene.deployment.stored_nodes())  # type: ignore[misc]
            await fragile_scene.works()


async def test_without_memory_redis_is_away_until_there_is_some(fragile_scene: Scene) -> None:
    with fragile_scene.deployment.redis.client() as redis:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", "1mb")
        await fragile_scene.are_away("OOM command not allowed")
        await fragile_scene.serves_its_own("orders")
        redis.config_set("maxmemory", "0")
    await fragile_scene.works()


async def test_a_replica_that_takes_nothing_is_away_until_it_is_a_primary(
    fragile_scene: Scene,
) -> None:
    with fragile_scene.deployment.redis.client() as redis:
        redis.replicaof("127.0.0.1", "1")
        await fragile_scene.are_away("READONLY")
        await fragile_scene.serves_its_own("orders")
        redis.replicaof("NO", "ONE")
    await fragile_scene.works()


async def test_a_password_that_comes_and_goes(fragile_scene: Scene) -> None:
    with fragile_scene.deployment.redis.client() as redis:
        redis.config_set("requirepass", "secret")
        for kind in ("normal", "pubsub"):
            redis.client_kill_filter(_type=kind, skipme=True)
        await fragile_scene.are_away("NOAUTH", "Authentication required")
        await fragile_scene.serves_its_own("orders")
        redis.config_set("requirepass", "")
    await fragile_scene.works()


@pytest.mark.parametrize("kinds", [("pubsub",), ("normal",), ("normal", "pubsub")])
async def test_connections_that_redis_kills_are_renewed(
    fragile_scene: Scene, kinds: tuple[str, ...]
) -> None:
    deployment = fragile_scene.deployment
    for _ in range(3):
        with deployment.redis.client() as redis:
            for kind in kinds:
                assert int(redis.client_kill_filter(_type=kind, skipme=True)) >= 2
        if "pubsub" in kinds:
            await fragile_scene.begin_again()
        await fragile_scene.works()


async def test_a_node_that_redis_cuts_off_for_reading_too_slowly_comes_back(
    fragile_scene: Scene,
) -> None:
    deployment = fragile_scene.deployment
    with deployment.redis.client() as redis:
        redis.config_set("client-output-buffer-limit", "pubsub 32kb 16kb 1")
        names = deployment.stored_nodes()
        batch = [{"name": "n", "channel": "presence-room", "data": "x" * 9_000}] * 10
        for node in fragile_scene.nodes:
            assert (await node.request("POST", "/batch_events", {"batch": batch}))[0] == 200
        await until(lambda: set(names) != set(deployment.stored_nodes()))
        redis.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")
    # The last cut may be on its way still, and takes with it what is published until then.
    for node in fragile_scene.nodes:
        for client in fragile_scene.members:
            heard = asyncio.create_task(hears(client, "at last"))
            while not heard.done():
                await node.publish("n", "presence-room", "at last")
                await asyncio.wait([heard], timeout=0.1)
            await heard
    await fragile_scene.works()


async def hears(client: PusherClient, data: str) -> None:
    """Wait for an event with this data; who is present has to stay the same."""
    while json.loads(heard := await client.receive())["data"] != data:
        assert "member_" not in heard, heard


async def test_latency_delays_and_breaks_nothing(patient: Deployment, line: RedisLine) -> None:
    deployment = patient
    here = await deployment.node(lease_seconds=LONG_PATIENCE)
    there = await deployment.node(lease_seconds=LONG_PATIENCE, port=line.port)
    line.delay = 0.1
    scene = await Scene.set(deployment, [here, there])
    names = deployment.stored_nodes()

    for number in range(20):
        await here.publish("n", "presence-room", str(number))
    heard = [json.loads(await scene.members[1].receive())["data"] for _ in range(20)]
    assert heard == [str(number) for number in range(20)]
    await scene.works()
    assert deployment.stored_nodes() == names
    assert [node.node.dropped for node in scene.nodes] == [0, 0]


@pytest.mark.parametrize("key", ["counts", "infos", "version", "subscribers", "last"])
async def test_a_key_of_somebody_else_spoils_its_own_channel_only(
    fragile: Deployment, key: str
) -> None:
    nodes = await fragile.nodes(2, APP, COUNTING, lease_seconds=6.0)
    scene = await Scene.set(fragile, nodes)
    names = fragile.stored_nodes()
    name = f"{fragile.prefix}{{1001:presence-cache-spoiled}}:{key}"
    with fragile.redis.client() as redis:
        redis.rpush(name, "somebody", "else's") if key != "version" else redis.set(name, "nonsense")

    clients = []
    for user_id, node in zip(("1", "2"), nodes, strict=True):
        client = await fragile.client(node)
        await client.subscribe("presence-cache-spoiled", member(user_id))
        clients.append(client)
    await scene.works()
    assert fragile.stored_nodes() == names, "no node has begun again"
    if key != "last":
        # A cache channel's last event is simply written anew.
        with fragile.redis.client() as redis:
            redis.delete(name)
    for node in nodes:
        async with asyncio.timeout(LONG_PATIENCE):
            ids: list[str] = []
            while ids != ["1", "2"]:
                _, body = await node.request("GET", "/channels/presence-cache-spoiled/users")
                ids = sorted(user["id"] for user in json.loads(body)["users"])
    await nodes[0].publish("n", "presence-cache-spoiled", "mark")
    for client in clients:
        while "mark" not in await client.receive():
            pass


async def test_a_dead_nodes_spoiled_channel_keeps_none_of_its_others(fragile: Deployment) -> None:
    node = await fragile.node(lease_seconds=1.0)
    client, _ = await fragile.member(node, "7")
    prefix = fragile.prefix
    with fragile.redis.client() as redis:
        redis.sadd(f"{prefix}nodes.dead", b"1001\0presence-room", b"1001\0spoiled", b"\xff", b"")
        redis.sadd(f"{prefix}{{1001:presence-room}}:at:dead", "ghost")
        redis.hset(f"{prefix}{{1001:presence-room}}:counts", "ghost", "1")
        redis.set(f"{prefix}{{1001:spoiled}}:counts", "nonsense")
        redis.sadd(f"{prefix}{{1001:spoiled}}:at:dead", "")
        redis.zadd(f"{prefix}{{nodes}}", {"dead": 1, b"\xff\xfe": 1, "": 1})
        await until(lambda: redis.smembers(f"{prefix}nodes.dead") == {b"1001\0spoiled"})
        assert fragile.stored_users() == ["7"]
        redis.delete(f"{prefix}{{1001:spoiled}}:counts")
        await until(lambda: redis.zcard(f"{prefix}{{nodes}}.gone") == 0)
        assert await node.unsigned_request("GET", "/ready") == (200, '{"ready":true}')
    await crosses(node, client, "presence-room", 1)


async def test_garbage_among_the_members_is_left_out(fragile: Deployment) -> None:
    here, there = await fragile.nodes(2)
    await fragile.member(here, "7")
    with fragile.redis.client() as redis:
        infos = f"{fragile.prefix}{{1001:presence-room}}:infos"
        redis.hset(infos, b"\xff", b"{}")
        redis.hset(infos, "6", b"{")

    _, room = await fragile.member(there, "8")

    assert sorted(room["ids"]) == ["7", "8"]


async def test_a_last_event_that_is_none_is_a_miss(deployment: Deployment) -> None:
    node = await deployment.node()
    with deployment.redis.client() as redis:
        for number, value in enumerate([b"nonsense", encode((b"no frame", "1")), b""]):
            redis.set(f"{deployment.prefix}{{1001:cache-{number}}}:last", value, px=60_000)

    client = await deployment.client(node)
    for number in range(3):
        status, body = await node.request(
            "GET", f"/channels/cache-{number}", None, {"info": "cache"}
        )
        assert (status, json.loads(body)["cache"]) == (200, None)
        await client.subscribe(f"cache-{number}")
        assert "cache_miss" in await client.receive()


async def test_the_nodes_own_key_of_another_kind_is_said(fragile: Deployment) -> None:
    scene = await Scene.set(fragile, await fragile.nodes(2, lease_seconds=3.0))
    nodes = f"{fragile.prefix}{{nodes}}"
    with fragile.redis.client() as redis:
        redis.delete(nodes)
        redis.set(nodes, "somebody else's")
        await scene.are_away("WRONGTYPE")
        await scene.serves_its_own("orders")
        redis.delete(nodes)
    for node in scene.nodes:
        await becomes(node, is_ready=True)
        await has_users(node, "7", "8")
    for number, node in enumerate(scene.nodes):
        await node.publish("n", "presence-room", f"mark-{number}")
    for client in scene.members:
        heard = ""
        while "mark-1" not in heard:
            heard = await client.receive()


async def test_many_requests_at_once_leave_the_bus_its_connections(patient: Deployment) -> None:
    deployment = patient
    here, there = await deployment.nodes(2, lease_seconds=LONG_PATIENCE)
    names = deployment.stored_nodes()
    client = await deployment.client(there)
    await client.subscribe("orders")

    async def publish(number: int) -> None:
        event = {"name": "n", "channel": "orders", "data": str(number)}
        answer = await here.request("POST", "/events", event | {"idempotency_key": str(number)})
        assert answer == (200, "{}")

    reads = asyncio.gather(*(here.request("GET", "/connections") for _ in range(150)))
    await asyncio.gather(*(publish(number) for number in range(150)))

    assert {status for status, _ in await reads} == {200}
    heard = [json.loads(await client.receive())["data"] for _ in range(150)]
    assert sorted(heard, key=int) == [str(number) for number in range(150)]
    assert deployment.stored_nodes() == names, "the bus has not begun again"


async def test_channels_that_come_and_go_quickly_leave_nothing(deployment: Deployment) -> None:
    node = await deployment.node(COUNTING, APP)
    node.app = COUNTING
    client = await deployment.client(node)
    rounds, at_once = 10, 100

    def topics() -> int:
        gc.collect()
        return sum(isinstance(one, Topic) for one in gc.get_objects())

    def listened_to() -> object:
        with deployment.redis.client() as redis:
            return redis.pubsub_channels(f"{deployment.prefix}{{*")

    before = topics()
    for turn in range(rounds):
        for number in range(at_once):
            channel = f"cache-{turn}-{number}"
            await client.send({"event": "pusher:subscribe", "data": {"channel": channel}})
            if number % 2:
                await client.send({"event": "pusher:unsubscribe", "data": {"channel": channel}})
        for number in range(0, at_once, 2):
            channel = f"cache-{turn}-{number}"
            await client.send({"event": "pusher:unsubscribe", "data": {"channel": channel}})
        await client.send('{"event":"pusher:ping","data":{}}')
        while "pong" not in await client.receive():
            pass

    await until(lambda: not listened_to())
    await until(lambda: deployment.stored_keys() == ["{nodes}"])
    await until(lambda: topics() <= before)
