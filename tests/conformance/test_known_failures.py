"""
Situations in which servers of this field are known to fail, each with a test named after it.

The docstrings say what used to happen elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.conformance.wire import (
    PATIENCE,
    Answer,
    BareConnection,
    PusherApp,
    compact,
    frame,
    fresh,
    pong,
    presence,
    subscribed,
)

# Connections that should be gone, and those that should not.


@pytest.fixture
def _many_files() -> Iterator[None]:
    """Let this process, in which both ends may be, open as many files as the system allows it."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


async def bare_hello(client: BareConnection) -> str:
    """Take the hello and return the socket id."""
    socket_id: str = json.loads((await client.receive_json())["data"])["socket_id"]
    return socket_id


async def test_a_refused_client_that_goes_on_talking_is_not_served(origins_app: PusherApp) -> None:
    """Reverb goes on serving whom it has told 4009 for a wrong origin, or 4004 for a full app."""
    channel = fresh("orders-")
    subscribe = compact({"event": "pusher:subscribe", "data": {"channel": channel}})
    async with origins_app.bare_connection(origin="https://evil.net") as client:
        client.send(client.TEXT, subscribe.encode())
        assert (await client.receive_json())["data"]["code"] == 4009
        client.send(client.TEXT, subscribe.encode())
        opcode, payload = await client.receive()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (client.CLOSE, 4009)
    answer = await origins_app.get(f"/channels/{channel}")
    assert answer == Answer(200, '{"occupied":false}')


@pytest.mark.needs("presence")
async def test_a_member_whose_line_went_dead_leaves_the_list(impatient_app: PusherApp) -> None:
    """
    Members of a crashed tab or a lost network stayed in the list for ever.

    Reverb notices silent sockets within minutes, and then only those that are in a channel; early
    sockudo kept the users of a dead node.
    """
    channel = fresh("presence-room-")
    async with impatient_app.bare_connection() as ghost, impatient_app.connected() as watcher:
        socket_id = await bare_hello(ghost)
        member = '{"user_id":"ghost"}'
        auth = impatient_app.channel_auth(socket_id, channel, member)
        data = {"channel": channel, "auth": auth, "channel_data": member}
        ghost.send(ghost.TEXT, compact({"event": "pusher:subscribe", "data": data}).encode())
        assert (await ghost.receive_json())["channel"] == channel
        await watcher.join(channel, "7")
        async with asyncio.timeout(PATIENCE):
            # The watcher is asked as well, and answers.
            while '"pusher_internal:member_removed"' not in (text := await watcher.receive()):
                await watcher.send('{"event":"pusher:pong","data":{}}')
        assert json.loads(json.loads(text)["data"]) == {"user_id": "ghost"}


@pytest.mark.needs("connections")
async def test_a_silent_socket_that_never_subscribed_is_closed(impatient_app: PusherApp) -> None:
    """Reverb asks and prunes only sockets that are in a channel; idle ones stay for ever."""
    async with impatient_app.bare_connection() as client:
        await bare_hello(client)
        opcode, payload = await client.receive()
        while opcode != client.CLOSE:
            opcode, payload = await client.receive()
        assert int.from_bytes(payload[:2], "big") == 4201
    assert await impatient_app.get("/connections") == Answer(200, '{"connections":0}')


async def test_a_phone_that_only_answers_websocket_pings_stays(impatient_app: PusherApp) -> None:
    """Swift and .NET do not react to `pusher:ping`; Reverb used to drop them after minutes."""
    async with impatient_app.connected() as client:
        # The library answers control frames by itself; messages are left unanswered.
        for _ in range(4):
            assert json.loads(await client.receive())["event"] == "pusher:ping"
        await client.send('{"event":"pusher:ping"}')
        while (text := await client.receive()) != pong():
            assert json.loads(text)["event"] == "pusher:ping"


@pytest.mark.usefixtures("_many_files")
async def test_the_1025th_connection_is_served_like_the_first(app: PusherApp) -> None:
    """Reverb ends at 1,024 open files unless PHP has an extension that most do without."""
    channel = fresh("orders-")
    subscribe = compact({"event": "pusher:subscribe", "data": {"channel": channel}})
    async with AsyncExitStack() as stack:
        for _ in range(1_030):
            last = await stack.enter_async_context(app.bare_connection())
            await bare_hello(last)
        last.send(last.TEXT, subscribe.encode())
        assert (await last.receive_json())["channel"] == channel
        await app.publish("shipped", channel, "7")
        assert await last.receive_json() == {"event": "shipped", "channel": channel, "data": "7"}


async def test_a_restart_says_goodbye_to_sockets_without_a_channel_too(
    app: PusherApp, stop_server: Callable[[], Awaitable[None]]
) -> None:
    """Reverb cuts the subscribed ones off without a code and does not tell the others at all."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(app.connected()) for _ in range(5)]
        await clients[0].subscribe(fresh("orders-"))
        await stop_server()
        for client in clients:
            await client.receive_fatal_error(4200)


# One bad client.


@pytest.mark.parametrize(
    "text",
    [
        '{"event":"pusher:subscribe"}',
        '{"event":"pusher:subscribe","data":null}',
        '{"event":"pusher:ping","data":""}',
        '{"event":"pusher:signin"}',
        '{"event":"client-x"}',
        "\x00",
        pytest.param("[" * 9000, id="deep"),
        '{"event":"pusher:subscribe","data":{"channel":"presence-x","channel_data":"{"}}',
    ],
)
async def test_one_bad_frame_does_not_stop_the_server(app: PusherApp, text: str) -> None:
    """A subscription without data ended a whole Soketi; an empty ping once a whole Reverb."""
    channel = fresh("orders-")
    async with app.connected() as bad, app.connected() as good:
        await good.subscribe(channel)
        await bad.send(text)
        await bad.receive()
        await app.publish("shipped", channel, "7")
        assert await good.receive() == frame("shipped", channel, "7")


async def test_a_client_that_does_not_read_delays_nobody_and_is_closed(app: PusherApp) -> None:
    """
    The code is 4100, so that it comes back, but not at once.

    Reverb buffers for it without an end, until the memory is full.
    """
    channel = fresh("orders-")
    batch = {"batch": [{"channel": channel, "name": "x", "data": "x" * 10_000}] * 10}
    async with app.bare_connection() as deaf, app.connected() as reader:
        await bare_hello(deaf)
        subscribe = {"event": "pusher:subscribe", "data": {"channel": channel}}
        deaf.send(deaf.TEXT, compact(subscribe).encode())
        assert (await deaf.receive_json())["channel"] == channel
        await reader.subscribe(channel)
        for _ in range(200):
            assert await app.post("/batch_events", batch) == Answer(200, "{}")
            for _ in range(10):
                assert json.loads(await reader.receive())["event"] == "x"
            shown = await app.get(f"/channels/{channel}", info="subscription_count")
            if shown.json()["subscription_count"] == 1:
                break
        else:
            pytest.fail("20 MB wait for a client that does not read")
        opcode, payload = deaf.TEXT, b""
        while opcode != deaf.CLOSE:
            last = payload
            opcode, payload = await deaf.receive()
        assert json.loads(last)["data"]["code"] == 4100
        assert int.from_bytes(payload[:2], "big") == 4100


@pytest.mark.needs("client_events")
async def test_a_flood_of_whispers_costs_only_the_one_who_floods(app: PusherApp) -> None:
    """Reverb's limit is off by default and, when on, counts pings and subscriptions alike."""
    channel = fresh("private-room-")
    async with app.connected() as flooding, app.connected() as other:
        await flooding.subscribe(channel)
        await other.subscribe(channel)
        for _ in range(300):
            await flooding.whisper("client-x", channel, data={})
        await flooding.send('{"event":"pusher:ping"}')
        while (text := await flooding.receive()) != pong():
            assert json.loads(text)["data"]["code"] == 4301
        await other.whisper("client-y", channel, data={})
        assert '"client-y"' in await flooding.receive()


# Subscriptions.


@pytest.mark.needs("subscription_error")
async def test_a_refused_channel_can_be_asked_for_again_on_the_same_connection(
    app: PusherApp,
) -> None:
    """In pusher-js a refused channel stays pending; here leaving it and asking anew is enough."""
    channel = fresh("private-orders-")
    async with app.connected() as client:
        await client.ask_for(channel, auth="")
        await client.receive_refusal(channel, "AuthError")
        await client.unsubscribe(channel)
        await client.subscribe(channel)


@pytest.mark.needs("subscription_error", "refusal_code")
async def test_one_refused_channel_does_not_cost_the_others(app: PusherApp) -> None:
    """4009 as a message, from Reverb and sockudo, makes Pysher and a Dart client hang up."""
    channel = fresh("orders-")
    async with app.connected() as client:
        await client.subscribe(channel)
        await client.ask_for(fresh("private-"), auth="")
        await client.receive()
        error = json.loads(await client.receive())
        assert 4300 <= error["data"]["code"] <= 4399
        await app.publish("shipped", channel, "7")
        assert await client.receive() == frame("shipped", channel, "7")


@pytest.mark.needs("subscription_error", "refusal_code")
async def test_a_refused_subscription_can_be_told_apart_by_a_machine(app: PusherApp) -> None:
    """Hosted Pusher's code is null, and its message names no channel."""
    private, wrong = fresh("private-"), "not a name!"
    async with app.connected() as client:
        statuses = []
        for channel in (private, wrong):
            await client.ask_for(channel, auth="")
            refusal = json.loads(await client.receive())
            assert refusal["channel"] == channel
            details = json.loads(refusal["data"])
            statuses.append((details["type"], details["status"]))
            assert isinstance(json.loads(await client.receive())["data"]["code"], int)
        assert statuses == [("AuthError", 401), ("InvalidChannel", 400)]


@pytest.mark.needs("subscription_error")
@pytest.mark.parametrize(
    "channel", ["private-my-cache-x", "presence-my-cache-x", "private-cache-x"]
)
async def test_the_word_cache_in_a_private_name_does_not_open_it(
    app: PusherApp, channel: str
) -> None:
    """In sockudo any auth seems to open such a channel."""
    async with app.connected() as client:
        await client.ask_for(channel, auth=f"{app.key}:x", channel_data='{"user_id":"7"}')
        await client.receive_refusal(channel, "AuthError")


async def test_a_channel_whose_name_only_begins_like_private_is_public(app: PusherApp) -> None:
    """Reverb asks for a signature for `privateer`."""
    channel = fresh("privateer-")
    async with app.connected() as client:
        await client.ask_for(channel, auth="")
        assert await client.receive() == subscribed(channel)


async def test_a_client_that_sends_the_hello_gets_no_second_one(app: PusherApp) -> None:
    """Reverb greets it again."""
    async with app.connected() as client:
        await client.send('{"event":"pusher:connection_established","data":"{}"}')
        await client.receive_error(4300)
        await client.received_nothing()


# Presence.


@pytest.mark.needs("presence")
async def test_members_whose_ids_are_0_1_2_are_an_object(app: PusherApp) -> None:
    """Reverb turns their table into a JSON list, and an empty one into `[]`."""
    channel = fresh("presence-room-")
    async with AsyncExitStack() as stack:
        for number in range(3):
            client = await stack.enter_async_context(app.connected())
            joined = await client.join(channel, number)
            members = {str(there): None for there in range(number + 1)}
            assert joined == presence(channel, members)


@pytest.mark.needs("presence", "subscription_error")
async def test_a_member_without_an_id_does_not_empty_the_list(app: PusherApp) -> None:
    """One such member makes Reverb's list empty for everybody."""
    channel = fresh("presence-room-")
    async with app.connected() as ada, app.connected() as nobody, app.connected() as bo:
        await ada.join(channel, "7")
        await nobody.ask_to_join(channel, "{}")
        await nobody.receive_refusal(channel, "InvalidMember")
        assert await bo.join(channel, "9") == presence(channel, {"7": None, "9": None})


@pytest.mark.needs("presence")
async def test_what_else_is_in_channel_data_reaches_nobody(app: PusherApp) -> None:
    """Reverb announces a member with everything the application had signed."""
    channel = fresh("presence-room-")
    async with app.connected() as watcher, app.connected() as client:
        await watcher.join(channel, "7")
        await client.join(channel, "9", internal_note="do not tell")
        announced = json.loads(json.loads(await watcher.receive())["data"])
        assert announced == {"user_id": "9", "user_info": None}
        await watcher.unsubscribe(channel)
        assert "do not tell" not in await watcher.join(channel, "7")


@pytest.mark.needs("presence")
async def test_a_user_with_two_tabs_does_not_leave_with_the_first(app: PusherApp) -> None:
    """Mixed ids, once a number and once a string, made Reverb lose count of them."""
    channel = fresh("presence-room-")
    async with app.connected() as watcher, app.connected() as first, app.connected() as second:
        await watcher.join(channel, "watcher")
        await first.join(channel, 7)
        assert '"pusher_internal:member_added"' in await watcher.receive()
        await second.join(channel, "7")
        await first.unsubscribe(channel)
        await watcher.received_nothing()
        assert (await app.get(f"/channels/{channel}/users")).json() == {
            "users": [{"id": "watcher"}, {"id": "7"}]
        }


@pytest.mark.needs("presence")
async def test_two_tabs_of_a_user_are_one_user_for_the_api(app: PusherApp) -> None:
    """Reverb and Soketi add up the nodes' own numbers, and count such a user twice."""
    channel = fresh("presence-room-")
    async with app.connected() as first, app.connected() as second:
        await first.join(channel, "7")
        await second.join(channel, "7")
        answer = await app.get(f"/channels/{channel}", info="user_count")
        assert answer.json() == {"occupied": True, "user_count": 1}


# Client events.


@pytest.mark.needs("client_events")
async def test_a_stranger_cannot_whisper_into_a_private_channel(app: PusherApp) -> None:
    """Whoever knows the public key can, in Reverb's mode `all`."""
    channel = fresh("private-room-")
    async with app.connected() as stranger, app.connected() as member:
        await member.subscribe(channel)
        await stranger.whisper("client-x", channel, data={})
        await stranger.receive_error(4301)
        await member.received_nothing()


@pytest.mark.needs("client_events", "presence")
async def test_a_client_cannot_whisper_in_the_name_of_another(app: PusherApp) -> None:
    """Reverb's mode `all` passes on the user id that the client wrote."""
    channel = fresh("presence-room-")
    async with app.connected() as mallory, app.connected() as other:
        await other.join(channel, "ada")
        await mallory.join(channel, "mallory")
        await other.receive()
        await mallory.whisper("client-x", channel, data={}, user_id="ada")
        assert json.loads(await other.receive())["user_id"] == "mallory"


@pytest.mark.needs("client_events")
async def test_android_may_whisper_text(app: PusherApp) -> None:
    """Java sends data as a string, which Reverb answers with 4200 unless it holds JSON."""
    channel = fresh("private-room-")
    async with app.connected() as android, app.connected() as other:
        await android.subscribe(channel)
        await other.subscribe(channel)
        await android.whisper("client-x", channel, data="just text")
        assert await other.receive() == (
            f'{{"event":"client-x","channel":"{channel}","data":"just text"}}'
        )


# Cached events.


@pytest.mark.needs("cache")
async def test_a_cached_event_is_there_for_the_first_who_comes_after_everybody_left(
    app: PusherApp,
) -> None:
    """Reverb keeps it with the channel, and the channel only while somebody is in it."""
    channel = fresh("cache-prices-")
    async with app.connected() as early:
        await early.subscribe(channel)
        await early.receive()
        await app.publish("price", channel, "1")
        await early.receive()
        await early.unsubscribe(channel)
    async with app.connected() as late:
        await late.subscribe(channel)
        assert await late.receive() == frame("price", channel, "1")


@pytest.mark.needs("cache", "presence")
async def test_a_leaving_member_does_not_overwrite_the_cached_event(app: PusherApp) -> None:
    """The next to join a Reverb channel gets the old `member_removed` as the cached event."""
    channel = fresh("presence-cache-")
    async with app.connected() as one, app.connected() as two, app.connected() as three:
        await app.publish("price", channel, "1")
        for client, user_id in ((one, "1"), (two, "2")):
            await client.join(channel, user_id)
            assert await client.receive() == frame("price", channel, "1")
        await two.unsubscribe(channel)
        await three.join(channel, "3")
        assert await three.receive() == frame("price", channel, "1")


# Users.


@pytest.mark.needs("signin", "watchlist")
async def test_watchlist_news_come_in_the_form_that_pusher_js_reads(app: PusherApp) -> None:
    """No other server that can be run at home sends them so."""
    user_id = fresh("user-")
    async with app.connected() as client:
        await client.sign_in(fresh("user-"), watchlist=[user_id])
        message = json.loads(await client.receive())
        assert message.keys() == {"event", "data"}
        assert message["event"] == "pusher_internal:watchlist_events"
        assert json.loads(message["data"]) == {
            "events": [{"name": "offline", "user_ids": [user_id]}]
        }


@pytest.mark.needs("signin", "terminate")
async def test_a_user_on_no_channel_can_be_sent_away(app: PusherApp) -> None:
    """Reverb looked at the first channel of each connection, and failed where there was none."""
    user_id = fresh("user-")
    async with app.connected() as client, app.connected() as idle:
        await client.sign_in(user_id)
        answer = await app.post(f"/users/{user_id}/terminate_connections", {})
        assert answer == Answer(200, "{}")
        await client.receive_fatal_error(4009)
        await idle.received_nothing()


async def test_subscription_counts_reach_the_clients(counting_app: PusherApp) -> None:
    """No other server that can be run at home sends them to Pusher clients."""
    channel = fresh("orders-")
    async with counting_app.connected() as client:
        await client.subscribe(channel)
        assert await client.receive() == frame(
            "pusher_internal:subscription_count", channel, '{"subscription_count":1}'
        )


# Backends.


async def test_the_python_library_can_read(app: PusherApp) -> None:
    """It signs the digest of an empty body, at which Reverb and sockudo answer 401."""
    path = f"/apps/{app.id}/channels"
    digest = {"body_md5": "d41d8cd98f00b204e9800998ecf8427e"}
    query = app.signed_query("GET", path, b"", digest)
    assert (await app.request("GET", path, query)).status == 200


@pytest.mark.needs("signin", "terminate")
async def test_the_python_library_can_send_a_user_away(app: PusherApp) -> None:
    """It leaves `/apps/ID` out of the path, which was found nowhere: the key says which app."""
    user_id = fresh("user-")
    path = f"/users/{user_id}/terminate_connections"
    async with app.connected() as client:
        await client.sign_in(user_id)
        unsigned = await app.request("POST", path, {"auth_key": app.key}, b"{}")
        assert unsigned.status == 401
        await client.received_nothing()
        query = app.signed_query("POST", path, b"{}")
        assert await app.request("POST", path, query, b"{}") == Answer(200, "{}")
        await client.receive_fatal_error(4009)


@pytest.mark.parametrize(
    "data",
    ["x" * 10_240, "ж" * 5_120, "€" * 3_413, "\x01" * 10_240],
    ids=lambda data: repr(data[:1]),
)
async def test_a_full_batch_of_full_events_fits(app: PusherApp, data: str) -> None:
    """Reverb's default takes 10,000 bytes a request; escaped, one byte may be six."""
    channel = fresh("orders-")
    batch = [{"channel": channel, "name": "x", "data": data}] * 10
    body = json.dumps({"batch": batch}).encode("ascii")
    assert await app.post("/batch_events", body) == Answer(200, "{}")


async def test_an_event_that_is_too_big_is_refused_with_the_numbers(app: PusherApp) -> None:
    """ "Payload too large" is all that Reverb says, and Laravel shows less."""
    event = {"name": "x", "channel": fresh("orders-"), "data": "x" * 10_300}
    answer = await app.post("/events", event)
    assert answer.status == 413
    assert "10300" in answer.body
    assert "10240" in answer.body


async def test_a_recorded_request_is_worth_nothing_later(app: PusherApp) -> None:
    """Reverb and Soketi take it for ever."""
    path = f"/apps/{app.id}/events"
    body = compact({"name": "x", "channel": fresh("orders-"), "data": "{}"}).encode()
    query = app.signed_query("POST", path, body, {"auth_timestamp": "1353088179"})
    assert (await app.request("POST", path, query, body)).status == 401


async def test_a_connection_takes_more_than_one_request(app: PusherApp) -> None:
    """Reverb closes it after each answer."""
    answer = await app.get("/channels")
    assert answer.headers.get("Connection", "keep-alive").lower() != "close"


async def test_nothing_is_an_object_and_not_a_list(app: PusherApp) -> None:
    """An empty PHP array is written as `[]`, which a strict client can't read."""
    answer = await app.get("/channels", filter_by_prefix=fresh("nobody-"))
    assert answer == Answer(200, '{"channels":{}}')


async def test_a_prefix_in_front_of_the_paths_breaks_no_signature(
    app: PusherApp, path_prefix: str
) -> None:
    """A proxy's prefix was the usual cause of 401 with Reverb."""
    channel = fresh("orders-")
    path = f"{path_prefix}/apps/{app.id}/events"
    body = compact({"name": "x", "channel": channel, "data": "{}"}).encode()
    async with app.connected() as client:
        await client.subscribe(channel)
        for signed_path in (path, path.removeprefix(path_prefix)):
            query = app.signed_query("POST", signed_path, body)
            assert await app.request("POST", path, query, body) == Answer(200, "{}")
            assert await client.receive() == frame("x", channel, "{}")
