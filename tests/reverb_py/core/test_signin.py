"""Signing in: as whom, who hears of it, what only that user gets, and how long one may wait."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from reverb_py.core.apps import App
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.protocol import signing
from reverb_py.protocol.errors import ErrorCode
from tests.support.sessions import APP, RecordingSession, ScriptedRandom, Turns, hub_of

SUCCESS_OF_7 = (
    '{"event":"pusher:signin_success",'
    '"data":"{\\"user_data\\":\\"{\\\\\\"id\\\\\\":\\\\\\"7\\\\\\"}\\"}"}'
)
TERMINATED = (ErrorCode.UNAUTHORIZED, "Connection terminated by the application")
TOO_LATE = (ErrorCode.UNAUTHORIZED, "Sign in or join a private or presence channel in time")


def error(code: int, text: str) -> str:
    return f'{{"event":"pusher:error","data":{{"code":{code},"message":{json.dumps(text)}}}}}'


def success(user_data: str) -> str:
    data = json.dumps({"user_data": user_data}, separators=(",", ":"), ensure_ascii=False)
    return f'{{"event":"pusher:signin_success","data":{json.dumps(data, ensure_ascii=False)}}}'


def watched(**user_ids: list[str]) -> str:
    """Return the announcement of who is online and who is offline."""
    events = [{"name": name, "user_ids": ids} for name, ids in user_ids.items()]
    data = json.dumps({"events": events}, separators=(",", ":"))
    return f'{{"event":"pusher_internal:watchlist_events","data":{json.dumps(data)}}}'


def subscribed(channel: str) -> str:
    return (
        f'{{"event":"pusher_internal:subscription_succeeded","channel":"{channel}","data":"{{}}"}}'
    )


def signin(session: RecordingSession, user_data: str) -> str:
    """Return the message with which a client signs in, signed as its backend would."""
    app = session.hub.app
    auth = signing.user_auth(app.key, app.secret, session.socket_id, user_data)
    return json.dumps({"event": "pusher:signin", "data": {"auth": auth, "user_data": user_data}})


def subscription(session: RecordingSession, channel: str, **fields: str) -> str:
    return json.dumps({"event": "pusher:subscribe", "data": {"channel": channel, **fields}})


class Desk:
    """An app whose clients sign in."""

    def __init__(self, app: App = APP) -> None:
        self.turns = Turns()
        self.wheel = TimerWheel(0.0)
        self.hub = hub_of(app, turns=self.turns, wheel=self.wheel)

    def client(self) -> RecordingSession:
        return RecordingSession.begun(self.hub)

    def say(self, session: RecordingSession, text: str) -> list[str]:
        session.receive(text)
        self.turns.end()
        return session.texts()

    def sign_in(self, session: RecordingSession, user_data: str) -> list[str]:
        return self.say(session, signin(session, user_data))

    def signed_in(self, user_data: str) -> RecordingSession:
        """Return a client that has signed in and read everything."""
        session = self.client()
        self.sign_in(session, user_data)
        return session

    def user(self, user_id: str, *watchlist: str) -> RecordingSession:
        return self.signed_in(json.dumps({"id": user_id, "watchlist": watchlist}))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_published_signature_signs_its_user_in() -> None:
    client = RecordingSession.begun(hub_of(source=ScriptedRandom(1234, 1234)))

    client.receive(
        '{"event":"pusher:signin","data":{"auth":"278d425bdf160c739803:'
        '4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",'
        '"user_data":"{\\"id\\":\\"12345\\"}"}}'
    )

    assert client.texts() == [
        '{"event":"pusher:signin_success",'
        '"data":"{\\"user_data\\":\\"{\\\\\\"id\\\\\\":\\\\\\"12345\\\\\\"}\\"}"}'
    ]
    assert client.user is not None
    assert (client.user.id, client.user.info, client.user.watchlist) == ("12345", b"null", ())


def test_a_signin_may_have_its_data_in_a_string(desk: Desk) -> None:
    client = desk.client()
    message = json.loads(signin(client, '{"id":"7"}'))
    message["data"] = json.dumps(message["data"])

    assert desk.say(client, json.dumps(message)) == [SUCCESS_OF_7]


@pytest.mark.parametrize(
    ("user_data", "user_id", "info"),
    [
        ('{"id":7}', "7", b"null"),
        ('{"id":"a@b.c","user_info":{ "name":"Ł" }}', "a@b.c", '{ "name":"Ł" }'.encode()),
        ('{"id":"7","watchlist":[],"more":1}', "7", b"null"),
        ('{"id":"7","watchlist":null}', "7", b"null"),
        (f'{{"id":"{"x" * 128}"}}', "x" * 128, b"null"),
    ],
)
def test_the_success_repeats_what_was_signed(
    desk: Desk, user_data: str, user_id: str, info: bytes
) -> None:
    client = desk.client()

    assert desk.sign_in(client, user_data) == [success(user_data)]
    assert client.user is not None
    assert (client.user.id, client.user.info) == (user_id, info)
    assert desk.hub.users.connections_of(user_id) == [client]


@pytest.mark.parametrize("signed", ['{"id":"8"}', '{"id": "7"}', ""])
def test_the_user_must_be_the_one_that_was_signed(desk: Desk, signed: str) -> None:
    client = desk.client()
    auth = json.loads(signin(client, signed))["data"]["auth"]
    message = {"event": "pusher:signin", "data": {"auth": auth, "user_data": '{"id":"7"}'}}

    assert desk.say(client, json.dumps(message)) == [
        error(
            4300,
            "Invalid auth for signin: expected APP_KEY:SIGNATURE, where SIGNATURE is the hex "
            f"HMAC-SHA256 of {client.socket_id}::user::USER_DATA under the app's secret",
        )
    ]
    assert client.user is None
    assert client.closed == []
    assert desk.hub.users.connections_of("7") == []


def test_a_signature_for_another_socket_is_worth_nothing(desk: Desk) -> None:
    client, other = desk.client(), desk.client()

    [refusal] = desk.say(client, signin(other, '{"id":"7"}'))

    assert refusal.startswith('{"event":"pusher:error","data":{"code":4300,"message":"Invalid auth')
    assert client.user is None


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("", "`data` is missing"),
        (',"data":{}', "Object missing required field `auth` in `data`"),
        (',"data":{"auth":"a"}', "Object missing required field `user_data` in `data`"),
        (',"data":{"auth":null,"user_data":""}', None),
        (',"data":{"auth":"a","user_data":{"id":"7"}}', None),
    ],
)
def test_a_signin_without_its_fields_is_refused(
    desk: Desk, data: str, complaint: str | None
) -> None:
    [refusal] = desk.say(desk.client(), f'{{"event":"pusher:signin"{data}}}')

    if complaint is not None:
        assert refusal == error(4300, f"Invalid pusher:signin: {complaint}")
    else:
        assert json.loads(refusal)["data"]["code"] == 4300
        assert "Expected `str`" in refusal


@pytest.mark.parametrize(
    ("user_data", "complaint"),
    [
        ("", "Input data was truncated"),
        ("{}", "Object missing required field `id`"),
        ('{"id":""}', "`id` must have 1 to 128 characters"),
        (f'{{"id":"{"x" * 129}"}}', "`id` must have 1 to 128 characters"),
        ('{"id":null}', "Expected `int | str`, got `null` - at `$.id`"),
        ('{"id":"7","watchlist":"8"}', "Expected `array | null`, got `str` - at `$.watchlist`"),
        (
            '{"id":"auth0|7"}',
            "`id` may have letters, digits and _ - = @ , . ; only, because it names the channel of "
            "the user's own events",
        ),
    ],
)
def test_a_signed_user_that_is_none_is_refused(desk: Desk, user_data: str, complaint: str) -> None:
    client = desk.client()

    assert desk.sign_in(client, user_data) == [error(4300, f"Invalid user_data: {complaint}")]
    assert client.user is None
    assert client.closed == []


def test_a_connection_is_of_one_user(desk: Desk) -> None:
    client = desk.signed_in('{"id":"7"}')

    assert desk.sign_in(client, '{"id":"8"}') == [
        error(4300, "This connection is signed in as another user")
    ]
    assert client.user is not None
    assert client.user.id == "7"
    assert desk.hub.users.connections_of("8") == []
    assert client.closed == []


def test_signing_in_again_as_the_same_user_repeats_the_answer_only(desk: Desk) -> None:
    watcher = desk.user("1", "7")
    client = desk.user("7", "1")
    watcher.writes.clear()

    again = '{"id":7,"watchlist":["2"],"user_info":"another"}'
    assert desk.sign_in(client, again) == [success(again)]

    assert client.user is not None
    assert (client.user.info, client.user.watchlist) == (b"null", ("1",))
    assert watcher.texts() == []
    client.end()
    desk.turns.end()
    assert watcher.texts() == [watched(offline=["7"])]


# Who watches whom.


def test_a_watcher_is_first_told_who_is_on_and_who_is_off(desk: Desk) -> None:
    desk.user("9")
    client = desk.client()
    user_data = '{"id":"7","watchlist":["9","12"]}'

    assert desk.sign_in(client, user_data) == [
        success(user_data),
        '{"event":"pusher_internal:watchlist_events","data":"{\\"events\\":['
        '{\\"name\\":\\"online\\",\\"user_ids\\":[\\"9\\"]},'
        '{\\"name\\":\\"offline\\",\\"user_ids\\":[\\"12\\"]}]}"}',
    ]


@pytest.mark.parametrize(
    ("watchlist", "states"),
    [
        ('["9"]', {"online": ["9"]}),
        ('["12"]', {"offline": ["12"]}),
        ("[9,12]", {"online": ["9"], "offline": ["12"]}),
        ('["12",9,"9",12]', {"online": ["9"], "offline": ["12"]}),
        ('["7"]', {"online": ["7"]}),
    ],
)
def test_a_state_without_users_is_left_out(
    desk: Desk, watchlist: str, states: dict[str, list[str]]
) -> None:
    desk.user("9")
    user_data = f'{{"id":"7","watchlist":{watchlist}}}'

    assert desk.sign_in(desk.client(), user_data) == [success(user_data), watched(**states)]


def test_a_user_is_announced_with_the_first_connection_and_the_last(desk: Desk) -> None:
    watcher = desk.user("1", "7")
    watcher.writes.clear()

    first = desk.user("7")
    assert watcher.texts() == [watched(online=["7"])]
    second = desk.user("7")
    assert watcher.texts() == []

    first.end()
    desk.turns.end()
    assert watcher.texts() == []
    second.end()
    second.end()
    desk.turns.end()
    assert watcher.texts() == [watched(offline=["7"])]

    desk.user("7")
    assert watcher.texts() == [watched(online=["7"])]


def test_only_watchers_are_told_and_each_connection_of_theirs(desk: Desk) -> None:
    watchers = [desk.user("1", "7"), desk.user("1", "7", "8"), desk.user("2", "7")]
    other, anonymous = desk.user("3", "8"), desk.client()
    for session in (*watchers, other):
        session.writes.clear()

    client = desk.user("7")
    client.writes.clear()

    assert [session.texts() for session in watchers] == [[watched(online=["7"])]] * 3
    assert (other.texts(), anonymous.texts(), client.texts()) == ([], [], [])


def test_a_watcher_that_has_gone_is_told_nothing(desk: Desk) -> None:
    watcher = desk.user("1", "7")
    watcher.end()
    watcher.writes.clear()

    desk.user("7").end()
    desk.turns.end()

    assert watcher.writes == []
    assert desk.hub.users.watchers_of("7") == []


def test_who_watches_oneself_hears_of_oneself_once(desk: Desk) -> None:
    first = desk.user("7", "7")
    second = desk.user("7", "7")
    assert second.texts() == []

    first.writes.clear()
    second.end()
    desk.turns.end()
    assert first.texts() == []
    first.end()
    desk.turns.end()
    assert first.writes == []


def test_two_who_watch_each_other_leave_nothing_behind(desk: Desk) -> None:
    one, two = desk.user("1", "2"), desk.user("2", "1")
    one.writes.clear()

    two.end()
    desk.turns.end()
    assert one.texts() == [watched(offline=["2"])]
    one.end()

    for user_id in ("1", "2"):
        assert desk.hub.users.watchers_of(user_id) == []
        assert desk.hub.users.connections_of(user_id) == []
    assert desk.turns.scheduled == []


def test_a_watchlist_may_have_a_hundred_users(desk: Desk) -> None:
    watchlist = [f"u{n}" for n in range(100)]
    user_data = json.dumps({"id": "7", "watchlist": [*watchlist, "u0", "u99"]})

    assert desk.sign_in(desk.client(), user_data) == [
        success(user_data),
        watched(offline=watchlist),
    ]


def test_of_a_longer_watchlist_the_first_hundred_are_watched(desk: Desk) -> None:
    watchlist = [f"u{n}" for n in range(101)]
    user_data = json.dumps({"id": "7", "watchlist": watchlist})
    client = desk.client()

    assert desk.sign_in(client, user_data) == [
        success(user_data),
        error(4302, "The watchlist has more than 100 users; the first 100 are watched"),
        watched(offline=watchlist[:100]),
    ]
    assert client.closed == []

    desk.user("u100")
    assert client.texts() == []
    desk.user("u99")
    assert client.texts() == [watched(online=["u99"])]


def test_an_app_says_how_long_a_watchlist_may_be() -> None:
    desk = Desk(replace(APP, max_watchlist=1))
    user_data = '{"id":"7","watchlist":["8","9"]}'

    assert desk.sign_in(desk.client(), user_data) == [
        success(user_data),
        error(4302, "The watchlist has more than 1 users; the first 1 are watched"),
        watched(offline=["8"]),
    ]


def test_a_watchlist_may_have_no_limit() -> None:
    desk = Desk(replace(APP, max_watchlist=0))
    watchlist = [f"u{number}" for number in range(150)]
    user_data = json.dumps({"id": "7", "watchlist": watchlist})

    assert desk.sign_in(desk.client(), user_data) == [
        success(user_data),
        watched(offline=watchlist),
    ]


# The user's own channel.


def test_a_users_own_channel_is_for_the_user(desk: Desk) -> None:
    mine = [desk.signed_in('{"id":"7"}'), desk.signed_in('{"id":7}')]
    other = desk.signed_in('{"id":"8"}')
    channel = "#server-to-user-7"

    for session in mine:
        assert desk.say(session, subscription(session, channel, auth="")) == [subscribed(channel)]
    refusal = "#server-to-user-7 is not yours: sign in as its user first"
    details = f'{{\\"type\\":\\"AuthError\\",\\"error\\":\\"{refusal}\\",\\"status\\":403}}'
    assert desk.say(other, subscription(other, channel, auth="")) == [
        f'{{"event":"pusher:subscription_error","channel":"#server-to-user-7","data":"{details}"}}',
        error(4300, refusal),
    ]

    desk.hub.publish("note", '{"n":1}', [channel])
    desk.turns.end()

    note = '{"event":"note","channel":"#server-to-user-7","data":"{\\"n\\":1}"}'
    assert [session.texts() for session in (*mine, other)] == [[note], [note], []]


@pytest.mark.parametrize(
    "channel", ["#server-to-user-", "#server-to-user-77", "#server-to-user", "#other-7"]
)
def test_channels_that_look_like_the_users_own_are_refused(desk: Desk, channel: str) -> None:
    client = desk.signed_in('{"id":"7"}')

    refusal, _ = desk.say(client, subscription(client, channel, auth=""))

    assert json.loads(json.loads(refusal)["data"])["status"] == 403
    assert desk.hub.channels == {}


def test_nobody_can_send_client_events_to_a_users_channel(desk: Desk) -> None:
    client = desk.signed_in('{"id":"7"}')
    desk.say(client, subscription(client, "#server-to-user-7"))

    assert desk.say(client, '{"event":"client-x","channel":"#server-to-user-7","data":1}') == [
        error(4301, "Client event refused: they go to private and presence channels only")
    ]


# Presence.


def presence_success(*members: tuple[str, str]) -> str:
    ids = ",".join(f'\\"{user_id}\\"' for user_id, _ in members)
    infos = ",".join(f'\\"{user_id}\\":{info}' for user_id, info in members)
    return (
        '{"event":"pusher_internal:subscription_succeeded","channel":"presence-room","data":"'
        f'{{\\"presence\\":{{\\"count\\":{len(members)},\\"ids\\":[{ids}],\\"hash\\":{{{infos}}}}}}}"}}'
    )


def test_who_is_signed_in_joins_presence_channels_as_that_user(desk: Desk) -> None:
    client = desk.signed_in('{"id":"7","user_info":{"x":1}}')
    auth = client.auth_for("presence-room")

    assert desk.say(client, subscription(client, "presence-room", auth=auth)) == [
        presence_success(("7", '{\\"x\\":1}'))
    ]


def test_client_events_of_who_has_joined_by_a_signin_say_so(desk: Desk) -> None:
    client, other = desk.signed_in('{"id":"7"}'), desk.signed_in('{"id":"9"}')
    for session in (client, other):
        auth = session.auth_for("presence-room")
        desk.say(session, subscription(session, "presence-room", auth=auth))

    desk.say(client, '{"event":"client-x","channel":"presence-room","data":1}')

    assert other.texts() == [
        '{"event":"client-x","channel":"presence-room","data":1,"user_id":"7"}'
    ]


def test_every_user_who_can_sign_in_can_have_the_users_own_channel(desk: Desk) -> None:
    user_id = "A-z_0=@,.;" + "x" * 118
    client = desk.signed_in(f'{{"id":"{user_id}"}}')
    channel = f"#server-to-user-{user_id}"

    assert desk.say(client, subscription(client, channel, auth="")) == [subscribed(channel)]
    desk.hub.publish("note", "1", [channel])
    desk.turns.end()

    assert client.texts() == [f'{{"event":"note","channel":"{channel}","data":"1"}}']


def test_the_info_of_a_signin_is_as_long_as_a_members_may_be_and_no_longer() -> None:
    desk = Desk(replace(APP, max_presence_member_bytes=10))
    fits = desk.signed_in('{"id":"7","user_info":"éééé","watchlist":["98","99"]}')
    too_long = desk.signed_in('{"id":"8","user_info":"ééééx"}')

    auth = fits.auth_for("presence-room")
    assert desk.say(fits, subscription(fits, "presence-room", auth=auth)) == [
        presence_success(("7", '\\"éééé\\"'))
    ]
    auth = too_long.auth_for("presence-room")
    refusal, _ = desk.say(too_long, subscription(too_long, "presence-room", auth=auth))
    assert json.loads(json.loads(refusal)["data"]) == {
        "type": "LimitReached",
        "error": "The user_info of the signin has more than 10 bytes",
        "status": 413,
    }
    assert list(desk.hub.channels["presence-room"].subscribers) == [fits]


def test_what_was_signed_for_the_channel_counts_before_the_signin(desk: Desk) -> None:
    client = desk.signed_in('{"id":"7","user_info":{"x":1}}')
    channel_data = '{"user_id":"8"}'
    auth = client.auth_for("presence-room", channel_data)

    request = subscription(client, "presence-room", auth=auth, channel_data=channel_data)
    assert desk.say(client, request) == [presence_success(("8", "null"))]


def test_a_signin_does_not_replace_the_channels_signature(desk: Desk) -> None:
    client = desk.signed_in('{"id":"7"}')

    refusal, _ = desk.say(client, subscription(client, "presence-room", auth=""))

    assert f"HMAC-SHA256 of {client.socket_id}:presence-room under the app's secret" in refusal
    assert desk.hub.channels == {}


# Terminating a user.


def test_terminating_a_user_closes_signed_in_connections_and_presence_members(desk: Desk) -> None:
    signed_in = [desk.user("7"), desk.user("7")]
    member, both, others = desk.client(), desk.user("7"), [desk.user("8"), desk.client()]
    desk.hub.subscribe(member, "presence-room", "7")
    desk.hub.subscribe(both, "presence-room", "7")
    desk.hub.subscribe(others[1], "presence-room", "8")

    desk.hub.terminate("7")

    for session in (*signed_in, member, both):
        assert session.closed == [TERMINATED]
    for session in others:
        assert session.closed == []


def test_terminating_takes_the_user_offline_once(desk: Desk) -> None:
    watcher = desk.user("1", "7")
    sessions = [desk.user("7"), desk.user("7")]
    watcher.writes.clear()
    for session in sessions:
        session.end_when_closed()

    desk.hub.terminate("7")
    desk.turns.end()

    assert watcher.texts() == [watched(offline=["7"])]
    assert list(desk.hub.sessions.values()) == [watcher]


# Apps whose connections must prove themselves in time.


HURRIED = replace(APP, authorization_seconds=10.0)


def test_a_client_that_does_not_prove_itself_in_time_is_closed() -> None:
    desk = Desk(HURRIED)
    client = desk.client()
    desk.say(client, subscription(client, "orders"))
    desk.say(client, '{"event":"pusher:ping"}')

    desk.wheel.advance(10.0)
    assert client.closed == []
    desk.wheel.advance(11.0)
    assert client.closed == [TOO_LATE]


@pytest.mark.parametrize(
    ("channel", "channel_data"),
    [
        ("private-a", None),
        ("private-encrypted-a", None),
        ("private-cache-a", None),
        ("presence-room", '{"user_id":"7"}'),
    ],
)
def test_joining_a_channel_that_is_authorized_is_proof_enough(
    channel: str, channel_data: str | None
) -> None:
    desk = Desk(HURRIED)
    client = desk.client()
    fields = {"auth": client.auth_for(channel, channel_data)}
    if channel_data is not None:
        fields["channel_data"] = channel_data

    desk.say(client, subscription(client, channel, **fields))
    desk.say(client, f'{{"event":"pusher:unsubscribe","data":{{"channel":"{channel}"}}}}')
    desk.wheel.advance(1_000.0)

    assert client.closed == []


def test_signing_in_is_proof_enough() -> None:
    desk = Desk(HURRIED)
    client = desk.signed_in('{"id":"7"}')

    desk.wheel.advance(1_000.0)

    assert client.closed == []


@pytest.mark.parametrize("attempt", ["signin", "private-a", "presence-room", "#server-to-user-7"])
def test_an_attempt_that_was_refused_proves_nothing(attempt: str) -> None:
    desk = Desk(HURRIED)
    client = desk.client()
    if attempt == "signin":
        message = {"event": "pusher:signin", "data": {"auth": "", "user_data": '{"id":"7"}'}}
        desk.say(client, json.dumps(message))
    else:
        desk.say(client, subscription(client, attempt, auth="", channel_data='{"user_id":"7"}'))

    desk.wheel.advance(11.0)

    assert client.closed == [TOO_LATE]


def test_a_client_that_has_gone_is_not_closed_again() -> None:
    desk = Desk(HURRIED)
    client = desk.client()

    client.end()
    desk.wheel.advance(1_000.0)

    assert client.closed == []


def test_without_a_deadline_anybody_may_stay() -> None:
    desk = Desk()
    client = desk.client()

    desk.wheel.advance(100_000.0)

    assert client.closed == []


# Secrets.


def test_a_previous_secret_is_accepted_while_backends_change_over() -> None:
    old, new = APP, replace(APP, secret="the-new-secret", previous_secrets=(APP.secret,))
    for app in (old, new):
        desk = Desk(new)
        client = desk.client()
        auth = signing.user_auth(app.key, app.secret, client.socket_id, '{"id":"7"}')
        message = {"event": "pusher:signin", "data": {"auth": auth, "user_data": '{"id":"7"}'}}
        assert desk.say(client, json.dumps(message)) == [SUCCESS_OF_7]

        auth = signing.channel_auth(app.key, app.secret, client.socket_id, "private-a")
        assert desk.say(client, subscription(client, "private-a", auth=auth)) == [
            subscribed("private-a")
        ]


# Everything at once.


@dataclass(eq=False)
class Client:
    """One connection, whose it is, whom it watches, and what it should have been told."""

    session: RecordingSession
    told: list[str] = field(default_factory=list)
    user_id: str = ""
    watchlist: tuple[str, ...] = ()


class Signins(RuleBasedStateMachine):
    """
    Clients sign in, also twice and as another, watch each other and themselves, and vanish.

    The model goes through all clients each time.
    """

    clients: Bundle[Client] = Bundle("clients")
    user_ids = st.sampled_from(["1", "2", "3"])

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.present: list[Client] = []

    @rule(target=clients)
    def connect(self) -> Client:
        session = self.desk.client()
        client = Client(session)
        self.present.append(client)
        session.on_close = lambda: self._closed(client)
        return client

    @rule(client=clients, user_id=user_ids, watchlist=st.lists(user_ids, max_size=3))
    def sign_in(self, client: Client, user_id: str, watchlist: list[str]) -> None:
        if client not in self.present:
            return
        user_data = json.dumps({"id": user_id, "watchlist": watchlist})
        client.session.receive(signin(client.session, user_data))

        if client.user_id not in ("", user_id):
            client.told.append(error(4300, "This connection is signed in as another user"))
            return
        client.told.append(success(user_data))
        if client.user_id:
            return
        if user_id not in self._online():
            self._tell_watchers_of(user_id, watched(online=[user_id]))
        client.user_id, client.watchlist = user_id, tuple(dict.fromkeys(watchlist))
        online = [user for user in client.watchlist if user in self._online()]
        offline = [user for user in client.watchlist if user not in online]
        states = {"online": online, "offline": offline}
        if watchlist:
            client.told.append(watched(**{name: ids for name, ids in states.items() if ids}))

    @rule(client=consumes(clients))
    def disconnect(self, client: Client) -> None:
        self._closed(client)

    @rule(user_id=user_ids)
    def terminate(self, user_id: str) -> None:
        self.desk.hub.terminate(user_id)

        assert user_id not in self._online()

    @invariant()
    def everybody_was_told_what_they_should_have_been(self) -> None:
        self.desk.turns.end()
        for client in self.present:
            assert client.session.texts() == client.told
            client.told.clear()

    def teardown(self) -> None:
        for client in self.present.copy():
            self._closed(client)
        for user_id in ("1", "2", "3"):
            assert self.desk.hub.users.watchers_of(user_id) == []
            assert self.desk.hub.users.connections_of(user_id) == []

    def _closed(self, client: Client) -> None:
        if client not in self.present:
            return
        self.present.remove(client)
        client.session.end()
        if client.user_id and client.user_id not in self._online():
            self._tell_watchers_of(client.user_id, watched(offline=[client.user_id]))

    def _online(self) -> set[str]:
        return {client.user_id for client in self.present if client.user_id}

    def _tell_watchers_of(self, user_id: str, news: str) -> None:
        for client in self.present:
            if user_id in client.watchlist:
                client.told.append(news)


TestSignins = Signins.TestCase
TestSignins.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
