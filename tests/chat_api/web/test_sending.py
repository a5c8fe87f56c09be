"""Clients that ask and do not read what they are answered."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from chat_api.kernel.callers import Caller
from chat_api.kernel.routes import Answer, Audience, Call, NoInput, Route
from chat_api.settings import Settings
from chat_api.web.app import create_app
from chat_api.web.sending import Sending
from tests.chat_api.features.support.desk import desk_at
from tests.chat_api.receiver import RealtimeReceiver

SIZE = 16 * 1024 * 1024  # more than the system takes by itself
ASK = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"


async def nobody(token: str) -> Caller:
    raise NotImplementedError


async def large(call: Call[NoInput]) -> Answer:
    return Answer(b"x" * SIZE, media_type="text/plain")


@asynccontextmanager
async def serving(sending: Sending) -> AsyncIterator[int]:
    """Serve something large, on the port that comes out."""
    app = create_app(
        [Route("GET", "/large", NoInput, large, Audience.ANYONE)], nobody, sending=sending
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def asking(port: int) -> socket.socket:
    """Ask for it, and do not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(ASK)
    return client


async def measured(sending: Sending) -> tuple[float, float]:
    """Return how many bytes wait, and how many clients were cut off."""
    waiting, cut_off = [(await measure.read())[()] for measure in sending.measures()]
    return waiting, cut_off


async def until(sending: Sending, expected: tuple[float, float]) -> None:
    async with asyncio.timeout(60):
        while await measured(sending) != expected:  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(0.01)


def is_cut_off(client: socket.socket) -> bool:
    """Read all there is, and tell whether it ends too early."""
    client.settimeout(60)
    read = 0
    try:
        while chunk := client.recv(1 << 20):
            read += len(chunk)
    except ConnectionResetError:
        pass
    return read < SIZE


async def test_who_does_not_take_an_answer_in_time_is_cut_off() -> None:
    sending = Sending(patience=0.2)
    async with serving(sending) as port:
        with asking(port) as client:
            await until(sending, (0, 1))
            assert await asyncio.to_thread(is_cut_off, client)


async def test_of_too_many_who_do_not_read_the_longest_waiting_are_cut_off_and_nobody_else() -> (
    None
):
    sending = Sending(patience=3_600, most_bytes=3 * SIZE)
    async with serving(sending) as port:
        with ExitStack() as stack:
            clients = []
            for number in range(1, 6):
                clients.append(stack.enter_context(asking(port)))
                await until(sending, (min(number, 3) * SIZE, max(0, number - 3)))
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/large") as response,
            ):
                assert len(await response.read()) == SIZE
            await until(sending, (2 * SIZE, 3))

            for client in clients[:3]:
                assert await asyncio.to_thread(is_cut_off, client)


async def test_who_reads_gets_every_answer_on_one_connection() -> None:
    sending = Sending(patience=60)
    async with serving(sending) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASK * 3)
        for _ in range(3):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert await reader.readexactly(SIZE) == b"x" * SIZE
        await until(sending, (0, 0))
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("database_kind", ["sqlite"])
async def test_a_running_api_shows_what_is_not_read(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with (
        desk_at(replace(settings, metrics_port=0), receiver) as desk,
        desk.nobody.session.get(str(desk.api.metrics_url)) as response,
    ):
        text = await response.text()

    assert "\nchat_unread_answer_bytes 0.0\n" in text
    assert "\nchat_unread_answers_cut_off_total 0.0\n" in text
