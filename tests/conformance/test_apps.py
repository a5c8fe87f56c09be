"""Several apps on one server, and what is set for each."""

from __future__ import annotations

import pytest

from tests.conformance.wire import Answer, Client, PusherApp, compact, frame, fresh, presence


async def test_apps_share_no_channels(app: PusherApp, other_app: PusherApp) -> None:
    channel = fresh("private-orders-")
    async with app.connected() as mine, other_app.connected() as theirs:
        await mine.subscribe(channel)
        await theirs.subscribe(channel)
        await app.publish("shipped", channel, "1")
        assert await mine.receive() == frame("shipped", channel, "1")
        await theirs.received_nothing()
        channels = (await other_app.get("/channels", filter_by_prefix=channel)).json()
        assert channels == {"channels": {channel: {}}}
        await theirs.unsubscribe(channel)
        answer = await other_app.get("/channels", filter_by_prefix=channel)
        assert answer == Answer(200, '{"channels":{}}')


@pytest.mark.needs("client_events")
async def test_apps_share_no_whispers(app: PusherApp, other_app: PusherApp) -> None:
    """Reverb looks the sender up in whichever app was served last."""
    channel = fresh("private-room-")
    async with (
        app.connected() as mine,
        app.connected() as mine_too,
        other_app.connected() as theirs,
        other_app.connected() as theirs_too,
    ):
        for client in (mine, theirs, mine_too, theirs_too):
            await client.subscribe(channel)
        await mine.whisper("client-x", channel, data=1)
        await theirs.whisper("client-x", channel, data=2)
        assert await mine_too.receive() == (
            f'{{"event":"client-x","channel":"{channel}","data":1}}'
        )
        assert await theirs_too.receive() == (
            f'{{"event":"client-x","channel":"{channel}","data":2}}'
        )
        for client in (mine, theirs, mine_too, theirs_too):
            await client.received_nothing()


@pytest.mark.needs("presence")
async def test_apps_share_no_members(app: PusherApp, other_app: PusherApp) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as mine, other_app.connected() as theirs:
        assert await mine.join(channel, "7") == presence(channel, {"7": None})
        assert await theirs.join(channel, "9") == presence(channel, {"9": None})
        await mine.received_nothing()


@pytest.mark.needs("subscription_error")
async def test_a_signature_of_one_app_opens_no_channel_of_another(
    app: PusherApp, other_app: PusherApp
) -> None:
    channel = fresh("private-orders-")
    async with other_app.connected() as client:
        await client.ask_for(channel, auth=app.channel_auth(client.socket_id, channel))
        await client.receive_refusal(channel, "AuthError")


async def test_a_disabled_app_is_refused_with_4003(disabled_app: PusherApp) -> None:
    """sockudo drops the line without a word; Reverb's apps can't be disabled."""
    async with disabled_app.connect() as client:
        await client.receive_fatal_error(4003)


async def test_a_disabled_app_can_neither_publish_nor_read(disabled_app: PusherApp) -> None:
    event = {"name": "shipped", "channels": ["orders"], "data": "{}"}
    assert (await disabled_app.post("/events", event)).status == 403
    assert (await disabled_app.get("/channels")).status == 403


@pytest.mark.parametrize(
    "origin",
    [
        "https://chat.example.com",
        "http://chat.example.com:8080",
        "https://app.example.org",
        "https://a.b.example.org",
        None,
    ],
)
async def test_an_allowed_origin_gets_in(origins_app: PusherApp, origin: str | None) -> None:
    """So does who sends none: only browsers send it, and they can't leave it out."""
    async with origins_app.connect(origin=origin) as client:
        await client.receive_hello()
        await client.received_nothing()


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.com",
        "https://chat.example.com.evil.net",
        "https://evil-chat.example.com",
        "https://evil.net/chat.example.com",
        "https://example.org.evil.net",
        "https://chat.example.com@evil.net",
        "null",
    ],
)
async def test_another_origin_is_refused_with_4009_and_closed(
    origins_app: PusherApp, origin: str
) -> None:
    """Reverb says so too, and serves the connection all the same. Soketi looks at no origin."""
    async with origins_app.connect(origin=origin) as client:
        await client.receive_fatal_error(4009)


async def test_a_full_app_refuses_with_4004_until_somebody_leaves(quota_app: PusherApp) -> None:
    """
    Connections count from their upgrade on, subscribed or not.

    Reverb counts only subscribed ones, and serves the refused all the same; Soketi says 4100, and
    sockudo nothing.
    """
    async with quota_app.connected() as first:
        async with quota_app.connect() as second:
            await second.receive_fatal_error(4004)
        await first.received_nothing()
    async with quota_app.connected() as third:
        await third.received_nothing()


# Two secrets, while backends change over from one to the other.


async def authorize(client: Client, channel: str, secret: str) -> None:
    """Subscribe with a signature under a secret and take the success."""
    auth = client.app.channel_auth(client.socket_id, channel, secret=secret)
    await client.ask_for(channel, auth=auth)
    assert '"pusher_internal:subscription_succeeded"' in await client.receive()


async def test_both_secrets_open_a_private_channel(rotated_app: PusherApp) -> None:
    async with rotated_app.connected() as client:
        await authorize(client, fresh("private-orders-"), rotated_app.secret)
        await authorize(client, fresh("private-orders-"), rotated_app.previous_secret)


@pytest.mark.needs("presence")
async def test_both_secrets_open_a_presence_channel(rotated_app: PusherApp) -> None:
    channel, member = fresh("presence-room-"), '{"user_id":"7"}'
    async with rotated_app.connected() as client:
        for secret in (rotated_app.previous_secret, rotated_app.secret):
            auth = rotated_app.channel_auth(client.socket_id, channel, member, secret=secret)
            await client.ask_for(channel, auth=auth, channel_data=member)
            assert await client.receive() == presence(channel, {"7": None})


@pytest.mark.needs("signin")
async def test_both_secrets_sign_a_user_in(rotated_app: PusherApp) -> None:
    user_data = compact({"id": fresh("user-")})
    async with rotated_app.connected() as client:
        for secret in (rotated_app.previous_secret, rotated_app.secret):
            auth = rotated_app.user_auth(client.socket_id, user_data, secret=secret)
            await client.send(
                {"event": "pusher:signin", "data": {"auth": auth, "user_data": user_data}}
            )
            assert '"pusher:signin_success"' in await client.receive()


@pytest.mark.needs("subscription_error")
async def test_both_secrets_sign_requests_and_no_third_does(rotated_app: PusherApp) -> None:
    path = f"/apps/{rotated_app.id}/channels"
    for secret, status in (
        (rotated_app.secret, 200),
        (rotated_app.previous_secret, 200),
        ("not the secret", 401),
    ):
        query = rotated_app.signed_query("GET", path, secret=secret)
        assert (await rotated_app.request("GET", path, query)).status == status
