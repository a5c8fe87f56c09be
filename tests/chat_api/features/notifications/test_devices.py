"""Devices over HTTP: each is one account's, and its token is told to nobody."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from structlog.testing import capture_logs

from chat_api.features.notifications.models import Device, OwedPush
from chat_api.features.notifications.service import (
    MAX_DEVICES,
    Push,
    Pushes,
    new_message_push,
    new_session_push,
)
from chat_api.settings import Settings
from chat_api.store.engine import Store
from tests.chat_api.client import Client
from tests.chat_api.features.notifications.google import FakeGoogle
from tests.chat_api.features.notifications.posts import HELLO, Post
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import World

TOKEN = "fMEP0vJqS0:APA91bHPRgkF3JUikC4ENAHEeMrd41Zxv3hVZjC9KtT8OvPVGJ-hQMRKRrZuJAEcl7B338qju59z"


def timeless(device: Any) -> Any:
    """Return a device without its times, having looked at their form."""
    for time in ("created_at", "last_seen_at"):
        assert device[time][10] == "T"
        assert device[time].endswith("Z")
    return {name: value for name, value in device.items() if not name.endswith("_at")}


async def listed(client: Client) -> list[Any]:
    reply = await client.get("/api/devices")
    assert reply.status == 200
    assert list(reply.body) == ["devices"]
    return [timeless(device) for device in reply.body["devices"]]


async def test_a_device_is_registered_shown_and_forgotten(world: World) -> None:
    first = await world.ali.post("/api/devices", {"token": TOKEN, "platform": "android"})
    again = await world.ali.post("/api/devices", {"token": TOKEN})
    other = await world.ali.post("/api/devices", {"token": "another-token:1", "platform": "ios"})

    phone = {"id": 1, "token": "…qju59z", "platform": "android"}
    tablet = {"id": 2, "token": "…oken:1", "platform": "ios"}
    assert (first.status, timeless(first.body)) == (201, phone)
    assert (again.status, timeless(again.body)) == (200, phone)
    assert (other.status, timeless(other.body)) == (201, tablet)
    assert await listed(world.ali) == [tablet, phone]
    assert await listed(world.vali) == []

    gone = await world.ali.ask("DELETE", "/api/devices/1")
    assert (gone.status, gone.body) == (204, None)
    assert await listed(world.ali) == [tablet]


async def test_logging_out_keeps_the_device(world: World) -> None:
    await world.ali.post("/api/devices", {"token": TOKEN})
    assert (await world.ali.post("/api/logout")).status == 200

    ali = await world.nobody.log_in("ali@example.com")
    assert await listed(ali) == [{"id": 1, "token": "…qju59z", "platform": None}]


async def test_nobody_forgets_the_device_of_somebody_else(world: World) -> None:
    await world.ali.post("/api/devices", {"token": TOKEN})

    for client, path in (
        (world.vali, "/api/devices/1"),
        (world.ali, "/api/devices/2"),
        (world.ali, "/api/devices/x"),
        (world.ali, "/api/devices/99999999999999999999"),
    ):
        reply = await client.ask("DELETE", path)
        assert (reply.status, reply.body) == (
            404,
            {"code": "not_found", "message": "There is no such device."},
        )
    assert len(await listed(world.ali)) == 1


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"token": ""}, 422, "The device's token must be 1 to 1024 printable ASCII characters."),
        ({"token": "a b"}, 422, "The device's token must be 1 to 1024 printable ASCII characters."),
        ({"token": "é"}, 422, "The device's token must be 1 to 1024 printable ASCII characters."),
        (
            {"token": "x" * 1025},
            422,
            "The device's token must be 1 to 1024 printable ASCII characters.",
        ),
        (
            {"token": "x", "platform": "symbian"},
            422,
            "platform must be one of android, ios, web.",
        ),
        ({}, 400, "The body does not fit: Object missing required field `token`."),
        ({"token": 5}, 400, "The body does not fit: Expected `str`, got `int` - at `$.token`."),
    ],
)
async def test_what_is_no_device_is_refused(
    world: World, body: dict[str, Any], status: int, message: str
) -> None:
    reply = await world.ali.post("/api/devices", body)

    assert (reply.status, reply.body["message"]) == (status, message)
    assert await listed(world.ali) == []


async def test_the_longest_token_fits(world: World) -> None:
    # Without repetitions, which an index would compress.
    token = "".join(f"{number * 7919 % 999983:06}" for number in range(171))[:1024]

    assert (await world.ali.post("/api/devices", {"token": token})).status == 201
    assert (await world.ali.post("/api/devices", {"token": token})).status == 200


async def test_devices_need_an_account(world: World) -> None:
    for method, path in (
        ("POST", "/api/devices"),
        ("GET", "/api/devices"),
        ("DELETE", "/api/devices/1"),
    ):
        reply = await world.nobody.ask(method, path)
        assert (reply.status, reply.body["code"]) == (401, "unauthenticated")


async def test_a_token_belongs_to_the_account_it_was_registered_for_last(world: World) -> None:
    await world.ali.post("/api/devices", {"token": TOKEN, "platform": "ios"})
    moved = await world.vali.post("/api/devices", {"token": TOKEN})

    # What is known of a platform was said by somebody else.
    assert (moved.status, moved.body["platform"]) == (201, None)
    assert await listed(world.ali) == []
    assert len(await listed(world.vali)) == 1


async def test_devices_registered_at_once_end_as_one_accounts(world: World) -> None:
    replies = await asyncio.gather(
        *(client.post("/api/devices", {"token": TOKEN}) for client in [world.ali, world.vali] * 10)
    )

    assert {reply.status for reply in replies} <= {200, 201}
    assert len(await listed(world.ali)) + len(await listed(world.vali)) == 1


async def test_what_was_owed_to_the_earlier_owner_is_not_shown_to_the_next(post: Post) -> None:
    await post.register(1, TOKEN)
    await post.owe([1])
    assert len(await post.owed()) == 1

    await post.register(2, TOKEN)

    assert await post.owed() == []
    assert await post.owe([1]) is False
    assert await post.owe([2]) is True


async def test_forgetting_a_device_drops_what_it_is_owed(post: Post) -> None:
    await post.register(1, TOKEN)
    await post.owe([1])

    await post.devices.forget(1, 1)

    assert await post.owed() == []


async def test_one_device_too_many_takes_the_place_of_the_one_that_was_silent_longest(
    post: Post,
) -> None:
    tokens = [f"device-{number:02}" for number in range(MAX_DEVICES)]
    for token in tokens:
        post.now += timedelta(seconds=1)
        await post.register(1, token)
    post.now += timedelta(seconds=1)
    await post.register(1, tokens[0])  # heard of again
    await post.register(2, "device-of-somebody-else")

    post.now += timedelta(seconds=1)
    await post.register(1, "one-too-many")

    assert await post.tokens() == sorted(
        {*tokens, "device-of-somebody-else", "one-too-many"} - {tokens[1]}
    )


async def test_without_credentials_devices_are_kept_and_nothing_is_owed(
    world: World, settings: Settings
) -> None:
    assert settings.service_account is None
    await world.ali.post("/api/devices", {"token": TOKEN})

    store: Store = world.api.store
    pushes = Pushes(lambda: pytest.fail("nobody looks at the clock"), None)
    assert await store.write(lambda unit: pushes.owe(unit, [1], HELLO)) is False
    assert [tuple(row) for row in await store.all(select(func.count(OwedPush.id)))] == [(0,)]
    assert [tuple(row) for row in await store.all(select(func.count(Device.id)))] == [(1,)]


async def test_with_credentials_the_api_sends_what_was_owed_before_it_started(
    post: Post, google: FakeGoogle, settings: Settings, receiver: RealtimeReceiver
) -> None:
    post.now = datetime.now(UTC)
    await post.register(1, TOKEN)
    await post.owe([1])
    pushing = replace(settings, service_account=post.account, fcm_url=google.url)

    with capture_logs() as logs:
        async with World.open(pushing, receiver):
            [message] = await google.delivers(1)

    assert message["token"] == TOKEN
    assert TOKEN not in repr(logs)
    assert "PRIVATE KEY" not in repr(pushing)
    assert await post.owed() == []


def test_a_new_session_is_told_in_the_guides_words() -> None:
    push = new_session_push(
        session_id="a1b2c3d4-e5f6-7890-abcd-ef1234567890",
        tenant_domain="tenant1.example.com",
        user_account="john.doe@example.com",
        user_name="John Doe",
        message_preview="I need help with invoice generation",
    )

    assert push == Push(
        "New Live Agent Request",
        "User from tenant1.example.com needs assistance",
        {
            "type": "new_session",
            "session_id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
            "tenant_domain": "tenant1.example.com",
            "user_account": "john.doe@example.com",
            "user_name": "John Doe",
            "message_preview": "I need help with invoice generation",
        },
    )


def test_a_new_message_is_told_in_the_guides_words() -> None:
    push = new_message_push(
        session_id="a1b2c3d4-e5f6-7890-abcd-ef1234567890",
        sender_type="user",
        sender_name="John Doe",
        message_text="Can you help me with the payment issue?",
    )

    assert push == Push(
        "New message from John Doe",
        "Can you help me with the payment issue?",
        {
            "type": "new_message",
            "session_id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
            "sender_type": "user",
            "sender_name": "John Doe",
            "message_text": "Can you help me with the payment issue?",
        },
    )


def test_a_long_text_is_cut_to_what_is_shown_and_what_google_takes() -> None:
    push = new_message_push(
        session_id="a1b2c3d4-e5f6-7890-abcd-ef1234567890",
        sender_type="agent",
        sender_name="😀" * 300,
        message_text="😀" * 5000,
    )

    assert push.body == "😀" * 100
    everything = [push.title, push.body, *push.data, *push.data.values()]
    assert sum(len(each.encode()) for each in everything) <= 4096

    push = new_session_push(
        session_id="a1b2c3d4-e5f6-7890-abcd-ef1234567890",
        tenant_domain="t" * 150,
        user_account="😀" * 320,
        user_name="😀" * 300,
        message_preview="😀" * 5000,
    )

    assert push.data["message_preview"] == "😀" * 100
    everything = [push.title, push.body, *push.data, *push.data.values()]
    assert sum(len(each.encode()) for each in everything) <= 4096
