"""What the server says, byte for byte, and read back by an independent RFC 6455 parser."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from reverb_py.protocol import frames
from reverb_py.protocol.errors import ErrorCode
from tests.support.sessions import texts_in


def parsed(data: bytes) -> list[Frame]:
    """Return the frames a client makes of these bytes."""
    client = Protocol(CLIENT, max_size=None)
    client.receive_data(data)
    assert client.parser_exc is None, client.parser_exc
    events = client.events_received()
    assert all(isinstance(event, Frame) for event in events)
    return [event for event in events if isinstance(event, Frame)]


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x81\x00"),
        (1, b"\x81\x01"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (127, b"\x81\x7e\x00\x7f"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        (70_000, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x11\x70"),
    ],
)
def test_a_text_frame_has_the_shortest_head_its_length_allows(length: int, head: bytes) -> None:
    payload = b"x" * length

    frame = frames.text_frame(payload)

    assert frame == head + payload
    assert parsed(frame) == [Frame(Opcode.TEXT, payload)]


def test_ping_and_pong_are_the_same_bytes_every_time() -> None:
    assert frames.PING == b'\x81\x23{"event":"pusher:ping","data":"{}"}'
    assert frames.PONG == b'\x81\x23{"event":"pusher:pong","data":"{}"}'
    assert parsed(frames.WEBSOCKET_PING) == [Frame(Opcode.PING, b"")]


def test_an_event_carries_the_publishers_data_as_a_string() -> None:
    frame = frames.event("order-shipped", "orders", '{"id":7}')

    assert frame == (b'\x81\x40{"event":"order-shipped","channel":"orders","data":"{\\"id\\":7}"}')


def test_an_event_escapes_what_json_must_and_keeps_the_rest_as_utf8() -> None:
    frame = frames.event('a"b\\c\n', "orders", "grüße\x00\u2028😀")

    assert texts_in(frame) == [
        '{"event":"a\\"b\\\\c\\n","channel":"orders","data":"grüße\\u0000\u2028😀"}'
    ]


def test_a_client_event_relays_its_data_byte_for_byte() -> None:
    frame = frames.client_event("client-typing", "private-room", b'{ "who" :\t"Ada\\u0021" }')

    assert texts_in(frame) == [
        '{"event":"client-typing","channel":"private-room","data":{ "who" :\t"Ada\\u0021" }}'
    ]


def test_a_client_event_without_data_has_none() -> None:
    frame = frames.client_event("client-typing", "private-room", b"")

    assert texts_in(frame) == ['{"event":"client-typing","channel":"private-room"}']


def test_a_client_event_names_its_sender_where_there_are_members() -> None:
    frame = frames.client_event("client-typing", "presence-room", b"1", user_id='7"8')

    assert texts_in(frame) == [
        '{"event":"client-typing","channel":"presence-room","data":1,"user_id":"7\\"8"}'
    ]


def test_the_hello_has_its_data_as_a_string() -> None:
    frame = frames.connection_established("218374.9021344", 30)

    assert texts_in(frame) == [
        '{"event":"pusher:connection_established",'
        '"data":"{\\"socket_id\\":\\"218374.9021344\\",\\"activity_timeout\\":30}"}'
    ]


def test_a_subscription_off_presence_succeeds_with_an_empty_object_in_a_string() -> None:
    assert texts_in(frames.subscription_succeeded("orders")) == [
        '{"event":"pusher_internal:subscription_succeeded","channel":"orders","data":"{}"}'
    ]


def test_a_subscription_can_succeed_with_data() -> None:
    assert texts_in(frames.subscription_succeeded("presence-room", '{"presence":{}}')) == [
        '{"event":"pusher_internal:subscription_succeeded","channel":"presence-room",'
        '"data":"{\\"presence\\":{}}"}'
    ]


def test_a_refused_subscription_says_which_and_why() -> None:
    frame = frames.subscription_error('pri"vate', "AuthError", "Invalid auth", 401)

    assert texts_in(frame) == [
        '{"event":"pusher:subscription_error","channel":"pri\\"vate",'
        '"data":"{\\"type\\":\\"AuthError\\",\\"error\\":\\"Invalid auth\\",\\"status\\":401}"}'
    ]


def test_an_error_has_its_data_as_an_object() -> None:
    assert texts_in(frames.error(ErrorCode.CLIENT_EVENT_REFUSED, 'no "whispers"')) == [
        '{"event":"pusher:error","data":{"code":4301,"message":"no \\"whispers\\""}}'
    ]


def test_an_error_may_have_its_data_in_a_string_as_with_reverb() -> None:
    assert texts_in(frames.error_in_a_string(ErrorCode.UNKNOWN_APP, 'no "app"')) == [
        '{"event":"pusher:error",'
        '"data":"{\\"code\\":4001,\\"message\\":\\"no \\\\\\"app\\\\\\"\\"}"}'
    ]


def test_a_close_frame_carries_code_and_reason() -> None:
    frame = frames.close_frame(4201, "Pong not received")

    assert frame == b"\x88\x13\x10\x69Pong not received"
    assert parsed(frame) == [Frame(Opcode.CLOSE, b"\x10\x69Pong not received")]


def test_a_close_frame_may_have_no_reason() -> None:
    assert frames.close_frame(1000, "") == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("x" * 500, "x" * 123),
        ("x" * 122 + "é", "x" * 122),
        ("x" * 121 + "é", "x" * 121 + "é"),
        ("x" * 120 + "😀", "x" * 120),
        ("😀" * 31, "😀" * 30),
    ],
)
def test_a_close_reason_is_cut_at_123_bytes_between_two_characters(reason: str, sent: str) -> None:
    [frame] = parsed(frames.close_frame(4100, reason))

    assert Close.parse(bytes(frame.data)) == Close(4100, sent)


@given(st.integers(4000, 4999), st.text())
def test_every_close_frame_is_a_control_frame_that_parses(code: int, reason: str) -> None:
    [frame] = parsed(frames.close_frame(code, reason))

    assert len(frame.data) <= 125
    close = Close.parse(bytes(frame.data))
    assert close.code == code
    assert reason.startswith(close.reason)


@given(st.text(), st.text(), st.sampled_from(["orders", "private-App.User.7", "#a=b,c;d@e"]))
def test_whatever_was_published_arrives_unchanged(name: str, data: str, channel: str) -> None:
    [text] = texts_in(frames.event(name, channel, data))

    assert json.loads(text) == {"event": name, "channel": channel, "data": data}


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_frames_written_together_are_read_apart(payloads: list[bytes]) -> None:
    # Not every payload is UTF-8: that is the session's business, not the framing's.
    joined = b"".join(frames.text_frame(payload) for payload in payloads)

    assert [bytes(frame.data) for frame in parsed(joined)] == payloads


@pytest.mark.parametrize(
    ("user_id", "info", "data"),
    [
        ("9", b'{"name":"Bo"}', '{\\"user_id\\":\\"9\\",\\"user_info\\":{\\"name\\":\\"Bo\\"}}'),
        ("9", b"null", '{\\"user_id\\":\\"9\\",\\"user_info\\":null}'),
        (
            'a"b',
            '"Ł\\n"'.encode(),
            '{\\"user_id\\":\\"a\\\\\\"b\\",\\"user_info\\":\\"Ł\\\\n\\"}',
        ),
    ],
)
def test_a_new_member_is_announced_with_id_and_info(user_id: str, info: bytes, data: str) -> None:
    assert texts_in(frames.member_added("presence-room", user_id, info)) == [
        f'{{"event":"pusher_internal:member_added","channel":"presence-room","data":"{data}"}}'
    ]


def test_a_member_who_left_is_announced_with_the_id_alone() -> None:
    assert texts_in(frames.member_removed("presence-room", "9")) == [
        '{"event":"pusher_internal:member_removed","channel":"presence-room",'
        '"data":"{\\"user_id\\":\\"9\\"}"}'
    ]


def test_a_count_is_a_number_in_an_object_in_a_string() -> None:
    assert texts_in(frames.subscription_count("orders", 3)) == [
        '{"event":"pusher_internal:subscription_count","channel":"orders",'
        '"data":"{\\"subscription_count\\":3}"}'
    ]


def test_a_cache_miss_names_its_channel_and_has_no_data() -> None:
    assert texts_in(frames.cache_miss("cache-prices")) == [
        '{"event":"pusher:cache_miss","channel":"cache-prices"}'
    ]


def test_a_signin_succeeds_with_the_very_string_that_was_signed() -> None:
    [text] = texts_in(frames.signin_success('{"id": "7"}'))

    assert text == (
        '{"event":"pusher:signin_success",'
        '"data":"{\\"user_data\\":\\"{\\\\\\"id\\\\\\": \\\\\\"7\\\\\\"}\\"}"}'
    )
    assert json.loads(json.loads(text)["data"]) == {"user_data": '{"id": "7"}'}


@pytest.mark.parametrize(
    ("online", "offline", "events"),
    [
        (
            ["9"],
            ["12", "13"],
            '{\\"name\\":\\"online\\",\\"user_ids\\":[\\"9\\"]},'
            '{\\"name\\":\\"offline\\",\\"user_ids\\":[\\"12\\",\\"13\\"]}',
        ),
        (["9"], [], '{\\"name\\":\\"online\\",\\"user_ids\\":[\\"9\\"]}'),
        ([], ["9"], '{\\"name\\":\\"offline\\",\\"user_ids\\":[\\"9\\"]}'),
        ([], [], ""),
    ],
)
def test_watchers_are_told_lists_of_who_is_on_and_who_is_off(
    online: list[str], offline: list[str], events: str
) -> None:
    assert texts_in(frames.watchlist_events(online, offline)) == [
        f'{{"event":"pusher_internal:watchlist_events","data":"{{\\"events\\":[{events}]}}"}}'
    ]


@given(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text()))
def test_whoever_joins_is_announced_in_json_that_reads_back(user_id: str, info: object) -> None:
    [text] = texts_in(frames.member_added("presence-room", user_id, json.dumps(info).encode()))

    assert json.loads(json.loads(text)["data"]) == {"user_id": user_id, "user_info": info}


@given(st.binary(max_size=70_000))
def test_a_text_frame_is_known_as_one(payload: bytes) -> None:
    frame = frames.text_frame(payload)
    assert frames.is_text_frame(frame)
    assert not frames.is_text_frame(frame + b"x")
    assert not frames.is_text_frame(frame[:-1])


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"\x81",
        frames.close_frame(4100, "reason"),
        frames.WEBSOCKET_PING,
        b"\x01" + frames.PING[1:],
        b"\x81\x7e\x00",
        b"\x81\xff" + bytes(8),
    ],
)
def test_nothing_else_is_a_text_frame(other: bytes) -> None:
    assert not frames.is_text_frame(other)
