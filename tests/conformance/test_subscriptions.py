"""Subscribing to public, private and encrypted channels, being refused, and leaving again."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.conformance.wire import Client, PusherApp, compact, frame, fresh, subscribed

PRIVATE = ["private-", "private-encrypted-"]


@pytest.mark.parametrize(
    "fields", [{}, {"auth": ""}, {"auth": None, "channel_data": None}, {"auth": "x:y"}]
)
async def test_a_public_channel_asks_for_nothing(app: PusherApp, fields: dict[str, str]) -> None:
    """
    pusher-js sends an empty auth, pusher_client_socket nulls.

    The acknowledgement's data is the string `{}`; without it, as from Soketi, Swift never tells the
    application, and with anything else Java tries to decrypt it on encrypted channels.
    """
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.ask_for(channel, **fields)
        assert await client.receive() == (
            f'{{"event":"pusher_internal:subscription_succeeded","channel":"{channel}","data":"{{}}"}}'
        )


@pytest.mark.parametrize("prefix", PRIVATE)
@pytest.mark.parametrize("channel_data", [{}, {"channel_data": None}])
async def test_a_private_channel_takes_a_signature_over_socket_and_channel(
    app: PusherApp, prefix: str, channel_data: dict[str, None]
) -> None:
    channel = fresh(prefix)
    async with app.connected() as client:
        auth = f"{app.key}:{app.sign(f'{client.socket_id}:{channel}')}"
        await client.ask_for(channel, auth=auth, **channel_data)
        assert await client.receive() == subscribed(channel)


@pytest.mark.parametrize("prefix", PRIVATE)
async def test_off_presence_channel_data_is_not_part_of_what_is_signed(
    app: PusherApp, prefix: str
) -> None:
    """Reverb takes any data it is sent into the signature. No client sends some."""
    channel = fresh(prefix)
    async with app.connected() as client:
        auth = app.channel_auth(client.socket_id, channel)
        await client.ask_for(channel, auth=auth, channel_data='{"user_id":"7"}')
        assert await client.receive() == subscribed(channel)


def wrong_auths(client: Client, channel: str) -> dict[str, object]:
    """Return what does not let this client into that channel."""
    app = client.app
    right = app.channel_auth(client.socket_id, channel)
    key, _, signature = right.partition(":")
    return {
        "empty": "",
        "key only": f"{key}:",
        "signature only": signature,
        "another key": f"other-key:{signature}",
        "no key": f":{signature}",
        "another secret": app.channel_auth(client.socket_id, channel, secret="not the secret"),
        "another socket": app.channel_auth("1234.1234", channel),
        "another channel": app.channel_auth(client.socket_id, f"{channel}x"),
        "a signin": app.user_auth(client.socket_id, channel),
        "cut short": right[:-1],
        "too long": f"{right}0",
        "upper case": f"{key}:{signature.upper()}",
        "spaces": f" {right} ",
        "not ASCII": f"{key}:{signature[:-1]}é",
    }


@pytest.mark.needs("subscription_error")
@pytest.mark.parametrize("prefix", PRIVATE)
async def test_every_other_auth_is_refused_and_the_connection_goes_on(
    app: PusherApp, prefix: str
) -> None:
    """Reverb does not look at the key in front of the signature."""
    channel = fresh(prefix)
    async with app.connected() as client:
        for auth in wrong_auths(client, channel).values():
            await client.ask_for(channel, auth=auth)
            await client.receive_refusal(channel, "AuthError")
        await app.publish("shipped", channel, "{}")
        await client.received_nothing()


@pytest.mark.needs("subscription_error")
async def test_a_refusal_is_told_to_the_channel_and_then_to_the_connection(app: PusherApp) -> None:
    """
    First `pusher:subscription_error` with its data in a string, then `pusher:error` with 4300.

    pusher-js hears the first on the channel and the second on the connection. Hosted Pusher, Reverb
    and sockudo send only the second, the latter two with 4009, on which Pysher and a Dart client
    hang up for good; Soketi sends only the first, its data an object.
    """
    channel = fresh("private-orders-")
    async with app.connected() as client:
        await client.ask_for(channel, auth="wrong:auth")
        refusal = json.loads(await client.receive())
        reason = json.loads(refusal["data"])["error"]
        data = compact({"type": "AuthError", "error": reason, "status": 401})
        assert refusal == {
            "event": "pusher:subscription_error",
            "channel": channel,
            "data": data,
        }
        assert await client.receive_error(4300) == reason


@pytest.mark.needs("subscription_error")
async def test_a_refusal_never_says_what_the_right_signature_would_be(app: PusherApp) -> None:
    channel = fresh("private-orders-")
    async with app.connected() as client:
        await client.ask_for(channel, auth=f"{app.key}:{'0' * 64}")
        answers = await client.receive() + await client.receive()
        assert app.sign(f"{client.socket_id}:{channel}") not in answers
        assert app.secret not in answers


@pytest.mark.needs("subscription_error")
@pytest.mark.parametrize("field", ["auth", "channel_data"])
@pytest.mark.parametrize("value", [7, True, [], {}])
async def test_a_field_of_the_wrong_type_is_refused(
    app: PusherApp, field: str, value: object
) -> None:
    async with app.connected() as client:
        await client.ask_for(fresh("private-orders-"), **{field: value})
        await client.receive_error(4300)
        await client.received_nothing()


async def test_a_second_subscription_is_acknowledged_again_and_doubles_nothing(
    app: PusherApp,
) -> None:
    """So does Reverb; hosted Pusher answers with an error, which helps a lost client less."""
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        await client.subscribe(channel)
        await app.publish("shipped", channel, "7")
        assert await client.receive() == frame("shipped", channel, "7")
        await client.received_nothing()
        await client.unsubscribe(channel)
        await app.publish("shipped", channel, "8")
        await client.received_nothing()


async def test_leaving_has_no_answer_and_ends_the_events(app: PusherApp) -> None:
    """One Flutter client waits for an answer, which no server gives."""
    channel, other_channel = fresh("orders-"), fresh("orders-")
    async with app.connected() as client, app.connected() as other:
        await client.subscribe(channel)
        await client.subscribe(other_channel)
        await other.subscribe(channel)
        await client.unsubscribe(channel)
        await app.publish("shipped", channel, "7")
        await client.received_nothing()
        assert await other.receive() == frame("shipped", channel, "7")
        await app.publish("shipped", other_channel, "8")
        assert await client.receive() == frame("shipped", other_channel, "8")


async def test_leaving_a_channel_one_is_not_in_is_ignored(app: PusherApp) -> None:
    """Hosted Pusher reports an error; Reverb, Soketi and sockudo ignore it."""
    async with app.connected() as client:
        await client.unsubscribe(fresh("orders-"))
        await client.unsubscribe("not a name!")


async def test_a_client_may_come_back_to_a_channel(app: PusherApp) -> None:
    channel = fresh("private-orders-")
    async with app.connected() as client:
        for number in range(3):
            await client.subscribe(channel)
            await app.publish("shipped", channel, str(number))
            assert await client.receive() == frame("shipped", channel, str(number))
            await client.unsubscribe(channel)


async def test_nothing_comes_before_the_acknowledgement(app: PusherApp) -> None:
    """Whatever is published while a client subscribes, the acknowledgement is first."""
    channel = fresh("orders-")
    async with app.connected() as client, asyncio.TaskGroup() as publishing:
        for number in range(20):
            publishing.create_task(app.publish("shipped", channel, str(number)))
            if number == 10:
                await client.ask_for(channel)
        assert await client.receive() == subscribed(channel)


async def test_an_event_reaches_every_subscriber_once_and_nobody_else(app: PusherApp) -> None:
    channel = fresh("orders-")
    async with app.connected() as one, app.connected() as two, app.connected() as three:
        await one.subscribe(channel)
        await two.subscribe(channel)
        await three.subscribe(f"{channel}x")
        await app.publish("shipped", channel, "7")
        for client in (one, two):
            assert await client.receive() == frame("shipped", channel, "7")
            await client.received_nothing()
        await three.received_nothing()


async def test_encrypted_events_are_relayed_as_they_are(app: PusherApp) -> None:
    """The server has no key: what it gets is what it passes on, to the last space."""
    channel = fresh("private-encrypted-room-")
    data = '{"nonce": "4sVYwy4j/8dCcjyxtPCWyk19GaaViaW9", "ciphertext":"/GMESnFGlbNn01BuBjp31XYa"}'
    async with app.connected() as client:
        await client.subscribe(channel)
        await app.publish("secret", channel, data)
        assert await client.receive() == frame("secret", channel, data)


@pytest.mark.needs("subscription_error")
async def test_a_connection_may_have_so_many_channels(small_app: PusherApp) -> None:
    """Reverb, Soketi and sockudo let it have any number."""
    async with small_app.connected() as client:
        for _ in range(3):
            await client.subscribe(fresh("orders-"))
        channel = fresh("orders-")
        await client.ask_for(channel)
        await client.receive_refusal(channel, "LimitReached", 403)


@pytest.mark.needs("subscription_error")
async def test_who_joins_again_and_again_is_refused_for_a_while(small_app: PusherApp) -> None:
    """Reverb, Soketi and sockudo take it as often as it comes."""
    channel = fresh("orders-")
    async with small_app.connected() as client:
        await client.subscribe(channel)
        for _ in range(20):
            await client.ask_for(channel)
        answers = 1
        while (text := await client.receive()) == subscribed(channel):
            answers += 1
        assert 1 <= answers < 20
        refusal = json.loads(text)
        assert refusal["event"] == "pusher:subscription_error"
        details = json.loads(refusal["data"])
        assert (details["type"], details["status"]) == ("LimitReached", 429)
