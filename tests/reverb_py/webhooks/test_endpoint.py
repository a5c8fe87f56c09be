"""
Endpoints that refuse, hang, lie, break off and disappear, over real connections.

Whatever one of them does, it does to itself: a second webhook of the same app hears everything.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from yarl import URL

from reverb_py.core.apps import Webhook
from reverb_py.testing import PATIENCE
from reverb_py.webhooks.endpoint import MAX_OUT, MAX_WAITING_SINGLY, Limits
from tests.reverb_py.webhooks.receiver import Receiver, Request, receiving
from tests.reverb_py.webhooks.sending import (
    LONG_HOLD,
    PATIENT,
    app_with,
    logged,
    missed,
    occupied,
    running,
)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@asynccontextmanager
async def talking(
    talk: Talk, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Webhook]:
    """Serve raw connections, and return a webhook that leads there."""
    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await talk(reader, writer)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    try:
        port = server.sockets[0].getsockname()[1]
        scheme = "http" if tls is None else "https"
        written = f"[{host}]" if ":" in host else host
        yield Webhook(
            url=f"{scheme}://{written}:{port}/hook",
            kinds=frozenset({"channel_occupied", "client_event"}),
        )
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks)


async def read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], list[Any]]:
    """Return the headers and the events of one request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = [line.partition(": ") for line in head.split("\r\n")[1:-2]]
    headers = {name.lower(): value for name, _, value in lines}
    body = await reader.readexactly(int(headers["content-length"]))
    return headers, json.loads(body)["events"]


def refuse(*channels: str) -> Callable[[Request], web.Response]:
    """Answer 500 to every request with an event of one of these channels."""

    def answer(request: Request) -> web.Response:
        is_refused = any(event["channel"] in channels for event in request.events)
        return web.Response(status=500 if is_refused else 200)

    return answer


def channels_of(events: Iterable[dict[str, Any]]) -> list[str]:
    return [event["channel"] for event in events]


# What is never taken


async def test_an_event_that_is_never_taken_delays_no_other_channel(receiver: Receiver) -> None:
    receiver.answer = refuse("poisoned")
    app = app_with(receiver.webhook())
    async with running(PATIENT, drain_seconds=0.0) as webhooks:
        webhooks.channel_occupied(app, "poisoned")
        for number in range(9):
            webhooks.channel_occupied(app, f"room-{number}")
        events = await receiver.hears(9)

    assert events == [occupied(f"room-{number}") for number in range(9)]
    assert len(receiver.requests) == 10


async def test_the_events_of_a_channel_wait_for_the_one_that_is_refused(
    receiver: Receiver,
) -> None:
    app = app_with(receiver.webhook())
    receiver.answer = refuse("room")
    async with running() as webhooks:
        for count in range(5):
            webhooks.subscription_count(app, "room", count)
        webhooks.channel_occupied(app, "other")
        await receiver.hears(1)
        await receiver.gets(4)
        assert {
            request.events[0].get("subscription_count", 0) for request in receiver.requests
        } == {0}

        receiver.answer = refuse()
        events = await receiver.hears(6)

    assert events[0] == occupied("other")
    assert [event["subscription_count"] for event in events[1:]] == [0, 1, 2, 3, 4]


async def test_what_waits_behind_an_event_that_was_given_up_is_told(receiver: Receiver) -> None:
    receiver.answer = lambda request: web.Response(
        status=500 if request.events == [occupied("room")] else 200
    )
    app = app_with(receiver.webhook())
    with logged() as log:
        async with running(replace(LONG_HOLD, give_up_seconds=0.05)) as webhooks:
            webhooks.channel_occupied(app, "room")
            webhooks.cache_miss(app, "room")
            await receiver.hears(1)

    assert receiver.events == [missed("room")]
    assert sum(line.get("lost_after_retries", 0) for line in log.lines) == 1


@pytest.mark.parametrize("window", [0.01, 0.0])
@pytest.mark.parametrize("place", [0, 37, 99, 100, 149])
async def test_one_event_that_is_never_taken_costs_its_batch_nothing(
    receiver: Receiver, place: int, window: float
) -> None:
    receiver.answer = refuse(f"room-{place}")
    app = app_with(receiver.webhook(), webhook_batch_seconds=window)
    with logged() as log:
        async with running(drain_seconds=0.0) as webhooks:
            for number in range(150):
                webhooks.channel_occupied(app, f"room-{number}")
            events = await receiver.hears(149)

    assert sorted(channels_of(events)) == sorted(
        f"room-{number}" for number in range(150) if number != place
    )
    assert log.lines[-1]["lost"] == 1
    refused = [request for request in receiver.requests if request not in receiver.taken]
    # Halving a hundred takes seven failures, and what is given back may meet the event again.
    assert len([request for request in refused if len(request.events) > 1]) <= 30


async def test_an_event_that_makes_the_endpoint_hang_delays_the_others_once(
    receiver: Receiver,
) -> None:
    hanging: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, events = await read_request(reader)
            if events == [occupied("poisoned")]:
                hanging.append("")
                await reader.read()
            else:
                told.extend(events)
                writer.write(OK)
                if len(told) == 9:
                    done.set()

    told: list[dict[str, str]] = []
    done = asyncio.Event()
    limits = replace(LONG_HOLD, timeout_seconds=0.2, give_up_seconds=10 * PATIENCE)
    async with talking(talk) as webhook, running(limits, drain_seconds=0.0) as webhooks:
        app = app_with(webhook)
        webhooks.channel_occupied(app, "poisoned")
        for number in range(9):
            webhooks.channel_occupied(app, f"room-{number}")
        async with asyncio.timeout(PATIENCE):
            await done.wait()

    assert told == [occupied(f"room-{number}") for number in range(9)]
    assert hanging


async def test_more_poison_than_can_be_set_aside_delays_the_rest_and_loses_none_of_it(
    receiver: Receiver,
) -> None:
    poisoned = [f"poisoned-{number}" for number in range(MAX_OUT + 4)]
    receiver.answer = refuse(*poisoned)
    app = app_with(receiver.webhook())
    limits = replace(LONG_HOLD, give_up_seconds=0.2)
    with logged() as log:
        async with running(limits) as webhooks:
            for channel in poisoned:
                webhooks.channel_occupied(app, channel)
            webhooks.channel_occupied(app, "room")
            assert await receiver.hears(1) == [occupied("room")]

    assert receiver.most_at_once <= MAX_OUT
    assert sum(line.get("lost_after_retries", 0) for line in log.lines) == len(poisoned)


async def test_an_endpoint_that_takes_nothing_is_not_asked_about_everything(
    receiver: Receiver,
) -> None:
    """After two failures in a row it may be the endpoint, and the third event waits."""
    async with receiving() as dead:
        dead.answer = lambda request: web.Response(status=502)
        app = app_with(dead.webhook(), receiver.webhook())
        async with running(PATIENT, drain_seconds=0.0) as webhooks:
            for number in range(MAX_WAITING_SINGLY):
                webhooks.channel_occupied(app, f"room-{number}")
            await dead.gets(2)
            await receiver.hears(MAX_WAITING_SINGLY)

            assert [request.events for request in dead.requests] == [
                [occupied("room-0")],
                [occupied("room-1")],
            ]


async def test_one_success_sets_everything_going_again(receiver: Receiver) -> None:
    refused = [occupied("room-0"), occupied("room-1"), occupied("room-2")]
    attempts: dict[str, int] = {}

    def answer(request: Request) -> web.Response:
        channel = request.events[0]["channel"]
        attempts[channel] = attempts.get(channel, 0) + 1
        is_refused = request.events[0] in refused and attempts[channel] == 1
        return web.Response(status=502 if is_refused else 200)

    receiver.answer = answer
    app = app_with(receiver.webhook())
    # The third pause after failures in a row would last longer than the test.
    limits = replace(LONG_HOLD, first_retry_seconds=0.05, longest_retry_seconds=10 * PATIENCE)
    async with running(limits, jitter=lambda: 1.0) as webhooks:
        for number in range(50):
            webhooks.channel_occupied(app, f"room-{number}")
        events = await receiver.hears(50)

    assert sorted(channels_of(events)) == sorted(f"room-{number}" for number in range(50))


async def test_an_endpoint_that_asks_for_a_pause_is_left_alone(receiver: Receiver) -> None:
    """Laravel in maintenance, or its throttling: it means all of them."""
    async with receiving() as resting:
        resting.answer = lambda request: web.Response(status=503, headers={"Retry-After": "3600"})
        app = app_with(resting.webhook(), receiver.webhook())
        async with running(drain_seconds=0.0) as webhooks:
            for number in range(MAX_WAITING_SINGLY):
                webhooks.channel_occupied(app, f"room-{number}")
            await resting.gets(1)
            await receiver.hears(MAX_WAITING_SINGLY)

            assert [request.events for request in resting.requests] == [[occupied("room-0")]]


# What lies


async def flood(writer: asyncio.StreamWriter, data: bytes) -> None:
    while True:
        writer.write(data)
        await writer.drain()


def starting(head: bytes, then: bytes = b"") -> Talk:
    """Answer every request with `head`, and then with `then` without end."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(head)
            if then:
                await flood(writer, then)

    return talk


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    ticks = asyncio.Event()
    for number in range(1_000_000):
        writer.write(b"HTTP/1.1 200 OK\r\nX: "[number : number + 1] or b"x")
        await writer.drain()
        try:
            async with asyncio.timeout(0.01):
                await ticks.wait()
        except TimeoutError:
            pass


async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")


NO_TIME = "it did not answer in time"
NO_ANSWER = "the request failed (ClientResponseError)"


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (starting(b"HTTP/1.1 200 OK\r\n", b"X-Header: x\r\n" * 1000), NO_ANSWER),
        (starting(b"HTTP/1.1 200 OK\r\nX-Header: ", b"x" * 10_000), NO_ANSWER),
        (starting(b"HTTP/1.1 200 ", b"x" * 10_000), NO_ANSWER),
        (starting(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), NO_TIME),
        (starting(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100), NO_TIME),
        (starting(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), "it answered 101"),
        (starting(b"SSH-2.0-OpenSSH_9.6\r\n"), NO_ANSWER),
        (starting(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), NO_ANSWER),
        (starting(b""), NO_TIME),
        (drip, NO_TIME),
        (break_off, "the request failed (ServerDisconnectedError)"),
    ],
    ids=[
        "endless headers",
        "endless header",
        "endless status",
        "endless 100",
        "endless 103",
        "upgrade",
        "another protocol",
        "negative length",
        "silence",
        "drip",
        "break off",
    ],
)
async def test_an_answer_that_is_none_is_a_failure_and_delays_nobody_else(
    receiver: Receiver, talk: Talk, reason: str
) -> None:
    limits = Limits(timeout_seconds=1.0, first_retry_seconds=0.1, longest_retry_seconds=0.1)
    with logged() as log:
        async with talking(talk) as lying, running(limits, drain_seconds=0.0) as webhooks:
            app = app_with(lying, receiver.webhook("channel_occupied", "cache_miss"))
            webhooks.channel_occupied(app, "first")
            for number in range(50):
                webhooks.cache_miss(app, f"cache-{number}")
            line = await log.says("reason", lying)
            await receiver.hears(51)

    assert line["reason"] == reason
    assert sorted(channels_of(receiver.events)) == sorted(
        ["first", *(f"cache-{number}" for number in range(50))]
    )


async def test_an_endpoint_that_reads_nothing_does_not_answer_in_time(receiver: Receiver) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast(asyncio.Transport, writer.transport).pause_reading()
        await asyncio.Event().wait()

    data = json.dumps("x" * 900_000).encode()
    limits = replace(LONG_HOLD, timeout_seconds=0.2)
    with logged() as log:
        async with talking(talk) as lying, running(limits, drain_seconds=0.0) as webhooks:
            app = app_with(lying, receiver.webhook("channel_occupied"))
            webhooks.client_event(app, "private-a", "client-x", data, "1.2", None)
            webhooks.channel_occupied(app, "private-a")
            line = await log.says("reason", lying)
            await receiver.hears(1)

    assert line["reason"] == NO_TIME


@pytest.mark.parametrize(
    ("head", "then"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nThank you.", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 299 Whatever\r\nContent-Length: 3\r\n\r\nx", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b"x" * 10_000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 10_000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nwrong", b""),
        (OK * 3, b""),
        (OK, OK * 100),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b""),
    ],
    ids=[
        "HTTP 1.0",
        "204",
        "unknown success",
        "endless body",
        "endless chunk extension",
        "endless chunks",
        "wrongly compressed",
        "three answers",
        "endless answers",
        "early hints",
    ],
)
async def test_a_success_is_one_whatever_follows(head: bytes, then: bytes) -> None:
    told: list[dict[str, str]] = []
    done = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, events = await read_request(reader)
            told.extend(events)
            if len(told) == 3:
                done.set()
            writer.write(head)
            if then:
                await flood(writer, then)
            if head.startswith(b"HTTP/1.0"):
                return

    with logged() as log:
        async with talking(talk) as webhook, running(PATIENT) as webhooks:
            app = app_with(webhook)
            for channel in "abc":
                webhooks.channel_occupied(app, channel)
            async with asyncio.timeout(PATIENCE):
                await done.wait()

    assert told == [occupied(channel) for channel in "abc"]
    assert log.lines == []


# Connections


async def test_little_of_what_an_endpoint_says_is_read_at_once() -> None:
    """A flood of interim answers would otherwise hold up every client of the server."""
    arrived = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await reader.read()

    async with talking(talk) as webhook, running(drain_seconds=0.0) as webhooks:
        webhooks.channel_occupied(app_with(webhook), "room")
        async with asyncio.timeout(PATIENCE):
            await arrived.wait()
        port = URL(webhook.url).port
        sockets = [each for each in gc.get_objects() if issubclass(type(each), socket.socket)]
        buffers = [
            each.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            for each in sockets
            if each.fileno() >= 0 and each.type is socket.SOCK_STREAM and peer_port(each) == port
        ]

    assert len(buffers) == 1
    assert buffers[0] <= 16_384


def peer_port(connection: socket.socket) -> int | None:
    try:
        port: int = connection.getpeername()[1]
    except (OSError, IndexError):
        return None
    return port


async def test_a_connection_that_was_closed_just_now_costs_no_attempt() -> None:
    """A server that closes idle connections may do so when the next request is on its way."""
    told: list[dict[str, str]] = []
    arrived = asyncio.Event()
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        _, events = await read_request(reader)
        told.extend(events)
        arrived.set()
        writer.write(OK)
        await reader.readexactly(1)

    with logged() as log:
        async with talking(talk) as webhook, running(PATIENT) as webhooks:
            app = app_with(webhook)
            for channel in "abcd":
                webhooks.channel_occupied(app, channel)
            async with asyncio.timeout(PATIENCE):
                while len(told) < 4:
                    arrived.clear()
                    await arrived.wait()

    assert told == [occupied(channel) for channel in "abcd"]
    assert connections == 4
    assert log.lines == []


async def test_connections_are_used_again(receiver: Receiver) -> None:
    told: list[dict[str, str]] = []
    done = asyncio.Event()
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            _, events = await read_request(reader)
            told.extend(events)
            writer.write(OK)
            if len(told) == 20:
                done.set()

    async with talking(talk) as webhook, running() as webhooks:
        app = app_with(webhook)
        for number in range(20):
            webhooks.channel_occupied(app, f"room-{number}")
        async with asyncio.timeout(PATIENCE):
            await done.wait()

    assert connections == 1


async def test_credentials_in_an_address_are_sent_and_not_logged(receiver: Receiver) -> None:
    receiver.answer = lambda request: web.Response(status=403)
    url = f"http://hook%20er:pass%3Aword@127.0.0.1:{receiver.port}/hook?token=secret"
    app = app_with(Webhook(url=url, kinds=frozenset({"channel_occupied"})))
    with logged() as log:
        async with running(drain_seconds=0.0) as webhooks:
            webhooks.channel_occupied(app, "room")
            line = await log.says("reason")

    sent = receiver.requests[0].headers["Authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"hook er:pass:word"
    assert line["webhook"] == f"http://127.0.0.1:{receiver.port}"
    for secret in ("hook%20er", "hook er", "word", "token", "secret"):
        assert secret not in str(log.lines)


async def test_an_address_can_be_ipv6() -> None:
    told = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers, events = await read_request(reader)
        assert headers["host"].startswith("[::1]:")
        assert events == [occupied("room")]
        told.set()
        writer.write(OK)

    async with talking(talk, host="::1") as webhook, running() as webhooks:
        webhooks.channel_occupied(app_with(webhook), "room")
        async with asyncio.timeout(PATIENCE):
            await told.wait()


# TLS


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Return what a server needs whose certificate nobody has signed."""
    folder: Path = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-keyout", "key.pem", "-out", "certificate.pem", "-subj", "/CN=localhost"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


async def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_said(
    self_signed: ssl.SSLContext,
) -> None:
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())

    with logged() as log:
        async with (
            talking(talk, tls=self_signed) as webhook,
            running(drain_seconds=0.0) as webhooks,
        ):
            webhooks.channel_occupied(app_with(webhook), "room")
            line = await log.says("reason")

    assert line["reason"] == "its certificate is not valid"
    assert b"".join(heard) == b""


async def test_a_server_without_tls_is_not_spoken_to_without_it(receiver: Receiver) -> None:
    url = f"https://127.0.0.1:{receiver.port}/hook"
    app = app_with(Webhook(url=url, kinds=frozenset({"channel_occupied"})))
    with logged() as log:
        async with running(drain_seconds=0.0) as webhooks:
            webhooks.channel_occupied(app, "room")
            line = await log.says("reason")

    assert line["reason"] == "it does not speak TLS as it should"
    assert receiver.requests == []


# Names


async def test_a_name_that_is_not_known_is_looked_up_again(receiver: Receiver) -> None:
    asked: list[tuple[object, ...]] = []

    def look_up(*question: Any, **details: Any) -> list[tuple[Any, ...]]:
        asked.append(question)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", receiver.port))]

    url = f"http://backend.example:{receiver.port}/hook"
    app = app_with(Webhook(url=url, kinds=frozenset({"channel_occupied"})))
    with logged() as log:
        async with running(look_up=look_up) as webhooks:
            webhooks.channel_occupied(app, "room")
            line = await log.says("reason")
            await receiver.hears(1)

    assert line["reason"] == "its host name is not known"
    assert asked == [("backend.example", receiver.port)] * 3
    assert receiver.requests[0].headers["Host"] == f"backend.example:{receiver.port}"


async def test_names_that_nobody_answers_for_delay_no_other_name_and_not_the_end(
    receiver: Receiver,
) -> None:
    answer = threading.Event()
    asked: list[str] = []

    def look_up(host: str, port: int, **details: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        if host != "backend.example":
            answer.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    kinds = frozenset({"channel_occupied"})
    dead = [Webhook(url=f"http://dead-{number}.example/", kinds=kinds) for number in range(100)]
    url = f"http://backend.example:{receiver.port}/hook"
    app = app_with(*dead, Webhook(url=url, kinds=kinds))
    try:
        with logged() as log:
            async with running(drain_seconds=0.0, look_up=look_up) as webhooks:
                for number in range(3):
                    webhooks.channel_occupied(app, f"room-{number}")
                await receiver.hears(3)
    finally:
        answer.set()

    assert sorted(asked) == sorted(
        ["backend.example", *(f"dead-{number}.example" for number in range(100))]
    )
    assert [line["lost"] for line in log.lines] == [3] * 100
