"""What a backend is told by webhooks. Reverb has none."""

from __future__ import annotations

import json
import time

import pytest

from tests.conformance.wire import PusherApp, WebhookReceiver, compact, fresh

pytestmark = pytest.mark.needs("client_events", "presence")


async def test_a_webhook_is_signed_json_from_now(
    webhook_app: PusherApp, webhook_receiver: WebhookReceiver
) -> None:
    """The signature is over the body as it is; receivers refuse one that is minutes old."""
    channel = fresh("orders-")
    async with webhook_app.connected() as client:
        await client.subscribe(channel)
        headers, body = await webhook_receiver.receive_request(channel)
        content = json.loads(body)
        assert content.keys() == {"time_ms", "events"}
        assert {"name": "channel_occupied", "channel": channel} in content["events"]
        assert type(content["time_ms"]) is int
        assert abs(content["time_ms"] / 1000 - time.time()) < 300
        assert headers["Content-Type"] == "application/json"
        assert headers["X-Pusher-Key"] == webhook_app.key
        assert headers["X-Pusher-Signature"] == webhook_app.sign(body.decode())


@pytest.mark.needs("cache")
@pytest.mark.per_node
async def test_a_crowd_that_misses_the_same_event_is_one_miss(
    webhook_app: PusherApp, webhook_receiver: WebhookReceiver
) -> None:
    """Hosted Pusher does the sifting, too, so that a backend fills the cache once."""
    channel = fresh("cache-prices-")
    async with webhook_app.connected() as one, webhook_app.connected() as two:
        for client in (one, two):
            await client.subscribe(channel)
            assert '"pusher:cache_miss"' in await client.receive()
        told = [(await webhook_receiver.receive_event(channel))["name"] for _ in range(4)]
        assert sorted(told) == [
            *("cache_miss", "channel_occupied", "subscription_count", "subscription_count")
        ]


@pytest.mark.needs("cache")
async def test_who_comes_is_told(webhook_app: PusherApp, webhook_receiver: WebhookReceiver) -> None:
    """A presence channel has members instead of a subscription count, as with hosted Pusher."""
    channel = fresh("presence-cache-")
    async with webhook_app.connected() as client:
        await client.join(channel, 7)
        told = [await webhook_receiver.receive_event(channel) for _ in range(3)]
        assert sorted(told, key=lambda event: str(event["name"])) == [
            {"name": "cache_miss", "channel": channel},
            {"name": "channel_occupied", "channel": channel},
            {"name": "member_added", "channel": channel, "user_id": "7"},
        ]


@pytest.mark.parametrize(
    ("data", "told"), [({"a": [1, None]}, '{"a":[1,null]}'), ("text", "text"), (7, "7")]
)
async def test_a_client_event_is_told_with_its_data_as_a_string(
    webhook_app: PusherApp, webhook_receiver: WebhookReceiver, data: object, told: str
) -> None:
    private, room = fresh("private-room-"), fresh("presence-room-")
    async with webhook_app.connected() as client:
        await client.subscribe(private)
        await client.join(room, "7")
        await client.whisper("client-x", private, data=data)
        await client.whisper("client-x", room, data=data)
        for channel, user in ((private, {}), (room, {"user_id": "7"})):
            event = await webhook_receiver.receive_event(channel)
            while event["name"] != "client_event":
                event = await webhook_receiver.receive_event(channel)
            assert event == {
                "name": "client_event",
                "channel": channel,
                "event": "client-x",
                "data": told,
                "socket_id": client.socket_id,
                **user,
            }


async def test_the_events_of_a_channel_are_told_in_order(
    webhook_app: PusherApp, webhook_receiver: WebhookReceiver
) -> None:
    channel = fresh("private-room-")
    async with webhook_app.connected() as client:
        await client.subscribe(channel)
        for number in range(8):
            await client.whisper("client-x", channel, data=number)
        told: list[str] = []
        while len(told) < 8:
            event = await webhook_receiver.receive_event(channel)
            if event["name"] == "client_event":
                told.append(event["data"])
        assert told == [str(number) for number in range(8)]


async def test_who_comes_back_at_once_has_not_left(
    webhook_app: PusherApp, webhook_receiver: WebhookReceiver
) -> None:
    """A page that is loaded anew makes no noise. Soketi and sockudo tell every flicker."""
    channel = fresh("presence-room-")
    async with webhook_app.connected() as client:
        await client.join(channel, "7")
        for _ in range(3):
            await client.unsubscribe(channel)
            await client.join(channel, "7")
        await client.whisper("client-x", channel, data={})
        told = []
        while "client_event" not in told:
            told.append((await webhook_receiver.receive_event(channel))["name"])
        assert sorted(name for name in told if name != "subscription_count") == [
            "channel_occupied",
            "client_event",
            "member_added",
        ]


async def test_who_stays_away_has_left(
    webhook_app: PusherApp, webhook_receiver: WebhookReceiver
) -> None:
    """Hosted Pusher waits for up to three seconds."""
    channel = fresh("presence-room-")
    async with webhook_app.connected() as client:
        await client.join(channel, "7")
        await client.unsubscribe(channel)
        left: list[dict[str, object]] = []
        while len(left) < 2:
            event = await webhook_receiver.receive_event(channel)
            if event["name"] in ("member_removed", "channel_vacated"):
                left.append(event)
        assert sorted(left, key=lambda event: str(event["name"])) == [
            {"name": "channel_vacated", "channel": channel},
            {"name": "member_removed", "channel": channel, "user_id": "7"},
        ]


async def test_what_a_backend_did_not_take_is_sent_again(
    webhook_app: PusherApp, webhook_receiver: WebhookReceiver
) -> None:
    """With a time and a signature of its own. Soketi tries once."""
    channel = fresh("orders-")
    occupied = {"name": "channel_occupied", "channel": channel}
    webhook_receiver.refusals = 1
    async with webhook_app.connected() as client:
        await client.subscribe(channel)
        _, refused = await webhook_receiver.receive_request(channel)
        headers, repeated = await webhook_receiver.receive_request(channel)
        assert headers["X-Pusher-Signature"] == webhook_app.sign(repeated.decode())
        first, second = json.loads(refused), json.loads(repeated)
        assert occupied in first["events"]
        assert occupied in second["events"]
        assert second["time_ms"] >= first["time_ms"]


async def test_a_backend_that_refuses_delays_no_event(
    webhook_app: PusherApp, webhook_receiver: WebhookReceiver
) -> None:
    channel = fresh("orders-")
    webhook_receiver.refusals = 1_000
    async with webhook_app.connected() as client:
        await client.subscribe(channel)
        await webhook_receiver.receive_request(channel)
        await webhook_app.publish("shipped", channel, compact({}))
        assert json.loads(await client.receive())["event"] == "shipped"
