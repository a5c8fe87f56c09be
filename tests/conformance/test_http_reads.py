"""What a backend can ask: channels, one channel, users, connections, health."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from tests.conformance.wire import Answer, PusherApp, fresh


async def test_without_a_channel_the_list_is_an_empty_object(app: PusherApp) -> None:
    """Reverb's is an empty array."""
    answer = await app.get("/channels", filter_by_prefix=fresh("nobody-"))
    assert answer == Answer(200, '{"channels":{}}')


async def test_occupied_channels_are_listed_and_others_are_not(app: PusherApp) -> None:
    prefix = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(f"{prefix}-1")
        await client.subscribe(f"{prefix}-2")
        await app.publish("shipped", f"{prefix}-3", "{}")
        await client.unsubscribe(f"{prefix}-2")
        answer = await app.get("/channels", filter_by_prefix=prefix)
        assert answer.json() == {"channels": {f"{prefix}-1": {}}}
        everything = (await app.get("/channels")).json()["channels"]
        assert f"{prefix}-1" in everything
        assert f"{prefix}-2" not in everything


@pytest.mark.needs("presence")
async def test_the_list_may_say_how_many_users_there_are(app: PusherApp) -> None:
    """Users, not connections."""
    prefix = fresh("presence-room-")
    async with app.connected() as one, app.connected() as two, app.connected() as three:
        await one.join(f"{prefix}-1", "7")
        await two.join(f"{prefix}-1", "7")
        await three.join(f"{prefix}-1", "9")
        await three.join(f"{prefix}-2", "9")
        answer = await app.get("/channels", filter_by_prefix=prefix, info="user_count")
        assert answer.json() == {
            "channels": {f"{prefix}-1": {"user_count": 2}, f"{prefix}-2": {"user_count": 1}}
        }


async def test_the_list_may_say_how_many_are_subscribed(app: PusherApp) -> None:
    """Reverb and sockudo say it, hosted Pusher does not."""
    channel = fresh("orders-")
    async with app.connected() as one, app.connected() as two:
        await one.subscribe(channel)
        await two.subscribe(channel)
        answer = await app.get("/channels", filter_by_prefix=channel, info="subscription_count")
        assert answer.json() == {"channels": {channel: {"subscription_count": 2}}}


@pytest.mark.parametrize(
    "parameters",
    [
        {"info": "user_count"},
        {"info": "user_count", "filter_by_prefix": "orders-"},
        {"info": "user_count", "filter_by_prefix": "presence"},
        {"info": "weather"},
        {"info": "subscription_count,weather"},
    ],
)
async def test_a_list_that_cannot_be_given_is_refused(
    app: PusherApp, parameters: dict[str, str]
) -> None:
    """User counts go with `filter_by_prefix=presence-`."""
    assert (await app.get("/channels", **parameters)).status == 400


async def test_a_channel_is_occupied_or_it_is_not(app: PusherApp) -> None:
    """Soketi always adds the number of subscriptions."""
    channel = fresh("orders-")
    async with app.connected() as client:
        assert await app.get(f"/channels/{channel}") == Answer(200, '{"occupied":false}')
        await client.subscribe(channel)
        assert await app.get(f"/channels/{channel}") == Answer(200, '{"occupied":true}')
        await client.unsubscribe(channel)
        assert await app.get(f"/channels/{channel}") == Answer(200, '{"occupied":false}')


@pytest.mark.needs("presence")
async def test_a_channel_may_say_how_many_there_are(app: PusherApp) -> None:
    """Soketi gives what it always gives, whatever is asked for."""
    channel = fresh("presence-room-")
    info = "user_count,subscription_count"
    empty = (await app.get(f"/channels/{channel}", info=info)).json()
    assert empty["occupied"] is False
    assert not any(empty.get(count) for count in info.split(","))
    async with app.connected() as one, app.connected() as two:
        await one.join(channel, "7")
        await two.join(channel, "7")
        answer = await app.get(f"/channels/{channel}", info=info)
        assert answer.json() == {"occupied": True, "user_count": 1, "subscription_count": 2}
        answer = await app.get(f"/channels/{channel}", info="user_count")
        assert answer.json() == {"occupied": True, "user_count": 1}


@pytest.mark.parametrize("info", ["user_count", "subscription_count,user_count", "weather"])
async def test_an_attribute_that_a_channel_does_not_have_is_refused(
    app: PusherApp, info: str
) -> None:
    assert (await app.get(f"/channels/{fresh('orders-')}", info=info)).status == 400


async def test_a_name_in_a_path_may_be_percent_encoded(app: PusherApp) -> None:
    channel = fresh("orders-@=,.;")
    async with app.connected() as client:
        await client.subscribe(channel)
        for written in (channel, quote(channel, safe="")):
            answer = await app.get(f"/channels/{written}", info="subscription_count")
            assert answer.json() == {"occupied": True, "subscription_count": 1}


@pytest.mark.parametrize("name", ["a%20b", "%C3%BC", "a%2Fb", pytest.param("x" * 201, id="long")])
async def test_what_is_no_name_is_refused(app: PusherApp, name: str) -> None:
    assert (await app.get(f"/channels/{name}")).status == 400


@pytest.mark.needs("presence")
async def test_the_users_of_a_presence_channel_are_listed_once(app: PusherApp) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as one, app.connected() as two, app.connected() as three:
        await one.join(channel, "7", user_info={"name": "Ada"})
        await two.join(channel, 9)
        await three.join(channel, "7")
        answer = await app.get(f"/channels/{channel}/users")
        assert answer == Answer(200, '{"users":[{"id":"7"},{"id":"9"}]}')


@pytest.mark.needs("presence")
async def test_the_users_of_an_empty_channel_are_an_empty_list(app: PusherApp) -> None:
    """Reverb answers 404."""
    answer = await app.get(f"/channels/{fresh('presence-room-')}/users")
    assert answer == Answer(200, '{"users":[]}')


@pytest.mark.needs("presence")
@pytest.mark.parametrize("prefix", ["orders-", "private-", "cache-", "presence", "my-presence-"])
async def test_off_presence_there_are_no_users(app: PusherApp, prefix: str) -> None:
    channel = f"{prefix}{fresh()}"
    assert (await app.get(f"/channels/{channel}/users")).status == 400


@pytest.mark.needs("connections")
async def test_every_connection_is_counted_subscribed_or_not(app: PusherApp) -> None:
    """Reverb's own endpoint, which Laravel Pulse asks; there only subscribed ones count."""
    before = (await app.get("/connections")).json()["connections"]
    async with app.connected() as client:
        answer = await app.get("/connections")
        assert answer == Answer(200, f'{{"connections":{before + 1}}}')
        await client.subscribe(fresh("orders-"))
        await client.subscribe(fresh("orders-"))
        assert await app.get("/connections") == answer


@pytest.mark.needs("connections")
async def test_health_needs_no_signature(app: PusherApp) -> None:
    """Reverb's own endpoint."""
    assert await app.request("GET", "/up") == Answer(200, '{"health":"OK"}')


@pytest.mark.parametrize("path", ["/", "/apps", "/apps/{id}", "/apps/{id}/weather", "/nowhere"])
async def test_nothing_is_found_elsewhere(app: PusherApp, path: str) -> None:
    path = path.format(id=app.id)
    answer = await app.request("GET", path, app.signed_query("GET", path))
    assert answer.status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_reads_are_for_get(app: PusherApp, method: str) -> None:
    path = f"/apps/{app.id}/channels"
    answer = await app.request(method, path, app.signed_query(method, path))
    assert answer.status in (404, 405)


async def test_a_refusal_says_why(app: PusherApp) -> None:
    """The libraries put the body, whatever its type, into their exception."""
    answer = await app.get("/channels", info="weather")
    assert answer.status == 400
    assert "weather" in answer.body


async def test_the_body_of_an_answer_is_json(app: PusherApp) -> None:
    answer = await app.get("/channels")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert isinstance(json.loads(answer.body), dict)
