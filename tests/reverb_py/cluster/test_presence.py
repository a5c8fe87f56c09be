"""Who is present and online, told once and alike on every node."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from reverb_py.testing import PusherClient, TestServer
from tests.reverb_py.cluster.nodes import APP, COUNTING, Deployment, member, until


def added(user_id: str) -> str:
    info = f'{{\\"name\\": \\"User {user_id}\\"}}'
    return (
        '{"event":"pusher_internal:member_added","channel":"presence-room",'
        f'"data":"{{\\"user_id\\":\\"{user_id}\\",\\"user_info\\":{info}}}"}}'
    )


def removed(user_id: str) -> str:
    return (
        '{"event":"pusher_internal:member_removed","channel":"presence-room",'
        f'"data":"{{\\"user_id\\":\\"{user_id}\\"}}"}}'
    )


async def leave(client: PusherClient, channel: str = "presence-room") -> None:
    await client.send({"event": "pusher:unsubscribe", "data": {"channel": channel}})


async def user_ids(node: TestServer) -> list[str]:
    status, body = await node.request("GET", "/channels/presence-room/users")
    assert status == 200
    return sorted(user["id"] for user in json.loads(body)["users"])


async def test_members_on_other_nodes_are_listed_and_announced(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    first, room = await deployment.member(here, "7")
    assert room == {"count": 1, "ids": ["7"], "hash": {"7": {"name": "User 7"}}}

    second, room = await deployment.member(there, "8")
    assert sorted(room["ids"]) == ["7", "8"]
    assert room["hash"]["7"] == {"name": "User 7"}
    assert await first.receive() == added("8")

    await leave(second)
    assert await first.receive() == removed("8")
    await first.ping()


async def test_a_user_on_two_nodes_comes_and_goes_once(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    watcher, _ = await deployment.member(here, "1")

    one, _ = await deployment.member(here, "7")
    two, room = await deployment.member(there, "7")
    assert room["count"] == 2
    await leave(one)
    await one.ping()
    assert await user_ids(here) == await user_ids(there) == ["1", "7"]
    await leave(two)

    assert await watcher.receive() == added("7")
    assert await watcher.receive() == removed("7")
    await watcher.ping()


async def test_a_reload_on_one_node_is_not_seen(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    watcher, _ = await deployment.member(there, "1")
    client, _ = await deployment.member(here, "7")
    assert await watcher.receive() == added("7")

    other, _ = await deployment.member(here, "7")
    await leave(client)
    await leave(other)

    assert await watcher.receive() == removed("7")
    await watcher.ping()


async def test_many_users_at_once_are_each_announced_once(deployment: Deployment) -> None:
    nodes = await deployment.nodes(3)
    watcher, _ = await deployment.member(nodes[0], "watcher")
    clients = [await deployment.client(nodes[number % 3]) for number in range(30)]

    async def visit(number: int) -> None:
        # Each user has two connections, on different nodes.
        await clients[number].subscribe("presence-room", member(str(number // 2)))

    await asyncio.gather(*(visit(number) for number in range(30)))
    for node in nodes:
        assert len(await user_ids(node)) == 16
    assert sorted([await watcher.receive() for _ in range(15)]) == sorted(
        added(str(number)) for number in range(15)
    )

    await asyncio.gather(*(leave(client) for client in clients))
    assert sorted([await watcher.receive() for _ in range(15)]) == sorted(
        removed(str(number)) for number in range(15)
    )
    await watcher.ping()


async def test_a_channel_takes_as_many_members_as_it_may_from_all_nodes(
    deployment: Deployment,
) -> None:
    here, there = await deployment.nodes(2, replace(APP, max_presence_members=2))
    await deployment.member(here, "7")
    await deployment.member(there, "8")
    refused = await deployment.client(there)

    data = {"channel": "presence-room", "channel_data": member("9")}
    data["auth"] = refused.auth_for("presence-room", data["channel_data"])
    await refused.send({"event": "pusher:subscribe", "data": data})

    assert json.loads(await refused.receive())["event"] == "pusher:subscription_error"
    assert "presence-room has 2 members already" in await refused.receive()
    _, room = await deployment.member(there, "7")
    assert room["count"] == 2


async def test_a_channel_is_full_for_who_comes_first_to_a_node(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2, replace(APP, max_presence_members=1))
    await deployment.member(here, "7")
    refused = await deployment.client(there)

    data = {"channel": "presence-room", "channel_data": member("9")}
    data["auth"] = refused.auth_for("presence-room", data["channel_data"])
    await refused.send({"event": "pusher:subscribe", "data": data})

    assert json.loads(await refused.receive())["event"] == "pusher:subscription_error"
    assert "presence-room has 1 members already" in await refused.receive()
    assert await user_ids(there) == ["7"]


async def test_who_leaves_before_the_answer_is_not_present(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    watcher, _ = await deployment.member(there, "1")
    client = await deployment.client(here)

    data = {"channel": "presence-room", "channel_data": member("7")}
    data["auth"] = client.auth_for("presence-room", data["channel_data"])
    await client.send({"event": "pusher:subscribe", "data": data})
    await leave(client)
    await client.ping()
    await deployment.member(here, "8")

    seen = [await watcher.receive()]
    while seen[-1] != added("8"):
        seen.append(await watcher.receive())
    assert seen in ([added("8")], [added("7"), removed("7"), added("8")])
    await until(lambda: "7" not in deployment.stored_users())
    assert await user_ids(here) == ["1", "8"]


async def test_reads_tell_of_all_nodes_on_each(deployment: Deployment) -> None:
    nodes = await deployment.nodes(3)
    await deployment.member(nodes[0], "7")
    await deployment.member(nodes[1], "7")
    await deployment.member(nodes[1], "8")
    client = await deployment.client(nodes[1])
    await client.subscribe("orders")

    for node in nodes:
        assert await node.request("GET", "/connections") == (200, '{"connections":4}')
        status, body = await node.request("GET", "/channels")
        assert (status, set(json.loads(body)["channels"])) == (200, {"orders", "presence-room"})
        assert await node.request(
            "GET",
            "/channels",
            None,
            {"filter_by_prefix": "presence-", "info": "user_count,subscription_count"},
        ) == (200, '{"channels":{"presence-room":{"user_count":2,"subscription_count":3}}}')
        assert await node.request(
            "GET", "/channels/orders", None, {"info": "subscription_count"}
        ) == (200, '{"occupied":true,"subscription_count":1}')
        assert await node.request("GET", "/channels/nobody") == (200, '{"occupied":false}')
        assert await user_ids(node) == ["7", "8"]


async def test_counts_are_those_of_all_nodes(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2, COUNTING)
    first, second = await deployment.client(here), await deployment.client(there)

    def count(number: int) -> str:
        return (
            '{"event":"pusher_internal:subscription_count","channel":"orders",'
            f'"data":"{{\\"subscription_count\\":{number}}}"}}'
        )

    await first.subscribe("orders")
    assert await first.receive() == count(1)
    await second.subscribe("orders")
    assert await first.receive() == count(2)
    while await second.receive() != count(2):
        pass  # It was one until the node had heard of the other.
    await leave(second, "orders")
    assert await first.receive() == count(1)
    await first.ping()


async def test_nobody_is_told_a_count_that_leaves_other_nodes_out(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2, COUNTING)
    for number in range(5):
        channel = f"orders-{number}"
        first, second = await deployment.client(here), await deployment.client(there)
        for count, client in enumerate((first, second), start=1):
            await client.subscribe(channel)
            assert await client.receive() == (
                f'{{"event":"pusher_internal:subscription_count","channel":"{channel}",'
                f'"data":"{{\\"subscription_count\\":{count}}}"}}'
            )


async def test_a_connection_that_joins_as_two_users_at_once_is_told_which_one_it_is(
    deployment: Deployment,
) -> None:
    node = await deployment.node()
    client = await deployment.client(node)
    for user_id in ("7", "8"):
        data = {"channel": "presence-room", "channel_data": member(user_id)}
        data["auth"] = client.auth_for("presence-room", data["channel_data"])
        await client.send({"event": "pusher:subscribe", "data": data})

    heard = [json.loads(await client.receive()) for _ in range(3)]
    assert [message["event"] for message in heard] == [
        "pusher:subscription_error",
        "pusher:error",
        "pusher_internal:subscription_succeeded",
    ]
    assert json.loads(heard[0]["data"])["type"] == "InvalidMember"
    assert json.loads(heard[2]["data"])["presence"]["ids"] == ["7"]


async def test_who_comes_back_with_another_info_is_seen_with_it_everywhere(
    deployment: Deployment,
) -> None:
    here, there = await deployment.nodes(2)
    watchers = [(await deployment.member(node, f"w{n}"))[0] for n, node in enumerate((here, there))]
    assert await watchers[0].receive() == added("w1")
    client, _ = await deployment.member(here, "7")
    for watcher in watchers:
        assert await watcher.receive() == added("7")

    await leave(client)
    data = await client.subscribe("presence-room", '{"user_id":"7","user_info":{"name":"Seven"}}')

    assert data["presence"]["hash"]["7"] == {"name": "Seven"}
    changed = added("7").replace('{\\"name\\": \\"User 7\\"}', '{\\"name\\":\\"Seven\\"}')
    for watcher in watchers:
        assert await watcher.receive() == removed("7")
        assert await watcher.receive() == changed
    _, room = await deployment.member(there, "9")
    assert room["hash"]["7"] == {"name": "Seven"}


async def test_watchers_hear_of_users_on_other_nodes(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)

    def events(name: str) -> str:
        data = f'{{\\"events\\":[{{\\"name\\":\\"{name}\\",\\"user_ids\\":[\\"8\\"]}}]}}'
        return f'{{"event":"pusher_internal:watchlist_events","data":"{data}"}}'

    watcher = await deployment.client(here)
    await watcher.sign_in('{"id":"7","watchlist":["8"]}')
    assert await watcher.receive() == events("offline")

    async with there.connected() as user, here.connected() as same:
        await user.sign_in('{"id":"8"}')
        assert await watcher.receive() == events("online")
        await same.sign_in('{"id":"8"}')
        late = await deployment.client(there)
        await late.sign_in('{"id":"9","watchlist":["8"]}')
        assert await late.receive() == events("online")
    assert await watcher.receive() == events("offline")
    assert await late.receive() == events("offline")
    await watcher.ping()


async def test_members_of_a_node_that_goes_leave_at_once(deployment: Deployment) -> None:
    here = await deployment.node()
    watcher, _ = await deployment.member(here, "1")

    async with deployment.leaving() as inner:
        there = await inner.node()
        await inner.member(there, "7")
        assert await watcher.receive() == added("7")

    assert await watcher.receive() == removed("7")
    await watcher.ping()
