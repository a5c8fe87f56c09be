"""TLS in process: the same server, whatever carries it."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from reverb_py.core.apps import App
from reverb_py.environment import WrongSetting
from reverb_py.server.listener import Deadlines
from reverb_py.server.tls import TlsFiles, server_context
from reverb_py.testing import PATIENCE, TestServer, serving
from tests.reverb_py.server.raw_client import (
    CLOSE,
    RawClient,
    close_frame,
    connected_socket,
    error_json,
    handshake,
    request,
    serves,
    text,
    websocket,
)
from tests.support.certificates import certificate_for, key_in

APP = App(
    id="1001",
    key="278d425bdf160c739803",
    secret="7ad3773142a6692b25b8",
    max_event_data_bytes=50_000,
)


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return certificate_for(tmp_path, "first")


async def test_clients_hear_over_wss_what_is_published_over_https(files: TlsFiles) -> None:
    async with serving(tls=files) as server, server.connected() as client:
        await client.subscribe("orders")
        await server.publish("said", "orders", "1")
        assert await client.receive() == '{"event":"said","channel":"orders","data":"1"}'
        await client.send({"event": "pusher:ping", "data": {"long": "x" * 9_000}})
        assert await client.receive() == '{"event":"pusher:pong","data":"{}"}'


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_http_1_1_is_what_is_agreed_upon(files: TlsFiles, version: str) -> None:
    async with serving(tls=files) as server:
        assert server.tls is not None
        server.tls.set_alpn_protocols(["h2", "http/1.1"])
        server.tls.minimum_version = server.tls.maximum_version = ssl.TLSVersion[
            version.replace(".", "_")
        ]
        async with connected_socket(server) as client:
            agreed = client.writer.get_extra_info("ssl_object")
            assert (agreed.version(), agreed.selected_alpn_protocol()) == (version, "http/1.1")
            await client.send(request("GET /up"))
            assert (await client.receive_answer()).body == b'{"health":"OK"}'


def test_nothing_older_than_tls_1_2_is_spoken(files: TlsFiles) -> None:
    assert server_context(files).minimum_version == ssl.TLSVersion.TLSv1_2


async def test_the_last_words_to_a_client_that_goes_on_talking_arrive(files: TlsFiles) -> None:
    async with serving(tls=files) as server:
        async with connected_socket(server) as client:
            await client.send(handshake("/app/unknown"))
            await client.receive_head()
            await client.send(text("x" * 20_000) * 20)
            message = "Application does not exist: check the app key"
            assert await client.receive_text() == error_json(4001, message)
            assert await client.receive_close() == (4001, message)
        async with connected_socket(server) as client:
            await client.send(b"garbage\r\n\r\n" + b"x" * 100_000)
            assert (await client.receive_answer()).status == 400


async def test_a_client_that_says_goodbye_twice_is_gone_all_the_same(files: TlsFiles) -> None:
    async with serving(
        tls=files,
        max_connections_per_address=2,
        timer_resolution=0.02,
        deadlines=Deadlines(linger=0.1),
    ) as server:
        for _ in range(2):
            async with connected_socket(server) as client:
                await client.send(handshake())
                await client.receive_head()
                for _ in range(5):
                    client.writer.write(close_frame(1000))
                    await asyncio.sleep(0)
                async with asyncio.timeout(PATIENCE):
                    try:
                        await client.reader.read()
                    except ConnectionError:
                        pass  # Who talks on behind its close frame may miss the answer.
        await until_admitted(server)


@pytest.mark.parametrize(
    "sent", [b"", b"GET /up HTT", handshake(), handshake("/app/unknown"), b"garbage\r\n\r\n"]
)
async def test_who_does_not_go_is_cut_off_in_its_time(files: TlsFiles, sent: bytes) -> None:
    short = Deadlines(head=0.1, linger=0.1)
    app = replace(APP, ping_interval=0.1, pong_timeout=0.1)
    async with (
        serving(app, tls=files, timer_resolution=0.02, deadlines=short) as server,
        connected_socket(server) as client,
    ):
        client.writer.write(sent)
        async with asyncio.timeout(PATIENCE):
            await client.reader.read()


async def test_clients_are_sent_away_with_4200(files: TlsFiles) -> None:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as connections:
        async with serving(tls=files) as server:
            client = await connections.enter_async_context(server.connected())
        reason = "Server is shutting down: reconnect"
        assert (await client.receive()).encode() == error_json(4200, reason)
        assert await client.closed() == (4200, reason)


async def test_a_slow_client_is_closed_with_4100_and_a_fast_one_gets_everything(
    files: TlsFiles,
) -> None:
    event = '{"event":"said","channel":"orders","data":"' + "x" * 50_000 + '"}'
    message = "Too slow: more than 65536 bytes are waiting"
    async with (
        serving(
            APP, tls=files, max_buffered_bytes=65_536, deadlines=Deadlines(linger=1_000)
        ) as server,
        server.connected() as fast,
        connected_socket(server, receive_buffer=4_096) as slow,
    ):
        await fast.subscribe("orders")
        await slow.open_websocket()
        await slow.send(text({"event": "pusher:subscribe", "data": {"channel": "orders"}}))
        await slow.receive_text()
        published = 0
        async with asyncio.timeout(6 * PATIENCE):
            while await subscribers(server) == 2:
                await server.publish("said", "orders", "x" * 50_000)
                assert await fast.receive() == event
                published += 1
        heard: list[bytes] = []
        while (frame := await slow.receive()).opcode != CLOSE:
            heard.append(frame.payload)
    assert heard[-1] == error_json(4100, message)
    assert heard[:-1] == [event.encode()] * len(heard[:-1])
    # What the systems between hold, and what waits here; TLS alone would let half a megabyte wait.
    assert 0 < len(heard[:-1]) < published


async def subscribers(server: TestServer) -> int:
    _, body = await server.request(
        "GET", "/channels/orders", parameters={"info": "subscription_count"}
    )
    count: int = json.loads(body)["subscription_count"]
    return count


@asynccontextmanager
async def plain_socket(server: TestServer) -> AsyncIterator[RawClient]:
    """Connect without TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


HELLO_WITHOUT_END = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize(
    "sent", [b"", HELLO_WITHOUT_END, request("GET /up"), handshake(), b"\x00" * 40_000]
)
@pytest.mark.parametrize("end", ["closed", "half closed", "reset", "waited for"])
async def test_whoever_does_not_shake_hands_is_cut_off_without_a_word_in_the_log(
    files: TlsFiles, sent: bytes, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(
        tls=files,
        max_connections_per_address=2,
        timer_resolution=0.02,
        deadlines=Deadlines(head=0.1, linger=0.1),
    ) as server:
        for _ in range(2):
            async with plain_socket(server) as client:
                client.writer.write(sent)
                await asyncio.sleep(0)
                if end == "half closed":
                    client.half_close()
                elif end == "reset":
                    client.reset()
                if end in ("half closed", "waited for"):
                    async with asyncio.timeout(PATIENCE):
                        try:
                            await client.reader.read()
                        except ConnectionError:
                            pass
        await until_admitted(server)
        assert [record.getMessage() for record in caplog.records if is_told(record)] == []


def is_told(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.INFO


async def until_admitted(server: TestServer) -> None:
    """See that both places of this address are free, soon."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with connected_socket(server) as one, connected_socket(server) as two:
                    for client in (one, two):
                        await client.send(request("GET /up"))
                    statuses = [(await client.receive_answer()).status for client in (one, two)]
            except (ConnectionError, asyncio.IncompleteReadError):
                continue  # Held up, these were too slow as well.
            if statuses == [200, 200]:
                return


async def test_a_handshake_that_is_going_on_does_not_hold_up_the_end(files: TlsFiles) -> None:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as connections:
        async with serving(tls=files, shutdown_seconds=1_000) as server:
            client = await connections.enter_async_context(plain_socket(server))
            await client.send_apart(HELLO_WITHOUT_END)
        assert await client.reader.read() == b""


async def test_connections_beyond_those_of_one_address_are_told_so(files: TlsFiles) -> None:
    async with (
        serving(tls=files, max_connections_per_address=1) as server,
        websocket(server),
        connected_socket(server) as client,
    ):
        await client.send(handshake())
        await client.receive_head()
        await client.receive_fatal_error(4100, "More than 1 connections from one address")


async def test_new_certificates_are_for_new_connections_and_old_ones_stay(tmp_path: Path) -> None:
    first, second = certificate_for(tmp_path, "first"), certificate_for(tmp_path, "second")
    app = replace(APP, activity_timeout=99)
    async with serving(APP, tls=first) as server, websocket(server) as early:
        assert server.tls is not None
        server.tls.load_verify_locations(second.certificate)
        assert shown_to(early) == "first"

        server.reload(app, tls=second)

        async with websocket(server) as late:
            assert shown_to(late) == "second"
        await early.is_answered()

        # What can't be used changes nothing: neither certificates nor apps.
        assert second.key is not None
        second.key.write_text("nonsense")
        with pytest.raises(WrongSetting):
            server.reload(APP, tls=second)
        async with server.connect() as client:
            hello = json.loads(json.loads(await client.receive())["data"])
            assert hello["activity_timeout"] == 99
        async with websocket(server) as late:
            assert shown_to(late) == "second"
        await serves(server)


def shown_to(client: RawClient) -> str:
    """Return the name in the certificate that a client was shown."""
    certificate = client.writer.get_extra_info("ssl_object").getpeercert()
    name: str = certificate["subject"][0][0][1]
    return name


# Files that can't be used.


def missing(files: TlsFiles) -> TlsFiles:
    files.certificate.unlink()
    return files


def no_key(files: TlsFiles) -> TlsFiles:
    return replace(files, key=None)


def no_certificate(files: TlsFiles) -> TlsFiles:
    files.certificate.write_text("nonsense")
    return files


def another_key(files: TlsFiles) -> TlsFiles:
    assert files.key is not None
    key_in(files.key)
    return files


def nonsense_for_a_key(files: TlsFiles) -> TlsFiles:
    assert files.key is not None
    files.key.write_text("nonsense")
    return files


def folder_for_a_key(files: TlsFiles) -> TlsFiles:
    assert files.key is not None
    files.key.unlink()
    files.key.mkdir()
    return files


def encrypted_key(files: TlsFiles) -> TlsFiles:
    assert files.key is not None
    key_in(files.key, "open sesame")
    return files


def another_passphrase(files: TlsFiles) -> TlsFiles:
    return replace(encrypted_key(files), passphrase="open barley")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (missing, "REVERB_TLS_CERT_FILE: {folder}/a.crt: No such file or directory"),
        (
            no_certificate,
            "REVERB_TLS_CERT_FILE: {folder}/a.crt has no certificate in PEM form that can be used",
        ),
        (
            no_key,
            "REVERB_TLS_CERT_FILE: {folder}/a.crt has no private key in PEM form that can be used",
        ),
        (
            nonsense_for_a_key,
            "REVERB_TLS_KEY_FILE: {folder}/a.key has no private key in PEM form that can be used",
        ),
        (folder_for_a_key, "REVERB_TLS_KEY_FILE: {folder}/a.key: Is a directory"),
        (
            another_key,
            "REVERB_TLS_KEY_FILE: {folder}/a.key is not the key of the certificate in "
            "{folder}/a.crt",
        ),
        (
            encrypted_key,
            "REVERB_TLS_KEY_FILE: {folder}/a.key is encrypted: set REVERB_TLS_KEY_PASSPHRASE",
        ),
        (another_passphrase, "REVERB_TLS_KEY_PASSPHRASE does not open {folder}/a.key"),
    ],
)
def test_files_that_cannot_be_used_are_told_apart(
    change: Callable[[TlsFiles], TlsFiles], problem: str, tmp_path: Path
) -> None:
    files = change(certificate_for(tmp_path, "a"))

    with pytest.raises(WrongSetting) as raised:
        server_context(files)

    assert str(raised.value) == problem.format(folder=tmp_path)


def test_a_key_may_be_encrypted_or_stand_in_the_same_file(tmp_path: Path) -> None:
    encrypted = certificate_for(tmp_path, "encrypted", "open sesame")
    server_context(encrypted)
    assert "sesame" not in repr(encrypted)

    apart = certificate_for(tmp_path, "apart")
    assert apart.key is not None
    together = tmp_path / "together.pem"
    together.write_bytes(apart.certificate.read_bytes() + apart.key.read_bytes())
    server_context(TlsFiles(certificate=together))
