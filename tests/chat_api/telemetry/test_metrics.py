"""Metrics over HTTP, as Prometheus reads them."""

import asyncio
from dataclasses import replace

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from yarl import URL

from chat_api.kernel.errors import Unavailable
from chat_api.kernel.measures import Measure, Samples, single
from chat_api.settings import Settings, WrongSetting
from chat_api.telemetry.metrics import Metrics
from tests.chat_api.client import Client
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import World

Found = dict[tuple[str, ...], float]


async def scraped(port: int | None) -> Found:
    """Return each sample by its name and the values of its labels, in the order of their names."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_requests_are_counted_by_template_method_and_status() -> None:
    metrics = Metrics("1.2.3")
    metrics.answered("GET", "/api/chats/{chat_id}", 200, 0.004)
    metrics.answered("GET", "/api/chats/{chat_id}", 200, 0.3)
    metrics.answered("GET", "/api/chats/{chat_id}", 404, 0.001)
    async with metrics.served("127.0.0.1", 0) as port:
        found = await scraped(port)

    chats = ("GET", "/api/chats/{chat_id}")
    assert found["chat_http_requests_total", *chats, "200"] == 2
    assert found["chat_http_requests_total", *chats, "404"] == 1
    duration = "chat_http_request_duration_seconds"
    assert found[f"{duration}_count", *chats] == 3
    assert found[f"{duration}_bucket", "0.005", *chats] == 2
    assert found[f"{duration}_sum", *chats] == pytest.approx(0.305)
    assert next(name for name in found if name[0] == "chat_build_info")[-1] == "1.2.3"


async def test_nobody_outside_can_make_up_labels() -> None:
    metrics = Metrics("1.2.3")
    for number in range(50):
        metrics.answered(f"METHOD{number}", None, 404, 0.001)
    async with metrics.served("127.0.0.1", 0) as port:
        found = await scraped(port)

    requests = {name: value for name, value in found.items() if "requests_total" in name[0]}
    assert requests == {("chat_http_requests_total", "other", "none", "404"): 50}


async def test_measures_are_read_when_somebody_looks() -> None:
    waiting = 1

    async def by_status() -> Samples:
        return {("QUEUED",): 2.0, ("CONNECTED",): 3.0}

    metrics = Metrics("1.2.3")
    metrics.watch(
        [
            single("things_waiting", "Things that wait.", lambda: waiting),
            single("things_total", "Things.", lambda: 7),
            Measure("conversations", "Open ones.", by_status, labels=("status",)),
        ]
    )
    async with metrics.served("127.0.0.1", 0) as port:
        assert (await scraped(port))["chat_things_waiting",] == 1
        waiting = 5
        found = await scraped(port)

    assert found["chat_things_waiting",] == 5
    assert found["chat_things_total",] == 7
    assert found["chat_conversations", "QUEUED"] == 2
    assert found["chat_conversations", "CONNECTED"] == 3
    assert found["chat_unreadable_measures",] == 0


async def test_a_measure_that_fails_is_missing_alone_and_said() -> None:
    async def broken() -> Samples:
        raise RuntimeError("out of order")

    async def away() -> Samples:
        raise Unavailable("The database is out of reach.")

    metrics = Metrics("1.2.3")
    metrics.watch(
        [
            Measure("broken", "Broken.", broken),
            Measure("away", "Away.", away),
            single("working", "Working.", lambda: 1),
        ]
    )
    with capture_logs() as logs:
        async with metrics.served("127.0.0.1", 0) as port:
            found = await scraped(port)

    assert found["chat_working",] == 1
    assert found["chat_unreadable_measures",] == 2
    assert not any(name[0] in ("chat_broken", "chat_away") for name in found)
    # What the store reports by itself is not repeated.
    assert [(entry["event"], entry["measure"]) for entry in logs] == [
        ("A measure could not be read", "broken")
    ]


async def test_a_measure_that_hangs_holds_up_only_so_long() -> None:
    stopped = asyncio.Event()

    async def hanging() -> Samples:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return {}

    metrics = Metrics("1.2.3", read_within=0.05)
    metrics.watch([Measure("hanging", "Hangs.", hanging), single("working", "Working.", lambda: 1)])
    async with metrics.served("127.0.0.1", 0) as port:
        found = await scraped(port)

    assert stopped.is_set()
    assert (found["chat_working",], found["chat_unreadable_measures",]) == (1, 1)


async def test_nothing_else_is_on_that_port() -> None:
    async with (
        Metrics("1.2.3").served("127.0.0.1", 0) as port,
        aiohttp.ClientSession() as session,
    ):
        for method, path, status in (
            ("GET", "/", 404),
            ("GET", "/api/user", 404),
            ("POST", "/metrics", 405),
        ):
            async with session.request(method, f"http://127.0.0.1:{port}{path}") as response:
                assert response.status == status


async def test_a_running_api_shows_what_goes_on(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(replace(settings, metrics_port=0), receiver) as world:
        assert world.api.metrics_url is not None
        port = URL(world.api.metrics_url).port
        for text in ("a", "b", "b"):  # the last one repeats the second
            await world.ali.post("/api/chats/1/messages", {"content": text, "tempId": text})
        await receiver.hears(4)
        await world.nobody.post("/api/login", {"email": "ali@example.com", "password": "x"})
        session = await world.nobody.post(
            "/api/customer/sessions",
            {"displayName": "Jane", "fingerprint": "of-jane-1234567890", "channel": "web"},
        )
        customer = Client(world.nobody.session, world.nobody.url, session.body["token"])
        path = f"/api/customer/conversations/{session.body['conversationId']}/messages"
        await customer.post(path, {"content": "Hello?"})
        await world.nobody.get("/nowhere/1")
        # The relay counts an event after the receiver has it.
        async with asyncio.timeout(60):
            while (found := await scraped(port))["chat_relay_events_sent_total",] < 4:
                pass
        public = await world.nobody.get("/metrics")

    assert public.status == 404
    messages = ("POST", "/api/chats/{chat_id}/messages")
    assert found["chat_http_requests_total", *messages, "201"] == 2
    assert found["chat_http_requests_total", *messages, "200"] == 1
    assert found["chat_http_requests_total", "GET", "none", "404"] == 1
    assert found["chat_direct_messages_total",] == 2
    assert found["chat_logins_failed_total",] == 1
    assert found["chat_relay_leads",] == 1
    assert found["chat_relay_failures_total",] == 0
    assert found["chat_outbox_events", "refused"] == 0
    assert found["chat_support_conversations", "QUEUED"] == 1
    assert found["chat_support_messages_total",] == 1
    assert found["chat_support_conversations", "CONNECTED"] == 0
    assert found["chat_database_writes_waiting",] >= 0
    assert found["chat_unreadable_measures",] == 0
    assert not any("of-jane" in part for name in found for part in name)


async def test_what_waits_for_the_realtime_server_is_shown(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(replace(settings, metrics_port=0), receiver) as world:
        assert world.api.metrics_url is not None
        port = URL(world.api.metrics_url).port
        await receiver.go_down()
        await world.ali.post("/api/chats/1/messages", {"content": "x", "tempId": "x"})
        async with asyncio.timeout(60):
            while not (found := await scraped(port))["chat_relay_failures_total",]:
                pass

    assert found["chat_outbox_events", "owed"] == 2
    assert found["chat_outbox_oldest_seconds",] > 0


async def test_metrics_are_off_unless_a_port_is_set(world: World) -> None:
    assert world.api.metrics_url is None


LEAST = {
    "CHAT_JWT_SECRET": "3f1c9a7be2d84650b7c1de90aa5f2c68",
    "REVERB_APP_ID": "1001",
    "REVERB_APP_KEY": "key",
    "REVERB_APP_SECRET": "secret",
}


def test_the_operators_settings_are_read() -> None:
    defaults = Settings.from_environment(LEAST)
    others = Settings.from_environment(
        LEAST
        | {
            "CHAT_LOG_FORMAT": "json",
            "CHAT_METRICS_PORT": "9464",
            "CHAT_METRICS_HOST": "10.0.0.1",
        }
    )

    assert not defaults.logs_as_json
    assert (defaults.metrics_host, defaults.metrics_port) == ("127.0.0.1", None)
    assert others.logs_as_json
    assert (others.metrics_host, others.metrics_port) == ("10.0.0.1", 9464)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("CHAT_LOG_FORMAT", "xml", "must be text or json, not 'xml'"),
        ("CHAT_METRICS_PORT", "65536", "must be 0 to 65535, not 65536"),
        ("CHAT_METRICS_PORT", "on", "must be a whole number, not 'on'"),
        ("CHAT_METRICS_HOST", "a b", "must be an address or a host name, not 'a b'"),
    ],
)
def test_an_operators_mistake_is_explained(name: str, value: str, reason: str) -> None:
    with pytest.raises(WrongSetting) as error:
        Settings.from_environment(LEAST | {name: value})

    assert str(error.value) == f"{name} {reason}"
