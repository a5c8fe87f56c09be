"""Requests whose answers take other nodes' words, on connections with more than one of them."""

from __future__ import annotations

import asyncio
import re
import signal
import time

import pytest

from reverb_py.protocol import signing
from reverb_py.telemetry.metrics import MetricsPlace
from reverb_py.testing import PATIENCE, TestServer
from tests.reverb_py.cluster.nodes import APP, Deployment, until
from tests.reverb_py.cluster.processes import connected_to, node_process
from tests.support.metrics import scraped


def signed(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    full_path = f"/apps/{APP.id}{path}"
    query = signing.signed_query(APP.key, APP.secret, method, full_path, body, int(time.time()), {})
    target = f"{full_path}?" + "&".join(f"{name}={value}" for name, value in query.items())
    head = f"{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


async def answers_to(node: TestServer, data: bytes, *, ends: bool = True) -> bytes:
    """Send these bytes at once, and return everything up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    async with asyncio.timeout(PATIENCE):
        writer.write(data)
        answers = await reader.read() if ends else await reader.read(100_000)
    writer.close()
    return answers


async def test_requests_that_come_together_are_answered_in_order(deployment: Deployment) -> None:
    here, _ = await deployment.nodes(2)
    publish = signed("POST", "/events", b'{"name":"n","channel":"a","data":"1"}')
    requests = [
        signed("GET", "/connections"),
        b"GET /up HTTP/1.1\r\nHost: a\r\n\r\n",
        publish,
        b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n",
        signed("GET", "/channels/orders"),
        signed("GET", "/channels", headers="Connection: close\r\n"),
    ]

    answers = await answers_to(here, b"".join(requests))

    bodies = [answer.rpartition(b"\r\n\r\n")[2] for answer in answers.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [
        b'{"connections":0}',
        b'{"health":"OK"}',
        b"{}",
        b"There is nothing at /nothing",
        b'{"occupied":false}',
        b'{"channels":{}}',
    ]


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (
            b"GET /app/k HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            b"400",
        ),
    ],
)
async def test_what_ends_the_connection_waits_for_the_answers_before_it(
    deployment: Deployment, bad: bytes, status: bytes
) -> None:
    here, _ = await deployment.nodes(2)

    answers = await answers_to(here, signed("GET", "/connections") + bad)

    assert re.findall(rb"HTTP/1.1 (\d+) ", answers) == [b"200", status]


async def test_who_hangs_up_before_the_answer_disturbs_nobody(deployment: Deployment) -> None:
    here, _ = await deployment.nodes(2)
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(signed("GET", "/connections"))
        await writer.drain()
        writer.transport.abort()

    assert await here.request("GET", "/connections") == (200, '{"connections":0}')


async def test_nobody_waits_for_a_node_whose_lease_is_over(deployment: Deployment) -> None:
    here = await deployment.node(lease_seconds=1.0, metrics=MetricsPlace(port=0))
    labels = (APP.id, str(here.port))
    async with node_process(deployment) as frozen, connected_to(frozen.port):
        assert await here.request("GET", "/connections") == (200, '{"connections":1}')
        frozen.process.send_signal(signal.SIGSTOP)
        await until(lambda: len(deployment.stored_nodes()) == 1)
        before = await scraped(here.metrics_port)

        for _ in range(3):
            assert await here.request("GET", "/connections") == (200, '{"connections":0}')

        # Redis has its connection still.
        with deployment.redis.client() as redis:
            assert redis.pubsub_numsub(f"{deployment.prefix}control")[0][1] == 2
        found = await scraped(here.metrics_port)
        for name, asked in (("resolved_promises", 3), ("uncomplete_promises", 0)):
            metric = (f"horizontal_adapter_{name}", *labels)
            assert found[metric] - before[metric] == asked


async def test_a_node_that_does_not_answer_is_left_out(deployment: Deployment) -> None:
    here = await deployment.node()
    client = await deployment.client(here)
    with deployment.redis.client() as redis:
        silent = redis.pubsub()
        silent.subscribe(f"{deployment.prefix}control")
        await asyncio.to_thread(silent.get_message, timeout=5)

        assert await here.request("GET", "/connections") == (200, '{"connections":1}')
        silent.close()
    await client.ping()
