"""One client's conversation, message by message, with the exact answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.core.apps import App, ClientEventsFrom, RateLimit
from reverb_py.core.hub import Hub
from reverb_py.protocol.errors import ErrorCode
from tests.support.sessions import (
    APP,
    FakeClock,
    RecordingSession,
    ScriptedRandom,
    Turns,
    hub_of,
    texts_in,
)

PONG = '{"event":"pusher:pong","data":"{}"}'
PRIVATE_AUTH = (
    "278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"
)
"""The published signature of socket 1234.1234 for private-foobar."""


class Room:
    """An app with one client, whose socket id is 1234.1234, and others as they are asked for."""

    def __init__(self, app: App = APP) -> None:
        self.turns = Turns()
        self.clock = FakeClock()
        numbers = (1234, 1234, *range(1, 41))
        self.hub = hub_of(app, turns=self.turns, clock=self.clock, source=ScriptedRandom(*numbers))
        self.client = RecordingSession.begun(self.hub)

    def other(self, *channels: str) -> RecordingSession:
        return RecordingSession.begun(self.hub, *channels)

    def say(self, text: str, client: RecordingSession | None = None) -> list[str]:
        """Have the client, or another, say something; end the turn; return what it is told."""
        client = client or self.client
        client.receive(text)
        self.turns.end()
        return client.texts()

    def subscribe(self, channel: str) -> None:
        self.hub.subscribe(self.client, channel)
        self.client.writes.clear()


@pytest.fixture
def room() -> Room:
    return Room()


def error(code: int, message: str) -> str:
    text = json.dumps(message, ensure_ascii=False)
    return f'{{"event":"pusher:error","data":{{"code":{code},"message":{text}}}}}'


def refused_subscription(channel: str, kind: str, status: int, message: str) -> list[str]:
    details = json.dumps(
        {"type": kind, "error": message, "status": status},
        separators=(",", ":"),
        ensure_ascii=False,
    )
    name, data = (json.dumps(text, ensure_ascii=False) for text in (channel, details))
    return [
        f'{{"event":"pusher:subscription_error","channel":{name},"data":{data}}}',
        error(4300, message),
    ]


def succeeded(channel: str) -> str:
    return (
        f'{{"event":"pusher_internal:subscription_succeeded","channel":"{channel}","data":"{{}}"}}'
    )


def test_a_session_begins_with_its_hello() -> None:
    hub = hub_of(replace(APP, activity_timeout=120), source=ScriptedRandom(218374, 9021344))
    session = RecordingSession(hub)
    assert session.writes == []

    session.begin()

    assert session.texts() == [
        '{"event":"pusher:connection_established",'
        '"data":"{\\"socket_id\\":\\"218374.9021344\\",\\"activity_timeout\\":120}"}'
    ]
    assert hub.sessions == {"218374.9021344": session}


@pytest.mark.parametrize(
    "ping",
    [
        '{"event":"pusher:ping"}',
        '{"event":"pusher:ping","data":{}}',
        '{"event":"pusher:ping","data":""}',
        '{"event":"pusher:ping","data":null}',
        '{"event":"pusher:ping","data":"{}","channel":null}',
    ],
)
def test_a_ping_is_answered_with_a_pong_however_it_is_spelt(room: Room, ping: str) -> None:
    assert room.say(ping) == [PONG]


def test_a_pong_is_not_answered(room: Room) -> None:
    assert room.say('{"event":"pusher:pong","data":{}}') == []


@pytest.mark.parametrize(
    "request_text",
    [
        '{"event":"pusher:subscribe","data":{"channel":"orders"}}',
        '{"event":"pusher:subscribe","data":{"channel":"orders","auth":""}}',
        '{"event":"pusher:subscribe","data":{"channel":"orders","auth":null}}',
        '{"event":"pusher:subscribe","data":{"channel":"orders","auth":"anything"}}',
        '{"event":"pusher:subscribe","data":"{\\"channel\\":\\"orders\\"}"}',
    ],
)
def test_a_public_channel_is_for_everybody(room: Room, request_text: str) -> None:
    assert room.say(request_text) == [succeeded("orders")]
    assert list(room.hub.channels["orders"].subscribers) == [room.client]


def test_a_private_channel_is_for_those_with_a_signature(room: Room) -> None:
    answer = room.say(
        '{"event":"pusher:subscribe","data":'
        f'{{"channel":"private-foobar","auth":"{PRIVATE_AUTH}"}}}}'
    )

    assert answer == [succeeded("private-foobar")]
    assert "private-foobar" in room.client.channels


@pytest.mark.parametrize(
    "channel",
    [
        "private-cache-x",
        "private-encrypted-x",
        "private-encrypted-cache-x",
    ],
)
def test_every_kind_of_private_channel_asks_for_a_signature(room: Room, channel: str) -> None:
    unsigned = {"event": "pusher:subscribe", "data": {"channel": channel, "auth": ""}}
    [refusal, _] = room.say(json.dumps(unsigned))
    assert '"event":"pusher:subscription_error"' in refusal
    assert room.hub.channels == {}

    signed = {
        "event": "pusher:subscribe",
        "data": {"channel": channel, "auth": room.client.auth_for(channel)},
    }
    assert room.say(json.dumps(signed))[0] == succeeded(channel)


@pytest.mark.parametrize(
    "auth",
    [
        '""',
        "null",
        '"278d425bdf160c739803"',
        '"58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"',
        f'"{PRIVATE_AUTH[:-1]}5"',
        f'"another-key:{PRIVATE_AUTH.partition(":")[2]}"',
        '"ключ:подпись"',
    ],
)
def test_a_wrong_signature_is_refused_with_the_string_to_sign(room: Room, auth: str) -> None:
    answer = room.say(
        f'{{"event":"pusher:subscribe","data":{{"channel":"private-foobar","auth":{auth}}}}}'
    )

    assert answer == refused_subscription(
        "private-foobar",
        "AuthError",
        401,
        "Invalid auth for private-foobar: expected APP_KEY:SIGNATURE, where SIGNATURE is "
        "the hex HMAC-SHA256 of 1234.1234:private-foobar under the app's secret",
    )
    assert room.hub.channels == {}
    assert room.client.closed == []


def test_a_signature_for_another_socket_is_refused(room: Room) -> None:
    auth = room.other().auth_for("private-foobar")

    answer = room.say(
        f'{{"event":"pusher:subscribe","data":{{"channel":"private-foobar","auth":"{auth}"}}}}'
    )

    assert len(answer) == 2
    assert room.hub.channels == {}


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ("#server-to-user-7", "#server-to-user-7 is not yours: sign in as its user first"),
        ("#internal", "Channel names that begin with # are reserved"),
    ],
)
def test_a_name_with_a_hash_is_refused_to_whom_it_is_not_meant_for(
    room: Room, channel: str, message: str
) -> None:
    answer = room.say(f'{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}')

    assert answer == refused_subscription(channel, "AuthError", 403, message)
    assert room.hub.channels == {}


@pytest.mark.parametrize(
    ("channel", "shown"),
    [
        ("", ""),
        ("or ders", "or ders"),
        ("orders\n", "orders\n"),
        ("größe", "größe"),
        ("private-foobar:x", "private-foobar:x"),
        ("x" * 5_000, "x" * 200),
    ],
)
def test_what_is_no_channel_name_is_refused(room: Room, channel: str, shown: str) -> None:
    answer = room.say(json.dumps({"event": "pusher:subscribe", "data": {"channel": channel}}))

    assert [json.loads(text) for text in answer] == [
        json.loads(text)
        for text in refused_subscription(
            shown,
            "InvalidChannel",
            400,
            "Invalid channel name: 1 to 200 letters, digits and _ - = @ , . ;",
        )
    ]
    assert room.hub.channels == {}


def test_subscribing_again_repeats_the_answer(room: Room) -> None:
    request = '{"event":"pusher:subscribe","data":{"channel":"orders"}}'

    assert room.say(request) == [succeeded("orders")]
    assert room.say(request) == [succeeded("orders")]
    assert list(room.hub.channels["orders"].subscribers) == [room.client]


def test_unsubscribing_is_not_answered(room: Room) -> None:
    room.subscribe("orders")

    assert room.say('{"event":"pusher:unsubscribe","data":{"channel":"orders"}}') == []
    assert room.hub.channels == {}


def test_unsubscribing_where_one_is_not_subscribed_is_fine(room: Room) -> None:
    assert room.say('{"event":"pusher:unsubscribe","data":{"channel":"\\n"}}') == []


def test_an_event_of_the_same_turn_comes_behind_the_success(room: Room) -> None:
    room.other("orders")
    room.hub.publish("before", "1", ["orders"])
    room.client.receive('{"event":"pusher:subscribe","data":{"channel":"orders"}}')
    room.hub.publish("after", "2", ["orders"])
    room.turns.end()

    assert room.client.texts() == [
        succeeded("orders"),
        '{"event":"after","channel":"orders","data":"2"}',
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "Invalid message: Input data was truncated"),
        ("[]", "Invalid message: Expected `object`, got `array`"),
        ('{"data":{}}', "Invalid message: Object missing required field `event`"),
        ('{"event":"pusher:subscribe"}', "Invalid pusher:subscribe: `data` is missing"),
        (
            '{"event":"pusher:subscribe","data":{}}',
            "Invalid pusher:subscribe: Object missing required field `channel` in `data`",
        ),
        (
            '{"event":"pusher:unsubscribe","data":[]}',
            "Invalid pusher:unsubscribe: Expected `object`, got `array` in `data`",
        ),
        (
            '{"event":"pusher:connection_established","data":{}}',
            "Unknown event pusher:connection_established: clients may send pusher:subscribe, "
            "pusher:unsubscribe, pusher:signin, pusher:ping and events that begin with client-",
        ),
        (
            '{"event":"message","channel":"orders"}',
            "Unknown event message: clients may send pusher:subscribe, "
            "pusher:unsubscribe, pusher:signin, pusher:ping and events that begin with client-",
        ),
        (
            f'{{"event":"{"x" * 5_000}"}}',
            f"Unknown event {'x' * 200}: clients may send pusher:subscribe, "
            "pusher:unsubscribe, pusher:signin, pusher:ping and events that begin with client-",
        ),
    ],
    ids=lambda value: value[:40],
)
def test_a_message_without_meaning_is_refused_and_costs_nothing_else(
    room: Room, text: str, complaint: str
) -> None:
    room.subscribe("orders")

    assert room.say(text) == [error(4300, complaint)]
    assert room.client.closed == []
    assert "orders" in room.client.channels
    assert room.say('{"event":"pusher:ping"}') == [PONG]


_WORDS = st.sampled_from(
    [
        "pusher:subscribe",
        "pusher:unsubscribe",
        "pusher:ping",
        "client-x",
        "private-room",
        "presence-x",
        "#server-to-user-1",
        "orders",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | _WORDS,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["event", "channel", "data", "auth", "channel_data"]), children
        )
    ),
    max_leaves=8,
)


@given(
    st.lists(
        st.one_of(
            st.text(),
            _JSON.map(json.dumps),
            st.builds(
                lambda event, channel, data: json.dumps(
                    {"event": event, "channel": channel, "data": data}
                ),
                _WORDS,
                _WORDS,
                _JSON,
            ),
        ),
        max_size=5,
    )
)
def test_nothing_a_client_says_breaks_its_session(messages: list[str]) -> None:
    room = Room()
    room.subscribe("private-room")
    other = room.other("private-room")

    for message in messages:
        for text in room.say(message):
            assert json.loads(text)["event"] in {
                "pusher:pong",
                "pusher:error",
                "pusher:subscription_error",
                "pusher_internal:subscription_succeeded",
            }

    for text in other.texts():
        assert json.loads(text)["event"].startswith("client-")
    assert room.client.closed == []
    assert room.say('{"event":"pusher:ping"}') == [PONG]


def test_a_client_event_goes_to_the_others_as_it_was_written(room: Room) -> None:
    room.subscribe("private-room")
    others = [room.other("private-room") for _ in range(2)]
    elsewhere = room.other("private-other")

    answer = room.say(
        '{"event":"client-typing","channel":"private-room","data":{ "who": "Ada\\u0021" }}'
    )

    assert answer == []
    for other in others:
        assert other.texts() == [
            '{"event":"client-typing","channel":"private-room","data":{ "who": "Ada\\u0021" }}'
        ]
    assert elsewhere.texts() == []


@pytest.mark.parametrize(
    ("data", "relayed"),
    [
        (',"data":"{\\"who\\":\\"Ada\\"}"', ',"data":"{\\"who\\":\\"Ada\\"}"'),
        (',"data":null', ',"data":null'),
        (',"data":5', ',"data":5'),
        ("", ""),
        # Who the sender is says the server, never the sender.
        (',"data":1,"user_id":"7"', ',"data":1'),
    ],
)
def test_client_event_data_may_be_any_json(room: Room, data: str, relayed: str) -> None:
    room.subscribe("private-room")
    other = room.other("private-room")

    room.say(f'{{"event":"client-x","channel":"private-room"{data}}}')

    assert other.texts() == [f'{{"event":"client-x","channel":"private-room"{relayed}}}']


@pytest.mark.parametrize(
    ("text", "objection"),
    [
        ('{"event":"client-x","data":1}', "`channel` is missing"),
        ('{"event":"client-x","channel":null}', "`channel` is missing"),
        (
            f'{{"event":"client-{"x" * 194}","channel":"private-room"}}',
            "its name has more than 200 characters",
        ),
        (
            '{"event":"client-x","channel":"orders"}',
            "they go to private and presence channels only",
        ),
        (
            '{"event":"client-x","channel":"private-encrypted-room"}',
            "they go to private and presence channels only",
        ),
        *(
            (
                f'{{"event":"client-x","channel":"{prefix}room"}}',
                "they go to private and presence channels only",
            )
            for prefix in ("cache-", "private-encrypted-cache-", "#server-to-user-", "private")
        ),
        ('{"event":"client-x","channel":"private-other"}', "subscribe to private-other first"),
        (
            f'{{"event":"client-x","channel":"private-{"x" * 5_000}"}}',
            f"subscribe to private-{'x' * 192} first",
        ),
        (
            f'{{"event":"client-x","channel":"private-room","data":"{"x" * 99}"}}',
            "its data has more than 100 bytes",
        ),
    ],
    ids=lambda value: value[:60],
)
def test_a_client_event_that_is_not_allowed_is_refused(text: str, objection: str) -> None:
    room = Room(replace(APP, max_event_data_bytes=100))
    for channel in ("private-room", "orders", "private-encrypted-room"):
        room.subscribe(channel)
    other = room.other("private-room", "orders", "private-encrypted-room", "private-other")

    assert room.say(text) == [error(4301, f"Client event refused: {objection}")]
    assert other.texts() == []


def test_a_client_event_may_be_as_long_as_its_limits() -> None:
    room = Room(replace(APP, max_event_data_bytes=100))
    room.subscribe("private-room")
    other = room.other("private-room")
    text = f'{{"event":"client-{"x" * 193}","channel":"private-room","data":"{"x" * 98}"}}'

    assert room.say(text) == []
    assert other.texts() == [text]


def test_an_app_may_accept_no_client_events() -> None:
    room = Room(replace(APP, client_events_from=ClientEventsFrom.NONE))
    room.subscribe("private-room")
    other = room.other("private-room")

    assert room.say('{"event":"client-x","channel":"private-room"}') == [
        error(4301, "Client event refused: this app does not accept client events")
    ]
    assert other.texts() == []


def test_an_app_may_accept_client_events_from_connections_that_are_not_subscribed() -> None:
    room = Room(replace(APP, client_events_from=ClientEventsFrom.ALL))
    other = room.other("private-room")

    assert room.say('{"event":"client-x","channel":"private-room","data":1}') == []
    assert room.say('{"event":"client-x","channel":"private-nobody","data":1}') == []

    assert other.texts() == ['{"event":"client-x","channel":"private-room","data":1}']
    assert list(room.hub.channels) == ["private-room"]


@pytest.mark.parametrize(
    "channel", ['private-a"b', "private-a b", "presence-a\n", "private-é", f"private-{'x' * 193}"]
)
def test_from_whoever_they_are_client_events_go_to_what_has_a_channels_name(channel: str) -> None:
    room = Room(replace(APP, client_events_from=ClientEventsFrom.ALL))

    assert room.say(json.dumps({"event": "client-x", "channel": channel})) == [
        error(4301, f"Client event refused: {channel[:200]} is no channel name")
    ]


def test_client_events_are_limited_by_the_second() -> None:
    room = Room(replace(APP, client_events_per_second=2))
    room.subscribe("private-room")
    other = room.other("private-room")
    text = '{"event":"client-x","channel":"private-room","data":1}'
    refusal = error(4301, "Client event refused: more than 2 in a second")

    assert [room.say(text) for _ in range(3)] == [[], [], [refusal]]
    room.clock.advance(0.25)
    assert room.say(text) == [refusal]
    room.clock.advance(0.25)
    assert [room.say(text) for _ in range(2)] == [[], [refusal]]
    room.clock.advance(60)
    assert [room.say(text) for _ in range(3)] == [[], [], [refusal]]
    assert len(other.texts()) == 5


def test_each_connection_has_a_limit_of_its_own() -> None:
    room = Room(replace(APP, client_events_per_second=1))
    room.subscribe("private-room")
    other = room.other("private-room")
    text = '{"event":"client-x","channel":"private-room","data":1}'

    assert room.say(text) == []
    other.receive(text)
    room.turns.end()

    assert room.client.texts() == [text]
    assert other.texts() == [text]


def test_zero_client_events_a_second_means_any_number() -> None:
    room = Room(replace(APP, client_events_per_second=0))
    room.subscribe("private-room")
    other = room.other("private-room")

    for _ in range(100):
        assert room.say('{"event":"client-x","channel":"private-room"}') == []

    assert len(other.texts()) == 100


WHISPER = '{"event":"client-x","channel":"private-room","data":1}'


def test_client_events_of_one_address_are_limited_by_the_second_across_its_connections() -> None:
    room = Room(replace(APP, client_events_per_second_per_address=2))
    room.subscribe("private-room")
    neighbour, stranger = room.other("private-room"), room.other("private-room")
    stranger.address = "198.51.100.1"
    refusal = error(4301, "Client event refused: more than 2 in a second from one address")

    assert room.say(WHISPER) == []
    assert room.say(WHISPER, neighbour) == [WHISPER]
    assert room.say(WHISPER, neighbour) == [refusal]
    assert room.say(WHISPER)[-1] == refusal
    assert refusal not in room.say(WHISPER, stranger)
    room.clock.advance(0.5)
    assert refusal not in room.say(WHISPER, neighbour)
    assert room.say(WHISPER, neighbour)[-1] == refusal


def test_client_events_of_one_app_are_limited_by_the_second_across_its_connections() -> None:
    room = Room(replace(APP, client_events_per_second_per_app=2))
    room.subscribe("private-room")
    other = room.other("private-room")
    other.address = "198.51.100.1"
    refusal = error(
        4301, "Client event refused: more than 2 in a second from all clients of the app"
    )

    assert room.say(WHISPER) == []
    assert room.say(WHISPER, other) == [WHISPER]
    assert room.say(WHISPER) == [WHISPER, refusal]
    assert room.say(WHISPER, other) == [refusal]
    room.clock.advance(0.5)
    assert [room.say(WHISPER, other) for _ in range(2)] == [[], [refusal]]


def test_what_a_connection_sends_too_often_takes_nothing_from_its_address_and_its_app() -> None:
    app = replace(
        APP,
        client_events_per_second=1,
        client_events_per_second_per_address=2,
        client_events_per_second_per_app=3,
    )
    room = Room(app)
    room.subscribe("private-room")
    neighbour, stranger = room.other("private-room"), room.other("private-room")
    stranger.address = "198.51.100.1"

    for _ in range(5):
        room.say(WHISPER)
    for client in (neighbour, stranger):
        client.texts()
        assert room.say(WHISPER, client) == []


def test_a_new_limit_of_client_events_holds_at_once() -> None:
    room = Room(replace(APP, client_events_per_second=0))
    room.subscribe("private-room")
    assert [room.say(WHISPER) for _ in range(20)] == [[]] * 20

    room.hub.app = replace(APP, client_events_per_second_per_app=1)
    refusal = error(
        4301, "Client event refused: more than 1 in a second from all clients of the app"
    )
    assert [room.say(WHISPER) for _ in range(2)] == [[], [refusal]]
    room.hub.app = replace(APP, client_events_per_second_per_address=1)
    refusal = error(4301, "Client event refused: more than 1 in a second from one address")
    assert [room.say(WHISPER) for _ in range(2)] == [[], [refusal]]
    room.hub.app = replace(APP, client_events_per_second=0)
    assert [room.say(WHISPER) for _ in range(20)] == [[]] * 20


def test_data_of_client_events_may_have_no_limit() -> None:
    room = Room(replace(APP, max_event_data_bytes=0))
    room.subscribe("private-room")
    other = room.other("private-room")
    text = f'{{"event":"client-x","channel":"private-room","data":"{"x" * 20_000}"}}'

    assert room.say(text) == []
    assert other.texts() == [text]


MALFORMED = [
    "not JSON",
    '{"event":1}',
    '{"event":"pusher:subscribe"}',
    '{"event":"pusher:signin","data":{"auth":"key:wrong","user_data":"{}"}}',
]


def test_a_client_that_says_nothing_but_nonsense_is_closed() -> None:
    room = Room(replace(APP, malformed_messages_per_minute=4))

    for text in MALFORMED:
        [answer] = room.say(text)
        assert answer.startswith('{"event":"pusher:error","data":{"code":4300,')
    assert room.client.closed == []
    assert room.say("not JSON") == []
    reason = (
        "More than 4 malformed messages in a minute, the last one: Invalid message: JSON is "
        "malformed: invalid character (byte 4)"
    )
    assert room.client.closed == [(ErrorCode.OVER_CAPACITY, reason)]


def test_nonsense_now_and_then_is_only_refused() -> None:
    room = Room(replace(APP, malformed_messages_per_minute=2))

    for _ in range(20):
        assert len(room.say("not JSON")) == 1
        assert room.say('{"event":"pusher:ping"}') == [PONG]
        room.clock.advance(30.0)
    assert room.client.closed == []


def test_any_amount_of_nonsense_may_be_allowed() -> None:
    room = Room(replace(APP, malformed_messages_per_minute=0))

    for _ in range(200):
        assert len(room.say("not JSON")) == 1
    assert room.client.closed == []


def test_what_is_refused_for_other_reasons_is_not_malformed() -> None:
    room = Room(replace(APP, malformed_messages_per_minute=1))
    room.say("not JSON")

    for text in (
        '{"event":"pusher:subscribe","data":{"channel":"private-a"}}',
        '{"event":"pusher:subscribe","data":{"channel":"no channel"}}',
        '{"event":"unheard of"}',
        WHISPER,
    ):
        assert room.say(text)
    assert room.client.closed == []


def test_a_connection_may_be_subscribed_to_so_many_channels() -> None:
    room = Room(replace(APP, max_channels_per_connection=2))

    def subscribe(channel: str) -> list[str]:
        return room.say(f'{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}')

    assert [subscribe(channel) for channel in "ab"] == [[succeeded("a")], [succeeded("b")]]
    assert subscribe("c") == refused_subscription(
        "c", "LimitReached", 403, "A connection may subscribe to 2 channels at most"
    )
    assert subscribe("a") == [succeeded("a")]
    room.say('{"event":"pusher:unsubscribe","data":{"channel":"a"}}')
    assert subscribe("c") == [succeeded("c")]


def test_who_leaves_and_joins_too_often_is_refused_for_a_while() -> None:
    room = Room(replace(APP, subscriptions_per_second=2, max_channels_per_connection=3))
    subscribe = '{"event":"pusher:subscribe","data":{"channel":"orders"}}'
    unsubscribe = '{"event":"pusher:unsubscribe","data":{"channel":"orders"}}'
    refusal = refused_subscription(
        "orders", "LimitReached", 429, "More than 2 subscriptions in a second"
    )

    assert room.say(subscribe) == [succeeded("orders")]
    for _ in range(3):
        assert room.say(unsubscribe) == []
        assert room.say(subscribe) == [succeeded("orders")]
    assert room.say(unsubscribe) == []
    assert room.say(subscribe) == refusal
    room.clock.advance(0.5)
    assert room.say(subscribe) == [succeeded("orders")]
    assert room.say(subscribe) == refusal
    assert list(room.client.channels) == ["orders"]


def test_who_asks_again_and_again_for_what_it_has_is_refused_for_a_while() -> None:
    room = Room(replace(APP, subscriptions_per_second=2, max_channels_per_connection=3))
    subscribe = '{"event":"pusher:subscribe","data":{"channel":"orders"}}'

    answers = [room.say(subscribe) for _ in range(5)]

    refusal = refused_subscription(
        "orders", "LimitReached", 429, "More than 2 subscriptions in a second"
    )
    assert answers == [[succeeded("orders")]] * 4 + [refusal]


def test_as_many_channels_as_are_allowed_may_be_joined_at_once() -> None:
    room = Room(replace(APP, subscriptions_per_second=1, max_channels_per_connection=500))
    for _ in range(2):
        for number in range(500):
            text = f'{{"event":"pusher:subscribe","data":{{"channel":"c{number}"}}}}'
            assert room.say(text) == [succeeded(f"c{number}")]
        for number in range(500):
            room.say(f'{{"event":"pusher:unsubscribe","data":{{"channel":"c{number}"}}}}')


def test_subscriptions_of_one_address_are_limited_by_the_second_across_its_connections() -> None:
    room = Room(replace(APP, subscriptions_per_second_per_address=2))
    neighbour, stranger = room.other(), room.other()
    stranger.address = "198.51.100.1"
    subscribe = '{"event":"pusher:subscribe","data":{"channel":"orders"}}'
    refusal = refused_subscription(
        "orders", "LimitReached", 429, "More than 2 subscriptions in a second from one address"
    )

    assert room.say(subscribe) == [succeeded("orders")]
    assert room.say(subscribe, neighbour) == [succeeded("orders")]
    assert room.say(subscribe, neighbour) == refusal
    assert room.say(subscribe) == refusal
    assert room.say(subscribe, stranger) == [succeeded("orders")]
    room.clock.advance(0.5)
    assert room.say(subscribe) == [succeeded("orders")]
    assert room.say(subscribe, neighbour) == refusal
    assert len(room.hub.subscription_rates) == 2


def test_subscriptions_and_channels_may_have_no_limit() -> None:
    room = Room(replace(APP, subscriptions_per_second=0, max_channels_per_connection=0))
    for number in range(1_500):
        text = f'{{"event":"pusher:subscribe","data":{{"channel":"c{number}"}}}}'
        assert room.say(text) == [succeeded(f"c{number}")]
        assert room.say(text) == [succeeded(f"c{number}")]


def test_messages_over_the_rate_limit_are_refused_unread() -> None:
    limit = RateLimit(max_attempts=3, decay_seconds=6.0, terminate=False)
    room = Room(replace(APP, rate_limit=limit))
    ping = '{"event":"pusher:ping"}'
    refusal = error(4301, "Rate limit exceeded: 3 messages in 6 s")

    assert [room.say(ping) for _ in range(4)] == [[PONG], [PONG], [PONG], [refusal]]
    assert room.say('{"event":"pusher:subscribe","data":{"channel":"orders"}}') == [refusal]
    assert room.say("not even JSON") == [refusal]
    assert room.hub.channels == {}
    room.clock.advance(1.75)
    assert room.say(ping) == [refusal]
    room.clock.advance(0.25)
    assert [room.say(ping) for _ in range(2)] == [[PONG], [refusal]]
    assert room.client.closed == []


def test_a_rate_limit_may_close_the_connection() -> None:
    limit = RateLimit(max_attempts=1, decay_seconds=0.5, terminate=True)
    room = Room(replace(APP, rate_limit=limit))
    ping = '{"event":"pusher:ping"}'
    message = "Rate limit exceeded: 1 messages in 0.5 s"

    assert room.say(ping) == [PONG]
    assert room.client.closed == []
    assert room.say(ping) == [error(4301, message)]
    assert room.client.closed == [(ErrorCode.OVER_CAPACITY, message)]


def test_the_end_leaves_every_channel(room: Room) -> None:
    for channel in ("a", "b", "c"):
        room.subscribe(channel)
    other = room.other("b")

    room.client.end()

    assert list(room.hub.channels) == ["b"]
    assert list(room.hub.channels["b"].subscribers) == [other]
    assert room.client.channels == {}
    assert list(room.hub.sessions.values()) == [other]


def test_ending_twice_is_ending_once(room: Room) -> None:
    trace = RecordingTrace()
    room.hub.trace = trace

    room.client.end()
    room.client.end()

    assert trace.lines == ["closed 1001 1234.1234"]
    assert room.hub.sessions == {}


def test_a_session_that_never_began_ends_without_a_trace(room: Room) -> None:
    trace = RecordingTrace()
    room.hub.trace = trace

    RecordingSession(room.hub).end()

    assert trace.lines == []
    assert list(room.hub.sessions.values()) == [room.client]


class RecordingTrace:
    """Keeps a line of everything it is shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def connection_established(self, app: App, socket_id: str) -> None:
        self.lines.append(f"established {app.id} {socket_id}")

    def connection_closed(self, app: App, socket_id: str) -> None:
        self.lines.append(f"closed {app.id} {socket_id}")

    def message_received(self, app: App, socket_id: str, text: str) -> None:
        self.lines.append(f"received {app.id} {socket_id} {text}")

    def message_sent(self, app: App, socket_id: str, frame: bytes) -> None:
        self.lines += [f"sent {app.id} {socket_id} {text}" for text in texts_in(frame)]

    def broadcasting(self, app: App, channel: str, frame: bytes, subscribers: int) -> None:
        self.lines += [
            f"broadcasting {app.id} {channel} {subscribers} {text}" for text in texts_in(frame)
        ]


@pytest.fixture
def traced() -> tuple[Hub, RecordingTrace]:
    trace = RecordingTrace()
    hub = hub_of(source=ScriptedRandom(1, 2), trace=trace)
    return hub, trace


def test_a_trace_is_shown_the_whole_conversation(traced: tuple[Hub, RecordingTrace]) -> None:
    hub, trace = traced
    session = RecordingSession(hub)

    session.begin()
    session.receive('{"event":"pusher:subscribe","data":{"channel":"orders"}}')
    hub.publish("x", "1", ["orders", "nobody-is-here"])
    session.end()

    assert trace.lines == [
        "established 1001 1.2",
        'sent 1001 1.2 {"event":"pusher:connection_established",'
        '"data":"{\\"socket_id\\":\\"1.2\\",\\"activity_timeout\\":30}"}',
        'received 1001 1.2 {"event":"pusher:subscribe","data":{"channel":"orders"}}',
        f"sent 1001 1.2 {succeeded('orders')}",
        'broadcasting 1001 orders 1 {"event":"x","channel":"orders","data":"1"}',
        "closed 1001 1.2",
    ]
