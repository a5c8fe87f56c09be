"""One client sends as much as it can: others are served in between, and it is told when to stop."""

import asyncio
import random
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlencode

import orjson
import pytest

from reverb_py.core.apps import App, Apps
from reverb_py.core.delivery import Delivery
from reverb_py.core.hub import Hub
from reverb_py.core.hubs import Hubs
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.protocol.signing import signed_query
from reverb_py.server.http_api import HttpApi
from reverb_py.server.listener import Deadlines, Listener
from reverb_py.server.sockets import tcp_sockets
from reverb_py.server.transports import LINGER_BYTES
from reverb_py.testing import PATIENCE, TestServer, serving
from tests.reverb_py.server.raw_client import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    SWITCHING_PROTOCOLS,
    TEXT,
    Frame,
    RawClient,
    close_frame,
    connected_socket,
    error_json,
    frame,
    handshake,
    hub_behind,
    listener_behind,
    request,
    request_with_long_answer,
    serves,
    text,
    turns_until,
    websocket,
)

APP = App(id="1001", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8")
PING_MESSAGE = b'{"event":"pusher:ping"}'
PONG_MESSAGE = b'{"event":"pusher:pong","data":"{}"}'
UP = request("GET /up")
HEALTHY = b'{"health":"OK"}'
NEVER = 1_000.0
"""A resolution of deadlines at which no second passes in a test."""


def subscription(channel: str) -> bytes:
    """Return a client's frame that subscribes to a public channel."""
    return text({"event": "pusher:subscribe", "data": {"channel": channel}})


def subscribed(channel: str) -> bytes:
    """Return the message that answers it."""
    return (
        b'{"event":"pusher_internal:subscription_succeeded","channel":"%b","data":"{}"}'
        % channel.encode()
    )


def publish(server: TestServer, channel: str, data: str) -> bytes:
    """Return a signed publish."""
    body = orjson.dumps({"name": "made", "channel": channel, "data": data})
    path = f"/apps/{server.app.id}/events"
    query = signed_query(server.app.key, server.app.secret, "POST", path, body, int(time.time()))
    return request(f"POST {path}?{urlencode(query)}", body=body)


# Turns.


@pytest.fixture
async def strict_server() -> AsyncIterator[TestServer]:
    """Serve each client one piece a turn, and see that the server still serves."""
    async with serving(timer_resolution=0.02, deadlines=Deadlines(turn=0.0)) as server:
        yield server
        await serves(server)


async def test_frames_that_come_at_once_are_served_in_many_turns(
    strict_server: TestServer,
) -> None:
    async with websocket(strict_server) as client:
        client.writer.write(frame(PONG) * 2_500 + subscription("last"))
        turns = await turns_until(lambda: "last" in hub_behind(strict_server).channels)
        assert turns > 6
        assert await client.receive_text() == subscribed("last")


async def test_requests_that_come_at_once_are_served_in_many_turns(
    strict_server: TestServer,
) -> None:
    hub = hub_behind(strict_server)
    async with connected_socket(strict_server) as client:
        client.writer.write(UP * 350 + publish(strict_server, "cache-last", "1"))
        turns = await turns_until(lambda: hub.last_events.recall("cache-last", 0.0) is not None)
        assert turns > 6
        for _ in range(350):
            assert (await client.receive_answer()).body == HEALTHY
        assert (await client.receive_answer()).body == b"{}"


async def test_another_client_is_served_while_one_floods(strict_server: TestServer) -> None:
    channels = hub_behind(strict_server).channels
    async with websocket(strict_server) as flooding, websocket(strict_server) as other:
        flooding.writer.write(b"".join(subscription(f"c-{n}") for n in range(200)))
        other.writer.write(subscription("other"))
        await turns_until(lambda: "other" in channels)
        assert "c-199" not in channels
        for number in range(200):
            assert await flooding.receive_text() == subscribed(f"c-{number}")


async def test_frames_that_are_served_in_turns_keep_their_order(
    strict_server: TestServer,
) -> None:
    async with websocket(strict_server) as client:
        long = text(PING_MESSAGE + b" " * 5_000)
        sent = [subscription(f"c-{number}") + long for number in range(100)]
        await client.send(b"".join(sent))
        for number in range(100):
            assert await client.receive_text() == subscribed(f"c-{number}")
            assert await client.receive_text() == PONG_MESSAGE


async def test_publishes_that_are_served_in_turns_keep_their_order(
    strict_server: TestServer,
) -> None:
    async with (
        strict_server.connected() as listener,
        connected_socket(strict_server) as client,
    ):
        await listener.subscribe("orders")
        data = [f"{number}{'x' * (number % 5 * 1_000)}" for number in range(100)]
        await client.send(b"".join(publish(strict_server, "orders", each) for each in data))
        for each in data:
            assert await listener.receive() == (
                f'{{"event":"made","channel":"orders","data":"{each}"}}'
            )
            assert (await client.receive_answer()).body == b"{}"


@pytest.mark.parametrize("before", [0, 40])
@pytest.mark.parametrize("behind", [0, 100])
async def test_an_upgrade_may_stand_anywhere_in_what_comes_at_once(
    strict_server: TestServer, before: int, behind: int
) -> None:
    async with connected_socket(strict_server) as client:
        channels = [f"c-{number}" for number in range(behind)]
        await client.send(UP * before + handshake() + b"".join(map(subscription, channels)))
        for _ in range(before):
            assert (await client.receive_answer()).body == HEALTHY
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()
        for channel in channels:
            assert await client.receive_text() == subscribed(channel)
        await client.is_answered()


async def test_who_ends_its_side_behind_a_flood_has_all_of_it_served(
    strict_server: TestServer,
) -> None:
    async with strict_server.connected() as listener:
        await listener.subscribe("orders")
        async with connected_socket(strict_server) as client:
            client.writer.write(
                b"".join(publish(strict_server, "orders", str(n)) for n in range(100))
            )
            client.half_close()
            for number in range(100):
                assert await listener.receive() == (
                    f'{{"event":"made","channel":"orders","data":"{number}"}}'
                )
                assert (await client.receive_answer()).body == b"{}"
            await client.receive_end()
        async with websocket(strict_server) as client:
            sent = [subscription(f"c-{number}") for number in range(200)]
            client.writer.write(b"".join(sent))
            client.half_close()
            for number in range(200):
                assert await client.receive_text() == subscribed(f"c-{number}")
            await client.receive_end()


async def test_a_close_frame_behind_a_flood_ends_it_and_nothing_behind_is_acted_on(
    strict_server: TestServer,
) -> None:
    async with websocket(strict_server) as client:
        sent = [subscription(f"c-{number}") for number in range(50)]
        await client.send(b"".join([*sent, close_frame(1000), *[subscription("late")] * 50]))
        for number in range(50):
            assert await client.receive_text() == subscribed(f"c-{number}")
        assert await client.receive_close() == (1000, "")
        await client.receive_end()
    assert await strict_server.request("GET", "/channels") == (200, '{"channels":{}}')


@pytest.mark.parametrize(
    "flood",
    [frame(PONG) * 2_500, frame(PING, b"?") * 2_000, text(PING_MESSAGE) * 500],
    ids=["pongs", "pings", "messages"],
)
async def test_a_connection_may_break_while_what_it_sent_is_served(
    strict_server: TestServer, flood: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for waits in range(5):
        async with websocket(strict_server) as client:
            client.writer.write(subscription("orders") + flood)
            for _ in range(waits):
                await asyncio.sleep(0)
            client.reset()
        await turns_until(lambda: not hub_behind(strict_server).sessions)
    assert hub_behind(strict_server).channels == {}
    # asyncio has a line for each write on a connection that is broken.
    assert "raised exception" not in caplog.text


async def test_requests_may_break_off_while_they_are_served(
    strict_server: TestServer, caplog: pytest.LogCaptureFixture
) -> None:
    for waits in range(5):
        async with connected_socket(strict_server) as client:
            client.writer.write(request("GET /") * 800)
            for _ in range(waits):
                await asyncio.sleep(0)
            client.reset()
    await serves(strict_server)
    assert "raised exception" not in caplog.text


async def test_the_server_may_stop_while_a_flood_is_served() -> None:
    async with asyncio.timeout(PATIENCE):
        async with (
            serving(deadlines=Deadlines(turn=0.0), shutdown_seconds=0.5) as server,
            websocket(server) as flooding,
            connected_socket(server) as asking,
        ):
            for _ in range(100):
                flooding.writer.write(frame(PING, b"?") * 2_000)
                asking.writer.write(UP * 300)
            await asyncio.sleep(0)


async def test_who_does_not_read_its_answers_has_no_further_request_served(
    strict_server: TestServer,
) -> None:
    hub = hub_behind(strict_server)
    async with (
        strict_server.connected() as occupant,
        connected_socket(strict_server, receive_buffer=4_096) as client,
    ):
        asked = await request_with_long_answer(strict_server, occupant)
        count = 200
        await client.send(asked * count + publish(strict_server, "cache-last", "1"))
        for _ in range(100):
            await occupant.ping()
        assert hub.last_events.recall("cache-last", 0.0) is None
        for _ in range(count):
            assert len((await client.receive_answer()).body) > 30_000
        assert (await client.receive_answer()).body == b"{}"
        await client.send(UP)
        assert (await client.receive_answer()).body == HEALTHY


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_connections_that_come_at_once_are_accepted_in_many_turns() -> None:
    loop = asyncio.get_running_loop()
    wheel, source = TimerWheel(loop.time()), random.Random(1)
    hubs = Hubs(
        Apps([]),
        lambda app: Hub(app, Delivery(loop.call_soon, loop.time), wheel, loop.time, source),
    )
    listener = Listener(
        hubs,
        HttpApi(hubs, time.time),
        wheel,
        max_request_bytes=0,
        max_buffered_bytes=0,
        clock=time.time,
    )
    [listening] = await tcp_sockets("127.0.0.1", 0)
    address = listening.getsockname()
    await listener.start([listening])
    sockets = []
    try:
        for _ in range(400):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(address)
            sockets.append(client)
        turns = await turns_until(lambda: len(listener.connections) == 400)
        assert turns >= 8
    finally:
        for client in sockets:
            client.close()
        await listener.stop(PATIENCE)


# The rate of messages.


FEW = replace(APP, messages_per_second=3)
TOO_MANY = "More than 3 messages in a second"


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        ([text(PING_MESSAGE)] * 30, [Frame(TEXT, PONG_MESSAGE)] * 30),
        ([frame(PING, b"?")] * 30, [Frame(PONG, b"?")] * 30),
        ([frame(PONG)] * 30, []),
        ([text({"event": "pusher:unsubscribe", "data": {"channel": "orders"}})] * 30, []),
        ([frame(TEXT, b"", final=False), *[frame(CONTINUATION, b"", final=False)] * 29], []),
        ([text(PING_MESSAGE)[n : n + 1] for n in range(29)], [Frame(TEXT, PONG_MESSAGE)]),
    ],
    ids=["messages", "pings", "pongs", "unsubscriptions", "fragments", "bytes"],
)
async def test_whatever_a_client_sends_too_much_of_closes_its_connection_with_4100(
    sent: list[bytes], answers: list[Frame]
) -> None:
    async with serving(FEW, timer_resolution=NEVER) as server:
        async with websocket(server) as client:
            await client.send_apart(*sent)
            for answer in answers:
                assert await client.receive() == answer
            await client.send_apart(*[frame(PONG)] * 2)
            await client.receive_fatal_error(4100, TOO_MANY)
        await serves(server)


async def test_a_long_message_is_one_message() -> None:
    app = replace(APP, messages_per_second=50, max_message_bytes=1_000_000)
    async with serving(app, timer_resolution=NEVER) as server, websocket(server) as client:
        for _ in range(2):
            await client.send(text(PING_MESSAGE + b" " * 900_000))
            assert await client.receive_text() == PONG_MESSAGE


async def test_of_a_flood_as_much_is_acted_on_as_is_allowed() -> None:
    async with serving(FEW, timer_resolution=NEVER) as server, websocket(server) as client:
        await client.send(b"".join(subscription(f"c-{number}") for number in range(100)))
        for number in range(30):
            assert await client.receive_text() == subscribed(f"c-{number}")
        await client.receive_fatal_error(4100, TOO_MANY)
        assert hub_behind(server).channels == {}


async def test_who_sends_no_more_than_it_may_stays() -> None:
    app = replace(APP, messages_per_second=100)
    loop = asyncio.get_running_loop()
    async with serving(app, timer_resolution=0.02) as server, websocket(server) as client:
        for _ in range(990):
            await client.is_answered()
        end = loop.time() + 0.5
        while loop.time() < end:
            await client.is_answered()
            await asyncio.sleep(0.02)


async def test_any_number_of_messages_may_be_allowed() -> None:
    app = replace(APP, messages_per_second=0)
    async with serving(app, timer_resolution=NEVER) as server, websocket(server) as client:
        await client.send(frame(PONG) * 30_000)
        await client.is_answered()


async def test_a_new_rate_of_messages_holds_for_connections_that_stay() -> None:
    async with (
        serving(replace(APP, messages_per_second=0), timer_resolution=0.02) as server,
        websocket(server) as client,
    ):
        await client.send(frame(PONG) * 1_000)
        await client.is_answered()
        server.reload(replace(APP, messages_per_second=1))
        await client.is_answered()
        # What has been allowed holds until the wheel turns.
        async with asyncio.timeout(PATIENCE):
            while hub_behind(server).sessions:
                await client.send(frame(PONG) * 30)
                await asyncio.sleep(0)
        await client.receive_fatal_error(4100, "More than 1 messages in a second")


async def test_a_client_that_says_nothing_but_nonsense_is_closed_with_4100() -> None:
    reason = (
        "More than 3 malformed messages in a minute, the last one: Invalid message: JSON is "
        "malformed: invalid character (byte 0)"
    )
    app = replace(APP, malformed_messages_per_minute=3)
    async with serving(app) as server, websocket(server) as client:
        await client.send(text("x") * 100)
        for _ in range(3):
            assert await client.receive_text() == error_json(
                4300, "Invalid message: JSON is malformed: invalid character (byte 0)"
            )
        assert await client.receive_text() == error_json(4100, reason)
        assert await client.receive_close() == (4100, reason[:123])
        await client.receive_end()


# What is held for requests that are on their way.


async def waits_with(client: RawClient, size: int) -> None:
    """Send a head and so much of a body that is not whole."""
    await client.send_apart(request("POST /up", "Content-Length: 100000"), b"x" * size)


def halves(sent: bytes) -> tuple[bytes, bytes]:
    """Cut a request in the middle of its body."""
    return sent[: len(sent) // 2], sent[len(sent) // 2 :]


async def test_bodies_that_do_not_arrive_whole_are_bounded_together() -> None:
    async with (
        serving(replace(APP, max_event_data_bytes=50_000), max_waiting_bytes=100_000) as server,
        connected_socket(server) as one,
        connected_socket(server) as two,
        connected_socket(server) as three,
        server.connected() as listener,
    ):
        await waits_with(one, 50_000)
        await waits_with(two, 40_000)
        await waits_with(three, 20_000)
        answer = await three.receive_answer()
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.body == b"Too many requests are on their way; try again"
        await three.receive_end()
        # What an app has signed is taken all the time.
        await listener.subscribe("orders")
        async with connected_socket(server) as backend:
            for _ in range(5):
                await backend.send_apart(*halves(publish(server, "orders", "x" * 40_000)))
                assert (await backend.receive_answer()).body == b"{}"
        await two.send_apart(b"x" * 20_000)
        assert (await two.receive_answer()).status == 503
        await one.send(b"x" * 50_000)
        assert (await one.receive_answer()).status == 405


@pytest.mark.parametrize("change", ["", "&auth_version=1.0", "another digest"])
async def test_a_body_is_waited_for_when_its_head_is_signed(change: str) -> None:
    async with (
        serving(replace(APP, max_event_data_bytes=50_000), max_waiting_bytes=1) as server,
        connected_socket(server) as client,
    ):
        sent = publish(server, "orders", "x" * 40_000)
        if change == "another digest":
            sent = sent.replace(b"body_md5=", b"body_md5=0")
        elif change:
            sent = sent.replace(b" HTTP", change.encode() + b"&more=signed HTTP", 1)
        await client.send_apart(*halves(sent))
        assert (await client.receive_answer()).status == (503 if change else 200)


@pytest.mark.parametrize("end", ["arrives", "is too slow", "closes", "resets", "is refused"])
async def test_a_body_is_not_counted_any_more_whatever_became_of_it(end: str) -> None:
    deadlines = Deadlines(body=0.1, linger=0.1)
    async with serving(
        max_waiting_bytes=100_000, timer_resolution=0.02, deadlines=deadlines
    ) as server:
        for _ in range(3):
            async with connected_socket(server) as client:
                if end == "is refused":
                    await client.send(request("POST /up", "Transfer-Encoding: chunked"))
                    await client.send_apart(b"ea60\r\n" + b"x" * 60_000, b"\r\nno length\r\n")
                    assert (await client.receive_answer()).status == 400
                    continue
                await waits_with(client, 60_000)
                if end == "arrives":
                    await client.send(b"x" * 40_000)
                    assert (await client.receive_answer()).status == 405
                elif end == "is too slow":
                    assert (await client.receive_answer()).status == 408
                elif end == "resets":
                    client.reset()
        async with connected_socket(server) as client:
            await waits_with(client, 90_000)
            await client.send(b"x" * 10_000)
            assert (await client.receive_answer()).status == 405


async def test_any_number_of_bodies_may_be_waited_for() -> None:
    async with (
        serving(max_waiting_bytes=0, max_request_bytes=0) as server,
        connected_socket(server) as client,
    ):
        await client.send(request("POST /up", body=b"x" * 1_000_000))
        assert (await client.receive_answer()).status == 405


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_body_in_many_chunks_weighs_no_more_than_its_bytes() -> None:
    chunks = b"2\r\nxx\r\n" * 20_000
    async with serving() as server, connected_socket(server) as client:
        await client.send(request("POST /up", "Transfer-Encoding: chunked"))
        await client.send(chunks)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await client.send(chunks)
            await serves(server)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 300_000
        await client.send(b"0\r\n\r\n")
        assert (await client.receive_answer()).status == 405


async def test_a_head_may_have_many_headers_but_not_any_number(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(request("GET /up", *[f"X-{number}: v" for number in range(150)]))
        assert (await client.receive_answer()).body == HEALTHY
        await client.send_apart(request("GET /up", *[f"X-{number}: v" for number in range(300)]))
        answer = await client.receive_answer()
        assert (answer.status, answer.body) == (431, b"The request has more than 200 headers")


# The end.


async def test_a_connection_ends_with_its_client_after_a_message_that_is_too_long() -> None:
    endless = Deadlines(linger=NEVER)
    async with serving(APP, max_connections_per_address=1, deadlines=endless) as server:
        for _ in range(3):
            async with websocket(server) as client:
                client.writer.write(text("x" * 500_000))
                assert await client.receive_close() == (
                    1009,
                    "frame with 500000 bytes exceeds limit of 10000 bytes",
                )
                await client.receive_end()
            async with asyncio.timeout(PATIENCE):
                while not await is_admitted(server):
                    pass


async def is_admitted(server: TestServer) -> bool:
    """Tell whether the address may have a further connection."""
    async with connected_socket(server) as client:
        await client.send(UP)
        return (await client.receive_answer()).status == 200


@pytest.mark.parametrize("path", ["/app/278d425bdf160c739803", "/app/unknown"])
async def test_a_connection_ends_when_its_close_frame_is_answered(path: str) -> None:
    async with serving(APP, deadlines=Deadlines(linger=NEVER)) as server:
        async with connected_socket(server) as client:
            await client.send(handshake(path))
            await client.receive_head()
            if path.endswith("unknown"):
                assert b"4001" in await client.receive_text()
            else:
                await client.receive_hello()
                await client.send(frame(BINARY))
            code, reason = await client.receive_close()
            await client.send_apart(close_frame(code, reason))
            # A connection that is open on the other side takes anything.
            await client.send_until_cut_off(b"x")
        await serves(server)


def is_not_read_from(server: TestServer) -> bool:
    """Tell whether the one client's connection is no longer read from."""
    return any(
        not each._transport.is_reading()  # type: ignore[attr-defined]
        for each in listener_behind(server).connections
    )


@pytest.mark.parametrize("sent", [handshake() + frame(BINARY), b"garbage\r\n\r\n"])
async def test_a_client_that_has_been_told_the_end_is_not_read_from_for_ever(sent: bytes) -> None:
    async with serving(deadlines=Deadlines(linger=NEVER), shutdown_seconds=0.1) as server:
        async with connected_socket(server) as client:
            client.writer.write(sent + bytes(3 * LINGER_BYTES))

            # Nothing lets it go on again.
            await turns_until(lambda: is_not_read_from(server))

            waiting = client.writer.transport.get_write_buffer_size()
            assert waiting > LINGER_BYTES  # the third that is left is the system's, at the most
            client.reset()
        await serves(server)


@pytest.mark.parametrize(
    "sent",
    [b"garbage\r\n\r\n", handshake("/app/unknown"), handshake() + frame(BINARY)],
    ids=["no HTTP", "no app", "no text"],
)
@pytest.mark.parametrize("end", ["closes", "resets"])
async def test_a_client_may_be_gone_when_it_is_told_the_end(
    server: TestServer, sent: bytes, end: str
) -> None:
    for _ in range(30):
        async with connected_socket(server) as client:
            client.writer.write(sent)
            if end == "resets":
                client.reset()
            else:
                client.writer.close()
