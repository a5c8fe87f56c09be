"""What Laravel Echo, with its broadcaster `reverb`, makes of the server."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from reverb_py.testing import TestServer, serving
from tests.support.backend import AuthEndpoint, auth_endpoint, backend_of, calling
from tests.support.programs import Program, node_program
from tests.support.proxy import proxying


class Echo(Program):
    """An Echo client. Channels are named as in Echo: by its method and the name without prefix."""

    socket_id = ""

    async def subscribe(self, method: str, name: str) -> None:
        await self.do("subscribe", method, name)
        await self.hears("subscribed", name)

    async def listen(self, method: str, name: str, event: str) -> None:
        await self.do("listen", method, name, event)
        await self.hears("listening", event)


@asynccontextmanager
async def echo_of(
    user: str, server: TestServer, endpoint: AuthEndpoint, port: int | None = None
) -> AsyncIterator[Echo]:
    """Run an Echo client that has connected, maybe by a proxy, and asks as this user."""
    options = {
        "key": server.app.key,
        "wsHost": "127.0.0.1",
        "wsPort": port or server.port,
        "wssPort": port or server.port,
        "forceTLS": False,
        "enabledTransports": ["ws", "wss"],
        **endpoint.echo_options(user),
    }
    async with node_program(Echo, "echo_client.mjs", options) as echo:
        [echo.socket_id] = await echo.hears("status", "connected")
        yield echo


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with serving() as running:
        yield running


@pytest.fixture
async def endpoint(server: TestServer) -> AsyncIterator[AuthEndpoint]:
    async with auth_endpoint(backend_of(server)) as running:
        yield running


async def test_listen_takes_class_names_and_with_a_dot_names_as_they_are(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with echo_of("ada", server, endpoint) as echo:
        await echo.subscribe("channel", "orders")
        for event in ("Shop.OrderShipped", ".order.shipped", "\\Acme\\Shipped"):
            await echo.listen("channel", "orders", event)

        for name in ("App\\Events\\Shop\\OrderShipped", "order.shipped", "Acme\\Shipped"):
            await server.publish(name, "orders", json.dumps({"name": name}))

        for event, name in (
            ("Shop.OrderShipped", "App\\Events\\Shop\\OrderShipped"),
            (".order.shipped", "order.shipped"),
            ("\\Acme\\Shipped", "Acme\\Shipped"),
        ):
            assert await echo.hears("event", "orders") == [event, {"name": name}]


async def test_a_private_channel_asks_the_endpoint_and_gets_notifications(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with echo_of("ada", server, endpoint) as echo:
        await echo.subscribe("private", "App.Models.User.7")
        assert endpoint.requests == [
            {"socket_id": echo.socket_id, "channel_name": "private-App.Models.User.7"}
        ]
        await echo.do("listenForNotification", "private", "App.Models.User.7")
        await echo.hears("listening")

        await server.publish(
            "Illuminate\\Notifications\\Events\\BroadcastNotificationCreated",
            "private-App.Models.User.7",
            '{"type":"InvoicePaid"}',
        )

        assert await echo.hears("notification", "App.Models.User.7") == [{"type": "InvoicePaid"}]


async def test_a_forbidden_channel_is_heard_by_its_error_handler_alone(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    endpoint.forbidden.add("private-secrets")
    async with echo_of("ada", server, endpoint) as echo:
        await echo.do("subscribe", "private", "secrets")
        [error] = await echo.hears("refused", "secrets")
        assert (error["type"], error["status"]) == ("AuthError", 403)

        await echo.subscribe("private", "orders")


@pytest.mark.parametrize("method", ["private", "encryptedPrivate", "join"])
@pytest.mark.parametrize("name", ["orders", "cache-orders"])
async def test_a_wrongly_signed_channel_is_heard_by_its_error_handler_alone(
    method: str, name: str, server: TestServer
) -> None:
    async with (
        auth_endpoint(backend_of(server, secret="not the secret")) as endpoint,
        echo_of("ada", server, endpoint) as echo,
    ):
        await echo.do("subscribe", method, name)
        [error] = await echo.hears("refused", name)
        assert (error["type"], error["status"]) == ("AuthError", 401)

        await echo.subscribe("channel", "orders")


async def test_join_tells_who_is_here_who_joins_and_who_leaves(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with server.connected() as first, echo_of("ada", server, endpoint) as echo:
        await first.subscribe("presence-room", '{"user_id":1,"user_info":{"name":"One"}}')
        await echo.do("subscribe", "join", "room")
        [here] = await echo.hears("here", "room")
        assert sorted(here, key=lambda user: str(user["name"])) == [
            {"name": "Ada"},
            {"name": "One"},
        ]

        async with server.connected() as second:
            await second.subscribe("presence-room", '{"user_id":2,"user_info":{"name":"Two"}}')
            assert await echo.hears("joining", "room") == [{"name": "Two"}]
        assert await echo.hears("leaving", "room") == [{"name": "Two"}]


@pytest.mark.parametrize("method", ["private", "join"])
@pytest.mark.parametrize("name", ["room", "cache-room"])
async def test_whispers_go_both_ways(
    method: str, name: str, server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with AsyncExitStack() as stack:
        ada = await stack.enter_async_context(echo_of("ada", server, endpoint))
        bo = await stack.enter_async_context(echo_of("bo", server, endpoint))
        for echo in (ada, bo):
            await echo.subscribe(method, name)
            await echo.do("listenForWhisper", method, name, "typing")
            await echo.hears("listening")

        for author, reader in ((ada, bo), (bo, ada)):
            said = {"from": author.socket_id}
            await author.do("whisper", method, name, "typing", said)
            # The first whisper a client hears is the other's, never its own.
            assert await reader.hears("whisper") == [name, "typing", said]


async def test_an_encrypted_private_channel_is_decrypted(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with echo_of("ada", server, endpoint) as echo:
        await echo.subscribe("encryptedPrivate", "letters")
        await echo.listen("encryptedPrivate", "letters", ".letter")

        await calling(
            backend_of(server).trigger, "private-encrypted-letters", "letter", {"text": "Ürümqi"}
        )

        assert await echo.hears("event", "letters") == [".letter", {"text": "Ürümqi"}]


@pytest.mark.parametrize("method", ["channel", "private", "encryptedPrivate", "join"])
async def test_a_cache_channel_begins_with_its_last_event(
    method: str, server: TestServer, endpoint: AuthEndpoint
) -> None:
    prefix = {"private": "private-", "encryptedPrivate": "private-encrypted-", "join": "presence-"}
    channel = f"{prefix.get(method, '')}cache-prices"
    await calling(backend_of(server).trigger, channel, "price", {"eur": 7})
    async with echo_of("ada", server, endpoint) as echo:
        await echo.listen(method, "cache-prices", ".price")
        assert await echo.hears("event", "cache-prices") == [".price", {"eur": 7}]


async def test_whoever_signs_in_hears_what_is_for_them(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with echo_of("ada", server, endpoint) as echo:
        await echo.do("signin")
        await echo.hears("signed in")

        for user in ("bo", "ada"):
            await calling(backend_of(server).send_to_user, user, "notice", {"for": user})

        assert await echo.hears("user") == ["notice", {"for": "ada"}]


async def test_its_socket_id_leaves_it_out_of_what_it_caused(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with echo_of("ada", server, endpoint) as echo:
        await echo.subscribe("channel", "orders")
        await echo.listen("channel", "orders", ".shipped")

        await server.publish("shipped", "orders", "1", socket_id=echo.socket_id)
        await server.publish("shipped", "orders", "2")

        assert await echo.hears("event") == ["orders", ".shipped", 2]


async def test_leave_leaves_every_channel_of_that_name(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with server.connected() as other, echo_of("ada", server, endpoint) as echo:
        await other.subscribe("presence-room", '{"user_id":"bo"}')
        for method in ("channel", "private", "encryptedPrivate", "join"):
            await echo.subscribe(method, "room")
        assert json.loads(await other.receive())["event"] == "pusher_internal:member_added"

        await echo.do("leave", "room")

        # The presence channel is the last of the four to be left.
        assert json.loads(await other.receive())["event"] == "pusher_internal:member_removed"
        assert await server.request("GET", "/channels") == (
            200,
            '{"channels":{"presence-room":{}}}',
        )


EVERY_KIND = (
    ("channel", "orders", "orders"),
    ("private", "bills", "private-bills"),
    ("encryptedPrivate", "letters", "private-encrypted-letters"),
    ("join", "room", "presence-room"),
    ("channel", "cache-orders", "cache-orders"),
    ("private", "cache-bills", "private-cache-bills"),
    ("encryptedPrivate", "cache-letters", "private-encrypted-cache-letters"),
    ("join", "cache-room", "presence-cache-room"),
)
"""Its methods, and the names of channels for it and for a backend."""


async def listen_everywhere(echo: Echo) -> None:
    """Subscribe to every kind of channel, listen for news there, and sign in."""
    for method, name, _ in EVERY_KIND:
        await echo.subscribe(method, name)
        await echo.listen(method, name, ".news")
    await echo.do("signin")
    await echo.hears("signed in")


async def is_back_everywhere(echo: Echo, server: TestServer) -> None:
    """See that it has connected anew, and hears on every channel and what is for its user."""
    [socket_id] = await echo.hears("status", "connected")
    assert socket_id != echo.socket_id
    missing = {"signed in", *[name for _, name, _ in EVERY_KIND]}
    while missing:
        line = await echo.hears()
        if line[0] in ("subscribed", "signed in"):
            missing.remove(line[-1])
    for _, name, channel in EVERY_KIND:
        await calling(backend_of(server).trigger, channel, "news", 7)
        assert await echo.hears("event", name) == [".news", 7]
    await calling(backend_of(server).send_to_user, "ada", "notice", 7)
    assert await echo.hears("user") == ["notice", 7]


async def test_after_a_restart_it_is_back_in_every_channel_and_signed_in() -> None:
    async with AsyncExitStack() as stack:
        restarted = await stack.enter_async_context(serving())
        async with serving() as server:
            endpoint = await stack.enter_async_context(auth_endpoint(backend_of(server)))
            proxy = await stack.enter_async_context(proxying(server.port))
            echo = await stack.enter_async_context(echo_of("ada", server, endpoint, proxy.port))
            await listen_everywhere(echo)
            proxy.target_port = restarted.port
        await is_back_everywhere(echo, restarted)


async def test_cut_off_it_is_back_in_every_channel_and_signed_in(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with (
        proxying(server.port) as proxy,
        echo_of("ada", server, endpoint, proxy.port) as echo,
    ):
        await listen_everywhere(echo)

        await proxy.cut()

        await is_back_everywhere(echo, server)
