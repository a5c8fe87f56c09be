"""What is published on one node arrives on all: once, in order, and not where it is excluded."""

from __future__ import annotations

import asyncio
import json

from tests.reverb_py.cluster.nodes import APP, COUNTING, Deployment, member, until

EVENT = '{"event":"order-shipped","channel":"orders","data":"{\\"id\\":%d}"}'


async def test_an_event_reaches_subscribers_on_every_node_once(deployment: Deployment) -> None:
    nodes = await deployment.nodes(3)
    clients = [await deployment.client(node) for node in nodes]
    for client in clients:
        await client.subscribe("orders")

    for number, node in enumerate(nodes):
        await node.publish("order-shipped", "orders", f'{{"id":{number}}}')

    for client in clients:
        received = sorted([await client.receive() for _ in nodes])
        assert received == [EVENT % number for number in range(3)]
        await client.ping()


async def test_a_client_that_was_acknowledged_misses_nothing(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)

    for number in range(20):
        client = await deployment.client(here)
        await client.subscribe(f"orders-{number}")
        await there.publish("order-shipped", f"orders-{number}", "{}")
        assert json.loads(await client.receive())["channel"] == f"orders-{number}"


async def test_events_of_a_publisher_come_in_order(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    client = await deployment.client(there)
    await client.subscribe("orders")

    batches = [
        [{"name": "n", "channel": "orders", "data": str(10 * b + n)} for n in range(10)]
        for b in range(20)
    ]
    for batch in batches:
        assert await here.request("POST", "/batch_events", {"batch": batch}) == (200, "{}")

    received = [json.loads(await client.receive())["data"] for _ in range(200)]
    assert received == [str(number) for number in range(200)]


async def test_the_socket_that_is_excluded_gets_nothing_on_whichever_node(
    deployment: Deployment,
) -> None:
    here, there = await deployment.nodes(2)
    sender, other = await deployment.client(there), await deployment.client(there)
    await sender.subscribe("orders")
    await other.subscribe("orders")

    await here.publish("order-shipped", "orders", '{"id":1}', socket_id=sender.socket_id)
    await here.publish("order-shipped", "orders", '{"id":2}')

    assert await other.receive() == EVENT % 1
    assert await other.receive() == EVENT % 2
    assert await sender.receive() == EVENT % 2


async def test_client_events_reach_the_members_on_other_nodes(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    sender, _ = await deployment.member(here, "7")
    receiver, _ = await deployment.member(there, "8")
    await sender.receive()  # member_added

    await sender.send(
        {"event": "client-typing", "channel": "presence-room", "data": {"is": "typing"}}
    )

    assert await receiver.receive() == (
        '{"event":"client-typing","channel":"presence-room","data":{"is":"typing"},"user_id":"7"}'
    )
    await sender.ping()


async def test_a_node_listens_only_while_it_has_subscribers(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    client = await deployment.client(here)
    topic = f"{deployment.prefix}{{1001:orders}}"

    def listeners() -> int:
        with deployment.redis.client() as redis:
            return int(redis.pubsub_numsub(topic)[0][1])

    await there.publish("order-shipped", "orders", "{}")
    assert listeners() == 0
    await client.subscribe("orders")
    assert listeners() == 1
    await client.send({"event": "pusher:unsubscribe", "data": {"channel": "orders"}})
    await until(lambda: listeners() == 0)
    await client.subscribe("orders")
    assert listeners() == 1


async def test_nothing_is_left_in_redis_when_the_nodes_have_gone(deployment: Deployment) -> None:
    async with deployment.leaving() as inner:
        here, there = await inner.nodes(2)
        clients = [await inner.client(here), await inner.client(there)]
        for number, client in enumerate(clients):
            await client.subscribe("orders")
            await client.subscribe("presence-room", member(str(number)))
            await client.sign_in(f'{{"id":"{number}","watchlist":["0","1"]}}')
        assert [key for key in deployment.stored_keys() if key.startswith("{1001:orders}")]

    assert deployment.stored_keys() == []


async def test_a_node_forgets_channels_that_nobody_is_in(deployment: Deployment) -> None:
    node = await deployment.node()
    client = await deployment.client(node)
    for number in range(30):
        await client.subscribe(f"presence-{number}", member("7"))
        await client.send(
            {"event": "pusher:unsubscribe", "data": {"channel": f"presence-{number}"}}
        )
    await client.ping()

    await until(lambda: deployment.stored_keys() == ["{nodes}"])


async def test_the_last_event_is_known_on_every_node(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    await here.publish("order-shipped", "cache-orders", '{"id":1}')
    client = await deployment.client(there)

    await client.subscribe("cache-orders")
    assert await client.receive() == (
        '{"event":"order-shipped","channel":"cache-orders","data":"{\\"id\\":1}"}'
    )

    await here.publish("order-shipped", "cache-orders", '{"id":2}')
    second = (await client.receive()).replace("1", "2")
    other = await deployment.client(there)
    await other.subscribe("cache-orders")
    assert await other.receive() == second
    status, body = await here.request("GET", "/channels/cache-orders", None, {"info": "cache"})
    assert (status, json.loads(body)["cache"]["data"]) == (200, '{"id":2}')


async def test_what_was_published_elsewhere_since_replaces_what_a_node_remembers(
    deployment: Deployment,
) -> None:
    here, there = await deployment.nodes(2)
    await here.publish("order-shipped", "cache-orders", '{"id":1}')
    await there.publish("order-shipped", "cache-orders", '{"id":2}')
    client = await deployment.client(here)

    await client.subscribe("cache-orders")

    assert json.loads(await client.receive())["data"] == '{"id":2}'


async def test_nobody_having_spoken_is_a_miss_on_every_node(deployment: Deployment) -> None:
    node = await deployment.node()
    client = await deployment.client(node)

    await client.subscribe("cache-orders")

    assert await client.receive() == '{"event":"pusher:cache_miss","channel":"cache-orders"}'


async def test_terminating_closes_a_users_connections_on_every_node(
    deployment: Deployment,
) -> None:
    here, there = await deployment.nodes(2)
    clients = [await deployment.client(here), await deployment.client(there)]
    for client in clients:
        await client.sign_in('{"id":"7"}')
    other = await deployment.client(there)

    assert await here.request("POST", "/users/7/terminate_connections", {}) == (200, "{}")

    for client in clients:
        assert (await client.closed())[0] == 4009
    await other.ping()


async def test_a_repeated_publish_is_recognised_on_another_node(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    client = await deployment.client(here)
    await client.subscribe("orders")
    event = {
        "name": "order-shipped",
        "channels": ["orders"],
        "data": '{"id":1}',
        "info": "subscription_count",
        "idempotency_key": "k1",
    }

    first = await here.request("POST", "/events", event)
    second = await there.request("POST", "/events", event)
    third = await there.request("POST", "/events", event | {"idempotency_key": "k2"})

    assert (
        first
        == second
        == third
        == (
            200,
            '{"channels":{"orders":{"subscription_count":1}}}',
        )
    )
    assert [await client.receive() for _ in range(2)] == [EVENT % 1] * 2
    await client.ping()


async def test_a_repeated_batch_is_recognised_on_another_node(deployment: Deployment) -> None:
    here, there = await deployment.nodes(2)
    client = await deployment.client(here)
    await client.subscribe("orders")
    batch = {"batch": [{"name": "n", "channel": "orders", "data": "1", "idempotency_key": "b1"}]}

    for node in (here, there, here):
        assert await node.request("POST", "/batch_events", batch) == (200, "{}")

    await client.receive()
    await client.ping()


async def test_the_same_request_on_two_nodes_at_once_is_published_once(
    deployment: Deployment,
) -> None:
    nodes = await deployment.nodes(2)
    client = await deployment.client(nodes[0])
    await client.subscribe("orders")
    event = {"name": "n", "channels": ["orders"], "data": "{}", "idempotency_key": "k"}

    answers = await asyncio.gather(*(node.request("POST", "/events", event) for node in nodes * 3))

    assert answers == [(200, "{}")] * 6
    await client.receive()
    await client.ping()


async def test_apps_do_not_hear_each_other(deployment: Deployment) -> None:
    here = await deployment.node(APP, COUNTING)
    there = await deployment.node(COUNTING, APP)
    client = await deployment.client(here)
    await client.subscribe("orders")

    await there.publish("order-shipped", "orders", '{"id":1}')
    there.app = APP
    await there.publish("order-shipped", "orders", '{"id":2}')

    assert await client.receive() == EVENT % 2
