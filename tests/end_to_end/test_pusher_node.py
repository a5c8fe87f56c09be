"""What the official `pusher` package from npm, as a backend uses it, makes of the server."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import pytest
from nacl.secret import SecretBox

from reverb_py.core.apps import App
from reverb_py.testing import TestServer, serving
from tests.reverb_py.webhooks.receiver import receiving
from tests.support.backend import MASTER_KEY, auth_endpoint, backend_of
from tests.support.programs import Program, node_program
from tests.support.pusher_js import pusher_js


class Backend(Program):
    """The library, whose calls are made one after the other."""

    async def returns(self, method: str, *arguments: Any) -> Any:
        """Make a call that asks nobody, and return its value."""
        await self.do(method, *arguments)
        [what, value] = await self.hears()
        assert what == "returned", value
        return value

    async def answers(self, method: str, *arguments: Any) -> tuple[int, Any]:
        """Make a request, and return the status and the JSON that the server answered with."""
        await self.do(method, *arguments)
        [what, status, body] = await self.hears()
        assert what == "answered", (status, body)
        return status, json.loads(body)

    async def throws(self, method: str, *arguments: Any) -> tuple[int, str]:
        """Make a request that is refused, and return the status and the text of its error."""
        await self.do(method, *arguments)
        [what, _, status, body] = await self.hears()
        assert what == "threw", (status, body)
        return status, body


@asynccontextmanager
async def backend_in_node(server: TestServer, **options: Any) -> AsyncIterator[Backend]:
    options = {
        "appId": server.app.id,
        "key": server.app.key,
        "secret": server.app.secret,
        "host": "127.0.0.1",
        "port": server.port,
        "encryptionMasterKeyBase64": MASTER_KEY,
        **options,
    }
    async with node_program(Backend, "pusher_backend.mjs", options) as backend:
        yield backend


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with serving() as running:
        yield running


@pytest.fixture
async def backend(server: TestServer) -> AsyncIterator[Backend]:
    async with backend_in_node(server) as running:
        yield running


async def test_the_library_has_no_call_that_is_not_made_here(backend: Backend) -> None:
    await backend.do("methods")

    assert await backend.hears("methods") == [
        [
            *("authenticate", "authenticateUser", "authorizeChannel", "channelSharedSecret"),
            *("createSignedQueryString", "get", "post", "sendToUser"),
            *("terminateUserConnections", "trigger", "triggerBatch", "webhook"),
        ]
    ]


async def test_it_triggers_on_channels_and_leaves_one_socket_out(
    server: TestServer, backend: Backend
) -> None:
    async with server.connected() as author, server.connected() as reader:
        await author.subscribe("orders")
        await reader.subscribe("orders")
        await reader.subscribe("private-user.7")

        answer = await backend.answers(
            "trigger",
            ["orders", "private-user.7"],
            "shipped",
            {"to": "Ürümqi"},
            {"socket_id": author.socket_id},
        )

        assert answer == (200, {})
        for channel in ("orders", "private-user.7"):
            assert await reader.receive() == (
                f'{{"event":"shipped","channel":"{channel}","data":"{{\\"to\\":\\"Ürümqi\\"}}"}}'
            )
        await author.ping()


async def test_it_is_told_the_counts_it_asks_for_with_an_event(
    server: TestServer, backend: Backend
) -> None:
    async with server.connected() as first, server.connected() as second:
        await first.subscribe("presence-room", '{"user_id":"ada"}')
        await second.subscribe("presence-room", '{"user_id":"ada"}')

        answer = await backend.answers(
            "trigger",
            ["presence-room", "presence-hall"],
            "news",
            "7",
            {"info": "user_count,subscription_count"},
        )

        assert answer == (
            200,
            {
                "channels": {
                    "presence-room": {"user_count": 1, "subscription_count": 2},
                    "presence-hall": {"user_count": 0, "subscription_count": 0},
                }
            },
        )


async def test_it_triggers_batches(server: TestServer, backend: Backend) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        await client.subscribe("private-user.7")
        batch = [
            {"channel": "orders", "name": "first", "data": {"id": 1}},
            {"channel": "private-user.7", "name": "second", "data": "2"},
            {"channel": "orders", "name": "third", "data": "3", "info": "subscription_count"},
        ]

        answer = await backend.answers("triggerBatch", batch)

        assert answer == (200, {"batch": [{}, {}, {"subscription_count": 1}]})
        received = [json.loads(await client.receive()) for _ in batch]
        assert [(message["event"], message["data"]) for message in received] == [
            ("first", '{"id":1}'),
            ("second", "2"),
            ("third", "3"),
        ]


async def test_it_posts_and_asks_what_it_has_no_call_for(
    server: TestServer, backend: Backend
) -> None:
    event = {"name": "shipped", "channels": ["orders"], "data": "7", "idempotency_key": "k"}
    async with server.connected() as client:
        await client.subscribe("orders")
        for _ in range(2):
            assert await backend.answers("post", {"path": "/events", "body": event}) == (200, {})
        assert await client.receive() == '{"event":"shipped","channel":"orders","data":"7"}'
        await client.ping()

        assert await backend.answers("get", {"path": "/connections"}) == (200, {"connections": 1})
        await backend.answers("trigger", "cache-prices", "price", {"eur": 7})
        status, shown = await backend.answers(
            "get", {"path": "/channels/cache-prices", "params": {"info": "cache"}}
        )
        assert 0 < shown["cache"].pop("ttl") <= 1_800
        assert (status, shown) == (200, {"occupied": False, "cache": {"data": '{"eur":7}'}})


async def test_the_query_it_signs_for_other_clients_is_taken(
    server: TestServer, backend: Backend
) -> None:
    path = f"/apps/{server.app.id}/channels"
    query = await backend.returns(
        "createSignedQueryString", {"method": "GET", "path": path, "params": {"info": ""}}
    )

    parameters = dict(parse_qsl(query, keep_blank_values=True))
    assert await server.unsigned_request("GET", path, parameters=parameters) == (
        200,
        '{"channels":{}}',
    )


async def test_it_is_configured_by_a_url(server: TestServer) -> None:
    app = server.app
    url = f"http://{app.key}:{app.secret}@127.0.0.1:{server.port}/apps/{app.id}"
    async with node_program(Backend, "pusher_backend.mjs", {"url": url}) as backend:
        assert await backend.answers("get", {"path": "/channels"}) == (200, {"channels": {}})


async def test_it_goes_on_when_the_server_is_back() -> None:
    async with AsyncExitStack() as stack:
        async with serving() as server:
            backend = await stack.enter_async_context(backend_in_node(server))
            assert await backend.answers("trigger", "orders", "shipped", "1") == (200, {})
        await backend.do("trigger", "orders", "shipped", "2")
        [message, status, _] = await backend.hears("threw")
        assert (message, status) == ("Request failed with an error", None)
        async with serving(port=server.port) as restarted, restarted.connected() as client:
            await client.subscribe("orders")
            assert await backend.answers("trigger", "orders", "shipped", "3") == (200, {})
            assert await client.receive() == '{"event":"shipped","channel":"orders","data":"3"}'


async def test_it_reads_channels_and_users(server: TestServer, backend: Backend) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        await client.subscribe("presence-room", '{"user_id":7}')

        async def reads(path: str, **params: str) -> tuple[int, Any]:
            return await backend.answers("get", {"path": path, "params": params})

        assert await reads("/channels") == (200, {"channels": {"orders": {}, "presence-room": {}}})
        assert await reads(
            "/channels", filter_by_prefix="presence-", info="user_count,subscription_count"
        ) == (200, {"channels": {"presence-room": {"user_count": 1, "subscription_count": 1}}})
        assert await reads("/channels/orders", info="subscription_count") == (
            200,
            {"occupied": True, "subscription_count": 1},
        )
        assert await reads("/channels/presence-room/users") == (200, {"users": [{"id": "7"}]})
        assert await backend.throws("get", {"path": "/channels/orders/users"}) == (
            400,
            "orders is not a presence channel: it has no users",
        )


async def test_what_it_signs_lets_clients_in_and_it_reaches_and_terminates_the_user(
    server: TestServer, backend: Backend
) -> None:
    async with server.connected() as client, server.connected() as other:
        member = {"user_id": "ada", "user_info": {"from": "Ürümqi"}}
        for method, channel, data, success in (
            ("authorizeChannel", "private-orders", None, "{}"),
            ("authenticate", "private-cache-prices", None, "{}"),
            ("authorizeChannel", "private-encrypted-letters", None, "{}"),
            (
                "authorizeChannel",
                "presence-room",
                member,
                '{"presence":{"count":1,"ids":["ada"],"hash":{"ada":{"from":"Ürümqi"}}}}',
            ),
        ):
            answer = await backend.returns(method, client.socket_id, channel, data)
            answer.pop("shared_secret", None)
            await client.send({"event": "pusher:subscribe", "data": {"channel": channel, **answer}})
            assert json.loads(await client.receive()) == {
                "event": "pusher_internal:subscription_succeeded",
                "channel": channel,
                "data": success,
            }
            if "cache-" in channel:
                assert await client.receive() == (
                    f'{{"event":"pusher:cache_miss","channel":"{channel}"}}'
                )

        answer = await backend.returns("authenticateUser", client.socket_id, {"id": "ada"})
        await client.send({"event": "pusher:signin", "data": answer})
        assert await client.receive() == (
            '{"event":"pusher:signin_success",'
            '"data":"{\\"user_data\\":\\"{\\\\\\"id\\\\\\":\\\\\\"ada\\\\\\"}\\"}"}'
        )
        await client.subscribe("#server-to-user-ada")

        assert await backend.answers("sendToUser", "ada", "notice", {"id": 7}) == (200, {})
        assert await client.receive() == (
            '{"event":"notice","channel":"#server-to-user-ada","data":"{\\"id\\":7}"}'
        )

        assert await backend.answers("terminateUserConnections", "ada") == (200, {})
        assert (await client.closed())[0] == 4009
        await other.ping()


async def test_the_key_it_hands_out_opens_what_was_encrypted(
    server: TestServer, backend: Backend
) -> None:
    channel = "private-encrypted-letters"
    secret = await backend.returns("channelSharedSecret", channel)
    async with server.connected() as client:
        await client.subscribe(channel)
        await backend.answers("trigger", channel, "letter", "sealed")

        letter = json.loads(json.loads(await client.receive())["data"])
        nonce, ciphertext = (base64.b64decode(letter[name]) for name in ("nonce", "ciphertext"))
        assert SecretBox(bytes(secret["data"])).decrypt(ciphertext, nonce) == b'"sealed"'


async def test_what_it_encrypts_pusher_js_decrypts(server: TestServer, backend: Backend) -> None:
    channel = "private-encrypted-cache-letters"
    async with (
        auth_endpoint(backend_of(server)) as endpoint,
        pusher_js(server.app.key, server.port, **endpoint.pusher_js_options("ada")) as client,
    ):
        await client.do("subscribe", channel)
        await client.hears("event", channel, "pusher:cache_miss")

        assert await backend.answers("trigger", channel, "letter", {"to": "Ürümqi"}) == (200, {})

        assert await client.hears("event", channel) == ["letter", {"to": "Ürümqi"}]


async def test_a_wrong_secret_is_refused(server: TestServer) -> None:
    async with backend_in_node(server, secret="not the secret") as backend:
        status, message = await backend.throws("trigger", "orders", "shipped", "7")

    assert status == 401
    assert message.startswith("auth_signature is not the hex HMAC-SHA256, under the app's secret")


async def test_it_believes_the_webhooks_of_the_server() -> None:
    key, secret = "278d425bdf160c739803", "7ad3773142a6692b25b8"
    async with receiving(secret) as receiver:
        app = App(id="1", key=key, secret=secret, webhooks=(receiver.webhook("channel_occupied"),))
        async with serving(app) as server, backend_in_node(server) as backend:
            async with server.connected() as client:
                await client.subscribe("orders")
                [request] = await receiver.gets(1)
            headers = {name.lower(): value for name, value in request.headers.items()}
            body = request.body.decode()

            await backend.do("webhook", {"headers": headers, "rawBody": body})
            assert await backend.hears("webhook") == [
                True,
                [{"name": "channel_occupied", "channel": "orders"}],
            ]
            forged = body.replace("orders", "others")
            await backend.do("webhook", {"headers": headers, "rawBody": forged})
            assert await backend.hears("webhook") == [False, None]
