"""On bad days too: what was sent is what arrived, and what was told as lost."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import AsyncExitStack
from dataclasses import replace

import aiohttp
import pytest

from reverb_py.cluster import outgoing
from reverb_py.server.listener import Deadlines
from reverb_py.testing import PusherClient
from tests.reverb_py.cluster.nodes import APP, LONG_PATIENCE, Deployment, member, until
from tests.reverb_py.cluster.processes import connected_to, node_process
from tests.reverb_py.cluster.test_faults import becomes, has_subscribers, has_users
from tests.reverb_py.cluster.test_presence import added, removed
from tests.reverb_py.server.raw_client import (
    CLOSE,
    RawClient,
    close_frame,
    connected_socket,
    error_json,
    text,
)
from tests.support.redis import RedisServer
from tests.support.redis_link import redis_line


async def heard_until(client: PusherClient, last: str) -> list[str]:
    """Return the data of all events up to one."""
    heard: list[str] = []
    while not heard or heard[-1] != last:
        heard.append(json.loads(await client.receive())["data"])
    return heard


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


@pytest.mark.parametrize("fault", ["restarted", "frozen", "cut", "broken off"])
async def test_a_bad_line_to_redis_loses_no_more_than_is_told(
    fragile: Deployment, fault: str
) -> None:
    async with redis_line(fragile.redis.port) as line:
        here, there = await fragile.node(port=line.port), await fragile.node()
        near, far = await fragile.client(here), await fragile.client(there)
        await near.subscribe("orders")
        await far.subscribe("orders")

        async def publish(first: int, last: int) -> None:
            for number in numbers(first, last):
                await here.publish("n", "orders", number)

        await publish(0, 20)
        if fault == "restarted":
            fragile.redis.stop()
            await publish(20, 40)
            await becomes(here, is_ready=False)
            await publish(40, 60)
            fragile.redis.start()
        elif fault == "frozen":
            with fragile.redis.frozen():
                await publish(20, 40)
                await becomes(here, is_ready=False)
                await publish(40, 60)
        elif fault == "cut":
            line.cut()
            await publish(20, 40)
            await becomes(here, is_ready=False)
            await publish(40, 60)
            line.mend()
        else:
            for first in range(20, 60, 10):
                line.break_off()
                await publish(first, first + 10)
        for node in (here, there):
            await becomes(node, is_ready=True)
        await until(lambda: here.node.outgoing_bytes == 0)
        await publish(60, 80)

        assert await heard_until(near, "79") == numbers(0, 80)
        heard = await heard_until(far, "79")
        assert heard == sorted(set(heard), key=int), "in order, and none twice"
        assert set(heard) >= {*numbers(0, 20), *numbers(60, 80)}
        if fault in ("cut", "broken off"):
            # The subscriber's node has heard Redis all the time.
            assert 80 - len(heard) <= here.node.dropped
        await far.ping()


async def test_a_dead_connection_that_listens_is_noticed_while_commands_go_through(
    fragile: Deployment,
) -> None:
    async with redis_line(fragile.redis.port) as line:
        # Of what else a node does by the clock, nothing comes in time to notice.
        here = await fragile.node(lease_seconds=10 * LONG_PATIENCE)
        there = await fragile.node(lease_seconds=10 * LONG_PATIENCE, port=line.port)
        client = await fragile.client(there)
        await client.subscribe("orders")
        await here.publish("n", "orders", "0")
        assert await heard_until(client, "0") == ["0"]

        line.deafen()
        lost = 0
        while there.node.breaks == 0:
            lost += 1
            await here.publish("n", "orders", f"lost {lost}")
            assert (await there.request("GET", "/connections"))[0] == 200
        await becomes(there, is_ready=True)
        await here.publish("n", "orders", "last")

        heard = await heard_until(client, "last")
        # None but those between the cut and the new connection, which nobody could count.
        assert heard == [f"lost {number}" for number in range(lost + 2 - len(heard), lost + 1)] + [
            "last"
        ]
        assert lost > 0


async def test_an_idle_node_notices_that_redis_is_frozen(fragile: Deployment) -> None:
    node = await fragile.node(lease_seconds=10 * LONG_PATIENCE)
    with fragile.redis.frozen():
        await becomes(node, is_ready=False)
    await becomes(node, is_ready=True)


async def test_a_publisher_that_outruns_redis_is_told_what_was_lost(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 200_000
    monkeypatch.setattr(outgoing, "MAX_OUTGOING_BYTES", bound)
    async with redis_line(shared_redis.port) as line, AsyncExitStack() as stack:
        # However slow this machine is, Redis does not count as away.
        prefix = f"test.{secrets.token_hex(4)}:"
        deployment = Deployment(shared_redis, prefix, stack, timeout=60.0)
        here, there = await deployment.node(port=line.port), await deployment.node()
        near, far = await deployment.client(here), await deployment.client(there)
        channels = [f"orders-{number}" for number in range(10)]
        for client in (near, far):
            for channel in (*channels, "last"):
                await client.subscribe(channel)
        line.delay = 0.1
        sent = 0
        most_waiting = 0

        async def publish(publisher: int) -> None:
            nonlocal sent, most_waiting
            for _ in range(5):
                batch = [{"name": "n", "channel": c, "data": "x" * 1_000} for c in channels]
                assert await here.request("POST", "/batch_events", {"batch": batch}) == (200, "{}")
                sent += len(batch)

        async def look() -> None:
            nonlocal most_waiting
            while True:
                most_waiting = max(most_waiting, here.node.outgoing_bytes)
                await asyncio.sleep(0.001)

        looking = asyncio.create_task(look())
        reading = [asyncio.create_task(heard_until(client, "end")) for client in (near, far)]
        await asyncio.gather(*(publish(number) for number in range(60)))
        looking.cancel()
        line.delay = 0.0
        await until(lambda: here.node.outgoing_bytes == 0)
        await here.publish("n", "last", "end")

        near_heard, far_heard = await asyncio.gather(*reading)
        assert len(near_heard) == sent + 1
        assert here.node.dropped > 0
        assert len(far_heard) + here.node.dropped == sent + 1
        assert most_waiting <= bound


async def test_slow_subscribers_are_closed_and_fast_ones_get_everything(
    deployment: Deployment,
) -> None:
    app = replace(APP, max_event_data_bytes=50_000)
    here, there = await deployment.nodes(2, app, max_buffered_bytes=100_000)
    fast = [await deployment.client(node) for node in (here, there)]
    for client in fast:
        await client.subscribe("orders")
    async with AsyncExitStack() as stack:
        slow: list[RawClient] = []
        for node in (here, there, there):
            reader = await stack.enter_async_context(connected_socket(node, receive_buffer=4_096))
            await reader.open_websocket()
            await reader.send(text({"event": "pusher:subscribe", "data": {"channel": "orders"}}))
            await reader.receive_text()
            slow.append(reader)
        await has_subscribers(here, "orders", 5)

        sent = 0
        count = 5
        async with asyncio.timeout(LONG_PATIENCE):
            while count > 2:
                await here.publish("n", "orders", f"{sent:<50000}")
                for client in fast:
                    assert json.loads(await client.receive())["data"] == f"{sent:<50000}"
                sent += 1
                parameters = {"info": "subscription_count"}
                _, body = await there.request("GET", "/channels/orders", None, parameters)
                count = json.loads(body)["subscription_count"]
        for reader in slow:
            assert await told_in_order(reader) < sent
        await has_subscribers(here, "orders", 2)
        for client in fast:
            await client.ping()


async def told_in_order(client: RawClient) -> int:
    """Read what was buffered, which ends with 4100; return how many events there were."""
    reason = "Too slow: more than 100000 bytes are waiting"
    told = 0
    while (message := await client.receive()).opcode != CLOSE:
        if message.payload == error_json(4100, reason):
            continue
        assert json.loads(json.loads(message.payload)["data"]) == told
        told += 1
    assert message.payload == (4100).to_bytes(2, "big") + reason.encode()
    await client.send(close_frame(4100))
    await client.receive_end()
    return told


async def test_a_clientwhose_network_vanished_leaves_once(deployment: Deployment) -> None:
    here = await deployment.node()
    there = await deployment.node(
        replace(APP, ping_interval=1.0, pong_timeout=0.5),
        timer_resolution=0.02,
        deadlines=Deadlines(linger=0.1),
    )
    watcher, _ = await deployment.member(here, "1")
    # The line carries any connection, and here that of a client to its node.
    async with redis_line(there.port) as line:
        lost = [await member_over(deployment, line.port, user) for user in ("7", "7")]
        assert await watcher.receive() == added("7")

        line.cut()

        assert await watcher.receive() == removed("7")
        await has_users(here, "1")
        async with asyncio.timeout(LONG_PATIENCE):
            while await here.request("GET", "/connections") != (200, '{"connections":1}'):
                pass
        await watcher.ping()
        for client in lost:
            assert client.websocket.close_code is None, "nobody has told the client"
            client.websocket.transport.abort()


async def member_over(deployment: Deployment, port: int, user_id: str) -> PusherClient:
    client = await deployment.stack.enter_async_context(connected_to(port))
    await client.subscribe("presence-room", member(user_id))
    return client


async def test_a_node_that_is_killed_while_it_publishes_loses_nothing_that_it_has_answered(
    deployment: Deployment,
) -> None:
    here = await deployment.node(lease_seconds=2.0)
    client = await deployment.client(here)
    await client.subscribe("orders")
    answered: list[str] = []
    sent: list[str] = []
    async with node_process(deployment, lease_seconds=2.0) as there:

        async def publish(publisher: int) -> None:
            for number in range(100_000):
                data = f"{publisher} {number}"
                sent.append(data)
                try:
                    await there.publish("orders", data)
                except aiohttp.ClientError:
                    return
                answered.append(data)

        publishing = [asyncio.create_task(publish(number)) for number in range(8)]
        await until(lambda: len(answered) >= 200)
        there.process.kill()
        await asyncio.gather(*publishing)
    await here.publish("n", "orders", "end")

    *heard, _ = await heard_until(client, "end")
    assert len(heard) == len(set(heard)), "none comes twice"
    assert set(answered) <= set(heard) <= set(sent)
    for publisher in range(8):
        own = [data for data in heard if data.startswith(f"{publisher} ")]
        assert own == [f"{publisher} {number}" for number in range(len(own))]


async def test_users_of_a_killed_node_are_told_offline_once_where_they_are_watched(
    deployment: Deployment,
) -> None:
    nodes = await deployment.nodes(2, lease_seconds=1.0)
    watchers = [await deployment.client(node) for node in nodes]
    for number, watcher in enumerate(watchers):
        await watcher.sign_in(f'{{"id":"watcher-{number}","watchlist":["7","8"]}}')
        assert await watcher.receive() == watchlist("offline", "7", "8")
    on_two_nodes = await deployment.client(nodes[0])
    await on_two_nodes.sign_in('{"id":"8"}')
    for watcher in watchers:
        assert await watcher.receive() == watchlist("online", "8")

    async with (
        node_process(deployment) as there,
        connected_to(there.port) as seven,
        connected_to(there.port) as eight,
    ):
        await eight.sign_in('{"id":"8"}')
        await seven.sign_in('{"id":"7"}')
        for watcher in watchers:
            assert await watcher.receive() == watchlist("online", "7")
        there.process.kill()
        for watcher in watchers:
            assert await watcher.receive() == watchlist("offline", "7")

    await until(lambda: len(deployment.stored_nodes()) == 2)
    for watcher in watchers:
        await watcher.ping()
    assert [key for key in deployment.stored_keys() if key.startswith("{1001:#online.7}")] == []
    on_two_nodes.websocket.transport.abort()
    for watcher in watchers:
        assert await watcher.receive() == watchlist("offline", "8")


def watchlist(name: str, *user_ids: str) -> str:
    """Return what a watcher is told of users that it watches."""
    ids = ",".join(f'\\"{user_id}\\"' for user_id in user_ids)
    return (
        '{"event":"pusher_internal:watchlist_events","data":'
        f'"{{\\"events\\":[{{\\"name\\":\\"{name}\\",\\"user_ids\\":[{ids}]}}]}}"}}'
    )


async def test_a_killed_worker_is_replaced_and_its_members_leave_once(
    deployment: Deployment,
) -> None:
    node = await deployment.node(lease_seconds=3.0)
    watcher, _ = await deployment.member(node, "watcher")
    async with (
        node_process(deployment, "--workers", "2", lease_seconds=3.0) as server,
        AsyncExitStack() as stack,
    ):
        await until(lambda: len(deployment.stored_nodes()) == 3)
        clients: dict[str, PusherClient] = {}
        for number in range(16):
            client = await stack.enter_async_context(connected_to(server.port))
            await client.subscribe("presence-room", member(str(number)))
            assert await watcher.receive() == added(str(number))
            clients[str(number)] = client
        before, names = server.children(), deployment.stored_nodes()
        assert len(before) == 2

        server.kill_worker(before[0])
        await until(lambda: len({*server.children()} - {before[0]}) == 2)
        # Both have happened: the dead one's name has gone, and a new one has come.
        await until(lambda: len({*deployment.stored_nodes(), *names}) == 4)
        await until(lambda: len(deployment.stored_nodes()) == 3)
        await until(lambda: deployment.ghosts() == [])

        gone = sorted(set(clients) - set(deployment.stored_users()))
        assert sorted([await watcher.receive() for _ in gone]) == sorted(map(removed, gone))
        await watcher.ping()
        for user_id in gone:
            await clients[user_id].closed()
            client = await stack.enter_async_context(connected_to(server.port))
            await client.subscribe("presence-room", member(user_id))
            assert await watcher.receive() == added(user_id)
        await has_users(node, *sorted([*clients, "watcher"]))
        await watcher.ping()


async def test_workers_leave_when_their_parent_is_killed(deployment: Deployment) -> None:
    node = await deployment.node()
    watcher, _ = await deployment.member(node, "watcher")
    async with (
        node_process(deployment, "--workers", "2", lease_seconds=10.0) as server,
        AsyncExitStack() as stack,
    ):
        clients = []
        for number in range(8):
            client = await stack.enter_async_context(connected_to(server.port))
            await client.subscribe("presence-room", member(str(number)))
            assert await watcher.receive() == added(str(number))
            clients.append(client)

        server.process.kill()

        for client in clients:
            assert (await client.closed())[0] == 4200
        gone = sorted([await watcher.receive() for _ in clients])
        assert gone == sorted(removed(str(number)) for number in range(8))
        await until(lambda: len(deployment.stored_nodes()) == 1)
        await watcher.ping()
