"""Redis as a Cluster, behind a Sentinel, over TLS, and with as few rights as will do."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

from redis.asyncio import Redis

from reverb_py.testing import TestServer
from tests.reverb_py.cluster.nodes import APP, COUNTING, Deployment
from tests.reverb_py.cluster.test_faults import becomes
from tests.reverb_py.cluster.test_presence import added, leave, removed, user_ids
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


async def test_a_cluster_with_sharded_topics() -> None:
    with redis_cluster() as servers:
        async with AsyncExitStack() as stack:
            deployment = Deployment(servers[0], "test:", stack, is_cluster=True)
            await everything_works(deployment)
            sizes = []
            for server in servers:
                with server.client() as client:
                    sizes.append(client.dbsize())
            assert all(sizes), "the keys lie on every node"


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
        await everything_works(deployment)
