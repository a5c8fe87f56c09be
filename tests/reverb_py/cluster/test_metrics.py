"""What nodes ask each other, and what waits for Redis, as Prometheus reads it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect

from reverb_py.core.apps import Webhook
from reverb_py.telemetry.metrics import MetricsPlace
from tests.reverb_py.cluster.nodes import APP, Deployment
from tests.reverb_py.cluster.test_presence import leave
from tests.reverb_py.server.raw_client import hub_behind
from tests.support.metrics import Scrape, scraped

PATIENCE = 60.0
METRICS = MetricsPlace(port=0)
MANY = "x" * 5_000


async def until(port: int | None, key: tuple[str, ...], value: float) -> Scrape:
    async with asyncio.timeout(PATIENCE):
        while (found := await scraped(port)).numbers.get(key) != value:
            pass
    return found


async def test_requests_between_nodes_have_soketis_names(deployment: Deployment) -> None:
    asking, other = await deployment.nodes(2, metrics=METRICS)
    for _ in range(3):
        assert await asking.request("GET", "/connections") == (200, '{"connections":0}')

    found = await scraped(asking.metrics_port)
    labels = ("1001", str(asking.port))
    assert found["horizontal_adapter_sent_requests", *labels] == 3
    assert found["horizontal_adapter_received_responses", *labels] == 3
    assert found["horizontal_adapter_resolved_promises", *labels] == 3
    assert found["horizontal_adapter_uncomplete_promises", *labels] == 0
    assert found["horizontal_adapter_received_requests", *labels] == 0
    assert found["horizontal_adapter_resolve_time_bucket", "1001", "+Inf", labels[1]] == 3
    assert found["horizontal_adapter_resolve_time_sum", *labels] > 0
    found = await scraped(other.metrics_port)
    assert found["horizontal_adapter_received_requests", "1001", str(other.port)] == 3
    assert found["http_transmitted_bytes", "1001", str(other.port)] == 0


async def test_what_is_answered_with_others_help_is_counted_too(deployment: Deployment) -> None:
    [node] = await deployment.nodes(1, metrics=METRICS)
    _, body = await node.request("GET", "/channels")
    found = await scraped(node.metrics_port)

    assert found["http_transmitted_bytes", "1001", str(node.port)] == len(body)


async def test_redis_away_is_seen_and_what_waits_for_it_is_bounded(
    fragile: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reverb_py.cluster.outgoing.MAX_OUTGOING_BYTES", 20_000)
    [node] = await fragile.nodes(1, metrics=METRICS)
    found = await scraped(node.metrics_port)
    assert (found["bus_away",], found["bus_breaks_total",]) == (0, 0)

    fragile.redis.stop()
    found = await until(node.metrics_port, ("bus_away",), 1)
    assert found["bus_breaks_total",] == 1
    dropped = found["bus_dropped_total",]
    for number in range(10):
        await node.publish("made", f"channel-{number}", MANY)
    found = await scraped(node.metrics_port)
    assert 10_000 < found["bus_pending_bytes",] <= 20_000
    assert found["bus_dropped_total",] - dropped == 7

    fragile.redis.start()
    found = await until(node.metrics_port, ("bus_away",), 0)
    await until(node.metrics_port, ("bus_pending_bytes",), 0)


async def test_orders_that_wait_for_redis_are_bounded(
    fragile: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reverb_py.cluster.outgoing.MAX_MESSAGES", 5)
    [node] = await fragile.nodes(1, metrics=METRICS)
    before = await scraped(node.metrics_port)
    bus = hub_behind(node).bus
    # In one turn of the loop, nothing is sent.
    for number in range(8):
        bus.terminate(str(number))
    found = await until(node.metrics_port, ("bus_dropped_total",), before["bus_dropped_total",] + 3)
    assert found["bus_away",] == 0


async def test_what_no_node_says_is_counted(deployment: Deployment) -> None:
    [node] = await deployment.nodes(1, metrics=METRICS)
    with deployment.redis.client() as redis:
        for _ in range(3):
            redis.publish(f"{deployment.prefix}control", "nonsense")

    await until(node.metrics_port, ("bus_unintelligible_total",), 3)


async def test_departures_that_other_nodes_may_undo_are_counted(deployment: Deployment) -> None:
    webhook = Webhook(url="http://127.0.0.1:9/", kinds=frozenset({"member_removed"}))
    app = replace(APP, webhooks=(webhook,))
    here, there = await deployment.nodes(2, app, metrics=METRICS, hold_seconds=10 * PATIENCE)
    client, _ = await deployment.member(here, "ada")
    await leave(client)

    await until(here.metrics_port, ("webhook_departures_held", "1001"), 1)
    assert (await scraped(there.metrics_port))["webhook_departures_held", "1001"] == 0
    # So that nothing is left to tell an endpoint that is not there.
    await deployment.member(there, "ada")
    here.reload(APP)
    there.reload(APP)


async def test_workers_are_one_target_and_each_says_what_it_says_as_json(
    deployment: Deployment,
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "REVERB_APP_ID": APP.id,
        "REVERB_APP_KEY": APP.key,
        "REVERB_APP_SECRET": APP.secret,
        "REVERB_SCALING_ENABLED": "true",
        "REVERB_SCALING_CHANNEL": deployment.prefix.removesuffix(":"),
        "REVERB_METRICS_PORT": "0",
        "REVERB_LOG_FORMAT": "json",
        "REDIS_PORT": str(deployment.redis.port),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reverb_py", "start"),
        *("--host", "127.0.0.1", "--port", "0", "--workers", "2"),
        env=environment,
        stdin=PIPE,
        stderr=PIPE,
    )
    lines: list[dict[str, Any]] = []
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE):
            while [line["event"] for line in lines].count("Listening") < 2:
                lines.append(json.loads(await process.stderr.readline()))
        [url] = [line["url"] for line in lines if line["event"] == "Showing metrics"]
        metrics_port = int(url.removesuffix("/metrics").rpartition(":")[2])
        port = lines[-1]["url"].rpartition(":")[2]
        async with AsyncExitStack() as stack:
            for _ in range(8):
                url = f"ws://127.0.0.1:{port}/app/{APP.key}?protocol=7"
                client = await stack.enter_async_context(connect(url))
                await client.recv()
            found = await scraped(metrics_port)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{metrics_port}/ready") as response,
            ):
                assert (response.status, await response.text()) == (200, '{"ready":true}')
        assert [found["worker_up", worker] for worker in "01"] == [1, 1]
        assert sum(found["connected", APP.id, port, worker] for worker in "01") == 8
        assert [found["bus_away", worker] for worker in "01"] == [0, 0]
    finally:
        process.terminate()
        async with asyncio.timeout(PATIENCE):
            _, rest = await process.communicate()
    assert process.returncode == 0
    ends = [json.loads(line)["event"] for line in rest.splitlines()]
    assert ends.count("Stopped") == 2
