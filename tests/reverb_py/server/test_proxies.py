"""Behind proxies: limits are held against clients, and only the trusted say who they are."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from reverb_py.core.apps import App
from reverb_py.protocol.signing import channel_auth
from reverb_py.server.addresses import TrustedProxies
from reverb_py.server.listener import Deadlines
from reverb_py.testing import PATIENCE, TestServer, serving
from tests.reverb_py.server.raw_client import (
    RawClient,
    close_frame,
    connected_socket,
    error_json,
    handshake,
    request,
    text,
)
from tests.support.certificates import certificate_for

LOCAL = TrustedProxies((ip_network("127.0.0.1/32"),))
ELSEWHERE = TrustedProxies((ip_network("10.0.0.0/8"),))
TOO_MANY = "More than 1 connections from one address"
HEALTHY = b'{"health":"OK"}'


# Whose request it is.


def test_a_peer_without_an_address_is_trusted_by_its_own_name_only() -> None:
    assert TrustedProxies(has_unix=True).trusts("")
    assert not TrustedProxies((ip_network("0.0.0.0/0"), ip_network("::/0"))).trusts("")


async def joined(client: RawClient, forwarded_for: str | None) -> bool:
    """Shake hands for this client; tell whether it was admitted."""
    await client.send(handshake(X_Forwarded_For=forwarded_for))
    await client.receive_head()
    hello = await client.receive_text()
    if b"connection_established" in hello:
        return True
    assert hello == error_json(4100, TOO_MANY)
    return False


async def test_websockets_through_a_proxy_are_counted_for_their_clients() -> None:
    async with (
        serving(max_connections_per_address=1, trusted_proxies=LOCAL) as server,
        connected_socket(server) as idle,
        connected_socket(server) as first,
        connected_socket(server) as again,
        connected_socket(server) as other,
        connected_socket(server) as sixth,
        connected_socket(server) as network,
    ):
        assert await joined(first, "192.0.2.1")
        assert not await joined(again, "203.0.113.9, 192.0.2.1")
        assert await joined(other, "192.0.2.2")
        assert await joined(sixth, "2001:db8::1")
        assert not await joined(network, "2001:db8::2")
        await idle.send(request("GET /up"))
        assert (await idle.receive_answer()).body == HEALTHY


async def test_a_place_is_free_again_when_a_client_behind_a_proxy_has_gone() -> None:
    async with serving(max_connections_per_address=1, trusted_proxies=LOCAL) as server:
        for _ in range(10):
            async with connected_socket(server) as client:
                assert await joined(client, "192.0.2.1")
                await client.send(close_frame(1000))
                assert await client.receive_close() == (1000, "")
                await client.receive_end()


async def test_connections_past_the_proxy_are_counted_from_their_first_byte_on() -> None:
    async with (
        serving(max_connections_per_address=1, trusted_proxies=LOCAL) as server,
        connected_socket(server, source="127.0.0.2"),
        connected_socket(server, source="127.0.0.2") as flood,
        connected_socket(server) as proxied,
    ):
        # What the one says of itself is not believed, and what the proxy says of it is.
        assert not await joined(flood, "192.0.2.1")
        assert not await joined(proxied, "127.0.0.2")


async def test_who_is_not_trusted_is_not_believed() -> None:
    async with (
        serving(max_connections_per_address=1, trusted_proxies=ELSEWHERE) as server,
        connected_socket(server) as one,
        connected_socket(server) as two,
    ):
        assert await joined(one, "192.0.2.1")
        assert not await joined(two, "192.0.2.2")


async def test_new_connections_in_a_minute_are_counted_for_the_clients() -> None:
    refusal = "More than 1 new connections in a minute from one address"
    async with serving(connects_per_minute_per_address=1, trusted_proxies=LOCAL) as server:
        for address in ("192.0.2.1", "192.0.2.2"):
            async with connected_socket(server) as client:
                assert await joined(client, address)
        async with connected_socket(server) as client:
            await client.send(handshake(X_Forwarded_For="192.0.2.1"))
            await client.receive_head()
            await client.receive_fatal_error(4100, refusal)


async def test_requests_over_one_kept_connection_are_counted_for_whom_each_is() -> None:
    def up(*addresses: str) -> bytes:
        return request("GET /up", *[f"X-Forwarded-For: {address}" for address in addresses])

    async with (
        serving(requests_per_second_per_address=1, trusted_proxies=LOCAL) as server,
        connected_socket(server) as proxy,
        connected_socket(server, source="127.0.0.2") as past,
    ):
        # In one piece, so that no time passes between them.
        await proxy.send(
            up("192.0.2.1")
            + up("192.0.2.2")
            + up("192.0.2.1")
            + up("203.0.113.9", "192.0.2.2")
            + up("192.0.2.3, 127.0.0.1")
            + up("192.0.2.3")
        )
        statuses = [(await proxy.receive_answer()).status for _ in range(6)]
        assert statuses == [200, 200, 429, 429, 200, 429]

        await past.send(up("192.0.2.7") + up("192.0.2.8"))
        assert (await past.receive_answer()).status == 200
        assert (await past.receive_answer()).status == 429


async def test_what_a_trailer_says_of_the_client_is_not_believed() -> None:
    chunked = request("POST /up", "X-Forwarded-For: 192.0.2.1", "Transfer-Encoding: chunked")
    async with (
        serving(requests_per_second_per_address=1, trusted_proxies=LOCAL) as server,
        connected_socket(server) as proxy,
    ):
        await proxy.send(
            b"".join(
                chunked + b"1\r\n{\r\n0\r\nX-Forwarded-For: 192.0.2.%d\r\n\r\n" % number
                for number in (7, 8)
            )
        )
        statuses = [(await proxy.receive_answer()).status for _ in range(2)]
    assert statuses == [405, 429]


async def test_client_events_are_counted_for_the_client() -> None:
    app = App(
        id="1001",
        key="278d425bdf160c739803",
        secret="7ad3773142a6692b25b8",
        client_events_per_second_per_address=1,
    )
    event = text('{"event":"client-x","channel":"private-room","data":1}')
    async with serving(app, trusted_proxies=LOCAL) as server, server.connected() as witness:
        await witness.subscribe("private-room")
        async with connected_socket(server) as one, connected_socket(server) as two:
            for client, address in ((one, "192.0.2.1"), (two, "192.0.2.2")):
                await client.send(handshake(X_Forwarded_For=address))
                await client.receive_head()
                await client.receive_hello()
                subscription = {
                    "channel": "private-room",
                    "auth": auth_of(server, client, "private-room"),
                }
                await client.send(text({"event": "pusher:subscribe", "data": subscription}))
                await client.receive_text()
            await one.send(event)
            assert "client-x" in await witness.receive()
            await two.send(event)
            assert "client-x" in await witness.receive()


def auth_of(server: TestServer, client: RawClient, channel: str) -> str:
    return channel_auth(server.app.key, server.app.secret, client.socket_id, channel, None)


# PROXY heads.


def head_for(source: str, version: int = 1) -> bytes:
    """Return the head of a proxy that hands on a connection of this address."""
    address = ip_address(source)
    if version == 1:
        return f"PROXY TCP{address.version} {source} {source} 4711 443\r\n".encode()
    both = address.packed * 2 + struct.pack("!HH", 4711, 443)
    family = 0x11 if address.version == 4 else 0x21
    return b"\r\n\r\n\0\r\nQUIT\n\x21" + struct.pack("!BH", family, len(both)) + both


SPEAKS_FOR_ITSELF = [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"]


@contextlib.asynccontextmanager
async def proxied(server: TestServer, source: str, version: int = 1) -> AsyncIterator[RawClient]:
    """Connect as a proxy does for a client."""
    async with connected_socket(server, head=head_for(source, version)) as client:
        yield client


@pytest.mark.parametrize("version", [1, 2])
async def test_connections_are_counted_for_whom_the_head_names(version: int) -> None:
    async with (
        serving(
            max_connections_per_address=1, trusted_proxies=LOCAL, proxy_protocol=True
        ) as server,
        proxied(server, "192.0.2.1", version) as first,
        proxied(server, "192.0.2.1", version) as again,
        proxied(server, "192.0.2.2", version) as other,
        proxied(server, "2001:db8::1", version) as sixth,
        proxied(server, "2001:db8::2", version) as network,
    ):
        # The client is not believed about itself.
        assert await joined(first, "192.0.2.9")
        assert not await joined(again, "192.0.2.8")
        assert await joined(other, None)
        assert await joined(sixth, None)
        assert not await joined(network, None)


async def test_a_place_is_free_again_however_a_proxied_connection_ends() -> None:
    async with serving(
        max_connections_per_address=1,
        trusted_proxies=LOCAL,
        proxy_protocol=True,
        timer_resolution=0.02,
        deadlines=Deadlines(head=0.05, keep_alive=0.05),
    ) as server:
        for sent in (b"", b"GET /up HTT", request("GET /up"), b"garbage\r\n\r\n", handshake()):
            for end in ("closed", "reset", "waited for"):
                async with proxied(server, "192.0.2.1") as client:
                    client.writer.write(sent)
                    await asyncio.sleep(0)
                    if end == "reset":
                        client.reset()
                    if end == "waited for" and sent != handshake():
                        async with asyncio.timeout(PATIENCE):
                            await client.reader.read()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    async with proxied(server, "192.0.2.1") as client:
                        if await joined(client, None):
                            break
                except (ConnectionError, asyncio.IncompleteReadError):
                    pass  # Held up, this one was too slow as well.


@pytest.mark.parametrize("head", SPEAKS_FOR_ITSELF)
async def test_a_proxy_may_speak_for_itself(head: bytes) -> None:
    async with (
        serving(trusted_proxies=LOCAL, proxy_protocol=True) as server,
        connected_socket(server, head=head) as client,
    ):
        await client.send(request("GET /ready"))
        assert (await client.receive_answer()).status == 200


@pytest.mark.parametrize("version", [1, 2])
async def test_a_head_may_be_split_anywhere(version: int) -> None:
    head = head_for("2001:db8::1", version)
    async with serving(trusted_proxies=LOCAL, proxy_protocol=True) as server:
        for position in range(1, len(head) + 1):
            async with connected_socket(server) as client:
                await client.send_apart(head[:position], head[position:] + request("GET /up"))
                assert (await client.receive_answer()).body == HEALTHY
        async with connected_socket(server) as client:
            await client.send_apart(*[bytes([byte]) for byte in head + handshake()])
            await client.receive_head()
            await client.receive_hello()


@pytest.mark.parametrize("version", [1, 2])
async def test_the_head_comes_before_the_tls_handshake(version: int, tmp_path: Path) -> None:
    async with (
        serving(
            tls=certificate_for(tmp_path, "a"),
            max_connections_per_address=1,
            trusted_proxies=LOCAL,
            proxy_protocol=True,
        ) as server,
        proxied(server, "192.0.2.1", version) as first,
        proxied(server, "192.0.2.1", version) as again,
    ):
        assert await joined(first, None)
        assert not await joined(again, None)


@pytest.mark.parametrize(
    ("proxies", "sent"),
    [
        (ELSEWHERE, head_for("192.0.2.1") + request("GET /up")),
        (ELSEWHERE, b""),
        (LOCAL, request("GET /up")),
        (LOCAL, handshake()),
        (LOCAL, b"PROXY TCP4 nobody nowhere 1 2\r\n" + request("GET /up")),
        (LOCAL, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"),
        (LOCAL, b""),
        (LOCAL, b"PROXY TCP4 192.0"),
        (LOCAL, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c1234"),
    ],
)
async def test_without_a_head_of_a_trusted_proxy_nothing_is_said(
    proxies: TrustedProxies, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(
            trusted_proxies=proxies,
            proxy_protocol=True,
            timer_resolution=0.02,
            deadlines=Deadlines(head=0.05),
        ) as server,
        connected_socket(server) as client,
    ):
        client.writer.write(sent)
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                assert await client.reader.read() == b""
    assert caplog.records == []


async def test_a_head_that_is_on_its_way_does_not_hold_up_the_end() -> None:
    async with asyncio.timeout(PATIENCE), contextlib.AsyncExitStack() as connections:
        async with serving(
            trusted_proxies=LOCAL, proxy_protocol=True, shutdown_seconds=1_000
        ) as server:
            client = await connections.enter_async_context(connected_socket(server))
            await client.send_apart(b"PROXY TCP4 ")
        with contextlib.suppress(ConnectionError):
            assert await client.reader.read() == b""
