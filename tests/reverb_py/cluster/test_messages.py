"""What nodes say to each other: understood, or refused as a whole."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.cluster.messages import (
    Answer,
    Ask,
    Change,
    Counts,
    Event,
    Published,
    Terminate,
    Unintelligible,
    decode,
    decode_answer,
    decode_last_event,
    decode_members,
    decode_request,
    encode,
    encode_published,
)
from reverb_py.protocol import frames

_FRAMES = st.binary(max_size=300).map(frames.text_frame)
_NAMES = st.none() | st.text(max_size=10)
EVENT: Event = (frames.event("n", "orders", "1"), None, None)


@given(st.text(), st.lists(st.tuples(_FRAMES, _NAMES, _NAMES), max_size=3))
def test_what_was_published_is_understood(node: str, events: list[Event]) -> None:
    assert decode(encode_published(node, events)) == Published(node, events)


def test_what_the_scripts_say_is_understood() -> None:
    assert decode(b'+7 9 2\n\xc3\xa9{"name":"E"}') == Change(7, 9, "é", b'{"name":"E"}')
    assert decode(b"+0 9 1\n7") == Change(0, 9, "7", b"")
    assert decode(b"-9 12 3\na\nb") == Change(9, 12, "a\nb", None)
    assert decode(b"=one.1 2 two.1 0") == Counts({"one.1": 2, "two.1": 0})
    assert decode(b"=") == Counts({})


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x",
        b"E",
        b"E\xc1",
        b"E" + encode("a"),
        b"E" + encode(("a", [("text", None, None)])),
        b"E" + encode(("a", [(b"no frame", None, None)])),
        b"E" + encode(("a", [(EVENT[0] + b"x", None, None)])),
        b"E" + encode(("a", [(EVENT[0][:-1], None, None)])),
        b"E" + encode(("a", [(b"\x88" + EVENT[0][1:], None, None)])),
        b"E" + encode(("a", [(EVENT[0], 7, None)])),
        b"E" + encode(("a", [EVENT])) + b"x",
        b"E" + b"\x91" * 100_000,
        b"=a",
        b"=a b",
        b"=a -1",
        b"=\xff 1",
        b"=a " + b"9" * 10_000,
        b"+",
        b"+1 2\n7",
        b"+a b c\n7",
        b"+1 2 1\n\xff{}",
        b"+1 2 1\n7{",
        b"+1 2 1\n7" + b"[" * 100_000,
        b"-1 2 1 4\n7",
        b"-1 2 1\n\xff",
    ],
)
def test_what_makes_no_sense_on_a_channels_topic_is_refused(message: bytes) -> None:
    with pytest.raises(Unintelligible):
        decode(message)


@given(
    st.binary(max_size=40)
    | st.builds(
        bytes.__add__,
        st.sampled_from(b"E=+-").map(lambda sign: bytes([sign])),
        st.binary(max_size=40),
    )
)
def test_nothing_else_is_raised(message: bytes) -> None:
    for understand in (decode, decode_request, decode_answer, decode_last_event):
        try:
            understand(message)
        except Unintelligible:
            pass


@given(st.integers(0, 200))
def test_what_is_cut_short_is_refused(length: int) -> None:
    whole = encode_published("node", [EVENT, EVENT])
    if length < len(whole):
        with pytest.raises(Unintelligible):
            decode(whole[:length])


def test_requests_and_answers_are_understood() -> None:
    ask = Ask("node", "1001", 7, "presence-", ["a"])
    assert decode_request(encode(ask)) == ask
    terminate = Terminate("node", "1001", "7")
    assert decode_request(encode(terminate)) == terminate
    answer = Answer(7, {"a": (2, ["7"])}, 3)
    assert decode_answer(encode(answer)) == answer


def test_a_later_version_may_add_to_what_it_says() -> None:
    longer = [*msgspec.msgpack.decode(encode(Terminate("node", "1001", "7"))), "more"]
    assert decode_request(encode(longer)) == Terminate("node", "1001", "7")


@pytest.mark.parametrize(
    "message",
    [
        ["become", "node", "1001"],
        ["terminate", "node", "1001"],
        ["terminate", "node", ["1001"], "7"],
        ["ask", "node", "1001", "7", "", None],
        ["ask", "node", "1001", 7, None, None],
        ["ask", "node", "1001", 7, "", [7]],
        {"terminate": "7"},
        None,
    ],
)
def test_requests_that_make_no_sense_are_refused(message: object) -> None:
    with pytest.raises(Unintelligible):
        decode_request(encode(message))


@pytest.mark.parametrize(
    "message",
    [[7, {}], [7, {"a": 1}, 3], [7, {"a": [-1, []]}, 3], [7, {}, -3], ["7", {}, 3], 7],
)
def test_answers_that_make_no_sense_are_refused(message: object) -> None:
    with pytest.raises(Unintelligible):
        decode_answer(encode(message))


def test_a_last_event_is_a_frame_and_its_data() -> None:
    assert decode_last_event(encode((EVENT[0], "1"))) == (EVENT[0], "1")
    for value in (b"", b"1", encode((b"no frame", "1")), encode((EVENT[0],))):
        with pytest.raises(Unintelligible):
            decode_last_event(value)


def test_members_that_are_none_are_left_out() -> None:
    pairs = [b"7", b"{}", b"\xff", b"{}", b"8", b"{", b"9", b""]
    assert decode_members(pairs) == {"7": b"{}", "9": b""}
