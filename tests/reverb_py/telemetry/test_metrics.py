"""Metrics over HTTP, as Prometheus reads them: each name, each label, each number."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from reverb_py.core.apps import App
from reverb_py.core.figures import Histogram, Measure, Sample
from reverb_py.protocol.channel_names import user_channel
from reverb_py.telemetry.metrics import (
    Answer,
    Metrics,
    MetricsPlace,
    MetricsUnavailable,
    WorkersMetrics,
)
from reverb_py.testing import TestServer, serving
from tests.reverb_py.webhooks.receiver import Receiver
from tests.support.metrics import Scrape, open_metrics, scraped

PATIENCE = 30.0
PLACE = MetricsPlace(port=0)
APP = App(id="1001", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8")
OTHER = App(id="1002", key="other-key", secret="another long secret")


def good(path: str) -> Answer:
    return Answer(200, path.encode(), "text/plain")


def bad(path: str) -> Answer:
    return Answer(503, b"Redis is away", "text/plain")


def measures(number: float, histogram: Histogram) -> list[Measure]:
    def one() -> list[Sample]:
        return [Sample(("1001",), number), Sample(('a"\\\n',), 2)]

    return [
        Measure("new_connections_total", "counter", "Opened.", ("app_id",), one),
        Measure("socket_received_bytes", "counter", "Bytes.", ("app_id",), one),
        Measure("connected", "gauge", "Open.", (), lambda: [Sample((), number)]),
        Measure("seconds", "histogram", "How long.", (), lambda: [Sample((), histogram)]),
    ]


async def exposition(port: int | None, accept: str = "") -> str:
    async with (
        aiohttp.ClientSession(headers={"Accept": accept}) as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        assert response.status == 200
        return await response.text()


async def until(port: int | None, key: tuple[str, ...], value: float) -> Scrape:
    """Scrape until a number is there."""
    async with asyncio.timeout(PATIENCE):
        while (found := await scraped(port)).numbers.get(key) != value:
            pass
    return found


async def test_each_kind_of_measure_is_written_as_prometheus_wants_it() -> None:
    histogram = Histogram((0.001, 1))
    for value in (0.0005, 0.001, 0.5, 7):
        histogram.observe(value)
    metrics = Metrics("reverb_", "1.2.3", good)
    metrics.watch(measures(3, histogram))
    async with metrics.served(PLACE) as port:
        text = await exposition(port)
        of_open_metrics = await exposition(port, "application/openmetrics-text; version=1.0.0")

    assert text.endswith(
        """\
# HELP reverb_new_connections_total Opened.
# TYPE reverb_new_connections_total counter
reverb_new_connections_total{app_id="1001"} 3.0
reverb_new_connections_total{app_id="a\\"\\\\\\n"} 2.0
# HELP reverb_socket_received_bytes Bytes.
# TYPE reverb_socket_received_bytes untyped
reverb_socket_received_bytes{app_id="1001"} 3.0
reverb_socket_received_bytes{app_id="a\\"\\\\\\n"} 2.0
# HELP reverb_connected Open.
# TYPE reverb_connected gauge
reverb_connected 3.0
# HELP reverb_seconds How long.
# TYPE reverb_seconds histogram
reverb_seconds_bucket{le="0.001"} 2.0
reverb_seconds_bucket{le="1.0"} 3.0
reverb_seconds_bucket{le="+Inf"} 4.0
reverb_seconds_count 4.0
reverb_seconds_sum 7.5015
"""
    )
    assert re.search(
        r'^reverb_build_info\{python="3\.\d+\.\S+",version="1\.2\.3"\} 1\.0$', text, re.M
    )
    assert "process_resident_memory_bytes" in text
    of_open = open_metrics(of_open_metrics)
    assert of_open["reverb_new_connections"] == "counter"
    assert of_open["reverb_socket_received_bytes"] == "unknown"
    assert of_open["reverb_seconds"] == "histogram"
    assert '\nreverb_socket_received_bytes{app_id="1001"} 3.0\n' in of_open_metrics


async def test_the_lag_of_the_event_loop_is_looked_at() -> None:
    async with Metrics("reverb_", "1.2.3", good).served(PLACE) as port:
        async with asyncio.timeout(PATIENCE):
            while (await scraped(port))["event_loop_lag_seconds_count",] < 2:
                pass


async def test_health_is_what_the_server_says() -> None:
    for answer, status in ((good, 200), (bad, 503)):
        async with (
            Metrics("reverb_", "1.2.3", answer).served(PLACE) as port,
            aiohttp.ClientSession() as session,
        ):
            for path in ("/up", "/ready"):
                async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                    assert response.status == status
                    assert await response.read() == answer(path).body
            async with session.get(f"http://127.0.0.1:{port}/") as response:
                assert response.status == 404


async def test_a_port_that_is_taken_is_said_with_the_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            MetricsUnavailable,
            match=rf"can't show metrics on 127\.0\.0\.1:{port}: .*REVERB_METRICS_PORT",
        ):
            async with serving(metrics=MetricsPlace(port=port)):
                pass


# A server that is used.


@pytest_asyncio.fixture
async def server() -> AsyncIterator[TestServer]:
    async with serving(APP, OTHER, metrics=PLACE) as server:
        yield server


async def test_a_scrape_has_soketis_names_and_labels_and_every_number_by_app(
    server: TestServer,
) -> None:
    async with server.connected() as one, server.connected() as two:
        await one.subscribe("orders")
        await two.subscribe("orders")
        await server.publish("made", "orders", "1")
        event = '{"event":"made","channel":"orders","data":"1"}'
        assert [await one.receive(), await two.receive()] == [event, event]
        await two.ping()
        before = await scraped(server.metrics_port)
    found = await until(
        server.metrics_port, ("new_disconnections_total", "1001", str(server.port)), 2
    )

    hello = len(
        '{"event":"pusher:connection_established","data":"{\\"socket_id\\":\\"\\",'
        '\\"activity_timeout\\":30}"}'
    )
    subscribed = len(
        '{"event":"pusher_internal:subscription_succeeded","channel":"orders","data":"{}"}'
    )
    pong = len('{"event":"pusher:pong","data":"{}"}')
    heads = 2 * (2 + 2 + 2) + 2  # of frames below 126 bytes
    sent = 2 * (hello + subscribed + len(event)) + pong + heads
    sent += len(one.socket_id) + len(two.socket_id)
    asked = len('{"event":"pusher:subscribe","data":{"channel":"orders"}}')
    pinged = len('{"event":"pusher:ping","data":{}}')
    received = 2 * asked + pinged + 3 * 6
    published = len('{"name":"made","channels":["orders"],"data":"1"}')
    lines = [
        line.replace(f'port="{server.port}"', 'port="PORT"')
        for line in before.text.splitlines()
        if line.startswith("reverb_") and 'port="' in line
    ]
    assert lines == [
        'reverb_connected{app_id="1001",port="PORT"} 2.0',
        'reverb_connected{app_id="1002",port="PORT"} 0.0',
        'reverb_new_connections_total{app_id="1001",port="PORT"} 2.0',
        'reverb_new_connections_total{app_id="1002",port="PORT"} 0.0',
        'reverb_new_disconnections_total{app_id="1001",port="PORT"} 0.0',
        'reverb_new_disconnections_total{app_id="1002",port="PORT"} 0.0',
        f'reverb_socket_received_bytes{{app_id="1001",port="PORT"}} {received}.0',
        'reverb_socket_received_bytes{app_id="1002",port="PORT"} 0.0',
        f'reverb_socket_transmitted_bytes{{app_id="1001",port="PORT"}} {sent}.0',
        'reverb_socket_transmitted_bytes{app_id="1002",port="PORT"} 0.0',
        'reverb_ws_messages_received_total{app_id="1001",port="PORT"} 3.0',
        'reverb_ws_messages_received_total{app_id="1002",port="PORT"} 0.0',
        'reverb_ws_messages_sent_total{app_id="1001",port="PORT"} 7.0',
        'reverb_ws_messages_sent_total{app_id="1002",port="PORT"} 0.0',
        f'reverb_http_received_bytes{{app_id="1001",port="PORT"}} {published}.0',
        'reverb_http_received_bytes{app_id="1002",port="PORT"} 0.0',
        'reverb_http_transmitted_bytes{app_id="1001",port="PORT"} 2.0',
        'reverb_http_transmitted_bytes{app_id="1002",port="PORT"} 0.0',
        'reverb_http_calls_received_total{app_id="1001",port="PORT"} 1.0',
        'reverb_http_calls_received_total{app_id="1002",port="PORT"} 0.0',
    ]
    assert before["delivery_latency_seconds_count",] == 1
    assert before["delivery_batch_frames_bucket", "1.0"] == 1
    assert found["connected", "1001", str(server.port)] == 0
    assert found["open_sockets",] == 1  # that of the publish is kept alive


async def test_a_scrape_is_valid_in_both_forms(server: TestServer) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        text = await exposition(server.metrics_port, "application/openmetrics-text; version=1.0.0")
    names = open_metrics(text)
    classic = (await scraped(server.metrics_port)).families

    assert {name.removeprefix("reverb_") for name in names} == {
        name.removesuffix("_total").removesuffix("_info") for name in classic
    }


async def test_a_prefix_makes_it_soketis() -> None:
    async with serving(metrics=replace(PLACE, prefix="soketi_")) as server:
        text = await exposition(server.metrics_port)

    assert f'\nsoketi_connected{{app_id="1001",port="{server.port}"}} 0.0\n' in text
    assert f'\nsoketi_socket_received_bytes{{app_id="1001",port="{server.port}"}} 0.0\n' in text
    assert "reverb_" not in text


async def test_channels_are_counted_as_they_open_and_close(server: TestServer) -> None:
    async with server.connected() as stays, server.connected() as client:
        await stays.subscribe("orders")
        await client.subscribe("orders")
        await client.subscribe("cache-orders")
        assert "pusher:cache_miss" in await client.receive()
        await client.subscribe("private-encrypted-a")
        await client.subscribe("presence-a", '{"user_id":"7"}')
        await client.sign_in('{"id":"7"}')
        await client.subscribe(user_channel("7"))
        found = await scraped(server.metrics_port)
        kinds = ("private-encrypted", "presence", "public", "server-to-user")
        assert [found["active_channels", "1001", kind] for kind in kinds] == [1, 1, 2, 1]
        made = "channel_subscriptions_total"
        assert [found[made, "1001", kind] for kind in kinds] == [1, 1, 3, 1]

        await client.send({"event": "pusher:unsubscribe", "data": {"channel": "cache-orders"}})
        await client.ping()
        found = await scraped(server.metrics_port)
        assert found["active_channels", "1001", "public"] == 1
        assert found["channel_unsubscriptions_total", "1001", "public"] == 1
        await client.websocket.close()
        ended = ("channel_unsubscriptions_total", "1001", "server-to-user")
        found = await until(server.metrics_port, ended, 1)
        assert [found["active_channels", "1001", kind] for kind in kinds] == [0, 0, 1, 0]


async def test_whoever_gets_less_than_the_others_is_counted_exactly(server: TestServer) -> None:
    async with server.connected() as sender, server.connected() as other:
        for client in (sender, other):
            await client.subscribe("private-room")
            await client.subscribe("news")
        before = await scraped(server.metrics_port)
        batch = [
            {"name": "a", "channel": "private-room", "data": "1", "socket_id": sender.socket_id},
            {"name": "b", "channel": "news", "data": "1"},
        ]
        assert (await server.request("POST", "/batch_events", {"batch": batch}))[0] == 200
        await sender.send({"event": "client-x", "channel": "private-room", "data": "{}"})
        received = [await other.receive() for _ in range(3)]
        received.append(await sender.receive())
        await sender.ping()
        found = await scraped(server.metrics_port)

    port = str(server.port)
    count = ("ws_messages_sent_total", "1001", port)
    size = ("socket_transmitted_bytes", "1001", port)
    assert found[count] - before[count] == len(received) + 1
    pong = '{"event":"pusher:pong","data":"{}"}'
    assert found[size] - before[size] == sum(len(text) + 2 for text in [*received, pong])


async def test_refusals_and_closes_are_counted_by_their_codes(server: TestServer) -> None:
    async with server.connect("/app/nobody") as refused:
        await refused.closed()
    async with server.connect("/nowhere") as refused:
        await refused.closed()
    async with server.connected() as client:
        await client.send(b"binary")
        assert (await client.closed())[0] == 1003
    async with server.connected() as client:
        await client.send("x" * 20_000)
        assert (await client.closed())[0] == 1009
    async with server.connected() as client:
        await client.websocket.close(1000)
    async with server.connected() as client:
        await client.sign_in('{"id":"7"}')
        assert (await server.request("POST", "/users/7/terminate_connections"))[0] == 200
        assert (await client.closed())[0] == 4009
    status, _ = await server.unsigned_request("GET", "/apps/1001/channels")
    found = await scraped(server.metrics_port)

    assert status == 401
    assert found["connections_refused_total", "4001"] == 1
    assert found["connections_refused_total", "4005"] == 1
    closed = {key[2]: value for key, value in found.numbers.items() if "closed" in key[0]}
    assert closed == {"1003": 1, "1009": 1, "4009": 1}
    assert found["http_errors_total", "401"] == 1
    assert found["http_calls_received_total", "1001", str(server.port)] == 1
    assert found["limit_hits_total", "1001", "REVERB_APP_MAX_MESSAGE_SIZE"] == 1


async def test_limits_of_nobody_in_particular_are_counted_without_an_app() -> None:
    async with (
        serving(metrics=PLACE, max_connections_per_address=1) as server,
        server.connected(),
    ):
        async with server.connect() as second:
            assert (await second.closed())[0] == 4100
        found = await scraped(server.metrics_port)
    assert found["limit_hits_total", "", "REVERB_MAX_CONNECTIONS_PER_ADDRESS"] == 1
    assert found["address_entries",] == 1  # one address, however often it connects

    async with serving(metrics=PLACE, max_request_bytes=1_000) as server:
        assert (await server.unsigned_request("POST", "/x", b"x" * 2_000))[0] == 413
        found = await scraped(server.metrics_port)
    assert found["limit_hits_total", "", "REVERB_MAX_REQUEST_SIZE"] == 1


async def test_an_app_over_its_quota_of_connections_is_counted() -> None:
    async with (
        serving(replace(APP, max_connections=1), metrics=PLACE) as server,
        server.connected(),
    ):
        async with server.connect() as refused:
            assert (await refused.closed())[0] == 4004
        found = await scraped(server.metrics_port)
    assert found["limit_hits_total", "1001", "REVERB_APP_MAX_CONNECTIONS"] == 1
    assert found["connections_refused_total", "4004"] == 1


async def test_what_is_remembered_is_shown_with_its_size(server: TestServer) -> None:
    event = {"name": "made", "channels": ["cache-orders"], "data": "1"}
    for key in ("one", "two"):
        status, _ = await server.request("POST", "/events", {**event, "idempotency_key": key})
        assert status == 200
    found = await scraped(server.metrics_port)

    frame = 2 + len('{"event":"made","channel":"cache-orders","data":"1"}')
    assert found["cached_events", "1001"] == 1
    assert found["cached_event_bytes", "1001"] == frame
    assert found["idempotency_keys", "1001"] == 2
    assert found["idempotency_key_bytes", "1001"] == 6
    assert found["forgotten_total", "1001", "cached_events"] == 0


async def test_webhooks_are_counted_by_what_became_of_their_events() -> None:
    async with Receiver() as receiver:
        app = replace(APP, webhooks=(receiver.webhook("channel_occupied"),))
        receiver.answers.append(web.Response(status=500))
        async with serving(app, metrics=PLACE) as server, server.connected() as client:
            receiver.gate.clear()
            await client.subscribe("orders")
            await receiver.gets(1)
            found = await scraped(server.metrics_port)
            assert found["webhook_events_waiting", "1001"] == 1
            assert found["webhook_events_sent_total", "1001"] == 0
            receiver.gate.set()
            await receiver.hears(1)
            found = await until(server.metrics_port, ("webhook_events_waiting", "1001"), 0)
            assert found["webhook_events_sent_total", "1001"] == 1
            assert found["webhook_requests_failed_total", "1001"] == 1
            await client.send({"event": "pusher:unsubscribe", "data": {"channel": "orders"}})
            await until(server.metrics_port, ("webhook_departures_held", "1001"), 1)


async def test_nobody_outside_can_make_up_labels(server: TestServer) -> None:
    def labels(found: Scrape) -> set[tuple[str, ...]]:
        return {key for key in found.numbers if not key[0].startswith(("process_", "http_errors"))}

    async def use(number: int) -> None:
        async with server.connect(f"/app/nobody-{number}") as refused:
            await refused.closed()
        async with server.connected() as client:
            await client.subscribe(f"channel-{number}")
            await client.send({"event": "pusher:subscribe", "data": {"channel": f"#x{number}"}})
            await client.send({"event": f"client-{number}", "channel": f"channel-{number}"})
            for _ in range(3):
                assert "error" in await client.receive()
            await client.websocket.close(3_000 + number)
        await server.unsigned_request("GET", f"/{number}")

    await use(0)
    before = labels(await scraped(server.metrics_port))
    for number in range(1, 20):
        await use(number)
    assert labels(await scraped(server.metrics_port)) - before <= {
        ("channel_unsubscriptions_total", "1001", "public")
    }


# Several processes.


async def test_the_metrics_of_all_workers_come_in_one_answer() -> None:
    with TemporaryDirectory() as folder:
        sockets = [Path(folder, str(worker)) for worker in range(3)]
        first, third = (Metrics("reverb_", "1.2.3", good) for _ in range(2))
        first.watch(measures(3, Histogram((1,))))
        third.watch(measures(4, Histogram((1,))))
        async with (
            first.served(replace(PLACE, socket=str(sockets[0]))),
            third.served(replace(PLACE, socket=str(sockets[2]))),
            WorkersMetrics("reverb_", sockets).served(PLACE) as port,
            aiohttp.ClientSession() as session,
        ):
            found = await scraped(port)
            of_open_metrics = await exposition(port, "application/openmetrics-text; version=1.0.0")
            async with session.get(f"http://127.0.0.1:{port}/ready") as response:
                assert (response.status, await response.text()) == (503, "A worker does not answer")

    assert [found["worker_up", worker] for worker in "012"] == [1, 0, 1]
    assert found["connected", "0"] == 3
    assert found["connected", "2"] == 4
    assert found["socket_received_bytes", "1001", "2"] == 4
    assert found["new_connections_total", "1001", "0"] == 3
    assert found["seconds_bucket", "+Inf", "0"] == 0
    assert ("connected", "1") not in found.numbers
    assert 'reverb_socket_received_bytes{app_id="1001",worker="0"} 3.0\n' in found.text
    assert found.text.count("# TYPE reverb_connected gauge") == 1
    assert open_metrics(of_open_metrics).keys() > {
        "reverb_worker_up",
        "reverb_new_connections",
        "reverb_socket_received_bytes",
    }


async def test_workers_are_ready_when_each_of_them_is() -> None:
    with TemporaryDirectory() as folder:
        sockets = [Path(folder, str(worker)) for worker in range(2)]
        for answer, expected in ((good, (200, "/ready")), (bad, (503, "Redis is away"))):
            async with (
                Metrics("reverb_", "1.2.3", good).served(replace(PLACE, socket=str(sockets[0]))),
                Metrics("reverb_", "1.2.3", answer).served(replace(PLACE, socket=str(sockets[1]))),
                WorkersMetrics("reverb_", sockets).served(PLACE) as port,
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/ready") as response,
            ):
                assert (response.status, await response.text()) == expected


async def test_a_worker_that_hangs_is_left_out() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "0")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(path))
            silent.listen()
            workers = WorkersMetrics("reverb_", [path], answer_within=0.05)
            async with workers.served(PLACE) as port:
                found = await scraped(port)

    assert found.numbers == {("worker_up", "0"): 0}
