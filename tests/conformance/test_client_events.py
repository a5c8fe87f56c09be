"""Client events: who may whisper where, and what the others hear."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.wire import Client, PusherApp, fresh, presence

pytestmark = pytest.mark.needs("client_events")


def cached(prefix: str) -> Any:
    """Return a test's parameter, the prefix of a kind of cache channel."""
    return pytest.param(prefix, marks=pytest.mark.needs("cache"))


async def take_cache_miss(client: Client, channel: str) -> None:
    """Take what comes behind the success, where the channel is one that remembers."""
    if channel.startswith(
        ("cache-", "private-cache-", "private-encrypted-cache-", "presence-cache-")
    ):
        assert json.loads(await client.receive())["event"] == "pusher:cache_miss"


@pytest.mark.parametrize("prefix", ["private-", "private-x-cache-", cached("private-cache-")])
async def test_the_others_hear_a_whisper_and_the_sender_does_not(
    app: PusherApp, prefix: str
) -> None:
    channel = fresh(prefix)
    async with app.connected() as one, app.connected() as two, app.connected() as three:
        for client in (one, two, three):
            await client.subscribe(channel)
            await take_cache_miss(client, channel)
        await one.whisper("client-typing", channel, data={"who": "Ada"})
        for client in (two, three):
            assert await client.receive() == (
                f'{{"event":"client-typing","channel":"{channel}","data":{{"who":"Ada"}}}}'
            )
            await client.received_nothing()
        await one.received_nothing()


@pytest.mark.parametrize(
    "data", ['{"a":[1,{"b":null}]}', '"text"', '"{\\"a\\":1}"', "7", "true", "null", "[]", '""']
)
async def test_data_arrives_with_the_type_it_was_sent_with(app: PusherApp, data: str) -> None:
    """Java sends strings, JS and Dart objects; Reverb answers a plain string with 4200."""
    channel = fresh("private-room-")
    async with app.connected() as sender, app.connected() as other:
        await sender.subscribe(channel)
        await other.subscribe(channel)
        await sender.send(f'{{"event":"client-x","channel":"{channel}","data":{data}}}')
        assert await other.receive() == (
            f'{{"event":"client-x","channel":"{channel}","data":{data}}}'
        )


async def test_a_whisper_without_data_arrives_without(app: PusherApp) -> None:
    channel = fresh("private-room-")
    async with app.connected() as sender, app.connected() as other:
        await sender.subscribe(channel)
        await other.subscribe(channel)
        await sender.whisper("client-x", channel)
        assert await other.receive() == f'{{"event":"client-x","channel":"{channel}"}}'


@pytest.mark.needs("presence")
@pytest.mark.parametrize("signed", ["7", '"7"'])
@pytest.mark.parametrize("prefix", ["presence-", cached("presence-cache-")])
async def test_on_a_presence_channel_it_says_who_sent_it(
    app: PusherApp, prefix: str, signed: str
) -> None:
    """The id is the one that was signed, not one the client writes. sockudo leaves it out."""
    channel = fresh(prefix)
    async with app.connected() as sender, app.connected() as other:
        await other.join(channel, "9")
        await take_cache_miss(other, channel)
        await sender.ask_to_join(channel, f'{{"user_id":{signed}}}')
        assert await sender.receive() == presence(channel, {"9": None, "7": None})
        await take_cache_miss(sender, channel)
        await other.receive()
        await sender.whisper("client-typing", channel, data={}, user_id="9")
        assert await other.receive() == (
            f'{{"event":"client-typing","channel":"{channel}","data":{{}},"user_id":"7"}}'
        )


@pytest.mark.needs("presence", "signin")
async def test_who_has_joined_by_a_signin_is_named_too(app: PusherApp) -> None:
    """Soketi and sockudo let nobody join so; with Reverb, whoever does is nobody."""
    channel, user_id = fresh("presence-room-"), fresh("user-")
    async with app.connected() as sender, app.connected() as other:
        await other.join(channel, "9")
        await sender.sign_in(user_id)
        await sender.ask_for(channel, auth=app.channel_auth(sender.socket_id, channel))
        assert await sender.receive() == presence(channel, {"9": None, user_id: None})
        await other.receive()
        await sender.whisper("client-typing", channel, data={})
        assert await other.receive() == (
            f'{{"event":"client-typing","channel":"{channel}","data":{{}},"user_id":"{user_id}"}}'
        )


async def test_off_presence_a_client_cannot_say_who_it_is(app: PusherApp) -> None:
    channel = fresh("private-room-")
    async with app.connected() as sender, app.connected() as other:
        await sender.subscribe(channel)
        await other.subscribe(channel)
        await sender.whisper("client-typing", channel, data={}, user_id="9")
        assert await other.receive() == (
            f'{{"event":"client-typing","channel":"{channel}","data":{{}}}}'
        )


@pytest.mark.parametrize(
    "prefix",
    ["", "private", "private-encrypted-", cached("cache-"), cached("private-encrypted-cache-")],
)
async def test_only_private_and_presence_channels_carry_whispers(
    app: PusherApp, prefix: str
) -> None:
    """
    Reverb and Soketi let anybody who knows the key write to public channels.

    Soketi's error also names the channel.
    """
    channel = fresh(f"{prefix}room-") if prefix != "private" else fresh("privateroom-")
    async with app.connected() as sender, app.connected() as other:
        for client in (sender, other):
            await client.subscribe(channel)
            await take_cache_miss(client, channel)
        await sender.whisper("client-typing", channel, data={})
        await sender.receive_error(4301)
        await other.received_nothing()


async def test_only_subscribers_may_whisper(app: PusherApp) -> None:
    """Soketi drops it without a word; Reverb lets everybody in its mode `all`."""
    channel = fresh("private-room-")
    async with app.connected() as sender, app.connected() as other:
        await other.subscribe(channel)
        await sender.whisper("client-typing", channel, data={})
        await sender.receive_error(4301)
        await sender.subscribe(channel)
        await sender.unsubscribe(channel)
        await sender.whisper("client-typing", channel, data={})
        await sender.receive_error(4301)
        await other.received_nothing()


@pytest.mark.parametrize("channel", ["", "private-nobody", "not a name!"])
async def test_a_whisper_to_nowhere_is_refused(app: PusherApp, channel: str) -> None:
    async with app.connected() as sender:
        await sender.whisper("client-typing", channel, data={})
        await sender.receive_error(4301)
        await sender.send('{"event":"client-typing","data":{}}')
        await sender.receive_error(4301)


async def test_a_name_has_at_most_200_characters(app: PusherApp) -> None:
    """Reverb's may be of any length."""
    channel = fresh("private-room-")
    longest = "client-" + "x" * 193
    async with app.connected() as sender, app.connected() as other:
        await sender.subscribe(channel)
        await other.subscribe(channel)
        await sender.whisper(f"{longest}x", channel, data={})
        await sender.receive_error(4301)
        await sender.whisper(longest, channel, data={})
        assert json.loads(await other.receive())["event"] == longest


async def test_too_many_in_a_second_are_refused_with_4301(app: PusherApp) -> None:
    """
    Ten a second and connection; what is refused reaches nobody, and the connection goes on.

    Reverb, Soketi and sockudo have no such limit unless it is set, and sockudo may then hang up.
    """
    channel = fresh("private-room-")
    async with app.connected() as sender, app.connected() as other:
        await sender.subscribe(channel)
        await other.subscribe(channel)
        for number in range(40):
            await sender.whisper("client-x", channel, data=number)
        await sender.send('{"event":"pusher:ping"}')
        refused = 0
        while json.loads(text := await sender.receive())["event"] == "pusher:error":
            assert json.loads(text)["data"]["code"] == 4301
            refused += 1
        heard = [json.loads(await other.receive())["data"] for _ in range(40 - refused)]
        assert 1 <= refused <= 30
        assert heard == sorted(heard)
        await other.received_nothing()


async def test_an_app_that_wants_no_client_events_gets_none(quiet_app: PusherApp) -> None:
    """Soketi's default. Reverb's setting has `members`, `all` and `none`."""
    channel = fresh("private-room-")
    async with quiet_app.connected() as sender, quiet_app.connected() as other:
        await sender.subscribe(channel)
        await other.subscribe(channel)
        await sender.whisper("client-typing", channel, data={})
        await sender.receive_error(4301)
        await other.received_nothing()


@pytest.mark.needs("presence")
@pytest.mark.parametrize("prefix", ["private-", "presence-"])
async def test_an_app_may_let_everybody_whisper_who_is_connected(
    open_app: PusherApp, prefix: str
) -> None:
    """
    Whoever is not subscribed is nobody, also on a presence channel.

    Reverb's mode `all` passes on the user id that such a client has written.
    """
    channel = fresh(prefix)
    async with open_app.connected() as stranger, open_app.connected() as other:
        if prefix == "presence-":
            await other.join(channel, "9")
        else:
            await other.subscribe(channel)
        await stranger.whisper("client-typing", channel, data={}, user_id="9")
        assert await other.receive() == (
            f'{{"event":"client-typing","channel":"{channel}","data":{{}}}}'
        )
        await stranger.received_nothing()


@pytest.mark.parametrize("prefix", ["", "private-encrypted-"])
async def test_also_there_only_private_and_presence_channels_carry_whispers(
    open_app: PusherApp, prefix: str
) -> None:
    channel = fresh(f"{prefix}room-")
    async with open_app.connected() as stranger, open_app.connected() as other:
        await other.subscribe(channel)
        await stranger.whisper("client-typing", channel, data={})
        await stranger.receive_error(4301)
        await other.received_nothing()


@pytest.mark.parametrize("channel", ["private-a b", 'private-a"b', "private-a\nb", "private-ö"])
async def test_also_there_a_whisper_goes_to_what_has_a_channels_name(
    open_app: PusherApp, channel: str
) -> None:
    """Reverb looks at no names."""
    async with open_app.connected() as stranger:
        for name in (channel, f"private-{'x' * 5_000}"):
            await stranger.whisper("client-typing", name, data={})
            await stranger.receive_error(4301)
