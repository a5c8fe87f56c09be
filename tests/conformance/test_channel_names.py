"""Which names are channels, and what a prefix promises."""

from __future__ import annotations

import pytest

from tests.conformance.wire import Answer, PusherApp, fresh, subscribed


@pytest.mark.parametrize(
    "suffix", ["", "_-=@,.;", "A.Z.a.z.0.9", pytest.param("-" * 140, id="long")]
)
async def test_letters_digits_and_these_signs_make_a_name(app: PusherApp, suffix: str) -> None:
    """
    sockudo long refused commas and semicolons; Reverb takes any name.

    Names have up to 164 characters at hosted Pusher, and up to 200 elsewhere.
    """
    channel = fresh("a") + suffix
    async with app.connected() as client:
        await client.ask_for(channel)
        assert await client.receive() == subscribed(channel)
        await app.publish("shipped", channel, "7")
        assert await client.receive() == f'{{"event":"shipped","channel":"{channel}","data":"7"}}'


BAD_NAMES = [
    "",
    " ",
    "a b",
    "a/b",
    "a:b",
    "a!b",
    "a#b",
    "ürümqi",
    "a\nb",
    "orders\n",
    "٣",
    pytest.param("a" * 201, id="long"),
]


@pytest.mark.needs("subscription_error")
@pytest.mark.parametrize("channel", BAD_NAMES)
async def test_a_name_that_breaks_the_grammar_cannot_be_subscribed_to(
    app: PusherApp, channel: str
) -> None:
    """A colon in a name would let one signature stand for another. Reverb checks no names."""
    async with app.connected() as client:
        await client.ask_for(channel)
        await client.receive_refusal(channel[:200], "InvalidChannel")
        await client.received_nothing()


@pytest.mark.parametrize("channel", BAD_NAMES)
async def test_a_name_that_breaks_the_grammar_cannot_be_published_to(
    app: PusherApp, channel: str
) -> None:
    event = {"name": "shipped", "data": "{}", "channels": [channel]}
    assert (await app.post("/events", event)).status == 400


@pytest.mark.parametrize(
    "prefix",
    [
        "private",
        "privateer-",
        "private_",
        "Private-",
        "my-private-",
        "presence",
        "presenceful-",
        "my-presence-",
        "encrypted-",
        "cached-",
        "cache",
        "my-cache-",
        "server-to-user-",
    ],
)
async def test_a_prefix_counts_only_where_it_stands_and_with_its_dash(
    app: PusherApp, prefix: str
) -> None:
    """
    All of these are plain public channels: no signature is asked for, no event is remembered.

    Reverb looks for the words without the dash; Soketi and sockudo find `cache-` anywhere.
    """
    channel = fresh(prefix)
    async with app.connected() as client:
        await app.publish("shipped", channel, "7")
        await client.ask_for(channel)
        assert await client.receive() == subscribed(channel)
        await client.received_nothing()


@pytest.mark.needs("subscription_error")
@pytest.mark.parametrize(
    "channel",
    [
        "private-",
        "private-x",
        "private-cache-x",
        "private-encrypted-x",
        "private-encrypted-cache-x",
        "private-presence-x",
        "private-x-cache-y",
        "presence-",
        "presence-x",
        "presence-cache-x",
        "presence-x-cache-y",
    ],
)
@pytest.mark.parametrize("auth", [None, "", "anything", "KEY:0"])
async def test_what_the_prefix_protects_needs_a_signature(
    app: PusherApp, channel: str, auth: str | None
) -> None:
    """In sockudo a name that also has `cache-` in it can be joined with any auth, it appears."""
    async with app.connected() as client:
        await client.ask_for(
            channel,
            auth=auth and auth.replace("KEY", app.key),
            channel_data='{"user_id":"7"}' if channel.startswith("presence-") else None,
        )
        await client.receive_refusal(channel, "AuthError")
        assert await app.get(f"/channels/{channel}") == Answer(200, '{"occupied":false}')


@pytest.mark.needs("subscription_error")
@pytest.mark.parametrize("channel", ["#x", "#server-to-user-", "#private-x", "#presence-x"])
async def test_names_with_a_hash_in_front_are_reserved(app: PusherApp, channel: str) -> None:
    async with app.connected() as client:
        await client.ask_for(channel, auth=app.channel_auth(client.socket_id, channel))
        await client.receive_refusal(channel, "AuthError")
