"""Presence channels: who is there, who comes, who leaves."""

from __future__ import annotations

import json

import pytest

from tests.conformance.wire import Answer, Client, PusherApp, compact, frame, fresh, presence

pytestmark = pytest.mark.needs("presence")

ADA = {"name": "Ada"}
BO = {"name": "Bo"}


def member_added(channel: str, user_id: str, user_info: object = None) -> str:
    """Return the announcement of a member."""
    data = compact({"user_id": user_id, "user_info": user_info})
    return frame("pusher_internal:member_added", channel, data)


def member_removed(channel: str, user_id: str) -> str:
    """Return the announcement that a member has left."""
    return frame("pusher_internal:member_removed", channel, compact({"user_id": user_id}))


async def leave(client: Client, channel: str, how: str) -> None:
    """Leave a channel in one of the ways clients do."""
    if how == "unsubscribing":
        await client.unsubscribe(channel)
    elif how == "closing":
        await client.websocket.close()
    else:
        client.websocket.transport.abort()


WAYS_TO_LEAVE = pytest.mark.parametrize("how", ["unsubscribing", "closing", "vanishing"])


@pytest.mark.parametrize("prefix", ["presence-", "presence-x-cache-"])
async def test_who_joins_is_told_who_is_there_and_counts_already(
    app: PusherApp, prefix: str
) -> None:
    """Members come in the order of joining; the Flutter plugin looks itself up at once."""
    channel = fresh(prefix)
    async with app.connected() as one, app.connected() as two, app.connected() as three:
        assert await one.join(channel, "7", user_info=ADA) == (
            f'{{"event":"pusher_internal:subscription_succeeded","channel":"{channel}","data":'
            '"{\\"presence\\":{\\"count\\":1,\\"ids\\":[\\"7\\"],'
            '\\"hash\\":{\\"7\\":{\\"name\\":\\"Ada\\"}}}}"}'
        )
        assert await two.join(channel, "9") == presence(channel, {"7": ADA, "9": None})
        assert await three.join(channel, "10", user_info=BO) == presence(
            channel, {"7": ADA, "9": None, "10": BO}
        )


async def test_the_others_hear_of_a_newcomer_and_the_newcomer_does_not(app: PusherApp) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as one, app.connected() as two:
        await one.join(channel, "7", user_info=ADA)
        await two.join(channel, "9", user_info=BO)
        assert await one.receive() == (
            f'{{"event":"pusher_internal:member_added","channel":"{channel}","data":'
            '"{\\"user_id\\":\\"9\\",\\"user_info\\":{\\"name\\":\\"Bo\\"}}"}'
        )
        await two.received_nothing()
        await one.received_nothing()


@WAYS_TO_LEAVE
async def test_those_who_stay_hear_of_those_who_leave(app: PusherApp, how: str) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as one, app.connected() as two:
        await one.join(channel, "7")
        await two.join(channel, "9")
        assert await one.receive() == member_added(channel, "9")
        await leave(two, channel, how)
        assert await one.receive() == (
            f'{{"event":"pusher_internal:member_removed","channel":"{channel}","data":'
            '"{\\"user_id\\":\\"9\\"}"}'
        )
        await one.received_nothing()


@WAYS_TO_LEAVE
async def test_a_user_counts_once_from_the_first_connection_to_the_last(
    app: PusherApp, how: str
) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as watcher, app.connected() as first, app.connected() as second:
        await watcher.join(channel, "7")
        await first.join(channel, "9", user_info=BO)
        assert await watcher.receive() == member_added(channel, "9", BO)
        assert await second.join(channel, "9", user_info=BO) == presence(
            channel, {"7": None, "9": BO}
        )
        await watcher.received_nothing()
        await leave(first, channel, "unsubscribing")
        await watcher.received_nothing()
        await leave(second, channel, how)
        assert await watcher.receive() == member_removed(channel, "9")


async def test_own_second_connection_hears_nothing_of_itself(app: PusherApp) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as first, app.connected() as second:
        await first.join(channel, "7")
        await second.join(channel, "7")
        await first.received_nothing()
        await second.unsubscribe(channel)
        await first.received_nothing()


async def test_a_user_who_comes_back_is_announced_again(app: PusherApp) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as one, app.connected() as two:
        await one.join(channel, "7")
        for _ in range(2):
            assert await two.join(channel, "9") == presence(channel, {"7": None, "9": None})
            assert await one.receive() == member_added(channel, "9")
            await two.unsubscribe(channel)
            assert await one.receive() == member_removed(channel, "9")


async def test_an_empty_channel_forgets_its_members(app: PusherApp) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as one, app.connected() as two:
        await one.join(channel, "7", user_info=ADA)
        await one.unsubscribe(channel)
        assert await two.join(channel, "9") == presence(channel, {"9": None})


async def test_the_first_connections_user_info_stands_until_the_last_leaves(
    app: PusherApp,
) -> None:
    """Undocumented by Pusher; so does Reverb, while Soketi lists the last one enumerated."""
    channel = fresh("presence-room-")
    async with app.connected() as first, app.connected() as second:
        await first.join(channel, "7", user_info=ADA)
        assert await second.join(channel, "7", user_info=BO) == presence(channel, {"7": ADA})
        await first.unsubscribe(channel)
        assert await first.join(channel, "7", user_info=BO) == presence(channel, {"7": ADA})


@pytest.mark.parametrize(
    ("signed", "listed"), [("7", "7"), ("0", "0"), ('"7"', "7"), ("-3", "-3"), ('"a b"', "a b")]
)
async def test_ids_are_strings_whatever_was_signed(
    app: PusherApp, signed: str, listed: str
) -> None:
    """sockudo refuses numbers; Reverb passes them on as numbers."""
    channel = fresh("presence-room-")
    async with app.connected() as watcher, app.connected() as client:
        await watcher.join(channel, "watcher")
        await client.ask_to_join(channel, f'{{"user_id":{signed}}}')
        assert await client.receive() == presence(channel, {"watcher": None, listed: None})
        assert await watcher.receive() == member_added(channel, listed)
        await client.unsubscribe(channel)
        assert await watcher.receive() == member_removed(channel, listed)


async def test_a_number_and_its_digits_are_the_same_user(app: PusherApp) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as one, app.connected() as two:
        await one.join(channel, 7)
        assert await two.join(channel, "7") == presence(channel, {"7": None})
        await one.received_nothing()


@pytest.mark.parametrize(
    "user_info", [{}, {"name": 'Ürümqi "😀"'}, [], [1], "text", 0, False, None, {"a": {"b": [{}]}}]
)
async def test_user_info_is_any_json(app: PusherApp, user_info: object) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as watcher, app.connected() as client:
        await watcher.join(channel, "watcher")
        joined = await client.join(channel, "7", user_info=user_info)
        assert joined == presence(channel, {"watcher": None, "7": user_info})
        assert await watcher.receive() == member_added(channel, "7", user_info)


async def test_an_id_that_needs_escaping_is_escaped(app: PusherApp) -> None:
    channel, user_id = fresh("presence-room-"), 'a"b\\c é\n'
    async with app.connected() as client:
        assert await client.join(channel, user_id) == presence(channel, {user_id: None})


@pytest.mark.parametrize(
    "channel_data",
    [
        ' { "user_id" : "7" , "user_info" : { "name" : "Ada" } } ',
        '{"user_info":{"name":"\\u0041da"},"user_id":"\\u0037"}',
        '{"user_id":"7","user_info":{"name":"Ada"},"more":["x"]}',
    ],
)
async def test_the_signature_is_over_the_string_as_it_was_sent(
    app: PusherApp, channel_data: str
) -> None:
    """Python writes spaces, PHP escapes: whoever parses before verifying refuses one of them."""
    channel = fresh("presence-room-")
    async with app.connected() as client:
        await client.ask_to_join(channel, channel_data)
        joined = json.loads(await client.receive())
        members = json.loads(joined["data"])["presence"]
        assert members == {"count": 1, "ids": ["7"], "hash": {"7": {"name": "Ada"}}}


@pytest.mark.needs("subscription_error")
async def test_nobody_can_join_as_somebody_else(app: PusherApp) -> None:
    channel = fresh("presence-room-")
    mine, yours = '{"user_id":"7"}', '{"user_id":"8"}'
    async with app.connected() as client:
        for auth in (
            app.channel_auth(client.socket_id, channel, mine),
            app.channel_auth(client.socket_id, channel),
            app.channel_auth("1234.1234", channel, yours),
            app.channel_auth(client.socket_id, f"{channel}x", yours),
            app.channel_auth(client.socket_id, channel, yours, secret="not the secret"),
            app.channel_auth(client.socket_id, channel, yours).replace(app.key, "other-key"),
            "",
        ):
            await client.ask_for(channel, auth=auth, channel_data=yours)
            await client.receive_refusal(channel, "AuthError")
        await client.received_nothing()


@pytest.mark.needs("subscription_error")
@pytest.mark.parametrize("channel_data", [None, ""])
async def test_without_channel_data_and_without_a_signin_nobody_joins(
    app: PusherApp, channel_data: str | None
) -> None:
    """Reverb lets an anonymous member in, after which the list is empty for everybody."""
    channel = fresh("presence-room-")
    async with app.connected() as client:
        auth = app.channel_auth(client.socket_id, channel, channel_data)
        await client.ask_for(channel, auth=auth, channel_data=channel_data)
        await client.receive_refusal(channel, "AuthError")


@pytest.mark.needs("subscription_error")
@pytest.mark.parametrize(
    "channel_data",
    [
        "{",
        "x",
        "[]",
        "7",
        "null",
        '"{}"',
        "{}",
        '{"user_info":{}}',
        '{"user_id":null}',
        '{"user_id":""}',
        '{"user_id":{}}',
        '{"user_id":["7"]}',
        '{"user_id":true}',
        '{"user_id":1.5}',
        '{"user_id":"%s"}' % ("7" * 129),
        pytest.param("[" * 1000, id="deep"),
    ],
)
async def test_signed_channel_data_that_names_nobody_is_refused(
    app: PusherApp, channel_data: str
) -> None:
    """Soketi parses before it verifies, and throws."""
    channel = fresh("presence-room-")
    async with app.connected() as client:
        await client.ask_to_join(channel, channel_data)
        await client.receive_refusal(channel, "InvalidMember")
        assert await app.get(f"/channels/{channel}") == Answer(200, '{"occupied":false}')


async def test_a_second_subscription_repeats_the_list_and_announces_nothing(
    app: PusherApp,
) -> None:
    """sockudo answers nothing."""
    channel = fresh("presence-room-")
    async with app.connected() as watcher, app.connected() as client:
        await watcher.join(channel, "7")
        await client.join(channel, "9")
        assert await watcher.receive() == member_added(channel, "9")
        assert await client.join(channel, "9") == presence(channel, {"7": None, "9": None})
        await watcher.received_nothing()
        await client.unsubscribe(channel)
        assert await watcher.receive() == member_removed(channel, "9")


@pytest.mark.needs("subscription_error")
async def test_a_connection_stays_who_it_was_when_it_joined(app: PusherApp) -> None:
    """
    Until it leaves: else its client events would go on in the name of the first.

    Hosted Pusher refuses every second subscription; Reverb and Soketi acknowledge it, and sockudo
    answers nothing.
    """
    channel = fresh("presence-room-")
    async with app.connected() as watcher, app.connected() as client:
        await watcher.join(channel, "7")
        await client.join(channel, "9")
        assert await watcher.receive() == member_added(channel, "9")
        await client.ask_to_join(channel, '{"user_id":"10"}')
        await client.receive_refusal(channel, "InvalidMember")
        await client.unsubscribe(channel)
        assert await watcher.receive() == member_removed(channel, "9")
        await watcher.received_nothing()


async def test_events_on_a_presence_channel_carry_no_user_id_of_their_own(app: PusherApp) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as client:
        await client.join(channel, "7")
        await app.publish("said", channel, "hello")
        assert await client.receive() == frame("said", channel, "hello")


async def test_memberships_of_two_channels_are_apart(app: PusherApp) -> None:
    channel, other_channel = fresh("presence-room-"), fresh("presence-room-")
    async with app.connected() as one, app.connected() as two:
        await one.join(channel, "7")
        await one.join(other_channel, "70")
        assert await two.join(channel, "9") == presence(channel, {"7": None, "9": None})
        assert await one.receive() == member_added(channel, "9")
        await one.received_nothing()


@pytest.mark.needs("subscription_error")
async def test_a_full_channel_takes_no_further_user(small_app: PusherApp) -> None:
    """It still takes another connection of those who are in, and has a place when one leaves."""
    channel = fresh("presence-room-")
    async with small_app.connected() as one, small_app.connected() as two:
        await one.join(channel, "1")
        await two.join(channel, "2")
        assert await one.receive() == member_added(channel, "2")
        async with small_app.connected() as three:
            await three.ask_to_join(channel, '{"user_id":"3"}')
            await three.receive_refusal(channel, "LimitReached", 403)
            assert await three.join(channel, "2") == presence(channel, {"1": None, "2": None})
            await three.unsubscribe(channel)
            await one.unsubscribe(channel)
            assert await three.join(channel, "3") == presence(channel, {"2": None, "3": None})


@pytest.mark.needs("subscription_error")
async def test_a_member_that_is_too_big_is_refused(app: PusherApp) -> None:
    """Hosted Pusher takes 1 kB, Soketi and sockudo 2 kB, Reverb anything."""
    channel = fresh("presence-room-")
    async with app.connected() as client:
        await client.ask_to_join(channel, compact({"user_id": "7", "user_info": "x" * 4096}))
        await client.receive_refusal(channel, "LimitReached", 413)
        assert await client.join(channel, "7", user_info="x" * 512) == presence(
            channel, {"7": "x" * 512}
        )


@pytest.mark.needs("signin", "subscription_error")
async def test_who_has_signed_in_needs_no_channel_data(app: PusherApp) -> None:
    """`SOCKET:CHANNEL` is signed then. Soketi and sockudo insist on channel_data."""
    channel, user_id = fresh("presence-room-"), fresh("user-")
    async with app.connected() as client:
        await client.sign_in(user_id, user_info=ADA)
        await client.ask_for(channel, auth=app.channel_auth("1234.1234", channel))
        await client.receive_refusal(channel, "AuthError")
        await client.ask_for(channel, auth=app.channel_auth(client.socket_id, channel))
        assert await client.receive() == presence(channel, {user_id: ADA})


@pytest.mark.needs("signin")
async def test_channel_data_outweighs_the_signin(app: PusherApp) -> None:
    channel = fresh("presence-room-")
    async with app.connected() as client:
        await client.sign_in(fresh("user-"), user_info=ADA)
        assert await client.join(channel, "7", user_info=BO) == presence(channel, {"7": BO})
