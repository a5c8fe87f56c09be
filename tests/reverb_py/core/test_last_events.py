"""What was said last: for how long it is remembered, and that it is forgotten."""

import weakref

from hypothesis import given
from hypothesis import strategies as st

from reverb_py.core.last_events import (
    MAX_REMEMBERED,
    MAX_REMEMBERED_BYTES,
    MISS_SECONDS,
    LastEvent,
    LastEvents,
)


class Data(str):
    """A string whose end can be watched."""


def test_nothing_is_remembered_of_a_channel_where_nothing_was_said() -> None:
    assert LastEvents().recall("cache-a", 0.0) is None


def test_the_last_event_of_each_channel_is_remembered() -> None:
    events = LastEvents()
    events.remember("cache-a", b"<1>", "1", 60.0, 100.0)
    events.remember("cache-b", b"<2>", "2", 60.0, 101.0)
    events.remember("cache-a", b"<3>", "3", 60.0, 102.0)

    assert events.recall("cache-a", 103.0) == LastEvent(b"<3>", "3", 162.0)
    assert events.recall("cache-b", 103.0) == LastEvent(b"<2>", "2", 161.0)


def test_an_event_is_remembered_until_its_time_is_up() -> None:
    events = LastEvents()
    events.remember("cache-a", b"<1>", "1", 60.0, 100.0)

    assert events.recall("cache-a", 159.75) is not None
    assert events.recall("cache-a", 160.0) is None
    assert events.recall("cache-a", 1_000.0) is None


def test_looking_does_not_prolong() -> None:
    events = LastEvents()
    events.remember("cache-a", b"<1>", "1", 60.0, 100.0)

    assert events.recall("cache-a", 150.0) is not None
    assert events.recall("cache-a", 161.0) is None


def test_zero_seconds_remember_nothing_and_forget_what_was_before() -> None:
    events = LastEvents()
    events.remember("cache-a", b"<1>", "1", 60.0, 100.0)
    events.remember("cache-a", b"<2>", "2", 0.0, 101.0)

    assert events.recall("cache-a", 101.0) is None


def test_what_has_expired_is_let_go_with_the_next_event() -> None:
    events = LastEvents()
    data = Data("1")
    watch = weakref.ref(data)
    events.remember("cache-a", b"<1>", data, 60.0, 100.0)
    del data
    assert watch() is not None

    events.remember("cache-b", b"<2>", "2", 60.0, 160.0)

    assert watch() is None


def test_beyond_the_most_those_published_longest_ago_are_forgotten() -> None:
    events = LastEvents()
    for n in range(MAX_REMEMBERED):
        events.remember(f"cache-{n}", b"", "", 60.0, 100.0)
    events.remember("cache-0", b"<again>", "again", 60.0, 100.0)
    assert events.recall("cache-1", 100.0) is not None

    events.remember("cache-new", b"", "", 60.0, 100.0)

    assert events.recall("cache-1", 100.0) is None
    assert events.recall("cache-2", 100.0) is not None
    assert events.recall("cache-0", 100.0) == LastEvent(b"<again>", "again", 160.0)
    assert events.recall("cache-new", 100.0) is not None


# Lifetimes differ when the app's setting is changed while the server runs.
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 5.0, 60.0]), st.integers(0, 30)),
        max_size=30,
    )
)
def test_whatever_the_lifetimes_each_channel_recalls_its_last_event_in_time(
    steps: list[tuple[str, float, int]],
) -> None:
    events, now = LastEvents(), 0.0
    expected: dict[str, LastEvent] = {}
    for number, (channel, seconds, wait) in enumerate(steps):
        now += wait
        events.remember(channel, b"%d" % number, str(number), seconds, now)
        expected[channel] = LastEvent(b"%d" % number, str(number), now + seconds)

        for name in "abc":
            last = expected.get(name)
            is_alive = last is not None and last.expires_at > now
            assert events.recall(name, now) == (last if is_alive else None)


def test_beyond_so_many_bytes_the_oldest_are_forgotten() -> None:
    events = LastEvents()
    half = b"x" * (MAX_REMEMBERED_BYTES // 2)
    for _ in range(3):
        events.remember("cache-a", half, "1", 60.0, 100.0)
    events.remember("cache-b", half, "2", 60.0, 101.0)
    assert events.recall("cache-a", 102.0) is not None

    events.remember("cache-c", b"x", "3", 60.0, 102.0)

    assert events.recall("cache-a", 103.0) is None
    assert events.recall("cache-b", 103.0) is not None
    assert events.recall("cache-c", 103.0) is not None


def test_misses_on_many_channels_are_not_noted_for_ever() -> None:
    events = LastEvents()
    channel = Data("cache-a")
    watch = weakref.ref(channel)
    assert events.is_first_miss(channel, 100.0)
    del channel
    assert watch() is not None

    for n in range(MAX_REMEMBERED):
        assert events.is_first_miss(f"cache-{n}", 100.0)
    assert watch() is None
    assert not events.is_first_miss(f"cache-{MAX_REMEMBERED - 1}", 100.0)

    assert events.is_first_miss("cache-a", 100.0 + MISS_SECONDS)
    assert events.is_first_miss(f"cache-{MAX_REMEMBERED - 1}", 100.0 + MISS_SECONDS)
