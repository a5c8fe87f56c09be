"""What the official `pusher` package from PyPI, as a backend uses it, makes of the server."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pusher
import pytest
import requests
from nacl.secret import SecretBox

from reverb_py.core.apps import App
from reverb_py.testing import TestServer, serving
from tests.reverb_py.webhooks.receiver import receiving
from tests.support.backend import MASTER_KEY, backend_of, calling


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with serving() as running:
        yield running


@pytest.fixture
def backend(server: TestServer) -> pusher.Pusher:
    return backend_of(server)


def decrypted(channel: str, data: str) -> bytes:
    """Return what the subscribers of an encrypted channel make of an event's data."""
    box = SecretBox(hashlib.sha256(channel.encode() + base64.b64decode(MASTER_KEY)).digest())
    sealed = json.loads(data)
    assert sealed.keys() == {"nonce", "ciphertext"}
    nonce, ciphertext = (base64.b64decode(sealed[name]) for name in ("nonce", "ciphertext"))
    return box.decrypt(ciphertext, nonce)


def test_the_library_has_no_call_that_is_not_made_here() -> None:
    calls = {name for name in vars(pusher.Pusher) if not name.startswith("_")}

    assert calls == {
        *("trigger", "trigger_batch", "send_to_user", "terminate_user_connections"),
        *("channels_info", "channel_info", "users_info", "authenticate", "authenticate_user"),
        *("validate_webhook", "from_url", "from_env"),
    }


async def test_it_publishes_to_several_channels(server: TestServer, backend: pusher.Pusher) -> None:
    async with server.connected() as first, server.connected() as second:
        await first.subscribe("orders")
        await second.subscribe("private-user.7")

        answer = await calling(
            backend.trigger, ["orders", "private-user.7"], "shipped", {"id": 7, "to": "Ürümqi"}
        )

        assert answer == {}
        for client, channel in ((first, "orders"), (second, "private-user.7")):
            message = json.loads(await client.receive())
            assert (message["event"], message["channel"]) == ("shipped", channel)
            assert json.loads(message["data"]) == {"id": 7, "to": "Ürümqi"}


async def test_it_leaves_one_socket_out(server: TestServer, backend: pusher.Pusher) -> None:
    async with server.connected() as author, server.connected() as reader:
        await author.subscribe("orders")
        await reader.subscribe("orders")

        await calling(backend.trigger, "orders", "shipped", "7", socket_id=author.socket_id)

        assert await reader.receive() == '{"event":"shipped","channel":"orders","data":"7"}'
        await author.ping()


async def test_it_publishes_a_batch_in_order(server: TestServer, backend: pusher.Pusher) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        batch = [{"channel": "orders", "name": "n", "data": str(number)} for number in range(10)]

        assert await calling(backend.trigger_batch, batch) == {}

        received = [json.loads(await client.receive())["data"] for _ in range(10)]
        assert received == [str(number) for number in range(10)]


async def test_a_batch_may_be_encoded_already(server: TestServer, backend: pusher.Pusher) -> None:
    async with server.connected() as author, server.connected() as reader:
        await author.subscribe("orders")
        await reader.subscribe("orders")
        event = {"channel": "orders", "name": "n", "data": '{"id":7}'}
        batch = [event | {"socket_id": author.socket_id}, event | {"info": "subscription_count"}]

        answer = await calling(backend.trigger_batch, batch, already_encoded=True)

        assert answer == {"batch": [{}, {"subscription_count": 2}]}
        for client, times in ((reader, 2), (author, 1)):
            for _ in range(times):
                assert await client.receive() == (
                    '{"event":"n","channel":"orders","data":"{\\"id\\":7}"}'
                )
            await client.ping()


async def test_it_reads_channels(server: TestServer, backend: pusher.Pusher) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        await client.subscribe("private-orders")

        assert await calling(backend.channels_info) == {
            "channels": {"orders": {}, "private-orders": {}}
        }
        assert await calling(backend.channels_info, "private-") == {
            "channels": {"private-orders": {}}
        }
        assert await calling(backend.channel_info, "orders", ["subscription_count"]) == {
            "occupied": True,
            "subscription_count": 1,
        }
        assert await calling(backend.channel_info, "nobody-here") == {"occupied": False}


async def test_it_reads_the_members_of_presence_channels(
    server: TestServer, backend: pusher.Pusher
) -> None:
    room = "presence-room"
    async with server.connected() as first, server.connected() as second:
        await first.subscribe(room, '{"user_id":7}')
        await second.subscribe(room, '{"user_id":"ada"}')

        assert await calling(backend.users_info, room) == {"users": [{"id": "7"}, {"id": "ada"}]}
        assert await calling(backend.channel_info, room, ["user_count"]) == {
            "occupied": True,
            "user_count": 2,
        }
        assert await calling(backend.channels_info, "presence-", ["user_count"]) == {
            "channels": {room: {"user_count": 2}}
        }


async def test_users_of_other_channels_are_a_bad_request(backend: pusher.Pusher) -> None:
    with pytest.raises(
        pusher.errors.PusherBadRequest, match="orders is not a presence channel: it has no users"
    ):
        await calling(backend.users_info, "orders")


async def test_it_reads_the_last_event_of_a_cache_channel(backend: pusher.Pusher) -> None:
    await calling(backend.trigger, "cache-prices", "price", {"eur": 7})

    answer = await calling(backend.channel_info, "cache-prices", ["cache"])

    assert 0 < answer["cache"].pop("ttl") <= 1_800
    assert answer == {"occupied": False, "cache": {"data": '{"eur": 7}'}}


@pytest.mark.parametrize(
    ("channel", "custom_data", "success"),
    [
        ("private-orders", None, "{}"),
        ("private-encrypted-letters", None, "{}"),
        (
            "presence-room",
            {"user_id": "ada", "user_info": {"from": "Ürümqi"}},
            '{"presence":{"count":1,"ids":["ada"],"hash":{"ada":{"from": "\\u00dcr\\u00fcmqi"}}}}',
        ),
    ],
)
async def test_what_it_signs_lets_a_client_subscribe(
    channel: str,
    custom_data: dict[str, Any] | None,
    success: str,
    server: TestServer,
    backend: pusher.Pusher,
) -> None:
    async with server.connected() as client:
        answer = await calling(backend.authenticate, channel, client.socket_id, custom_data)
        answer.pop("shared_secret", None)

        await client.send({"event": "pusher:subscribe", "data": {"channel": channel, **answer}})

        assert json.loads(await client.receive()) == {
            "event": "pusher_internal:subscription_succeeded",
            "channel": channel,
            "data": success,
        }


async def test_what_it_signs_lets_a_user_sign_in_be_told_and_be_terminated(
    server: TestServer, backend: pusher.Pusher
) -> None:
    async with server.connected() as client, server.connected() as other:
        user = {"id": "ada", "user_info": {"from": "Ürümqi"}}
        answer = await calling(backend.authenticate_user, client.socket_id, user)
        await client.send({"event": "pusher:signin", "data": answer})
        success = json.loads(await client.receive())
        assert success["event"] == "pusher:signin_success"
        assert json.loads(success["data"]) == {"user_data": answer["user_data"]}
        await client.subscribe("#server-to-user-ada")

        assert await calling(backend.send_to_user, "ada", "notice", "hello") == {}
        assert await client.receive() == (
            '{"event":"notice","channel":"#server-to-user-ada","data":"hello"}'
        )

        # The library leaves the app out of the path; its key says which one is meant.
        assert await calling(backend.terminate_user_connections, "ada") == {}
        assert await client.receive() == (
            '{"event":"pusher:error","data":{"code":4009,'
            '"message":"Connection terminated by the application"}}'
        )
        assert await client.closed() == (4009, "Connection terminated by the application")
        await other.ping()


async def test_it_encrypts_single_events_and_batches(
    server: TestServer, backend: pusher.Pusher
) -> None:
    channel = "private-encrypted-letters"
    async with server.connected() as client:
        await client.subscribe(channel)

        await calling(backend.trigger, channel, "letter", {"text": "Ürümqi"})
        await calling(
            backend.trigger_batch, [{"channel": channel, "name": "letter", "data": "plain"}]
        )

        for text in ('{"text": "Ürümqi"}', "plain"):
            message = json.loads(await client.receive())
            assert (message["event"], message["channel"]) == ("letter", channel)
            assert decrypted(channel, message["data"]) == text.encode()


async def test_it_believes_the_webhooks_of_the_server() -> None:
    key, secret = "278d425bdf160c739803", "7ad3773142a6692b25b8"
    async with receiving(secret) as receiver:
        app = App(id="1", key=key, secret=secret, webhooks=(receiver.webhook("channel_occupied"),))
        async with serving(app) as server:
            backend = backend_of(server)
            async with server.connected() as client:
                await client.subscribe("orders")
                [request] = await receiver.gets(1)

            believed = backend.validate_webhook(request.key, request.signature, request.body)
            assert believed["events"] == [{"name": "channel_occupied", "channel": "orders"}]
            forged = request.body.replace(b"orders", b"others")
            assert backend.validate_webhook(request.key, request.signature, forged) is None


async def test_it_is_configured_by_a_url_or_an_environment_variable(
    server: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = server.app
    url = f"http://{app.key}:{app.secret}@127.0.0.1/apps/{app.id}"
    monkeypatch.setenv("PUSHER_URL", url)

    for backend in (
        pusher.Pusher.from_url(url, port=server.port),
        pusher.Pusher.from_env(port=server.port),
    ):
        assert await calling(backend.channels_info) == {"channels": {}}


async def test_a_wrong_secret_is_refused_whatever_the_call(server: TestServer) -> None:
    backend = backend_of(server, secret="not the secret")
    calls: list[tuple[Any, ...]] = [
        (backend.trigger, "orders", "shipped", "7"),
        (backend.trigger_batch, [{"channel": "orders", "name": "shipped", "data": "7"}]),
        (backend.send_to_user, "ada", "notice", "7"),
        (backend.terminate_user_connections, "ada"),
        (backend.channels_info,),
        (backend.channel_info, "orders"),
        (backend.users_info, "presence-room"),
    ]
    for call in calls:
        with pytest.raises(pusher.errors.PusherBadAuth, match="auth_signature is not the hex HMAC"):
            await calling(*call)


async def test_what_is_signed_with_a_wrong_secret_lets_nobody_in(server: TestServer) -> None:
    backend = backend_of(server, secret="not the secret")
    async with server.connected() as client:
        for channel, member in (("private-orders", None), ("presence-room", {"user_id": "ada"})):
            answer = await calling(backend.authenticate, channel, client.socket_id, member)
            await client.send({"event": "pusher:subscribe", "data": {"channel": channel, **answer}})
            refusal = json.loads(await client.receive())
            assert (refusal["event"], refusal["channel"]) == ("pusher:subscription_error", channel)
            assert json.loads(await client.receive())["data"]["code"] == 4300
        answer = await calling(backend.authenticate_user, client.socket_id, {"id": "ada"})
        await client.send({"event": "pusher:signin", "data": answer})
        assert json.loads(await client.receive())["data"]["code"] == 4300
        await client.ping()


async def test_it_goes_on_when_the_server_is_back() -> None:
    async with serving() as server:
        backend = backend_of(server)
        assert await calling(backend.trigger, "orders", "shipped", "1") == {}
    with pytest.raises(requests.exceptions.ConnectionError):
        await calling(backend.trigger, "orders", "shipped", "2")
    async with serving(port=server.port) as restarted, restarted.connected() as client:
        await client.subscribe("orders")
        assert await calling(backend.trigger, "orders", "shipped", "3") == {}
        assert await client.receive() == '{"event":"shipped","channel":"orders","data":"3"}'


async def test_too_much_data_is_refused_with_its_status(backend: pusher.Pusher) -> None:
    with pytest.raises(pusher.errors.PusherBadStatus, match=r"413: .*10240"):
        await calling(backend.trigger, "orders", "shipped", "x" * 10_241)


async def test_a_disabled_app_is_forbidden(server: TestServer, backend: pusher.Pusher) -> None:
    server.reload(replace(server.app, enabled=False))

    with pytest.raises(pusher.errors.PusherForbidden, match="The application is disabled"):
        await calling(backend.trigger, "orders", "shipped", "7")
