"""Sockets to listen on: a Unix socket serves as a port does, and belongs to one server."""

import asyncio
import errno
import socket
import stat
from contextlib import AsyncExitStack
from ipaddress import ip_network
from pathlib import Path

import pytest

from reverb_py.core.apps import App
from reverb_py.server.addresses import TrustedProxies
from reverb_py.server.listener import Deadlines
from reverb_py.server.sockets import tcp_sockets
from reverb_py.testing import serving
from tests.reverb_py.server.raw_client import (
    RawClient,
    connected_socket,
    error_json,
    handshake,
    request,
    serves,
    websocket,
)
from tests.support.certificates import certificate_for


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reverb.sock"


def mode_of(path: Path) -> int | None:
    return path.stat().st_mode if path.exists() else None


def text_of(path: Path) -> str:
    return path.read_text()


async def test_clients_and_backends_come_by_the_socket(path: Path) -> None:
    async with serving(socket_path=path) as server:
        await serves(server)
        assert mode_of(path) == stat.S_IFSOCK | 0o660
        assert server.port == 0
    assert mode_of(path) is None


async def test_the_mode_says_who_may_connect(path: Path) -> None:
    async with serving(socket_path=path, socket_mode=0o600):
        assert mode_of(path) == stat.S_IFSOCK | 0o600


async def test_it_may_speak_tls(path: Path, tmp_path: Path) -> None:
    files = certificate_for(tmp_path, "a")
    async with serving(socket_path=path, tls=files) as server, websocket(server) as client:
        await client.is_answered()
    assert mode_of(path) is None


async def test_what_a_dead_server_left_behind_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(socket_path=path) as server:
        await serves(server)


@pytest.mark.parametrize("connections_that_wait", [0, 3])
async def test_where_a_server_listens_no_other_one_starts(
    path: Path, connections_that_wait: int
) -> None:
    async with AsyncExitStack() as stack:
        alive = stack.enter_context(socket.socket(socket.AF_UNIX))
        alive.bind(str(path))
        alive.listen(0)
        for _ in range(connections_that_wait):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            waiting.connect_ex(str(path))

        with pytest.raises(OSError, match="a server is listening there already") as raised:
            async with serving(socket_path=path):
                pass
        assert raised.value.errno == errno.EADDRINUSE
        assert mode_of(path) is not None


@pytest.fixture
def precious(path: Path) -> Path:
    path.write_text("precious")
    return path


async def test_a_file_that_is_no_socket_is_not_touched(precious: Path) -> None:
    with pytest.raises(OSError, match="there is something else at that path") as raised:
        async with serving(socket_path=precious):
            pass
    assert raised.value.errno == errno.EEXIST
    assert text_of(precious) == "precious"


async def test_a_server_that_leaves_does_not_take_its_successors_socket_along(path: Path) -> None:
    async with AsyncExitStack() as successors:
        async with AsyncExitStack() as leaving:
            server = await leaving.enter_async_context(serving(socket_path=path))
            client = await leaving.enter_async_context(websocket(server))
            await server.drain()
            successor = await successors.enter_async_context(serving(socket_path=path))
            await client.is_answered()
        await serves(successor)
        assert mode_of(path) is not None
    assert mode_of(path) is None


TOO_MANY = "More than 1 connections from one address"


async def admitted(client: RawClient, forwarded_for: str | None = None) -> bool:
    await client.send(handshake(X_Forwarded_For=forwarded_for))
    await client.receive_head()
    hello = await client.receive_text()
    if b"connection_established" in hello:
        return True
    assert hello == error_json(4100, TOO_MANY)
    return False


async def test_clients_without_an_address_are_not_counted_as_one(path: Path) -> None:
    app = App(
        id="1001",
        key="278d425bdf160c739803",
        secret="7ad3773142a6692b25b8",
        client_events_per_second_per_address=1,
    )
    event = '{"event":"client-x","channel":"private-room","data":1}'
    async with (
        serving(
            app,
            socket_path=path,
            max_connections_per_address=1,
            requests_per_second_per_address=1,
            connects_per_minute_per_address=1,
        ) as server,
        server.connected() as one,
        server.connected() as two,
        connected_socket(server) as backend,
    ):
        for client in (one, two):
            await client.subscribe("private-room")
        for _ in range(3):
            await one.send(event)
            assert await two.receive() == event
        await backend.send(request("GET /up") * 3)
        for _ in range(3):
            assert (await backend.receive_answer()).status == 200


@pytest.mark.parametrize(
    ("proxies", "is_believed"),
    [
        (TrustedProxies(has_unix=True), True),
        (TrustedProxies((ip_network("0.0.0.0/0"), ip_network("::/0"))), False),
    ],
)
async def test_a_proxy_on_the_socket_is_believed_where_it_is_trusted_by_name(
    path: Path, proxies: TrustedProxies, *, is_believed: bool
) -> None:
    async with (
        serving(socket_path=path, max_connections_per_address=1, trusted_proxies=proxies) as server,
        connected_socket(server) as first,
        connected_socket(server) as again,
        connected_socket(server) as other,
    ):
        assert await admitted(first, "192.0.2.1")
        assert await admitted(again, "192.0.2.1") is not is_believed
        assert await admitted(other, "192.0.2.2")


async def test_proxy_heads_come_by_the_socket_too(path: Path, tmp_path: Path) -> None:
    head = b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 443\r\n"
    async with (
        serving(
            socket_path=path,
            tls=certificate_for(tmp_path, "a"),
            max_connections_per_address=1,
            trusted_proxies=TrustedProxies(has_unix=True),
            proxy_protocol=True,
        ) as server,
        connected_socket(server, head=head) as first,
        connected_socket(server, head=head) as again,
    ):
        assert await admitted(first)
        assert not await admitted(again)


async def test_a_client_whose_own_socket_has_a_name_has_no_address_either(
    path: Path, tmp_path: Path
) -> None:
    async with serving(socket_path=path, max_connections_per_address=1):
        for name in ("one", "two"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.setblocking(False)
                connection.bind(str(tmp_path / name))
                connection.connect(str(path))
                reader, writer = await asyncio.open_connection(sock=connection)
                client = RawClient(reader, writer)
                assert await admitted(client)
                writer.close()


async def test_a_host_is_listened_on_at_each_of_its_addresses() -> None:
    sockets = await tcp_sockets("localhost", 0)
    try:
        assert {place.getsockname()[0] for place in sockets} <= {"127.0.0.1", "::1"}
        assert len({place.family for place in sockets}) == len(sockets) >= 1
    finally:
        for place in sockets:
            place.close()


async def test_connections_that_wait_when_the_server_stops_are_taken_and_told() -> None:
    """Connections that the system has accepted, and nobody has looked at."""
    reason = "Server is shutting down: reconnect"
    async with AsyncExitStack() as connections:
        clients = []
        short = Deadlines(linger=0.1)
        async with serving(deadlines=short, timer_resolution=0.02) as server:
            address = ("127.0.0.1", server.port)
            for _ in range(150):
                clients.append(connections.enter_context(socket.create_connection(address)))
                clients[-1].sendall(handshake())
        for connection in clients:
            connection.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=connection)
            client = RawClient(reader, writer)
            await client.receive_head()
            await client.receive_hello()
            assert await client.receive_text() == error_json(4200, reason)
            assert await client.receive_close() == (4200, reason)
            writer.close()
