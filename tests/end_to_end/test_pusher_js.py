"""What pusher-js, the reference client, makes of the server."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reverb_py.core.apps import App, ClientEventsFrom
from reverb_py.testing import PusherClient, TestServer, serving
from tests.support.backend import AuthEndpoint, auth_endpoint, backend_of, calling
from tests.support.certificates import certificate_for
from tests.support.proxy import proxying
from tests.support.pusher_js import PusherJs, pusher_js


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with serving() as running:
        yield running


@pytest.fixture
async def endpoint(server: TestServer) -> AsyncIterator[AuthEndpoint]:
    async with auth_endpoint(backend_of(server)) as running:
        yield running


@asynccontextmanager
async def client_of(
    user: str, server: TestServer, endpoint: AuthEndpoint, port: int | None = None
) -> AsyncIterator[PusherJs]:
    """Run a client that has connected, maybe by a proxy, and asks the endpoint as this user."""
    options = endpoint.pusher_js_options(user)
    async with pusher_js(server.app.key, port or server.port, **options) as client:
        [client.socket_id] = await client.hears("state", "connected")
        yield client


async def subscribe(client: PusherJs, channel: str) -> None:
    """Subscribe, and await the success."""
    await client.do("subscribe", channel)
    await client.hears("event", channel, "pusher:subscription_succeeded")


async def receive_whisper(client: PusherClient) -> Any:
    """Return the next client event, whatever else is told before it."""
    while True:
        message = json.loads(await client.receive())
        if message["event"].startswith("client-"):
            return message


async def test_it_connects_subscribes_receives_and_unsubscribes(server: TestServer) -> None:
    async with pusher_js(server.app.key, server.port) as client:
        [socket_id] = await client.hears("state", "connected")
        assert socket_id.count(".") == 1
        await client.do("subscribe", "orders")
        await client.hears("event", "orders", "pusher:subscription_succeeded")

        await server.publish("order-shipped", "orders", '{"id":7,"to":"Ürümqi"}')

        assert await client.hears("event", "orders") == [
            "order-shipped",
            {"id": 7, "to": "Ürümqi"},
        ]

        await client.do("unsubscribe", "orders")
        await client.hears("unsubscribed", "orders")


async def test_it_does_so_over_tls_and_is_sent_away_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = certificate_for(tmp_path, "first")
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(files.certificate))
    over_tls: dict[str, Any] = {"forceTLS": True, "enabledTransports": ["ws", "wss"]}
    async with (
        serving(tls=files) as server,
        serving(tls=files) as successor,
        proxying(server.port) as proxy,
        pusher_js(server.app.key, proxy.port, wssPort=proxy.port, **over_tls) as client,
    ):
        await client.hears("state", "connected")
        await client.do("subscribe", "orders")
        await client.hears("event", "orders", "pusher:subscription_succeeded")
        await server.publish("order-shipped", "orders", "7")
        assert await client.hears("event", "orders") == ["order-shipped", 7]

        proxy.target_port = successor.port
        await server.drain(0.1)

        await client.hears("state", "connected")
        await client.hears("event", "orders", "pusher:subscription_succeeded")
        await successor.publish("order-shipped", "orders", "8")
        assert await client.hears("event", "orders") == ["order-shipped", 8]


async def test_it_excludes_its_own_socket_from_what_it_caused(server: TestServer) -> None:
    async with pusher_js(server.app.key, server.port) as client:
        [socket_id] = await client.hears("state", "connected")
        await client.do("subscribe", "orders")
        await client.hears("event", "orders", "pusher:subscription_succeeded")

        await server.publish("mine", "orders", "1", socket_id=socket_id)
        await server.publish("theirs", "orders", "2")

        assert await client.hears("event", "orders") == ["theirs", 2]


async def test_an_unknown_key_makes_it_give_up(server: TestServer) -> None:
    async with pusher_js("no-such-key", server.port) as client:
        assert await client.hears("error") == [
            {"code": 4001, "message": "Application does not exist: check the app key"}
        ]
        await client.hears("state", "disconnected")


async def test_a_refused_subscription_is_heard_by_the_channel_and_the_connection(
    server: TestServer,
) -> None:
    async with pusher_js(server.app.key, server.port, auth=f"{server.app.key}:wrong") as client:
        [socket_id] = await client.hears("state", "connected")
        await client.do("subscribe", "private-orders")

        message = (
            "Invalid auth for private-orders: expected APP_KEY:SIGNATURE, where SIGNATURE is the "
            f"hex HMAC-SHA256 of {socket_id}:private-orders under the app's secret"
        )
        assert await client.hears("event", "private-orders", "pusher:subscription_error") == [
            {"type": "AuthError", "error": message, "status": 401}
        ]
        assert await client.hears("error") == [{"code": 4300, "message": message}]

        await client.do("subscribe", "orders")
        await client.hears("event", "orders", "pusher:subscription_succeeded")


async def test_it_answers_pings_and_stays() -> None:
    app = App(id="1", key="key", secret="0123456789abcdef", ping_interval=0.1)
    async with (
        serving(app, timer_resolution=0.05) as server,
        pusher_js("key", server.port) as client,
    ):
        await client.hears("state", "connected")
        for _ in range(2):
            # Only an answered ping is followed by another.
            await client.hears("pinged")
        await client.do("subscribe", "orders")
        await client.hears("event", "orders", "pusher:subscription_succeeded")


EVERY_KIND = (
    "orders",
    "private-orders",
    "presence-room",
    "private-encrypted-letters",
    "cache-prices",
    "private-cache-prices",
    "presence-cache-room",
    "private-encrypted-cache-letters",
)


async def test_cut_off_it_comes_back_to_every_kind_of_channel_and_to_its_user(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    backend = backend_of(server)
    async with (
        proxying(server.port) as proxy,
        client_of("ada", server, endpoint, proxy.port) as client,
    ):
        await client.do("signin")
        await client.hears("signed in")
        for channel in EVERY_KIND:
            await subscribe(client, channel)
            await calling(backend.trigger, channel, "news", {"before": channel})
            assert await client.hears("event", channel, "news") == [{"before": channel}]

        await proxy.cut()

        [socket_id] = await client.hears("state", "connected")
        assert socket_id != client.socket_id
        missing: list[list[Any]] = [
            ["event", channel, "pusher:subscription_succeeded"] for channel in EVERY_KIND
        ]
        missing += [
            ["event", channel, "news", {"before": channel}]
            for channel in EVERY_KIND
            if "cache-" in channel
        ]
        while missing:
            line = await client.hears()
            missing = [beginning for beginning in missing if line[: len(beginning)] != beginning]
        for channel in EVERY_KIND:
            await calling(backend.trigger, channel, "news", {"after": channel})
            assert await client.hears("event", channel) == ["news", {"after": channel}]
        await calling(backend.send_to_user, "ada", "notice", 7)
        assert await client.hears("user") == ["notice", 7]


async def test_a_private_channel_asks_the_endpoint_and_receives(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with client_of("ada", server, endpoint) as client:
        await subscribe(client, "private-orders")
        assert endpoint.requests == [
            {"socket_id": client.socket_id, "channel_name": "private-orders"}
        ]

        await server.publish("shipped", "private-orders", '{"id":7}')

        assert await client.hears("event", "private-orders") == ["shipped", {"id": 7}]


async def test_what_the_endpoint_forbids_costs_nothing_else(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    endpoint.forbidden.add("private-secrets")
    async with client_of("ada", server, endpoint) as client:
        await client.do("subscribe", "private-secrets")
        [error] = await client.hears("event", "private-secrets", "pusher:subscription_error")
        assert (error["type"], error["status"]) == ("AuthError", 403)

        await subscribe(client, "private-orders")
        await server.publish("leaked", "private-secrets", "1")
        await server.publish("shipped", "private-orders", "2")

        assert await client.hears("event") == ["private-orders", "shipped", 2]


async def test_wrongly_signed_no_kind_of_channel_opens_and_the_others_stay_open(
    server: TestServer,
) -> None:
    async with (
        auth_endpoint(backend_of(server, secret="not the secret")) as endpoint,
        client_of("ada", server, endpoint) as client,
    ):
        await subscribe(client, "orders")
        refused = [channel for channel in EVERY_KIND if channel.startswith(("private", "presence"))]
        for channel in refused:
            await client.do("subscribe", channel)
            [error] = await client.hears("event", channel, "pusher:subscription_error")
            assert (error["type"], error["status"]) == ("AuthError", 401)
            [error] = await client.hears("error")
            assert error["code"] == 4300

        for channel in (*refused, "orders"):
            await server.publish("shipped", channel, "7")
        assert await client.hears("event") == ["orders", "shipped", 7]


async def test_presence_knows_itself_and_who_comes_and_goes(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    room = "presence-room"
    async with server.connected() as first, client_of("ada", server, endpoint) as client:
        await first.subscribe(room, '{"user_id":7,"user_info":{"name":"Seven"}}')
        await subscribe(client, room)
        assert await first.receive() == (
            '{"event":"pusher_internal:member_added","channel":"presence-room",'
            '"data":"{\\"user_id\\":\\"ada\\",\\"user_info\\":{\\"name\\": \\"Ada\\"}}"}'
        )

        await client.do("members", room)
        assert await client.hears("members") == [
            {
                "count": 2,
                "me": {"id": "ada", "info": {"name": "Ada"}},
                "members": {"7": {"name": "Seven"}, "ada": {"name": "Ada"}},
            }
        ]

        async with server.connected() as second:
            await second.subscribe(room, '{"user_id":"bo","user_info":{"name":"Bo"}}')
            member = {"id": "bo", "info": {"name": "Bo"}}
            assert await client.hears("event", room, "pusher:member_added") == [member]
        assert await client.hears("event", room, "pusher:member_removed") == [member]


async def test_presence_through_signin_needs_no_channel_data(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    endpoint.is_presence_by_signin = True
    async with client_of("ada", server, endpoint) as client:
        await client.do("signin")
        await client.hears("signed in")
        await subscribe(client, "presence-room")

        await client.do("members", "presence-room")
        assert await client.hears("members") == [
            {
                "count": 1,
                "me": {"id": "ada", "info": {"name": "Ada"}},
                "members": {"ada": {"name": "Ada"}},
            }
        ]


async def test_an_encrypted_event_is_read_by_the_client_and_by_nobody_between(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    channel = "private-encrypted-letters"
    async with server.connected() as wire, client_of("ada", server, endpoint) as client:
        await wire.subscribe(channel)
        await subscribe(client, channel)

        await calling(backend_of(server).trigger, channel, "letter", {"text": "Ürümqi"})

        assert await client.hears("event", channel) == ["letter", {"text": "Ürümqi"}]
        message = json.loads(await wire.receive())
        assert (message["event"], message["channel"]) == ("letter", channel)
        assert json.loads(message["data"]).keys() == {"nonce", "ciphertext"}


@pytest.mark.parametrize("prefix", ["cache-", "private-cache-", "private-encrypted-cache-"])
async def test_a_cache_channel_begins_with_its_last_event_or_says_that_there_is_none(
    prefix: str, server: TestServer, endpoint: AuthEndpoint
) -> None:
    channel = f"{prefix}prices"
    backend = backend_of(server)
    async with client_of("ada", server, endpoint) as client:
        await subscribe(client, channel)
        assert await client.hears("event", channel) == ["pusher:cache_miss", None]

        await calling(backend.trigger, channel, "price", {"eur": 6})
        await calling(backend.trigger, channel, "price", {"eur": 7})
        for euros in (6, 7):
            assert await client.hears("event", channel) == ["price", {"eur": euros}]

        await client.do("unsubscribe", channel)
        await client.hears("unsubscribed", channel)
        await subscribe(client, channel)
        assert await client.hears("event", channel) == ["price", {"eur": 7}]


async def test_a_presence_cache_channel_has_members_and_a_last_event(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    room = "presence-cache-room"
    await server.publish("topic", room, '"tea"')
    async with client_of("ada", server, endpoint) as client:
        await subscribe(client, room)
        assert await client.hears("event", room) == ["topic", "tea"]

        async with server.connected() as other:
            await other.subscribe(room, '{"user_id":"bo"}')
            member = {"id": "bo", "info": None}
            assert await client.hears("event", room, "pusher:member_added") == [member]
            await client.do("members", room)
            [members] = await client.hears("members")
            assert members["members"] == {"ada": {"name": "Ada"}, "bo": None}


async def test_it_hears_how_many_are_subscribed() -> None:
    app = App(id="1", key="key", secret="0123456789abcdef", subscription_counts=True)
    async with serving(app) as server, pusher_js("key", server.port) as client:
        await subscribe(client, "orders")
        counted = ("event", "orders", "pusher:subscription_count")
        assert await client.hears(*counted) == [{"subscription_count": 1}]
        async with server.connected() as other:
            await other.subscribe("orders")
            assert await client.hears(*counted) == [{"subscription_count": 2}]
        assert await client.hears(*counted) == [{"subscription_count": 1}]


async def test_whoever_signs_in_hears_what_is_for_them_and_who_they_watch(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    endpoint.watchlists["ada"] = ["bo", "cy"]
    async with server.connected() as bo, client_of("ada", server, endpoint) as client:
        await bo.sign_in('{"id":"bo"}')
        await client.do("signin")
        assert await client.hears("signed in") == [
            {"id": "ada", "user_info": {"name": "Ada"}, "watchlist": ["bo", "cy"]}
        ]
        assert await client.hears("watchlist") == ["online", ["bo"]]
        assert await client.hears("watchlist") == ["offline", ["cy"]]

        async with server.connected() as cy:
            await cy.sign_in('{"id":"cy"}')
            assert await client.hears("watchlist") == ["online", ["cy"]]
        assert await client.hears("watchlist") == ["offline", ["cy"]]

        backend = backend_of(server)
        await calling(backend.send_to_user, "bo", "notice", {"for": "bo"})
        await calling(backend.send_to_user, "ada", "notice", {"for": "ada"})
        assert await client.hears("user") == ["notice", {"for": "ada"}]


async def test_a_wrongly_signed_signin_is_an_error_and_no_more(server: TestServer) -> None:
    async with (
        auth_endpoint(backend_of(server, secret="not the secret")) as endpoint,
        client_of("ada", server, endpoint) as client,
    ):
        await client.do("signin")

        message = (
            "Invalid auth for signin: expected APP_KEY:SIGNATURE, where SIGNATURE is the hex "
            f"HMAC-SHA256 of {client.socket_id}::user::USER_DATA under the app's secret"
        )
        assert await client.hears("error") == [{"code": 4300, "message": message}]
        await subscribe(client, "orders")


async def test_a_terminated_user_does_not_come_back(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with client_of("ada", server, endpoint) as client:
        await client.do("signin")
        await client.hears("signed in")

        await calling(backend_of(server).terminate_user_connections, "ada")

        assert await client.hears("error") == [
            {"code": 4009, "message": "Connection terminated by the application"}
        ]
        # pusher-js is "disconnected" only when it will not reconnect; otherwise "connecting".
        [state, _] = await client.hears("state")
        assert state == "disconnected"
        assert await server.request("GET", "/connections") == (200, '{"connections":0}')


@pytest.mark.parametrize(
    "channel", ["private-orders", "private-cache-prices", "presence-room", "presence-cache-room"]
)
async def test_whispers_go_to_the_others_and_in_a_room_with_the_name_of_who_whispers(
    channel: str, server: TestServer, endpoint: AuthEndpoint
) -> None:
    is_room = channel.startswith("presence-")
    async with server.connected() as other, client_of("ada", server, endpoint) as client:
        await other.subscribe(channel, '{"user_id":"bo"}' if is_room else None)
        await subscribe(client, channel)
        await client.do("listen", channel, "client-typing")
        await client.hears("listening")

        await other.send({"event": "client-typing", "channel": channel, "data": {"in": "Ürümqi"}})
        assert await client.hears("heard") == [
            "client-typing",
            {"in": "Ürümqi"},
            {"user_id": "bo"} if is_room else {},
        ]

        await client.do("trigger", channel, "client-typing", {"far": "away"})
        assert await client.hears("triggered") == [True]
        assert await receive_whisper(other) == {
            "event": "client-typing",
            "channel": channel,
            "data": {"far": "away"},
            **({"user_id": "ada"} if is_room else {}),
        }


async def test_a_whisper_on_a_public_channel_is_an_error_and_no_more(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with server.connected() as other, client_of("ada", server, endpoint) as client:
        await subscribe(client, "orders")
        await other.subscribe("orders")

        await client.do("trigger", "orders", "client-typing", {})

        assert await client.hears("error") == [
            {
                "code": 4301,
                "message": "Client event refused: they go to private and presence channels only",
            }
        ]
        await other.ping()


async def test_a_whisper_that_the_app_does_not_take_is_an_error_and_no_more(
    server: TestServer, endpoint: AuthEndpoint
) -> None:
    async with client_of("ada", server, endpoint) as client:
        await subscribe(client, "private-orders")
        server.reload(replace(server.app, client_events_from=ClientEventsFrom.NONE))

        await client.do("trigger", "private-orders", "client-typing", {})

        assert await client.hears("error") == [
            {
                "code": 4301,
                "message": "Client event refused: this app does not accept client events",
            }
        ]
        await server.publish("shipped", "private-orders", "7")
        assert await client.hears("event", "private-orders") == ["shipped", 7]


async def test_after_a_restart_it_signs_in_and_is_everywhere_it_was() -> None:
    channels = ("orders", "private-orders", "presence-room", "private-encrypted-letters")
    async with AsyncExitStack() as stack:
        restarted = await stack.enter_async_context(serving())
        async with serving() as server:
            endpoint = await stack.enter_async_context(auth_endpoint(backend_of(server)))
            proxy = await stack.enter_async_context(proxying(server.port))
            client = await stack.enter_async_context(client_of("ada", server, endpoint, proxy.port))
            await client.do("signin")
            await client.hears("signed in")
            for channel in channels:
                await subscribe(client, channel)
            proxy.target_port = restarted.port
        assert await client.hears("error") == [
            {"code": 4200, "message": "Server is shutting down: reconnect"}
        ]
        [socket_id] = await client.hears("state", "connected")
        assert socket_id != client.socket_id
        missing = {*channels, "signin"}
        while missing:
            line = await client.hears()
            if line[0] == "signed in":
                missing.remove("signin")
            elif line[0] == "event" and line[2] == "pusher:subscription_succeeded":
                missing.remove(line[1])
        backend = backend_of(restarted)
        for channel in channels:
            await calling(backend.trigger, channel, "news", {"of": channel})
            assert await client.hears("event", channel) == ["news", {"of": channel}]
        await calling(backend.send_to_user, "ada", "notice", 7)
        assert await client.hears("user") == ["notice", 7]
