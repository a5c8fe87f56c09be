"""Every way clients spell a message, and every way that is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.protocol.messages import (
    MAX_USER_ID_LENGTH,
    MalformedMessage,
    MemberData,
    SigninData,
    SubscribeData,
    UnsubscribeData,
    UserData,
    decode_data,
    decode_member,
    decode_message,
    decode_user,
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
        ('{"event":"\\uZZZZ"}', "JSON is malformed: invalid character in unicode escape (byte 13)"),
        ("\ufeff{}", "JSON is malformed: invalid character (byte 0)"),
        pytest.param(
            '{"event":"x","data":' + "[" * 1_000_000 + "]" * 1_000_000 + "}",
            "it is nested too deeply",
            id="deep",
        ),
    ],
)
def test_what_is_no_message_is_refused_with_words_to_act_on(text: str, complaint: str) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        decode_message(text)

    assert str(refusal.value) == f"Invalid message: {complaint}"


@pytest.mark.parametrize(
    ("string", "half"),
    [
        ("\\ud83d", "\\ud83d"),
        ("\\uD83D cut off", "\\uD83D"),
        ("\\ud83d\\n", "\\ud83d"),
        ("\\ud83d\\u0041", "\\ud83d"),
        ("\\ud83d\\ud83d\\ude00", "\\ud83d"),
        ("cut off \\ude00", "\\ude00"),
        ("\\ud83d\\ude00 \\\\ud83d \\\\\\ude00", "\\ude00"),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_words_to_act_on(string: str, half: str) -> None:
    complaint = f"{half} is half of a surrogate pair: send whole characters"
    for text in (f'{{"event":"client-x","data":"{string}"}}', f'{{"event":"{string}"}}'):
        with pytest.raises(MalformedMessage) as refusal:
            decode_message(text)
        assert str(refusal.value) == f"Invalid message: {complaint}"

    inner = json.dumps(f'{{"channel":"{string}"}}')
    with pytest.raises(MalformedMessage) as refusal:
        decode_data(decode_message(subscribe(inner)), SubscribeData)
    assert str(refusal.value) == f"Invalid pusher:subscribe: {complaint} in `data`"

    with pytest.raises(MalformedMessage) as refusal:
        decode_member(f'{{"user_id":"{string}"}}')
    assert str(refusal.value) == f"Invalid channel_data: {complaint}"

    with pytest.raises(MalformedMessage) as refusal:
        decode_user(f'{{"id":"{string}"}}')
    assert str(refusal.value) == f"Invalid user_data: {complaint}"


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
            '"{\\"channel\\":\\"a\\",\\"x\\":' + "[" * 1_000_000 + '}"',
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


def test_a_signin_carries_its_signature_and_its_user_unparsed() -> None:
    user_data = '{"id": "7"}'
    data = json.dumps({"auth": "KEY:HEX", "user_data": user_data})

    for spelling in (data, json.dumps(data)):
        message = decode_message(f'{{"event":"pusher:signin","data":{spelling}}}')
        assert decode_data(message, SigninData) == SigninData("KEY:HEX", user_data)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("null", "Expected `object`, got `null`"),
        ('{"auth":"a"}', "Object missing required field `user_data`"),
        ('{"user_data":"{}"}', "Object missing required field `auth`"),
        ('{"auth":null,"user_data":"{}"}', "Expected `str`, got `null` - at `$.auth`"),
        (
            '{"auth":"a","user_data":{"id":"7"}}',
            "Expected `str`, got `object` - at `$.user_data`",
        ),
    ],
)
def test_a_signin_of_another_shape_is_refused(data: str, complaint: str) -> None:
    message = decode_message(f'{{"event":"pusher:signin","data":{data}}}')

    with pytest.raises(MalformedMessage) as refusal:
        decode_data(message, SigninData)

    assert str(refusal.value) == f"Invalid pusher:signin: {complaint} in `data`"


@pytest.mark.parametrize(
    ("channel_data", "user_id", "info"),
    [
        ('{"user_id":"7"}', "7", b"null"),
        ('{"user_id":7}', "7", b"null"),
        ('{"user_id":-0}', "0", b"null"),
        ('{"user_id":123456789012345678901234567890}', "123456789012345678901234567890", b"null"),
        ('{"user_id":"007"}', "007", b"null"),
        ('{"user_id":" 7\\n"}', " 7\n", b"null"),
        ('{"user_id":"7","user_info":null}', "7", b"null"),
        ('{"user_id":"7","user_info": { "name" : "\\u0141" } }', "7", b'{ "name" : "\\u0141" }'),
        ('{"more":[{}],"user_info":[1,2],"user_id":"\\u0141"}', "Ł", b"[1,2]"),
        (f'{{"user_id":"{"ł" * MAX_USER_ID_LENGTH}"}}', "ł" * 128, b"null"),
    ],
)
def test_a_member_has_a_string_for_an_id_and_its_info_as_it_was_written(
    channel_data: str, user_id: str, info: bytes
) -> None:
    member = decode_member(channel_data)

    assert (member.id, bytes(member.user_info)) == (user_id, info)


@pytest.mark.parametrize(
    ("channel_data", "complaint"),
    [
        ("", "Input data was truncated"),
        ("null", "Expected `object`, got `null`"),
        ("[]", "Expected `object`, got `array`"),
        ('"7"', "Expected `object`, got `str`"),
        ("{}", "Object missing required field `user_id`"),
        ('{"id":"7"}', "Object missing required field `user_id`"),
        ('{"user_id":null}', "Expected `int | str`, got `null` - at `$.user_id`"),
        ('{"user_id":true}', "Expected `int | str`, got `bool` - at `$.user_id`"),
        ('{"user_id":7.5}', "Expected `int | str`, got `float` - at `$.user_id`"),
        ('{"user_id":{}}', "Expected `int | str`, got `object` - at `$.user_id`"),
        ('{"user_id":""}', "`user_id` must have 1 to 128 characters"),
        (f'{{"user_id":"{"x" * 129}"}}', "`user_id` must have 1 to 128 characters"),
        (f'{{"user_id":{"7" * 129}}}', "`user_id` must have 1 to 128 characters"),
        (f'{{"user_id":{"7" * 5_000}}}', "Integer value out of range - at `$.user_id`"),
        ('{"user_id":"7"} x', "JSON is malformed: trailing characters (byte 17)"),
        pytest.param(
            '{"user_id":"7","user_info":' + "[" * 1_000_000 + "]" * 1_000_000 + "}",
            "it is nested too deeply",
            id="deep",
        ),
    ],
)
def test_what_is_no_member_is_refused_with_words_to_act_on(
    channel_data: str, complaint: str
) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        decode_member(channel_data)

    assert str(refusal.value) == f"Invalid channel_data: {complaint}"


NO_CHANNEL_IDS = ["auth0|7", "user:7", "Ada Ł", "a/b", "#7", "7\n", "\x00"]
NOT_IN_A_NAME = (
    "`id` may have letters, digits and _ - = @ , . ; only, because it names the channel of the "
    "user's own events"
)


def test_a_user_has_an_id_and_may_have_info_and_a_watchlist() -> None:
    user = decode_user('{"id":"7","user_info":{ "name":"Ada" },"watchlist":["9",12],"more":1}')

    assert (user.id, bytes(user.user_info), user.watchlist) == ("7", b'{ "name":"Ada" }', ["9", 12])
    assert decode_user('{"id":7}') == UserData(7)
    assert decode_user('{"id":7,"watchlist":null}').watchlist is None
    assert decode_user('{"id":"foo-bar_1234@=,.;"}').id == "foo-bar_1234@=,.;"


@pytest.mark.parametrize(
    ("user_data", "complaint"),
    [
        ("", "Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"user_id":"7"}', "Object missing required field `id`"),
        ('{"id":null}', "Expected `int | str`, got `null` - at `$.id`"),
        ('{"id":""}', "`id` must have 1 to 128 characters"),
        (f'{{"id":"{"x" * 129}"}}', "`id` must have 1 to 128 characters"),
        ('{"id":"7","watchlist":{}}', "Expected `array | null`, got `object` - at `$.watchlist`"),
        *((f'{{"id":{json.dumps(user_id)}}}', NOT_IN_A_NAME) for user_id in NO_CHANNEL_IDS),
        (
            '{"id":"7","watchlist":["8",null]}',
            "Expected `int | str`, got `null` - at `$.watchlist[1]`",
        ),
        pytest.param('{"id":"7","x":' + "[" * 1_000_000, "it is nested too deeply", id="deep"),
    ],
)
def test_what_is_no_user_is_refused_with_words_to_act_on(user_data: str, complaint: str) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        decode_user(user_data)

    assert str(refusal.value) == f"Invalid user_data: {complaint}"


@given(st.text() | _JSON.map(json.dumps))
def test_no_text_makes_the_decoders_of_people_fail_in_another_way(text: str) -> None:
    for decode, name in ((decode_member, "user_id"), (decode_user, "id")):
        for attempt in (text, f'{{"{name}":{text}}}', f'{{"{name}":"7","user_info":{text}}}'):
            try:
                decode(attempt)
            except MalformedMessage:
                pass


@given(_JSON)
def test_any_json_can_be_a_members_info(value: object) -> None:
    info = json.dumps(value, indent=1)

    member = decode_member(f'{{"user_info":{info},"user_id":"7"}}')

    assert member.id == MemberData("7").id
    assert bytes(member.user_info) == info.encode()
