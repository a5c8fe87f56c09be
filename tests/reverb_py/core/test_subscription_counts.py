"""How often a crowd is told its own size, and who is told at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reverb_py.core.channel import Channel
from reverb_py.core.subscription_counts import CROWD, CROWD_SECONDS, SubscriptionCounts
from reverb_py.core.timer_wheel import TimerWheel
from tests.support.notices import RecordingNotices
from tests.support.sessions import APP, RecordingSession, Turns, hub_of

COUNTING = replace(APP, subscription_counts=True)


class Crowd:
    """A channel whose size the test sets, and what is announced of it."""

    def __init__(self) -> None:
        self._hub = hub_of()
        self.wheel = TimerWheel(0.0)
        self.channel = Channel("orders")
        self.announced: list[int] = []
        self.counts = SubscriptionCounts(
            self.wheel, lambda channel: self.announced.append(len(channel.subscribers))
        )

    def has(self, size: int) -> None:
        """Let the channel have so many subscribers, silently."""
        subscribers = self.channel.subscribers
        while len(subscribers) < size:
            subscribers[RecordingSession(self._hub)] = None
        while len(subscribers) > size:
            subscribers.popitem()

    def grows_or_shrinks_to(self, size: int) -> list[int]:
        """Change the size as subscribing does, and return what is announced."""
        self.has(size)
        self.counts.changed(self.channel)
        return self.take()

    def take(self) -> list[int]:
        announced, self.announced = self.announced, []
        return announced


def test_up_to_a_hundred_every_change_is_told_at_once() -> None:
    crowd = Crowd()

    assert CROWD == 100
    for size in (1, 2, 1, 99, 100, 99, 100):
        assert crowd.grows_or_shrinks_to(size) == [size]
    crowd.wheel.advance(60.0)
    assert crowd.take() == []


def test_a_larger_crowd_is_told_at_most_every_five_seconds() -> None:
    crowd = Crowd()

    assert CROWD_SECONDS == 5.0
    assert crowd.grows_or_shrinks_to(101) == [101]
    for size in (102, 103, 102, 150):
        assert crowd.grows_or_shrinks_to(size) == []

    crowd.wheel.advance(5.0)
    assert crowd.take() == []
    crowd.wheel.advance(6.0)
    assert crowd.take() == [150]

    assert crowd.grows_or_shrinks_to(151) == []
    crowd.wheel.advance(12.0)
    assert crowd.take() == [151]


def test_a_quiet_crowd_is_told_nothing_and_then_a_change_at_once() -> None:
    crowd = Crowd()
    crowd.grows_or_shrinks_to(101)

    crowd.wheel.advance(6.0)
    assert crowd.take() == []
    crowd.wheel.advance(60.0)
    assert crowd.take() == []

    assert crowd.grows_or_shrinks_to(102) == [102]


def test_a_crowd_that_disperses_is_told_at_once_and_not_again() -> None:
    crowd = Crowd()
    crowd.grows_or_shrinks_to(101)
    crowd.grows_or_shrinks_to(102)

    assert crowd.grows_or_shrinks_to(100) == [100]
    crowd.wheel.advance(60.0)
    assert crowd.take() == []


def test_a_crowd_that_flaps_over_the_border_is_told_no_more_often_than_a_crowd() -> None:
    crowd = Crowd()
    told_to_a_crowd = []

    for second in range(1, 61):
        told_to_a_crowd += crowd.grows_or_shrinks_to(101)
        assert crowd.grows_or_shrinks_to(100) == [100]
        crowd.wheel.advance(float(second))
        told_to_a_crowd += crowd.take()

    assert 60 / CROWD_SECONDS - 2 <= len(told_to_a_crowd) <= 60 / CROWD_SECONDS + 1


def test_a_crowd_that_grew_again_in_its_pause_is_told_at_the_end_of_it() -> None:
    crowd = Crowd()
    crowd.grows_or_shrinks_to(101)
    assert crowd.grows_or_shrinks_to(100) == [100]
    assert crowd.grows_or_shrinks_to(101) == []
    assert crowd.grows_or_shrinks_to(102) == []

    crowd.wheel.advance(6.0)

    assert crowd.take() == [102]


def test_nobody_is_told_anything_when_nobody_is_left() -> None:
    crowd = Crowd()
    for size in (101, 102, *range(101, 0, -1)):
        crowd.grows_or_shrinks_to(size)

    crowd.has(0)
    crowd.wheel.advance(60.0)

    assert crowd.take() == []
    assert crowd.grows_or_shrinks_to(101) == [101]


def count(channel: str, number: int) -> str:
    return (
        f'{{"event":"pusher_internal:subscription_count","channel":"{channel}",'
        f'"data":"{{\\"subscription_count\\":{number}}}"}}'
    )


@pytest.mark.parametrize("channel", ["orders", "private-orders"])
def test_subscribers_are_told_of_every_arrival_and_departure(channel: str) -> None:
    turns = Turns()
    hub = hub_of(COUNTING, turns=turns)
    first, second = RecordingSession.begun(hub), RecordingSession.begun(hub)
    success = (
        f'{{"event":"pusher_internal:subscription_succeeded","channel":"{channel}","data":"{{}}"}}'
    )

    hub.subscribe(first, channel)
    turns.end()
    assert first.texts() == [success, count(channel, 1)]

    hub.subscribe(second, channel)
    turns.end()
    assert first.texts() == [count(channel, 2)]
    assert second.texts() == [success, count(channel, 2)]

    hub.subscribe(second, channel)
    turns.end()
    assert first.texts() == []
    assert second.texts() == [success]

    second.end()
    turns.end()
    assert first.texts() == [count(channel, 1)]


def test_the_count_comes_behind_the_last_event_of_a_cache_channel() -> None:
    turns = Turns()
    hub = hub_of(COUNTING, turns=turns)
    hub.publish("price", "1", ["cache-prices"])
    session = RecordingSession.begun(hub)

    hub.subscribe(session, "cache-prices")
    turns.end()

    assert session.texts() == [
        '{"event":"pusher_internal:subscription_succeeded","channel":"cache-prices","data":"{}"}',
        '{"event":"price","channel":"cache-prices","data":"1"}',
        count("cache-prices", 1),
    ]


@pytest.mark.parametrize(
    "channel",
    ["private-encrypted-a", "private-encrypted-cache-a", "#server-to-user-7"],
)
def test_channels_of_other_kinds_have_no_count(channel: str) -> None:
    turns = Turns()
    hub = hub_of(COUNTING, turns=turns)
    first, second = RecordingSession.begun(hub), RecordingSession.begun(hub)

    hub.subscribe(first, channel)
    first.writes.clear()
    hub.subscribe(second, channel)
    turns.end()

    assert first.writes == []


def test_presence_channels_have_members_instead_of_a_count() -> None:
    turns = Turns()
    hub = hub_of(COUNTING, turns=turns)
    first, second = RecordingSession.begun(hub), RecordingSession.begun(hub)

    hub.subscribe(first, "presence-room", "7")
    hub.subscribe(second, "presence-room", "7")
    turns.end()

    assert [text for text in first.texts() if "subscription_count" in text] == []
    assert [text for text in second.texts() if "subscription_count" in text] == []


def test_an_app_is_not_counted_unless_it_asks_but_its_backend_may_hear_of_it() -> None:
    turns, notices = Turns(), RecordingNotices()
    hub = hub_of(turns=turns, notices=notices)
    first, second = RecordingSession.begun(hub), RecordingSession.begun(hub)

    hub.subscribe(first, "orders")
    first.writes.clear()
    hub.subscribe(second, "orders")
    second.end()
    turns.end()

    assert first.writes == []
    assert notices.take() == [
        "1001 channel_occupied orders",
        "1001 subscription_count orders 1",
        "1001 subscription_count orders 2",
        "1001 subscription_count orders 1",
    ]


def test_a_backend_is_told_of_a_crowd_as_often_as_the_crowd_is() -> None:
    turns, notices, wheel = Turns(), RecordingNotices(), TimerWheel(0.0)
    hub = hub_of(turns=turns, notices=notices, wheel=wheel)
    sessions = [RecordingSession.begun(hub, "orders") for _ in range(105)]

    assert notices.take() == [
        "1001 channel_occupied orders",
        *[f"1001 subscription_count orders {n}" for n in range(1, 102)],
    ]
    wheel.advance(6.0)
    assert notices.take() == ["1001 subscription_count orders 105"]

    for session in sessions:
        session.end()
    assert notices.take() == [
        *[f"1001 subscription_count orders {n}" for n in range(100, 0, -1)],
        "1001 channel_vacated orders",
    ]


def test_an_app_that_wants_no_counts_any_more_gets_none_for_its_crowds() -> None:
    turns, wheel = Turns(), TimerWheel(0.0)
    hub = hub_of(COUNTING, turns=turns, wheel=wheel)
    sessions = [RecordingSession.begun(hub, "orders") for _ in range(103)]
    turns.end()
    for session in sessions:
        session.writes.clear()

    hub.app = replace(COUNTING, subscription_counts=False)
    wheel.advance(6.0)
    turns.end()

    assert sessions[0].writes == []


def test_a_crowd_on_one_channel_is_told_when_the_pause_is_over() -> None:
    turns, wheel = Turns(), TimerWheel(0.0)
    hub = hub_of(COUNTING, turns=turns, wheel=wheel)
    first = RecordingSession.begun(hub, "orders")
    others = [RecordingSession.begun(hub, "orders") for _ in range(101)]
    turns.end()
    first.writes.clear()

    others.pop().end()
    turns.end()
    assert first.writes == []

    wheel.advance(6.0)
    turns.end()
    assert first.texts() == [count("orders", 101)]

    others.pop().end()
    turns.end()
    assert first.texts() == [count("orders", 100)]

    for session in (first, *others):
        session.end()
    turns.end()
    wheel.advance(60.0)
    assert (hub.channels, turns.scheduled) == ({}, [])
