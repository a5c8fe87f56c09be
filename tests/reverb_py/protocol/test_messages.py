"""Every way clients spell a message, and every way that is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.protocol.messages import (
    MalformedMessage,
    SubscribeData,
    UnsubscribeData,
    decode_data,
    decode_message,
)

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


def subscribe(data: str) -> str:
    return f'{{"event":"pusher:subscribe","data":{data}}}'


@pytest.mark.parametrize(
    ("text", "event", "channel", "data"),
    [
        ('{"event":"pusher:ping"}', "pusher:ping", None, b""),
        ('{"event":"pusher:ping","data":{}}', "pusher:ping", None, b"{}"),
        ('{"event":"pusher:ping","data":""}', "pusher:ping", None, b'""'),
        ('{"event":"pusher:ping","data":null}', "pusher:ping", None, b"null"),
        ('{"event":"pusher:pong","channel":null}', "pusher:pong", None, b""),
        ('{"data":{},"event":"pusher:pong"}', "pusher:pong", None, b"{}"),
        (' {\n\t"event" : "pusher:pong" } \r\n', "pusher:pong", None, b""),
        ('{"event":"x","user_id":"7","more":[1,{"a":null}]}', "x", None, b""),
        ('{"event":""}', "", None, b""),
        ('{"event":"gr\\u00fc\\u00dfe\\ud83d\\ude00"}', "grüße😀", None, b""),
        (
            '{"event":"client-typing","channel":"private-room","data":  { "who" : "\\u0041" }  }',
            "client-typing",
            "private-room",
            b'{ "who" : "\\u0041" }',
        ),
    ],
)
def test_an_envelope_keeps_its_data_as_it_was_written(
    text: str, event: str, channel: str | None, data: bytes
) -> None:
    message = decode_message(text)

    assert (message.event, message.channel, bytes(message.data)) == (event, channel, data)


@given(_JSON)
def test_any_json_can_be_data_and_is_kept_byte_for_byte(value: object) -> None:
    data = json.dumps(value, indent=1, ensure_ascii=True)

    assert bytes(decode_message(f'{{"event":"client-x","data":{data}}}').data) == data.encode()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "Input data was truncated"),
        ("hello", "JSON is malformed: invalid character (byte 0)"),
        ("[]", "Expected `object`, got `array`"),
        ("null", "Expected `object`, got `null`"),
        ('"pusher:ping"', "Expected `object`, got `str`"),
        ("{}", "Object missing required field `event`"),
        ('{"data":{}}', "Object missing required field `event`"),
        ('{"event":1}', "Expected `str`, got `int` - at `$.event`"),
        ('{"event":null}', "Expected `str`, got `null` - at `$.event`"),
        ('{"event":"x","channel":5}', "Expected `str | null`, got `int` - at `$.channel`"),
        ('{"event":"x"', "Input data was truncated"),
        ('{"event":"x"} {}', "JSON is malformed: trailing characters (byte 15)"),
        ('{"event":"x","data":NaN}', "JSON is malformed: invalid character (byte 20)"),
        ('{"event":"x","data":"\\q"}', "JSON is malformed: invalid escaped character (byte 22)"),
        ('{"event":"x","data":"a\tb"}', "JSON is malformed: invalid character (byte 22)"),
        ('{"event":"x","data":[1,]}', "JSON is malformed: trailing comma in array (byte 23)"),
        ('{"event":"\\ud800"}', "Input data was truncated"),
        ("\ufeff{}", "JSON is malformed: invalid character (byte 0)"),
        pytest.param(
            '{"event":"x","data":' + "[" * 100_000 + "]" * 100_000 + "}",
            "it is nested too deeply",
            id="deep",
        ),
    ],
)
def test_what_is_no_message_is_refused_with_words_to_act_on(text: str, complaint: str) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        decode_message(text)

    assert str(refusal.value) == f"Invalid message: {complaint}"


@given(st.text())
def test_no_text_makes_the_decoder_fail_in_another_way(text: str) -> None:
    for attempt in (text, f'{{"event":{text}}}', f'{{"event":"x","data":{text}}}'):
        try:
            decode_data(decode_message(attempt), SubscribeData)
        except MalformedMessage:
            pass


@pytest.mark.parametrize(
    "data",
    [
        '{"channel":"orders"}',
        '{"channel":"orders","auth":null,"channel_data":null}',
        '{"channel":"orders","unknown":[{}]}',
        '"{\\"channel\\":\\"orders\\"}"',
        '" {\\"channel\\" : \\"orders\\"} "',
        '  {"channel":"orders"}  ',
    ],
)
def test_the_data_of_a_subscription_is_an_object_or_a_string_holding_one(data: str) -> None:
    decoded = decode_data(decode_message(subscribe(data)), SubscribeData)

    assert decoded == SubscribeData("orders", auth=None, channel_data=None)


def test_a_subscription_carries_its_signature_and_its_member_unparsed() -> None:
    channel_data = '{"user_id": 7}'
    data = json.dumps({"channel": "presence-room", "auth": "KEY:HEX", "channel_data": channel_data})

    for spelling in (data, json.dumps(data)):
        decoded = decode_data(decode_message(subscribe(spelling)), SubscribeData)
        assert decoded == SubscribeData("presence-room", "KEY:HEX", channel_data)


def test_the_data_of_an_unsubscription_names_the_channel() -> None:
    message = decode_message('{"event":"pusher:unsubscribe","data":{"channel":"orders","auth":5}}')

    assert decode_data(message, UnsubscribeData) == UnsubscribeData("orders")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("null", "Expected `object`, got `null`"),
        ("5", "Expected `object`, got `int`"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "Object missing required field `channel`"),
        ('""', "Input data was truncated"),
        ('"null"', "Expected `object`, got `null`"),
        ('"orders"', "JSON is malformed: invalid character (byte 0)"),
        ('"\\"{}\\""', "Expected `object`, got `str`"),
        ('{"channel":null}', "Expected `str`, got `null` - at `$.channel`"),
        ('{"channel":5}', "Expected `str`, got `int` - at `$.channel`"),
        ('{"channel":"a","auth":{}}', "Expected `str | null`, got `object` - at `$.auth`"),
        (
            '{"channel":"a","channel_data":{"user_id":"7"}}',
            "Expected `str | null`, got `object` - at `$.channel_data`",
        ),
        pytest.param(
            '"{\\"channel\\":\\"a\\",\\"x\\":' + "[" * 100_000 + '}"',
            "it is nested too deeply",
            id="deep",
        ),
    ],
)
def test_data_of_another_shape_is_refused_with_words_to_act_on(data: str, complaint: str) -> None:
    message = decode_message(subscribe(data))

    with pytest.raises(MalformedMessage) as refusal:
        decode_data(message, SubscribeData)

    assert str(refusal.value) == f"Invalid pusher:subscribe: {complaint} in `data`"


def test_missing_data_is_refused_with_words_to_act_on() -> None:
    message = decode_message('{"event":"pusher:unsubscribe"}')

    with pytest.raises(MalformedMessage) as refusal:
        decode_data(message, UnsubscribeData)

    assert str(refusal.value) == "Invalid pusher:unsubscribe: `data` is missing"
