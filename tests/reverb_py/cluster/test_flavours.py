"""Redis as a Cluster, behind a Sentinel, over TLS, and with as few rights as will do."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from reverb_py.testing import PusherClient, TestServer
from tests.reverb_py.cluster.nodes import APP, COUNTING, LONG_PATIENCE, Deployment, until
from tests.reverb_py.cluster.test_faults import becomes, has_users
from tests.reverb_py.cluster.test_presence import added, leave, removed, user_ids
from tests.reverb_py.webhooks.receiver import receiving
from tests.support.redis import (
    RedisServer,
    free_port,
    redis_cluster,
    redis_sentinel,
    redis_server,
)


async def everything_works(deployment: Deployment) -> list[TestServer]:
    """Go through what nodes do for each other, on two of them."""
    here, there = nodes = await deployment.nodes(2, APP, COUNTING)
    first, _ = await deployment.member(here, "7")
    second, room = await deployment.member(there, "8")
    assert sorted(room["ids"]) == ["7", "8"]
    assert await first.receive() == added("8")
    for number in range(20):
        channel = f"cache-orders-{number}"
        await here.publish("n", channel, "1")
        await second.subscribe(channel)
        assert json.loads(await second.receive())["data"] == "1"
        await here.publish("n", channel, "2")
        assert json.loads(await second.receive())["data"] == "2"
    await first.sign_in('{"id":"7","watchlist":["8"]}')
    assert "offline" in await first.receive()
    await second.sign_in('{"id":"8"}')
    assert "online" in await first.receive()
    assert await there.request("GET", "/connections") == (200, '{"connections":2}')
    event = {"name": "n", "channels": ["presence-room"], "data": "3", "idempotency_key": "k"}
    for node in nodes:
        assert await node.request("POST", "/events", event) == (200, "{}")
    for client in (first, second):
        assert json.loads(await client.receive())["data"] == "3"
    assert await user_ids(here) == ["7", "8"]
    await leave(second)
    assert await first.receive() == removed("8")
    await here.request("POST", "/users/8/terminate_connections", {})
    assert (await second.closed())[0] == 4009
    return nodes


async def a_return_is_silent(deployment: Deployment) -> None:
    """See that the backend hears of one visit when somebody moves from one node to the other."""
    async with receiving() as receiver, deployment.leaving() as leaving:
        app = replace(APP, webhooks=(receiver.webhook("member_added", "member_removed"),))
        here, there = await leaving.nodes(2, app, hold_seconds=100 * LONG_PATIENCE)
        for node in (here, there):
            client, _ = await leaving.member(node, "ada", "presence-desk")
            await leave(client, "presence-desk")
            async with asyncio.timeout(LONG_PATIENCE):
                while node.node.held() != {APP.id: 1}:  # noqa: ASYNC110 - asked, not told
                    await asyncio.sleep(0.01)
    ada = {"channel": "presence-desk", "user_id": "ada"}
    assert [event["name"] for event in receiver.events] == ["member_added", "member_removed"]
    assert all(event.items() >= ada.items() for event in receiver.events)


async def a_quiet_node_stays(deployment: Deployment, servers: list[RedisServer]) -> None:
    """See that a node that hears nothing, and has no topic on most primaries, holds its lines."""

    def checks(server: RedisServer) -> int:
        with server.client() as client:
            pings = client.info("commandstats").get("cmdstat_ping", {"calls": 0})
            return int(pings["calls"])

    async with deployment.leaving() as leaving:
        node = await leaving.node()
        before = [checks(server) for server in servers]
        await until(
            lambda: all(
                checks(server) >= number + 6 for server, number in zip(servers, before, strict=True)
            )
        )
        assert (node.node.breaks, node.node.trouble) == (0, None)


async def test_a_cluster_with_sharded_topics() -> None:
    with redis_cluster() as servers:
        async with AsyncExitStack() as stack:
            deployment = Deployment(servers[0], "test:", stack, is_cluster=True)
            await a_quiet_node_stays(deployment, servers)
            await a_return_is_silent(deployment)
            await everything_works(deployment)
            sizes = []
            for server in servers:
                with server.client() as client:
                    sizes.append(client.dbsize())
            assert all(sizes), "the keys lie on every node"


async def test_a_slot_that_moves_to_another_primary_is_followed() -> None:
    with redis_cluster() as servers:
        async with AsyncExitStack() as stack:
            deployment = Deployment(servers[0], "test:", stack, is_cluster=True)
            here, there = await deployment.nodes(2, lease_seconds=2.0)
            first, _ = await deployment.member(here, "7")
            second, _ = await deployment.member(there, "8")
            assert await first.receive() == added("8")

            for _ in range(3):
                move_slot_of(servers, f"{{{APP.id}:presence-room}}")
                for node in (here, there):
                    await becomes(node, is_ready=True)
                await has_users(here, "7", "8")
                await has_users(there, "7", "8")

            # The last break may still have been unnoticed: what crosses then is not promised.
            await both_are_heard(here, first, second)
            await both_are_heard(there, first, second)


async def both_are_heard(node: TestServer, *clients: PusherClient) -> None:
    """Publish until everybody hears, and see that meanwhile nobody came or went."""
    for client in clients:
        heard = False
        async with asyncio.timeout(LONG_PATIENCE):
            while not heard:
                mark = secrets.token_hex(4)
                await node.publish("n", "presence-room", mark)
                await client.send('{"event":"pusher:ping","data":{}}')
                while "pong" not in (text := await client.receive()):
                    assert "member_" not in text
                    heard = heard or mark in text


def move_slot_of(servers: list[RedisServer], key: str) -> None:
    """Move a key's slot, with everything in it, to the primary after the one that has it."""
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for server in servers]

        def on(number: int, *command: str | int | bytes) -> Any:
            return clients[number].execute_command(*command)

        slot = on(0, "CLUSTER", "KEYSLOT", key)
        ids = [on(number, "CLUSTER", "MYID") for number in range(len(servers))]
        keys = [on(number, "CLUSTER", "GETKEYSINSLOT", slot, 100) for number in range(len(servers))]
        owner = next(number for number in range(len(servers)) if keys[number])
        target = (owner + 1) % len(servers)
        on(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
        on(owner, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        port = servers[target].port
        on(owner, "MIGRATE", "127.0.0.1", port, "", 0, 5_000, "KEYS", *keys[owner])
        for number in (target, owner, *range(len(servers))):
            on(number, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])


async def test_a_server_that_a_sentinel_knows_and_its_replacement() -> None:
    with redis_server() as primary:
        replicating = ("--replicaof", "127.0.0.1", str(primary.port))
        with redis_server(*replicating) as replica, redis_sentinel(primary) as port:
            await sentinel_knows_replica(port)
            async with AsyncExitStack() as stack:
                sentinels = (("127.0.0.1", port),)
                deployment = Deployment(primary, "test:", stack, sentinels=sentinels)
                nodes = await everything_works(deployment)

                primary.stop()
                for node in nodes:
                    await becomes(node, is_ready=False)
                for node in nodes:
                    await becomes(node, is_ready=True)
                deployment.redis = replica
                assert deployment.stored_users() == ["7"]


async def sentinel_knows_replica(port: int) -> None:
    async with asyncio.timeout(30), Redis(port=port, protocol=2) as sentinel:
        while not await sentinel.sentinel_slaves("mymaster"):  # noqa: ASYNC110 - asked, not told
            await asyncio.sleep(0.05)


def certificate_in(folder: Path) -> tuple[Path, Path]:
    """Make a key and a certificate for this machine."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


async def test_redis_over_tls(tmp_path: Path) -> None:
    key, certificate = certificate_in(tmp_path)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificate)]
    options += ["--tls-key-file", str(key), "--tls-auth-clients", "no"]
    with redis_server(*options) as server:
        async with AsyncExitStack() as stack:
            deployment = Deployment(
                server, "test:", stack, port=port, has_tls=True, tls_ca_file=str(certificate)
            )
            await everything_works(deployment)


async def test_a_user_with_the_rights_that_the_documentation_lists(own_redis: RedisServer) -> None:
    page = (Path(__file__).parents[3] / "docs" / "scaling.md").read_text()
    rights = next(line for line in page.splitlines() if line.startswith("ACL SETUSER"))
    with own_redis.client() as client:
        client.execute_command(*rights.replace("PASSWORD", "a-secret").split())
    async with AsyncExitStack() as stack:
        deployment = Deployment(own_redis, "reverb:", stack, username="reverb", password="a-secret")
        await a_return_is_silent(deployment)
        await everything_works(deployment)
