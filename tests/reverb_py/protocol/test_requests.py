"""What a backend may publish, and what it is told when it may not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.protocol.requests import (
    MAX_BATCH_EVENTS,
    MAX_CHANNELS,
    MAX_IDEMPOTENCY_KEY_LENGTH,
    EventRequest,
    InvalidRequest,
    check_idempotency_key,
    decode_batch,
    decode_event,
    parse_info,
)

_GOOD: dict[str, Any] = {"name": "order-shipped", "channels": ["orders"], "data": '{"id":7}'}


def event(**fields: Any) -> bytes:
    """Return a good event as JSON with some fields replaced; None leaves a field out."""
    return json.dumps(
        {name: value for name, value in {**_GOOD, **fields}.items() if value is not None}
    ).encode()


def batch(*events: dict[str, Any]) -> bytes:
    return json.dumps({"batch": events}).encode()


def refusal_of_event(body: bytes, max_data_bytes: int = 10_240) -> tuple[int, str]:
    with pytest.raises(InvalidRequest) as refusal:
        decode_event(body, max_data_bytes)
    assert str(refusal.value) == refusal.value.message
    return refusal.value.status, refusal.value.message


def refusal_of_batch(body: bytes, max_data_bytes: int = 10_240) -> tuple[int, str]:
    with pytest.raises(InvalidRequest) as refusal:
        decode_batch(body, max_data_bytes)
    return refusal.value.status, refusal.value.message


def test_an_event_is_decoded_with_everything_it_may_carry() -> None:
    body = (
        b'{"name":"order-shipped","channels":["orders","private-user-7"],"data":"{\\"id\\":7}",'
        b'"socket_id":"218374.9021344","info":"subscription_count","unknown":1}'
    )

    assert decode_event(body, 10_240) == EventRequest(
        name="order-shipped",
        data='{"id":7}',
        channels=["orders", "private-user-7"],
        socket_id="218374.9021344",
        info="subscription_count",
    )


@pytest.mark.parametrize("channels", [None, []])
def test_one_channel_may_replace_the_list(channels: list[str] | None) -> None:
    decoded = decode_event(event(channels=channels, channel="orders"), 10_240)

    assert decoded.channels == ["orders"]


def test_a_list_of_channels_counts_before_a_single_one() -> None:
    assert decode_event(event(channel="other"), 10_240).channels == ["orders"]


def test_null_means_absent() -> None:
    body = (
        b'{"name":"a","channels":null,"channel":"orders","data":"","socket_id":null,"info":null,'
        b'"idempotency_key":null}'
    )

    assert decode_event(body, 10_240) == EventRequest(
        name="a", data="", channels=["orders"], channel="orders"
    )


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Object missing required field `name`"),
        (event(data=None), "Object missing required field `data`"),
        (event(name=5), "Expected `str`, got `int` - at `$.name`"),
        (event(data={"id": 7}), "Expected `str`, got `object` - at `$.data`"),
        (event(channels="orders"), "Expected `array | null`, got `str` - at `$.channels`"),
        (event(channels=[7]), "Expected `str`, got `int` - at `$.channels[0]`"),
        (event(socket_id=1.1), "Expected `str | null`, got `float` - at `$.socket_id`"),
        (
            b'{"name":"\xff"}',
            "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        ),
        pytest.param(
            b'{"name":"a","x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
            "it is nested too deeply",
            id="deep",
        ),
    ],
)
def test_a_body_that_is_no_event_is_refused(body: bytes, complaint: str) -> None:
    assert refusal_of_event(body) == (400, f"The body is not an event: {complaint}")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"name": ""}, "`name` must have 1 to 200 characters"),
        ({"name": "x" * 201}, "`name` must have 1 to 200 characters"),
        ({"channels": None}, "Name the targets in `channels` (or one in `channel`)"),
        ({"channels": []}, "Name the targets in `channels` (or one in `channel`)"),
        ({"channels": ["orders", ""]}, "'' is not a channel name"),
        ({"channels": ["or ders"]}, "'or ders' is not a channel name"),
        ({"channels": ["orders\n"]}, "'orders\\n' is not a channel name"),
        ({"channels": ["x" * 1_000]}, f"{'x' * 250!r} is not a channel name"),
        (
            {"channels": ["orders", "private-encrypted-x"]},
            "An event for an encrypted channel goes to that channel alone",
        ),
        ({"socket_id": "1.2:private-x"}, "'1.2:private-x' is not a socket id"),
        ({"socket_id": ""}, "'' is not a socket id"),
        ({"socket_id": "9" * 1_000}, f"{'9' * 50!r} is not a socket id"),
    ],
)
def test_an_event_that_breaks_a_rule_is_refused(fields: dict[str, Any], complaint: str) -> None:
    assert refusal_of_event(event(**fields)) == (400, complaint)


def test_an_event_goes_to_100_channels_and_no_more() -> None:
    channels = [f"channel-{n}" for n in range(MAX_CHANNELS)]

    assert decode_event(event(channels=channels), 10_240).channels == channels
    assert refusal_of_event(event(channels=[*channels, "another"])) == (
        400,
        "An event goes to at most 100 channels; this one names 101",
    )


def test_an_encrypted_channel_alone_is_fine() -> None:
    assert decode_event(event(channels=["private-encrypted-x"]), 10_240).channels == [
        "private-encrypted-x"
    ]


def test_the_longest_name_has_200_characters() -> None:
    assert decode_event(event(name="ä" * 200), 10_240).name == "ä" * 200


@pytest.mark.parametrize(
    ("data", "size"),
    [("x" * 20, 20), ("é" * 10, 20), ("😀" * 5, 20), ("x" * 18 + "é", 20), ("", 0)],
)
def test_data_is_measured_in_bytes_of_utf8(data: str, size: int) -> None:
    body = event(data=data)

    assert decode_event(body, size).data == data
    assert decode_event(body, size + 1).data == data


@pytest.mark.parametrize("data", ["x" * 20, "é" * 10, "😀" * 5, "x" * 18 + "é"])
def test_data_over_the_apps_limit_is_refused_with_413(data: str) -> None:
    assert refusal_of_event(event(data=data), 19) == (
        413,
        "`data` has 20 bytes; an event carries at most 19",
    )


@given(st.text(), st.integers(0, 40))
def test_the_limit_is_exact_whatever_the_characters(data: str, limit: int) -> None:
    body = json.dumps({**_GOOD, "data": data}).encode()
    size = len(data.encode())

    if size <= limit:
        assert decode_event(body, limit).data == data
    else:
        assert refusal_of_event(body, limit)[0] == 413


def test_a_batch_gives_each_event_its_own_channel() -> None:
    events = decode_batch(
        batch(
            {"channel": "orders", "name": "a", "data": "1"},
            {"channel": "presence-room", "name": "b", "data": "2", "info": "user_count"},
            {"channel": "orders", "channels": ["ignored"], "name": "c", "data": "3"},
        ),
        10_240,
    )

    assert [(event.name, event.channels, event.info) for event in events] == [
        ("a", ["orders"], None),
        ("b", ["presence-room"], "user_count"),
        ("c", ["orders"], None),
    ]


def test_a_batch_may_be_empty() -> None:
    assert decode_batch(b'{"batch":[]}', 10_240) == []


def test_a_batch_holds_10_events_and_no_more() -> None:
    events = [{"channel": "orders", "name": "a", "data": "1"}] * MAX_BATCH_EVENTS

    assert len(decode_batch(batch(*events), 10_240)) == 10
    assert refusal_of_batch(batch(*events, events[0])) == (
        400,
        "A batch holds at most 10 events; this one has 11",
    )


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Object missing required field `batch`"),
        (b'{"batch":{}}', "Expected `array`, got `object` - at `$.batch`"),
        (b'{"batch":[{}]}', "Object missing required field `name` - at `$.batch[0]`"),
        pytest.param(b'{"x":' + b"[" * 1_000_000, "it is nested too deeply", id="deep"),
    ],
)
def test_a_body_that_is_no_batch_is_refused(body: bytes, complaint: str) -> None:
    assert refusal_of_batch(body) == (400, f"The body is not a batch of events: {complaint}")


@pytest.mark.parametrize(
    ("bad", "status", "complaint"),
    [
        ({"name": "b", "data": "2"}, 400, "batch[1]: `channel` is missing"),
        (
            {"name": "b", "data": "2", "channels": ["orders"]},
            400,
            "batch[1]: `channel` is missing",
        ),
        (
            {"name": "b", "data": "2", "channel": "or/ders"},
            400,
            "batch[1]: 'or/ders' is not a channel name",
        ),
        (
            {"name": "b", "data": "x" * 21, "channel": "orders"},
            413,
            "batch[1]: `data` has 21 bytes; an event carries at most 20",
        ),
    ],
)
def test_one_bad_event_refuses_the_batch_and_is_pointed_at(
    bad: dict[str, Any], status: int, complaint: str
) -> None:
    good = {"channel": "orders", "name": "a", "data": "1"}

    assert refusal_of_batch(batch(good, bad, good), 20) == (status, complaint)


_ALLOWED = frozenset({"subscription_count", "user_count"})


@pytest.mark.parametrize(
    ("info", "wanted"),
    [
        (None, set()),
        ("", set()),
        ("user_count", {"user_count"}),
        ("user_count,subscription_count", {"user_count", "subscription_count"}),
        (" user_count , subscription_count ", {"user_count", "subscription_count"}),
        ("user_count,user_count", {"user_count"}),
        ("user_count,", {"user_count"}),
        (",user_count, ,,subscription_count", {"user_count", "subscription_count"}),
        (" , ", set()),
    ],
)
def test_info_is_a_comma_list_of_attributes(info: str | None, wanted: set[str]) -> None:
    assert parse_info(info, _ALLOWED) == wanted


@pytest.mark.parametrize(
    ("info", "named"),
    [("cache", "cache"), ("user_count,weight,cache", "cache,weight")],
)
def test_an_attribute_that_is_not_available_is_refused(info: str, named: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_info(info, _ALLOWED)

    assert (refusal.value.status, refusal.value.message) == (
        400,
        f"info={named} is not available here; ask for subscription_count or user_count",
    )


@pytest.mark.parametrize("key", ["a", "0b7c3a1e-97f1", " ", "ł" * MAX_IDEMPOTENCY_KEY_LENGTH])
def test_an_event_may_carry_a_key_for_the_case_of_being_sent_twice(key: str) -> None:
    check_idempotency_key(key)
    assert decode_event(event(idempotency_key=key), 10_240).idempotency_key == key

    one = {"channel": "orders", "name": "a", "data": "1"}
    events = decode_batch(batch(one, one | {"idempotency_key": key}), 10_240)
    assert [event.idempotency_key for event in events] == [None, key]


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_an_idempotency_key_that_is_empty_or_too_long_is_refused(key: str) -> None:
    complaint = "An idempotency key has 1 to 200 characters"

    with pytest.raises(InvalidRequest) as refusal:
        check_idempotency_key(key)
    assert (refusal.value.status, refusal.value.message) == (400, complaint)
    assert refusal_of_event(event(idempotency_key=key)) == (400, complaint)
    one = {"channel": "orders", "name": "a", "data": "1"}
    assert refusal_of_batch(batch(one, one | {"idempotency_key": key})) == (
        400,
        f"batch[1]: {complaint}",
    )


def test_an_idempotency_key_is_a_string() -> None:
    assert refusal_of_event(event(idempotency_key=7)) == (
        400,
        "The body is not an event: Expected `str | null`, got `int` - at `$.idempotency_key`",
    )
