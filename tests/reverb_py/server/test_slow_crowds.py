"""Many clients that do not read: bounded together, the fullest first, and nobody else waits."""

import asyncio
from dataclasses import replace

import pytest

from reverb_py.core.apps import App
from reverb_py.core.hub import Hub
from reverb_py.server.listener import Deadlines
from reverb_py.server.slow_clients import SlowClients
from reverb_py.telemetry.metrics import MetricsPlace
from reverb_py.testing import PusherClient, TestServer, serving
from tests.reverb_py.server.raw_client import (
    CLOSE,
    RawClient,
    close_frame,
    connected_socket,
    error_json,
    hub_behind,
    request_with_long_answer,
    serves,
    text,
)
from tests.support.metrics import Scrape, scraped
from tests.support.sessions import APP as SMALL_APP
from tests.support.sessions import RecordingSession, hub_of

SLOW = 60.0
BOUND = 2_000_000
APP = App(
    id="1001",
    key="278d425bdf160c739803",
    secret="7ad3773142a6692b25b8",
    max_event_data_bytes=50_000,
    max_buffered_bytes=0,
)
DATA = "x" * 50_000
SERVERS = {"max_buffered_bytes": 0, "max_buffered_bytes_total": BOUND}
DEADLINES = Deadlines(linger=SLOW)
METRICS = MetricsPlace(port=0)
OF_APP = f"Too slow: more than {BOUND} bytes are waiting for the app's slow clients"
OF_SERVER = f"Too slow: more than {BOUND} bytes are waiting for slow clients"


def message(channel: str) -> str:
    return '{"event":"made","channel":"' + channel + '","data":"' + DATA + '"}'


async def subscribed(client: RawClient, *channels: str) -> None:
    await client.open_websocket()
    for channel in channels:
        await client.send(text({"event": "pusher:subscribe", "data": {"channel": channel}}))
        await client.receive_text()


async def published(server: TestServer, fast: PusherClient, channel: str) -> Scrape:
    """Publish once, see that who reads gets it at once, and return what the server says then."""
    await server.publish("made", channel, DATA)
    assert await fast.receive() == message(channel)
    return await scraped(server.metrics_port)


async def received_to_the_close_frame(client: RawClient) -> list[bytes]:
    """Take everything that was sent, the close frame included."""
    payloads: list[bytes] = []
    while True:
        opcode, payload = await client.receive()
        payloads.append(payload)
        if opcode == CLOSE:
            return payloads


async def received_answers(client: RawClient) -> None:
    """Take answers until the connection breaks."""
    while True:
        await client.receive_answer()


@pytest.mark.parametrize(
    ("app", "settings", "limit", "reason"),
    [
        (APP, SERVERS, "REVERB_MAX_BUFFERED_SIZE_TOTAL", OF_SERVER),
        (
            replace(APP, max_buffered_bytes=BOUND),
            {"max_buffered_bytes": 0, "max_buffered_bytes_total": 0},
            "REVERB_APP_MAX_BUFFERED_SIZE",
            OF_APP,
        ),
    ],
    ids=["server", "app"],
)
async def test_when_too_much_waits_for_all_together_the_fullest_is_closed_and_nobody_else_loses(
    app: App, settings: dict[str, int], limit: str, reason: str
) -> None:
    async with (
        serving(app, deadlines=DEADLINES, metrics=METRICS, **settings) as server,
        server.connected() as fast,
        connected_socket(server, receive_buffer=4_096) as fullest,
        connected_socket(server, receive_buffer=4_096) as slow,
    ):
        await fast.subscribe("extra")
        await fast.subscribe("orders")
        await subscribed(fullest, "extra", "orders")
        await subscribed(slow, "orders")
        async with asyncio.timeout(SLOW):
            found = await published(server, fast, "extra")
            while found["slow_client_bytes", "1001"] < BOUND / 2:
                found = await published(server, fast, "extra")
            assert found["slow_clients", "1001"] == 1
            count = 0
            while found["connected", "1001", str(server.port)] == 3:
                found = await published(server, fast, "orders")
                count += 1
        assert found["limit_hits_total", "1001", limit] == 1
        assert found["connections_closed_total", "1001", "4100"] == 1

        for _ in range(count):
            assert await slow.receive_text() == message("orders").encode()
        await slow.is_answered()
        *_, last, close = await received_to_the_close_frame(fullest)
        assert last == error_json(4100, reason)
        assert close == (4100).to_bytes(2, "big") + reason.encode()
        await fullest.send(close_frame(4100))
        await fullest.receive_end()


async def test_who_was_told_the_end_and_does_not_read_it_is_cut_off_when_more_comes() -> None:
    async with (
        serving(APP, deadlines=DEADLINES, metrics=METRICS, **SERVERS) as server,
        server.connected() as fast,
        connected_socket(server, receive_buffer=4_096) as fullest,
        connected_socket(server, receive_buffer=4_096) as slow,
    ):
        await fast.subscribe("extra")
        await fast.subscribe("orders")
        await subscribed(fullest, "extra", "orders")
        await subscribed(slow, "orders")
        async with asyncio.timeout(SLOW):
            found = await published(server, fast, "extra")
            while found["slow_client_bytes", "1001"] < BOUND / 2:
                found = await published(server, fast, "extra")
            count = 0
            # Two WebSockets and the connection that publishes stay.
            while found["open_sockets",] > 3:
                found = await published(server, fast, "orders")
                count += 1
                assert found["slow_socket_bytes",] < BOUND * 1.25
        assert found["limit_hits_total", "1001", "REVERB_MAX_BUFFERED_SIZE_TOTAL"] == 1

        for _ in range(count):
            assert await slow.receive_text() == message("orders").encode()
        await slow.is_answered()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await received_to_the_close_frame(fullest)


async def test_an_http_client_that_does_not_read_its_answers_is_cut_off() -> None:
    async with (
        serving(APP, metrics=METRICS, max_buffered_bytes_total=100_000) as server,
        server.connected() as occupant,
        connected_socket(server, receive_buffer=4_096) as slow,
    ):
        asked = await request_with_long_answer(server, occupant)
        # Answers longer than what the system takes for a client that does not read.
        RecordingSession.begun(hub_behind(server), *(f"{number:->200}" for number in range(10_000)))
        await slow.send(asked * 3)
        async with asyncio.timeout(SLOW):
            found = await scraped(server.metrics_port)
            while ("limit_hits_total", "", "REVERB_MAX_BUFFERED_SIZE_TOTAL") not in found.numbers:
                found = await scraped(server.metrics_port)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await received_answers(slow)
        await serves(server)


class Full:
    """A connection that holds what it is told to hold."""

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.is_ending = False
        self.looks = 0
        self.told: list[str] = []

    def waiting_bytes(self) -> int:
        self.looks += 1
        return self.size

    def give_up(self, limit: str, message: str) -> None:
        self.told.append(limit)

    def written(self, clients: SlowClients, size: int) -> None:
        self.size += size
        clients.wrote(self, size)


TOTAL = "REVERB_MAX_BUFFERED_SIZE_TOTAL"


def of_one_app(max_buffered_bytes: int) -> Hub:
    return hub_of(replace(SMALL_APP, max_buffered_bytes=max_buffered_bytes))


def test_as_many_are_closed_as_the_bound_asks_for_the_fullest_first() -> None:
    clients = SlowClients(1_000)
    full = [Full(size) for size in (100, 400, 300, 200)]
    for each in full:
        clients.add(each, None)
    assert (clients.count(), clients.size()) == (4, 1_000)
    assert [each.told for each in full] == [[], [], [], []]

    full[0].written(clients, 500)
    assert [each.told for each in full] == [[TOTAL], [], [], []]


def test_what_has_left_meanwhile_does_not_count() -> None:
    clients = SlowClients(1_000)
    first, second = Full(), Full()
    clients.add(first, None)
    clients.add(second, None)
    for _ in range(50):
        first.written(clients, 400)
        first.size = 0  # it has read everything
        second.written(clients, 5)
    assert first.told == []
    assert second.told == []


def test_whoever_has_been_told_the_end_goes_before_anybody_else() -> None:
    clients = SlowClients(1_000)
    told, full = Full(300), Full(600)
    told.is_ending = True
    clients.add(told, None)
    clients.add(full, None)
    full.written(clients, 200)

    assert (told.told, full.told) == ([TOTAL], [])


def test_who_reads_again_or_is_gone_is_forgotten() -> None:
    hub = of_one_app(1_000)
    clients = SlowClients(1_000)
    full = Full(500)
    clients.add(full, hub)
    assert (clients.count(hub), clients.size(hub)) == (1, 500)

    clients.discard(full)
    clients.discard(full)
    assert (clients.count(hub), clients.size(hub)) == (0, 0)
    assert (clients.count(), clients.size()) == (0, 0)

    full.written(clients, 5_000)
    assert (clients.count(), clients.size()) == (0, 0)
    assert full.told == []


def test_each_app_has_a_bound_of_its_own() -> None:
    small, large = of_one_app(500), of_one_app(0)
    clients = SlowClients(0)
    of_small, of_large = Full(400), Full(9_000)
    clients.add(of_small, small)
    clients.add(of_large, large)
    of_large.written(clients, 1_000)
    of_small.written(clients, 200)

    assert of_small.told == ["REVERB_APP_MAX_BUFFERED_SIZE"]
    assert of_large.told == []


@pytest.mark.parametrize("is_reading", [True, False])
def test_counting_exactly_is_rare_however_many_are_slow(is_reading: bool) -> None:
    count, bound = 200, 1_000_000
    clients = SlowClients(bound)
    full = [Full(4_000) for _ in range(count)]
    for each in full:
        clients.add(each, None)
    looks = sum(each.looks for each in full)
    written = 0
    for round_ in range(50):
        for each in full:
            each.written(clients, 1_000)
            written += 1_000
            if is_reading:
                each.size = 4_950 if round_ % 2 else 3_500  # near the bound, never over it
            if each.told:
                clients.discard(each)
                each.told = []
                each.size = 4_000
                clients.add(each, None)
                looks += 1

    looks = sum(each.looks for each in full) - looks
    # One look at each for every sixteenth of the bound that was written.
    assert looks <= (written / (bound / 16) + 2) * count
