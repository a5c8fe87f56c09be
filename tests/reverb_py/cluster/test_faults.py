"""Redis goes, freezes and comes back; nodes are cut off, frozen and killed."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterable, Sequence

import pytest

from reverb_py.cluster import outgoing
from reverb_py.cluster.connections import Subscription
from reverb_py.cluster.listening import Listening
from reverb_py.cluster.reaping import Reaping
from reverb_py.testing import PATIENCE, PusherClient, TestServer
from tests.reverb_py.cluster.nodes import COUNTING, LONG_PATIENCE, Deployment, member, until
from tests.reverb_py.cluster.processes import connected_to, node_process
from tests.reverb_py.cluster.test_presence import added, leave, removed, user_ids
from tests.support.redis_link import RedisLine, redis_line


async def ready(node: TestServer) -> bool:
    status, _ = await node.unsigned_request("GET", "/ready")
    return status == 200


async def becomes(node: TestServer, *, is_ready: bool) -> None:
    async with asyncio.timeout(LONG_PATIENCE):
        while await ready(node) is not is_ready:  # noqa: ASYNC110 - asked, not told
            await asyncio.sleep(0.02)


async def has_users(node: TestServer, *expected: str) -> None:
    async with asyncio.timeout(LONG_PATIENCE):
        while await user_ids(node) != list(expected):  # noqa: ASYNC110 - asked, not told
            await asyncio.sleep(0.02)


async def has_subscribers(node: TestServer, channel: str, expected: int) -> None:
    """Wait until a read counts so many; a node may have yet to notice that Redis went away."""
    answer = f'{{"occupied":true,"subscription_count":{expected}}}'
    info = {"info": "subscription_count"}
    async with asyncio.timeout(LONG_PATIENCE):
        heard = ""
        while heard != answer:
            _, heard = await node.request("GET", f"/channels/{channel}", None, info)


async def crosses(here: TestServer, client: PusherClient, channel: str, number: int) -> None:
    """Publish on one node what a client of another is to hear next."""
    await here.publish("n", channel, str(number))
    assert json.loads(await client.receive())["data"] == str(number)


async def ask_to_join(client: PusherClient, user_id: str) -> None:
    """Have a client ask for the room, and wait for nothing."""
    data = {"channel": "presence-room", "channel_data": member(user_id)}
    data["auth"] = client.auth_for("presence-room", data["channel_data"])
    await client.send({"event": "pusher:subscribe", "data": data})


async def test_a_node_tells_why_it_is_not_ready(fragile: Deployment) -> None:
    node = await fragile.node()
    assert await node.unsigned_request("GET", "/ready") == (200, '{"ready":true}')

    fragile.redis.stop()
    await becomes(node, is_ready=False)

    status, reason = await node.unsigned_request("GET", "/ready")
    assert (status, "Connect call failed" in reason or "onnection" in reason) == (503, True), reason
    assert (await node.unsigned_request("GET", "/up"))[0] == 200


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
async def test_without_redis_a_node_serves_its_own_clients(fragile: Deployment, fault: str) -> None:
    here, there = await fragile.nodes(2)
    first, _ = await fragile.member(here, "7")
    second, _ = await fragile.member(there, "8")
    assert await first.receive() == added("8")

    if fault == "stopped":
        fragile.redis.stop()
    else:
        context = fragile.redis.frozen()
        context.__enter__()
    try:
        # From the first moment on, whether or not it has been noticed.
        async with asyncio.timeout(PATIENCE / 2):
            await crosses(here, first, "presence-room", 1)
        third, room = await fragile.member(here, "9")
        assert set(room["ids"]) >= {"7", "9"}
        assert await first.receive() == added("9")
        await third.subscribe("cache-new")
        assert "cache_miss" in await third.receive()
        await becomes(here, is_ready=False)
        await crosses(here, third, "presence-room", 2)
        assert json.loads(await first.receive())["data"] == "2"
        await leave(third)
        assert await first.receive() == removed("9")
        await second.ping()
        fourth, _ = await fragile.member(here, "10")
        assert await first.receive() == added("10")
    finally:
        if fault == "stopped":
            fragile.redis.start()
        else:
            context.__exit__(None, None, None)

    await becomes(here, is_ready=True)
    await becomes(there, is_ready=True)
    await has_users(here, "10", "7", "8")
    await has_users(there, "10", "7", "8")
    # What was published meanwhile may or may not have crossed; nobody went, one came.
    seen = [await second.receive()]
    while seen[-1] != added("10"):
        seen.append(await second.receive())
    assert [text for text in seen if "member_" in text] in (
        [added("10")],
        [added("9"), removed("9"), added("10")],
    )
    await crosses(there, first, "presence-room", 3)
    while json.loads(heard := await second.receive())["data"] != "3":
        assert "member_" not in heard
    assert json.loads(await fourth.receive())["data"] == "3"


async def test_a_channel_that_was_left_before_the_node_was_back_is_heard_again(
    fragile: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await fragile.nodes(2)
    client = await fragile.client(here)
    is_back = asyncio.Event()
    begin = Listening.begin

    async def begin_late(
        listening: Listening, subscription: Subscription, own: Iterable[bytes]
    ) -> None:
        if listening is here.node._listening:
            await client.subscribe("orders")
            await leave(client, "orders")
            await client.ping()
            is_back.set()
        await begin(listening, subscription, own)

    monkeypatch.setattr(Listening, "begin", begin_late)
    fragile.redis.restart()
    await is_back.wait()
    for node in (here, there):
        await becomes(node, is_ready=True)

    await client.subscribe("orders")
    await crosses(there, client, "orders", 1)


async def test_a_node_that_leaves_gives_back_the_names_that_it_was_to_reap(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reaping, "reap", lambda reaping, name: asyncio.Event().wait())
    with deployment.redis.client() as redis:
        redis.zadd(f"{deployment.prefix}{{nodes}}", {"dead": 1})
        async with deployment.leaving() as leaving:
            await leaving.node(lease_seconds=60.0)
            await until(lambda: deployment.stored_graves() == ["dead"])
            await deployment.node(lease_seconds=60.0)
            claimed = redis.zscore(f"{deployment.prefix}{{nodes}}.gone", "dead")
            assert isinstance(claimed, float)
            assert claimed > 0

        assert redis.zscore(f"{deployment.prefix}{{nodes}}.gone", "dead") == 0


async def test_a_redis_that_forgot_everything_learns_it_again(fragile: Deployment) -> None:
    nodes = await fragile.nodes(3, COUNTING, lease_seconds=2.0)
    members = [(await fragile.member(node, str(n)))[0] for n, node in enumerate(nodes)]
    subscribers = [await fragile.client(node) for node in nodes]
    for client in subscribers:
        await client.subscribe("orders")
    for client in (members[0], members[0], members[1]):
        assert "member_added" in await client.receive()

    fragile.redis.restart()
    for node in nodes:
        await becomes(node, is_ready=True)

    for node in nodes:
        await has_users(node, "0", "1", "2")
        await has_subscribers(node, "orders", 3)
    await fragile.member(nodes[1], "9")
    for client in members:
        assert "member_added" in await client.receive()
        await client.ping()
    leaver = subscribers.pop()
    await leave(leaver, "orders")
    for client in subscribers:
        while '\\"subscription_count\\":2' not in (heard := await client.receive()):
            assert "subscription_count" in heard


async def test_a_node_that_is_cut_off_loses_its_members_and_gets_them_back(
    fragile: Deployment,
) -> None:
    async with redis_line(fragile.redis.port) as line:
        here = await fragile.node(lease_seconds=1.0)
        there = await fragile.node(lease_seconds=1.0, port=line.port)
        watcher, _ = await fragile.member(here, "1")
        cut_off, _ = await fragile.member(there, "7")
        assert await watcher.receive() == added("7")

        line.cut()
        assert await watcher.receive() == removed("7")
        await becomes(there, is_ready=False)
        await crosses(there, cut_off, "presence-room", 1)
        late, _ = await fragile.member(here, "2")
        assert await watcher.receive() == added("2")
        await leave(watcher)
        await watcher.ping()

        line.mend()
        await becomes(there, is_ready=True)
        assert await late.receive() == removed("1")
        assert await late.receive() == added("7")
        heard = sorted([await cut_off.receive(), await cut_off.receive()])
        assert heard == sorted([added("2"), removed("1")])
        await has_users(here, "2", "7")
        await has_users(there, "2", "7")
        await crosses(here, cut_off, "presence-room", 2)


async def test_a_killed_nodes_members_leave_within_its_lease_and_once(
    deployment: Deployment,
) -> None:
    nodes = await deployment.nodes(2, lease_seconds=1.0)
    watchers = [(await deployment.member(node, f"w{n}"))[0] for n, node in enumerate(nodes)]
    assert await watchers[0].receive() == added("w1")

    async with node_process(deployment) as node_there, connected_to(node_there.port) as client:
        await client.subscribe("presence-room", member("7"))
        for watcher in watchers:
            assert await watcher.receive() == added("7")
        node_there.process.kill()
        for watcher in watchers:
            assert await watcher.receive() == removed("7")

    for watcher in watchers:
        await watcher.ping()
    await until(lambda: len(deployment.stored_nodes()) == 2)
    assert deployment.stored_users() == ["w0", "w1"]


async def test_a_node_that_was_frozen_comes_back_with_its_members(deployment: Deployment) -> None:
    node = await deployment.node(lease_seconds=1.0)
    watcher, _ = await deployment.member(node, "1")

    async with node_process(deployment) as node_there, connected_to(node_there.port) as client:
        await client.subscribe("presence-room", member("7"))
        assert await watcher.receive() == added("7")
        node_there.process.send_signal(signal.SIGSTOP)
        assert await watcher.receive() == removed("7")
        node_there.process.send_signal(signal.SIGCONT)
        assert await watcher.receive() == added("7")
        await client.ping()
        await crosses(node, client, "presence-room", 1)
        assert json.loads(await watcher.receive())["data"] == "1"
        await leave(client)
        assert await watcher.receive() == removed("7")

    await until(lambda: deployment.stored_users() == ["1"])
    assert deployment.ghosts() == []


async def join_that_is_kept(
    fragile: Deployment, line: RedisLine
) -> tuple[TestServer, PusherClient, PusherClient, Callable[[], None]]:
    """
    Have somebody join a node whose word of that is kept on its way while it begins again.

    Returns that node, a member on another, who joined, and what lets the word arrive.
    """
    here = await fragile.node(lease_seconds=1.0)
    there = await fragile.node(lease_seconds=1.0, port=line.port)
    watcher, _ = await fragile.member(here, "1")
    await fragile.member(there, "5")
    assert await watcher.receive() == added("5")
    client = await fragile.client(there)
    line.cut()
    await ask_to_join(client, "7")
    await until(lambda: b"User 7" in line.under_way)
    arrive_late = line.leave_behind()
    assert await watcher.receive() == added("7")
    return there, watcher, client, arrive_late


async def test_what_the_network_has_kept_leaves_no_ghost(fragile: Deployment) -> None:
    async with redis_line(fragile.redis.port) as line:
        there, watcher, client, arrive_late = await join_that_is_kept(fragile, line)
        await becomes(there, is_ready=True)
        await until(lambda: fragile.ghosts() == [])
        arrive_late()
        await leave(client)
        assert await watcher.receive() == removed("7")

        await until(lambda: fragile.stored_users() == ["1", "5"] and fragile.ghosts() == [])
        # Nothing can be said any more under the names that were given up.
        await until(lambda: not fragile.stored_graves())
    assert fragile.stored_users() == ["1", "5"]
    assert fragile.ghosts() == []


async def test_nothing_is_held_under_a_name_whose_time_is_over(fragile: Deployment) -> None:
    async with redis_line(fragile.redis.port) as line:
        there, watcher, client, arrive_late = await join_that_is_kept(fragile, line)
        await leave(client)
        assert await watcher.receive() == removed("7")
        await until(lambda: not fragile.stored_graves())

        arrive_late()

        late, _ = await fragile.member(there, "8")
        assert await watcher.receive() == added("8")
        await late.ping()
        assert fragile.stored_users() == ["1", "5", "8"]
        assert fragile.ghosts() == []


async def test_workers_are_one_server(deployment: Deployment) -> None:
    async with node_process(deployment, "--workers", "2") as server:
        async with connected_to(server.port) as first:
            await first.subscribe("presence-room", member("0"))
            others = []
            for number in range(1, 12):
                context = connected_to(server.port)
                client = await context.__aenter__()
                others.append(context)
                data = await client.subscribe("presence-room", member(str(number)))
                assert data["presence"]["count"] == number + 1
                assert await first.receive() == added(str(number))
            for context in others:
                await context.__aexit__(None, None, None)
            gone = sorted([await first.receive() for _ in others])
            assert gone == sorted(removed(str(number)) for number in range(1, 12))
        server.process.terminate()
        async with asyncio.timeout(LONG_PATIENCE):
            assert await server.process.wait() == 0


async def test_nobody_is_seen_to_leave_when_redis_forgets_and_goes_on(fragile: Deployment) -> None:
    nodes = await fragile.nodes(2, lease_seconds=1.0)
    members = [(await fragile.member(node, str(n)))[0] for n, node in enumerate(nodes)]
    assert await members[0].receive() == added("1")
    before = set(fragile.stored_nodes())

    with fragile.redis.client() as redis:
        redis.flushall()
    visitor, room = await fragile.member(nodes[0], "9")
    assert sorted(room["ids"]) == ["0", "1", "9"]
    await until(
        lambda: len(fragile.stored_nodes()) == 2 and not before & set(fragile.stored_nodes())
    )
    await until(lambda: fragile.stored_users() == ["0", "1", "9"])

    for client in members:
        assert await client.receive() == added("9")
    await leave(visitor)
    for client in members:
        assert await client.receive() == removed("9")
    await crosses(nodes[1], members[0], "presence-room", 1)


async def test_a_node_that_reaps_for_long_lives_on(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await deployment.node(lease_seconds=1.0)
    watcher, _ = await deployment.member(node, "1")
    reaping = node.node._reaping
    reap_topics = reaping._reap_topics
    goes_on = asyncio.Event()

    async def reap_slowly(name: bytes, topics: Sequence[bytes]) -> list[bytes]:
        await goes_on.wait()
        return await reap_topics(name, topics)

    monkeypatch.setattr(reaping, "_reap_topics", reap_slowly)
    with deployment.redis.client() as redis:
        key = f"{deployment.prefix}{{nodes}}"
        redis.sadd(f"{deployment.prefix}nodes.dead", b"1001\0presence-room")
        redis.zadd(key, {"dead": 1})
        await until(lambda: "dead" in deployment.stored_graves())
        [living] = deployment.stored_nodes()
        renewals = {redis.zscore(key, living)}

        def is_renewed() -> bool:
            renewals.add(redis.zscore(key, living))
            return len(renewals) > 5

        # A lease is renewed three times while it lasts.
        await until(is_renewed)
        assert None not in renewals
    goes_on.set()
    await until(lambda: deployment.stored_graves() == [])
    await watcher.ping()


async def test_what_waits_for_redis_is_bounded(
    fragile: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "MAX_OUTGOING_BYTES", 10_000)
    here, there = await fragile.nodes(2)
    client = await fragile.client(there)
    await client.subscribe("last")
    with fragile.redis.frozen():
        for number in range(200):
            await here.publish("n", f"channel-{number}", "x" * 1_000)
        assert here.node.dropped > 0
        await becomes(here, is_ready=False)
    await becomes(here, is_ready=True)
    await becomes(there, is_ready=True)

    await crosses(here, client, "last", 1)
