"""Signin, events to a user, who is online, and sending a user away."""

from __future__ import annotations

import json

import pytest

from tests.conformance.wire import Answer, Client, PusherApp, compact, frame, fresh, subscribed

pytestmark = pytest.mark.needs("signin")


def signed_in(user_data: str) -> str:
    """Return the acknowledgement of a signin."""
    return frame("pusher:signin_success", data=compact({"user_data": user_data}))


def watched(**user_ids: list[str]) -> str:
    """Return the news of users on a watchlist."""
    events = [{"name": name, "user_ids": ids} for name, ids in user_ids.items()]
    return frame("pusher_internal:watchlist_events", data=compact({"events": events}))


def user_channel(user_id: str) -> str:
    """Return the channel of one user's own events."""
    return f"#server-to-user-{user_id}"


async def listen_to_own_events(client: Client, user_id: str) -> None:
    """Sign in, and subscribe as pusher-js does by itself afterwards."""
    await client.sign_in(user_id)
    await client.ask_for(user_channel(user_id), auth="")
    assert await client.receive() == subscribed(user_channel(user_id))


@pytest.mark.parametrize(
    "user_data", ['{"id":"ID"}', '{"id":"ID","user_info":{"name":"Ada"}}', ' { "id" : "ID" } ']
)
async def test_a_signin_is_acknowledged_with_the_string_that_was_signed(
    app: PusherApp, user_data: str
) -> None:
    """Reverb answers with an error; Soketi sends the signature back, sockudo an object."""
    user_data = user_data.replace("ID", fresh("user-"))
    async with app.connected() as client:
        await client.ask_to_sign_in(user_data)
        text = json.dumps(user_data)
        data = json.dumps(f'{{"user_data":{text}}}')
        assert await client.receive() == f'{{"event":"pusher:signin_success","data":{data}}}'
        await client.received_nothing()


async def test_the_data_of_a_signin_may_be_a_string_that_holds_the_object(app: PusherApp) -> None:
    user_data = compact({"id": fresh("user-")})
    async with app.connected() as client:
        data = {"auth": app.user_auth(client.socket_id, user_data), "user_data": user_data}
        await client.send({"event": "pusher:signin", "data": compact(data)})
        assert await client.receive() == signed_in(user_data)


async def test_whose_id_is_a_number_is_the_user_of_its_digits(app: PusherApp) -> None:
    """As with Soketi; pusher-js refuses to send a number, backends write what they have."""
    number = int(fresh(), 16) % 10**9
    user_data = f'{{"id":{number}}}'
    async with app.connected() as client:
        await client.ask_to_sign_in(user_data)
        assert await client.receive() == signed_in(user_data)
        await client.ask_for(user_channel(str(number)), auth="")
        assert await client.receive() == subscribed(user_channel(str(number)))


async def test_nobody_can_sign_in_as_somebody_else(app: PusherApp) -> None:
    user_id = fresh("user-")
    mine, yours = '{"id":"me"}', compact({"id": user_id})
    async with app.connected() as client:
        for auth in (
            app.user_auth(client.socket_id, mine),
            app.user_auth("1234.1234", yours),
            app.user_auth(client.socket_id, yours, secret="not the secret"),
            app.user_auth(client.socket_id, yours).replace(app.key, "other-key"),
            app.channel_auth(client.socket_id, yours),
            "",
        ):
            data = {"auth": auth, "user_data": yours}
            await client.send({"event": "pusher:signin", "data": data})
            await client.receive_error(4300)
        await client.ask_for(user_channel(user_id), auth="")
        assert '"pusher:subscription_error"' in await client.receive()


@pytest.mark.parametrize(
    "user_data",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "{}",
        '{"id":""}',
        '{"id":null}',
        '{"id":{}}',
        '{"id":"%s"}' % ("7" * 129),
        pytest.param("[" * 1000, id="deep"),
    ],
)
async def test_signed_user_data_that_names_nobody_is_refused(
    app: PusherApp, user_data: str
) -> None:
    async with app.connected() as client:
        await client.ask_to_sign_in(user_data)
        await client.receive_error(4300)
        await client.sign_in(fresh("user-"))


@pytest.mark.parametrize("data", [None, {}, {"auth": "x"}, {"user_data": "{}"}, {"auth": 1}, []])
async def test_a_signin_that_lacks_something_is_refused(app: PusherApp, data: object) -> None:
    async with app.connected() as client:
        await client.send({"event": "pusher:signin", "data": data})
        await client.receive_error(4300)
        await client.received_nothing()


async def test_signing_in_again_as_the_same_user_is_acknowledged_again(app: PusherApp) -> None:
    user_id = fresh("user-")
    async with app.connected() as client:
        await client.sign_in(user_id)
        await client.sign_in(user_id)
        await client.received_nothing()


async def test_a_connection_belongs_to_one_user(app: PusherApp) -> None:
    user_id, other_id = fresh("user-"), fresh("user-")
    async with app.connected() as client:
        await listen_to_own_events(client, user_id)
        await client.ask_to_sign_in(compact({"id": other_id}))
        await client.receive_error(4300)
        await app.publish("hello", user_channel(user_id), "{}")
        assert await client.receive() == frame("hello", user_channel(user_id), "{}")


async def test_an_event_to_a_user_reaches_all_connections_of_that_user(app: PusherApp) -> None:
    user_id, other_id = fresh("user-"), fresh("user-")
    async with app.connected() as one, app.connected() as two, app.connected() as other:
        await listen_to_own_events(one, user_id)
        await listen_to_own_events(two, user_id)
        await listen_to_own_events(other, other_id)
        await app.publish("hello", user_channel(user_id), '{"n":1}')
        for client in (one, two):
            assert await client.receive() == (
                f'{{"event":"hello","channel":"#server-to-user-{user_id}","data":"{{\\"n\\":1}}"}}'
            )
        await other.received_nothing()


@pytest.mark.needs("subscription_error")
async def test_a_users_channel_is_for_that_user_alone(app: PusherApp) -> None:
    """No signature opens it, only the signin does."""
    user_id, other_id = fresh("user-"), fresh("user-")
    channel = user_channel(user_id)
    async with app.connected() as client:
        auth = app.channel_auth(client.socket_id, channel)
        await client.ask_for(channel, auth="")
        await client.receive_refusal(channel, "AuthError")
        await client.ask_for(channel, auth=auth)
        await client.receive_refusal(channel, "AuthError")
        await client.sign_in(other_id)
        await client.ask_for(channel, auth=auth)
        await client.receive_refusal(channel, "AuthError")
        await client.ask_for(f"{user_channel(other_id)}x", auth="")
        await client.receive_refusal(f"{user_channel(other_id)}x", "AuthError")
        await app.publish("hello", channel, "{}")
        await client.received_nothing()


@pytest.mark.parametrize("user_id", ["auth0|7", "user:7", "a b", "é", "a/b", "#7"])
async def test_an_id_that_cannot_name_the_users_channel_cannot_sign_in(
    app: PusherApp, user_id: str
) -> None:
    """
    Ids have the characters of channel names; hosted Pusher says "invalid characters" as well.

    The server libraries refuse to send such a user anything.
    """
    async with app.connected() as client:
        await client.ask_to_sign_in(compact({"id": user_id}))
        await client.receive_error(4300)
        await client.sign_in(fresh("foo-bar_1234@=,.;"))


async def test_an_event_to_a_user_who_is_away_is_no_mistake(app: PusherApp) -> None:
    await app.publish("hello", user_channel(fresh("user-")), "{}")


@pytest.mark.needs("client_events")
async def test_nobody_whispers_on_a_users_channel(app: PusherApp) -> None:
    user_id = fresh("user-")
    async with app.connected() as one, app.connected() as two:
        await listen_to_own_events(one, user_id)
        await listen_to_own_events(two, user_id)
        await one.whisper("client-typing", user_channel(user_id), data={})
        await one.receive_error(4301)
        await two.received_nothing()


# Watchlists.


@pytest.mark.needs("watchlist")
async def test_who_watches_hears_at_once_who_is_online_and_who_is_not(app: PusherApp) -> None:
    """sockudo sends bare `online` events, which pusher-js does not look at; others send nothing."""
    online, offline = fresh("user-"), fresh("user-")
    async with app.connected() as friend, app.connected() as client:
        await friend.sign_in(online)
        await client.sign_in(fresh("user-"), watchlist=[offline, online])
        assert await client.receive() == watched(online=[online], offline=[offline])
        await client.received_nothing()
        await friend.received_nothing()


@pytest.mark.needs("watchlist")
async def test_who_watches_hears_of_the_first_connection_and_the_last(app: PusherApp) -> None:
    user_id = fresh("user-")
    async with app.connected() as watcher:
        await watcher.sign_in(fresh("user-"), watchlist=[user_id])
        assert await watcher.receive() == watched(offline=[user_id])
        async with app.connected() as first:
            await first.sign_in(user_id)
            data = json.dumps(f'{{"events":[{{"name":"online","user_ids":["{user_id}"]}}]}}')
            assert await watcher.receive() == (
                f'{{"event":"pusher_internal:watchlist_events","data":{data}}}'
            )
            async with app.connected() as second:
                await second.sign_in(user_id)
            await watcher.received_nothing()
        assert await watcher.receive() == watched(offline=[user_id])
        await watcher.received_nothing()


@pytest.mark.needs("watchlist")
async def test_numbers_on_a_watchlist_are_the_users_of_their_digits(app: PusherApp) -> None:
    number, other = (int(fresh(), 16) % 10**9 for _ in range(2))
    user_data = f'{{"id":{number},"watchlist":[{other}]}}'
    async with app.connected() as watcher, app.connected() as friend:
        await watcher.ask_to_sign_in(user_data)
        assert await watcher.receive() == signed_in(user_data)
        assert await watcher.receive() == watched(offline=[str(other)])
        await friend.sign_in(str(other))
        assert await watcher.receive() == watched(online=[str(other)])


@pytest.mark.needs("watchlist")
async def test_who_watches_oneself_hears_of_oneself_once(app: PusherApp) -> None:
    user_id = fresh("user-")
    async with app.connected() as client:
        await client.sign_in(user_id, watchlist=[user_id])
        assert await client.receive() == watched(online=[user_id])
        await client.received_nothing()


@pytest.mark.needs("watchlist")
async def test_an_empty_watchlist_is_followed_by_nothing(app: PusherApp) -> None:
    async with app.connected() as client:
        await client.sign_in(fresh("user-"), watchlist=[])
        await client.received_nothing()


@pytest.mark.needs("watchlist")
async def test_of_a_watchlist_that_is_too_long_the_first_are_watched(small_app: PusherApp) -> None:
    """
    The signin succeeds, and 4302 says that the rest is not watched.

    Soketi has this code for another purpose, sockudo for more than one.
    """
    first, second, third = fresh("user-"), fresh("user-"), fresh("user-")
    async with small_app.connected() as client, small_app.connected() as friend:
        await client.sign_in(fresh("user-"), watchlist=[first, second, third])
        await client.receive_error(4302)
        assert await client.receive() == watched(offline=[first, second])
        await friend.sign_in(third)
        await client.received_nothing()


# Sending a user away.


@pytest.mark.needs("terminate")
async def test_a_terminated_user_is_closed_with_4009_everywhere(app: PusherApp) -> None:
    """
    On 4009 clients do not come back. Reverb looks for the user on presence channels only.

    The answer of Soketi and sockudo is `{"ok":true}`.
    """
    user_id = fresh("user-")
    async with app.connected() as one, app.connected() as two, app.connected() as other:
        await one.sign_in(user_id)
        await two.sign_in(user_id)
        await other.sign_in(fresh("user-"))
        answer = await app.post(f"/users/{user_id}/terminate_connections", {})
        assert answer == Answer(200, "{}")
        await one.receive_fatal_error(4009)
        await two.receive_fatal_error(4009)
        await other.received_nothing()


@pytest.mark.needs("terminate", "presence")
async def test_a_terminated_user_leaves_the_channels(app: PusherApp) -> None:
    channel, user_id = fresh("presence-room-"), fresh("user-")
    async with app.connected() as watcher, app.connected() as client:
        await watcher.join(channel, "watcher")
        await client.join(channel, user_id)
        assert '"pusher_internal:member_added"' in await watcher.receive()
        await app.post(f"/users/{user_id}/terminate_connections", {})
        await client.receive_fatal_error(4009)
        assert await watcher.receive() == frame(
            "pusher_internal:member_removed", channel, compact({"user_id": user_id})
        )


@pytest.mark.needs("terminate")
async def test_terminating_a_user_who_is_away_is_no_mistake(app: PusherApp) -> None:
    """A Reverb before August 2026 could answer 500."""
    async with app.connected() as client:
        await client.subscribe(fresh("orders-"))
        answer = await app.post(f"/users/{fresh('user-')}/terminate_connections", {})
        assert answer == Answer(200, "{}")
        await client.received_nothing()


@pytest.mark.needs("terminate")
@pytest.mark.parametrize("body", [b"{}", b""])
async def test_terminating_needs_no_body(app: PusherApp, body: bytes) -> None:
    """Some libraries post an empty object, some nothing; sockudo insists on a digest of it."""
    answer = await app.post(f"/users/{fresh('user-')}/terminate_connections", body)
    assert answer == Answer(200, "{}")


@pytest.mark.needs("terminate", "presence")
async def test_a_user_id_in_a_path_is_percent_encoded(app: PusherApp) -> None:
    """So is the id of a presence member, which may have any characters."""
    user_id = fresh("a b/é@x+")
    async with app.connected() as client:
        await client.join(fresh("presence-room-"), user_id)
        encoded = user_id.encode().hex("%", 1)
        answer = await app.post(f"/users/%{encoded}/terminate_connections", {})
        assert answer == Answer(200, "{}")
        await client.receive_fatal_error(4009)


@pytest.mark.needs("terminate")
async def test_a_user_of_another_app_stays(app: PusherApp, other_app: PusherApp) -> None:
    user_id = fresh("user-")
    async with other_app.connected() as client:
        await client.sign_in(user_id)
        await app.post(f"/users/{user_id}/terminate_connections", {})
        await client.received_nothing()


# Apps that only want connections of somebody.


async def test_who_proves_nothing_in_time_is_closed_with_4009(hurried_app: PusherApp) -> None:
    """
    Subscribing to a public channel proves nothing.

    Soketi gives 30 seconds, sockudo an hour; hosted Pusher does not say how long. Reverb has no
    such setting.
    """
    async with hurried_app.connected() as idle, hurried_app.connected() as listening:
        await listening.subscribe(fresh("orders-"))
        await idle.receive_fatal_error(4009)
        await listening.receive_fatal_error(4009)


@pytest.mark.needs("presence")
async def test_who_signs_in_or_joins_a_private_or_presence_channel_stays(
    hurried_app: PusherApp,
) -> None:
    async with (
        hurried_app.connected() as user,
        hurried_app.connected() as subscriber,
        hurried_app.connected() as member,
        hurried_app.connected() as idle,
    ):
        await user.sign_in(fresh("user-"))
        await subscriber.subscribe(fresh("private-orders-"))
        await member.join(fresh("presence-room-"), "7")
        # It came last: when its time is over, so is everybody's.
        await idle.receive_fatal_error(4009)
        for client in (user, subscriber, member):
            await client.received_nothing()
