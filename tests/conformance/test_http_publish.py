"""Publishing events, one by one and in batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conformance.wire import Answer, PusherApp, compact, frame, fresh


def event_for(*channels: str, **fields: object) -> dict[str, object]:
    """Return the body of an event; fields that are None are left out."""
    event = {"name": "shipped", "channels": list(channels), "data": "{}"} | fields
    return {name: value for name, value in event.items() if value is not None}


async def test_every_channel_of_an_event_gets_it(app: PusherApp) -> None:
    """The answer is an empty object; Soketi and sockudo say `{"ok":true}`."""
    one, two, three = fresh("orders-"), fresh("private-orders-"), fresh("orders-")
    async with app.connected() as client:
        for channel in (one, two, three):
            await client.subscribe(channel)
        assert await app.post("/events", event_for(one, two)) == Answer(200, "{}")
        assert await client.receive() == frame("shipped", one, "{}")
        assert await client.receive() == frame("shipped", two, "{}")
        await client.received_nothing()


async def test_a_single_channel_may_be_named_in_channel(app: PusherApp) -> None:
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        event = {"name": "shipped", "channel": channel, "data": "7"}
        assert await app.post("/events", event) == Answer(200, "{}")
        assert await client.receive() == frame("shipped", channel, "7")


async def test_events_keep_the_order_in_which_they_were_published(app: PusherApp) -> None:
    one, two = fresh("orders-"), fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(one)
        await client.subscribe(two)
        for number in range(10):
            await app.publish("shipped", (one, two)[number % 2], str(number))
        for number in range(10):
            assert await client.receive() == frame("shipped", (one, two)[number % 2], str(number))


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"name": ""},
        {"name": 7},
        {"name": "x" * 201},
        {"data": None},
        {"data": {}},
        {"data": 7},
        {"channels": None},
        {"channels": []},
        {"channels": "orders"},
        {"channels": [7]},
        {"channels": ["orders", "not a name!"]},
        {"socket_id": "1234"},
        {"socket_id": "1234.1234x"},
        {"socket_id": 1234.1234},
        {"info": "weather"},
        {"info": "user_count"},
        {"info": ["subscription_count"]},
    ],
)
async def test_an_event_that_is_none_is_refused(app: PusherApp, change: dict[str, object]) -> None:
    """
    With 400 and words about it.

    Reverb answers 422 where something is missing; Soketi passes data on that is no string. User
    counts are for presence channels only.
    """
    answer = await app.post("/events", event_for("orders", **change))
    assert answer.status == 400, answer
    assert answer.body


@pytest.mark.parametrize(
    "body", [b"", b"x", b"{", b"[]", b"null", b'"x"', b"\xff", pytest.param(b"[" * 5000, id="deep")]
)
@pytest.mark.parametrize("path", ["/events", "/batch_events"])
async def test_a_body_that_is_no_event_is_refused(app: PusherApp, path: str, body: bytes) -> None:
    assert (await app.post(path, body)).status == 400


async def test_an_event_has_at_most_100_channels(app: PusherApp) -> None:
    """Reverb sets no limit."""
    channels = [fresh("orders-") for _ in range(101)]
    async with app.connected() as client:
        await client.subscribe(channels[99])
        assert (await app.post("/events", event_for(*channels))).status == 400
        await client.received_nothing()
        assert await app.post("/events", event_for(*channels[:100])) == Answer(200, "{}")
        assert await client.receive() == frame("shipped", channels[99], "{}")


async def test_an_event_has_at_most_10240_bytes_of_data(app: PusherApp) -> None:
    """
    Bytes of UTF-8, not characters.

    Reverb takes requests of 10,000 bytes, whatever is in them; Soketi and sockudo take 100 kB.
    """
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        for too_long in ("x" * 10241, "é" * 5121):
            assert (await app.post("/events", event_for(channel, data=too_long))).status == 413
        for longest in ("x" * 10240, "é" * 5120):
            await app.publish("shipped", channel, longest)
            assert await client.receive() == frame("shipped", channel, longest)


async def test_an_event_name_has_at_most_200_characters(app: PusherApp) -> None:
    """Reverb's may be of any length."""
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        await app.publish("x" * 200, channel, "{}")
        assert await client.receive() == frame("x" * 200, channel, "{}")


async def test_an_encrypted_event_goes_to_one_channel(app: PusherApp) -> None:
    """Each channel has a key of its own; the libraries refuse it before it is sent."""
    event = event_for(fresh("private-encrypted-"), fresh("orders-"))
    assert (await app.post("/events", event)).status == 400


# Leaving the author out.


async def test_the_excluded_socket_gets_nothing_on_any_channel(app: PusherApp) -> None:
    one, two = fresh("orders-"), fresh("orders-")
    async with app.connected() as author, app.connected() as reader:
        for client in (author, reader):
            await client.subscribe(one)
            await client.subscribe(two)
        event = event_for(one, two, socket_id=author.socket_id)
        assert await app.post("/events", event) == Answer(200, "{}")
        assert await reader.receive() == frame("shipped", one, "{}")
        assert await reader.receive() == frame("shipped", two, "{}")
        await author.received_nothing()


@pytest.mark.parametrize("socket_id", ["1.1", "218374.9021344"])
async def test_a_socket_that_is_gone_excludes_nobody(app: PusherApp, socket_id: str) -> None:
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        await app.publish("shipped", channel, "{}", socket_id=socket_id)
        assert await client.receive() == frame("shipped", channel, "{}")


async def test_a_null_socket_excludes_nobody(app: PusherApp) -> None:
    """The libraries of several languages send it."""
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        await app.publish("shipped", channel, "{}", socket_id=None, info=None)
        assert await client.receive() == frame("shipped", channel, "{}")


# Info.


async def test_an_event_may_ask_how_many_are_subscribed(app: PusherApp) -> None:
    """Soketi leaves the question unanswered."""
    one, two = fresh("orders-"), fresh("orders-")
    async with app.connected() as first, app.connected() as second:
        await first.subscribe(one)
        await second.subscribe(one)
        answer = await app.post("/events", event_for(one, two, info="subscription_count"))
        assert answer.json() == {
            "channels": {one: {"subscription_count": 2}, two: {"subscription_count": 0}}
        }


@pytest.mark.needs("presence")
async def test_an_event_may_ask_how_many_users_there_are(app: PusherApp) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as one, app.connected() as two, app.connected() as three:
        await one.join(channel, "7")
        await two.join(channel, "7")
        await three.join(channel, "9")
        answer = await app.post("/events", event_for(channel, info="user_count,subscription_count"))
        assert answer.json() == {"channels": {channel: {"user_count": 2, "subscription_count": 3}}}


# Batches.


def item_for(channel: str, data: str = "{}", **fields: object) -> dict[str, object]:
    """Return one event of a batch."""
    return {"channel": channel, "name": "shipped", "data": data, **fields}


async def publish_batch(app: PusherApp, *items: object) -> Answer:
    """Publish events in one request."""
    return await app.post("/batch_events", {"batch": items})


@pytest.mark.per_node
async def test_a_batch_is_published_in_its_order(app: PusherApp) -> None:
    """Reverb answers `{"batch":{}}`, Soketi `{"ok":true}`."""
    one, two = fresh("orders-"), fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(one)
        await client.subscribe(two)
        items = [item_for((one, two)[n % 2], str(n)) for n in range(10)]
        assert await publish_batch(app, *items) == Answer(200, "{}")
        for number in range(10):
            assert await client.receive() == frame("shipped", (one, two)[number % 2], str(number))


async def test_the_answers_to_a_batch_stand_in_its_order(app: PusherApp) -> None:
    one, two = fresh("orders-"), fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(two)
        answer = await publish_batch(
            app,
            item_for(one),
            item_for(two, info="subscription_count"),
            item_for(one, info="subscription_count"),
        )
        assert answer.json() == {
            "batch": [{}, {"subscription_count": 1}, {"subscription_count": 0}]
        }


async def test_each_event_of_a_batch_leaves_its_own_author_out(app: PusherApp) -> None:
    channel = fresh("orders-")
    async with app.connected() as one, app.connected() as two:
        await one.subscribe(channel)
        await two.subscribe(channel)
        await publish_batch(
            app,
            item_for(channel, "1", socket_id=one.socket_id),
            item_for(channel, "2", socket_id=two.socket_id),
        )
        assert await one.receive() == frame("shipped", channel, "2")
        assert await two.receive() == frame("shipped", channel, "1")


async def test_a_batch_has_at_most_10_events(app: PusherApp) -> None:
    """Reverb sets no limit."""
    channel = fresh("orders-")
    assert await publish_batch(app, *[item_for(channel)] * 10) == Answer(200, "{}")
    assert (await publish_batch(app, *[item_for(channel)] * 11)).status == 400


async def test_an_empty_batch_is_no_mistake(app: PusherApp) -> None:
    assert await publish_batch(app) == Answer(200, "{}")


@pytest.mark.parametrize(
    ("item", "status"),
    [
        ({"name": "x", "data": "{}"}, 400),
        ({"name": "x", "data": "{}", "channel": "not a name!"}, 400),
        ({"name": "x", "data": {}, "channel": "orders"}, 400),
        ({"data": "{}", "channel": "orders"}, 400),
        ({"name": "x", "data": "x" * 10241, "channel": "orders"}, 413),
        ({"name": "x", "data": "{}", "channel": "orders", "info": "user_count"}, 400),
        ({"name": "x", "data": "{}", "channel": "orders", "info": "weather"}, 400),
        ({"name": "x", "data": "{}", "channel": "orders", "socket_id": "x"}, 400),
        ("event", 400),
        (None, 400),
    ],
)
async def test_a_batch_with_a_mistake_is_refused_as_a_whole(
    app: PusherApp, item: object, status: int
) -> None:
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        answer = await publish_batch(app, item_for(channel), item, item_for(channel))
        assert answer.status == status, answer
        await client.received_nothing()


# The same event twice.


@pytest.mark.needs("idempotency")
async def test_a_repeated_event_is_answered_like_the_first_and_reaches_nobody(
    app: PusherApp,
) -> None:
    """Only sockudo has this beside reverb_py; a backend that got no answer can ask again."""
    channel = fresh("orders-")
    event = event_for(channel, info="subscription_count", idempotency_key=fresh())
    async with app.connected() as client:
        await client.subscribe(channel)
        first = await app.post("/events", event)
        assert first.json() == {"channels": {channel: {"subscription_count": 1}}}
        assert await client.receive() == frame("shipped", channel, "{}")
        assert await app.post("/events", event) == first
        await client.received_nothing()


@pytest.mark.needs("idempotency")
@pytest.mark.parametrize("path", ["/events", "/batch_events"])
async def test_the_key_may_be_a_header(app: PusherApp, path: str) -> None:
    channel = fresh("orders-")
    body: Any = event_for(channel) if path == "/events" else {"batch": [item_for(channel)]}
    headers = {"X-Idempotency-Key": fresh()}
    async with app.connected() as client:
        await client.subscribe(channel)
        for _ in range(3):
            assert await app.post(path, body, headers) == Answer(200, "{}")
        assert await client.receive() == frame("shipped", channel, "{}")
        await client.received_nothing()


@pytest.mark.needs("idempotency")
async def test_events_with_other_keys_and_without_are_other_events(app: PusherApp) -> None:
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        for key in (fresh(), fresh(), None, None):
            await app.post("/events", event_for(channel, idempotency_key=key))
            assert await client.receive() == frame("shipped", channel, "{}")


@pytest.mark.needs("idempotency")
async def test_of_a_batch_only_the_events_that_are_new_are_broadcast(app: PusherApp) -> None:
    """So a batch can be sent again, with more events in it."""
    channel, old, new = fresh("orders-"), fresh(), fresh()
    async with app.connected() as client:
        await client.subscribe(channel)
        assert await publish_batch(app, item_for(channel, "1", idempotency_key=old)) == Answer(
            200, "{}"
        )
        answer = await publish_batch(
            app,
            item_for(channel, "1", idempotency_key=old),
            item_for(channel, "2", idempotency_key=new),
            item_for(channel, "3"),
        )
        assert answer == Answer(200, "{}")
        for data in ("1", "2", "3"):
            assert await client.receive() == frame("shipped", channel, data)
        await client.received_nothing()


@pytest.mark.needs("idempotency")
async def test_an_event_that_was_refused_may_be_mended_under_its_key(app: PusherApp) -> None:
    channel, key = fresh("orders-"), fresh()
    async with app.connected() as client:
        await client.subscribe(channel)
        wrong = event_for(channel, data={}, idempotency_key=key)
        assert (await app.post("/events", wrong)).status == 400
        right = event_for(channel, data="7", idempotency_key=key)
        assert await app.post("/events", right) == Answer(200, "{}")
        assert await client.receive() == frame("shipped", channel, "7")


@pytest.mark.needs("idempotency")
async def test_a_key_means_something_in_its_own_app_only(
    app: PusherApp, other_app: PusherApp
) -> None:
    channel, key = fresh("orders-"), fresh()
    async with other_app.connected() as client:
        await client.subscribe(channel)
        await app.post("/events", event_for(channel, idempotency_key=key))
        await client.received_nothing()
        await other_app.post("/events", event_for(channel, idempotency_key=key))
        assert await client.receive() == frame("shipped", channel, "{}")


# HTTP.


async def test_a_body_may_come_in_chunks(app: PusherApp) -> None:
    """Reverb does not read such a body."""
    channel = fresh("orders-")
    body = compact(event_for(channel)).encode()
    path = f"/apps/{app.id}/events"

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    async with app.connected() as client:
        await client.subscribe(channel)
        answer = await app.request("POST", path, app.signed_query("POST", path, body), chunks())
        assert answer == Answer(200, "{}")
        assert await client.receive() == frame("shipped", channel, "{}")


async def test_the_content_type_does_not_matter(app: PusherApp) -> None:
    body = event_for(fresh("orders-"))
    for content_type in ("text/plain", "application/json; charset=utf-8", "x"):
        answer = await app.post("/events", body, {"Content-Type": content_type})
        assert answer == Answer(200, "{}")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_another_method_publishes_nothing(app: PusherApp, method: str) -> None:
    channel = fresh("orders-")
    path = f"/apps/{app.id}/events"
    body = compact(event_for(channel)).encode()
    async with app.connected() as client:
        await client.subscribe(channel)
        answer = await app.request(method, path, app.signed_query(method, path, body), body)
        assert answer.status in (404, 405)
        await client.received_nothing()


async def test_requests_side_by_side_are_all_answered(app: PusherApp) -> None:
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        numbers = [str(number) for number in range(30)]
        await asyncio.gather(*[app.publish("shipped", channel, number) for number in numbers])
        heard = [json.loads(await client.receive())["data"] for _ in numbers]
        assert sorted(heard) == sorted(numbers)
