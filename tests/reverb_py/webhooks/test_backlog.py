"""What may go now: everything but the channels of which something is out."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from reverb_py.webhooks.backlog import Backlog, Batch, Event

MANY = 1_000


def backlog_of(*names: str, most: int = MANY, most_bytes: int = MANY) -> Backlog:
    """Return a backlog; the event "a1" happened on the channel "a"."""
    backlog = Backlog(most, most_bytes)
    for name in names:
        backlog.put(event(name))
    return backlog


def event(name: str) -> Event:
    return Event(name[0], name.encode())


def take(backlog: Backlog, most: int = 1, most_bytes: int = MANY) -> Batch:
    batch = backlog.take(most, most_bytes)
    assert batch is not None
    return batch


def names(batch: Batch) -> list[str]:
    return [content.decode() for _, content in batch.events]


def test_events_go_in_the_order_in_which_they_happened() -> None:
    backlog = backlog_of("a1", "b1", "a2")
    gone = []
    while batch := backlog.take(1, MANY):
        gone += names(batch)
        backlog.settle(batch)

    assert gone == ["a1", "b1", "a2"]
    assert (len(backlog), backlog.waiting, backlog.out) == (0, 0, 0)


def test_of_a_channel_that_is_out_nothing_may_go_and_of_others_everything() -> None:
    backlog = backlog_of("a1", "a2", "b1", "a3", "b2")
    first = take(backlog)

    assert names(take(backlog)) == ["b1"]
    assert backlog.take(1, MANY) is None
    assert (len(backlog), backlog.out) == (5, 2)

    backlog.settle(first)
    backlog.put(event("a4"))
    assert names(take(backlog, 10)) == ["a2", "a3", "a4"]


def test_a_batch_is_bounded_in_events_and_in_bytes() -> None:
    backlog = backlog_of("a1", "b1", "c1", "d1", "e1", "f123456789", "g1")

    assert names(take(backlog, 2)) == ["a1", "b1"]
    assert names(take(backlog, 10, most_bytes=5)) == ["c1", "d1"]
    assert names(take(backlog, 10, most_bytes=11)) == ["e1"]
    assert names(take(backlog, 10, most_bytes=5)) == ["f123456789"]
    assert names(take(backlog, 10, most_bytes=5)) == ["g1"]


def test_the_second_half_of_a_batch_is_next_before_all_that_came_later() -> None:
    backlog = backlog_of("a1", "b1", "a2", "c1", "d1")
    batch = take(backlog, 4)
    backlog.put(event("b2"))
    backlog.put(event("c2"))
    assert names(take(backlog)) == ["d1"]
    assert backlog.take(10, MANY) is None

    assert backlog.halve(batch)

    assert names(batch) == ["a1", "b1"]
    rest = take(backlog, 10)
    assert names(rest) == ["c1", "c2"]
    assert backlog.take(10, MANY) is None

    assert backlog.halve(batch)
    assert names(batch) == ["a1"]
    other = take(backlog, 10)
    assert names(other) == ["b1", "b2"]

    assert not backlog.halve(batch)
    backlog.settle(batch)
    assert names(take(backlog, 10)) == ["a2"]


def test_the_halves_of_a_batch_of_one_channel_follow_each_other() -> None:
    backlog = backlog_of("a1", "a2", "a3")
    batch = take(backlog, 3)

    assert backlog.halve(batch)

    assert names(batch) == ["a1"]
    assert backlog.take(10, MANY) is None
    backlog.settle(batch)
    assert names(take(backlog, 10)) == ["a2", "a3"]


def test_beyond_its_bound_the_oldest_is_dropped_but_nothing_that_is_out() -> None:
    backlog = backlog_of("a1", "b1", "a2", "c1", most=4)
    first, second, third = take(backlog), take(backlog), take(backlog)
    assert [names(batch) for batch in (first, second, third)] == [["a1"], ["b1"], ["c1"]]

    # What waits behind a batch is older than what has just come.
    assert backlog.put(event("d1")) == 1
    assert backlog.put(event("e1")) == 1
    assert backlog.put(event("f1")) == 1

    for batch in (first, second, third):
        backlog.settle(batch)
    assert names(take(backlog, 10)) == ["f1"]


def test_bytes_that_are_out_count_and_the_newest_always_stays() -> None:
    backlog = backlog_of("a1234", most_bytes=10)
    batch = take(backlog)
    assert backlog.put(event("b1234")) == 0
    assert backlog.put(event("c1")) == 1
    assert backlog.put(event("d123456789")) == 1

    assert backlog.put(event("e1")) == 1
    assert names(take(backlog, 10)) == ["e1"]
    backlog.settle(batch)
    assert len(backlog) == 1


def test_nothing_is_left_of_a_backlog_that_was_cleared() -> None:
    backlog = backlog_of("a1", "a2", "b1", most=3)
    take(backlog)
    assert names(take(backlog)) == ["b1"]

    backlog.clear()

    assert (len(backlog), backlog.waiting, backlog.out) == (0, 0, 0)
    for name in ("a3", "b2", "c1"):
        assert backlog.put(event(name)) == 0
    assert names(take(backlog, 10)) == ["a3", "b2", "c1"]


steps = st.lists(
    st.tuples(st.sampled_from(["put", "take", "halve", "settle"]), st.integers(0, 99)), max_size=80
)


@given(steps, st.integers(1, 5))
def test_every_channel_is_told_completely_and_in_order(
    steps: list[tuple[str, int]], size: int
) -> None:
    backlog = Backlog(MANY, MANY * MANY)
    happened: Counter[str] = Counter()
    told: dict[str, list[int]] = {}
    out: list[Batch] = []

    def put(number: int) -> None:
        channel = "abcd"[number % 4]
        happened[channel] += 1
        backlog.put(Event(channel, str(happened[channel]).encode()))

    def take_one() -> None:
        if batch := backlog.take(size, MANY):
            out.append(batch)

    def settle(number: int) -> None:
        batch = out.pop(number % len(out))
        for channel, content in batch.events:
            told.setdefault(channel, []).append(int(content))
        backlog.settle(batch)

    for step, number in steps:
        if step == "put":
            put(number)
        elif step == "take":
            take_one()
        elif out and step == "halve":
            backlog.halve(out[number % len(out)])
        elif out:
            settle(number)
        channels = [{each.channel for each in batch.events} for batch in out]
        assert sum(map(len, channels)) == len(set().union(*channels))
    while backlog:
        take_one()
        settle(0)

    assert told == {channel: list(range(1, count + 1)) for channel, count in happened.items()}
    assert (backlog.waiting, backlog.out) == (0, 0)
