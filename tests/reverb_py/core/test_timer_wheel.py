"""One timer for everybody: deadlines are never early, at most a tick late, and leave nothing."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from reverb_py.core.timer_wheel import TimerWheel


class Alarm:
    """Counts how often it went off, and then does as it was told."""

    def __init__(self, action: Callable[[], None] | None = None) -> None:
        self.timer_due = 0
        self.timer_slot = 0
        self.rung = 0
        self.action = action

    def on_timer(self) -> None:
        self.rung += 1
        if self.action is not None:
            self.action()


def ring_time(wheel: TimerWheel, alarm: Alarm, now: float, step: float) -> float:
    """Advance the wheel in steps until the alarm rings, and return when that was."""
    before = alarm.rung
    for _ in range(10_000):
        now += step
        wheel.advance(now)
        if alarm.rung > before:
            return now
    raise AssertionError("the alarm never rang")


@pytest.mark.parametrize("seconds", [0, 1, 2, 60, 0.25, 1.5, 59.75])
@pytest.mark.parametrize("offset", [0, 0.25, 0.75])
def test_a_deadline_is_never_early_and_at_most_a_tick_late(seconds: float, offset: float) -> None:
    wheel, alarm = TimerWheel(now=500.0), Alarm()
    wheel.advance(500.0 + offset)

    wheel.schedule(alarm, seconds)
    rang = ring_time(wheel, alarm, 500.0 + offset, 0.25)

    assert seconds <= rang - (500.0 + offset) <= math.ceil(seconds) + 1


@pytest.mark.parametrize("resolution", [0.0625, 0.5, 1.0, 4.0])
def test_the_resolution_is_how_late_a_deadline_may_be(resolution: float) -> None:
    wheel, alarm = TimerWheel(0.0, resolution), Alarm()

    wheel.schedule(alarm, 8.0)
    rang = ring_time(wheel, alarm, 0.0, resolution / 4)

    assert 8.0 <= rang <= 8.0 + resolution


def test_a_deadline_comes_once() -> None:
    wheel, alarm = TimerWheel(0.0), Alarm()
    wheel.schedule(alarm, 5)

    for now in range(100):
        wheel.advance(float(now))

    assert alarm.rung == 1


def test_a_later_deadline_replaces_an_earlier_one() -> None:
    wheel, alarm = TimerWheel(0.0), Alarm()
    wheel.schedule(alarm, 5)
    wheel.advance(3.0)

    wheel.schedule(alarm, 10)

    assert 13 <= ring_time(wheel, alarm, 3.0, 1.0) <= 14
    wheel.advance(100.0)
    assert alarm.rung == 1


def test_an_earlier_deadline_replaces_a_later_one() -> None:
    wheel, alarm = TimerWheel(0.0), Alarm()
    wheel.schedule(alarm, 50)
    wheel.advance(3.0)

    wheel.schedule(alarm, 5)

    assert 8 <= ring_time(wheel, alarm, 3.0, 1.0) <= 9
    wheel.advance(100.0)
    assert alarm.rung == 1


def test_a_deadline_that_moved_out_and_back_in_counts_where_it_is() -> None:
    wheel, alarm = TimerWheel(0.0), Alarm()

    for seconds in (20, 60, 5, 40, 10):
        wheel.schedule(alarm, seconds)

    assert 10 <= ring_time(wheel, alarm, 0.0, 1.0) <= 11


def test_an_alarm_may_set_itself_again() -> None:
    wheel = TimerWheel(0.0)
    alarm = Alarm()
    alarm.action = lambda: wheel.schedule(alarm, 10)
    wheel.schedule(alarm, 10)

    first = ring_time(wheel, alarm, 0.0, 1.0)
    second = ring_time(wheel, alarm, first, 1.0)

    assert 10 <= second - first <= 11


def test_after_a_pause_an_alarm_that_sets_itself_again_rings_once() -> None:
    # A process that was stopped must not run through a client's ping, its wait and its end at once.
    wheel = TimerWheel(0.0)
    alarm = Alarm()
    alarm.action = lambda: wheel.schedule(alarm, 10)
    wheel.schedule(alarm, 10)

    wheel.advance(1_000.0)

    assert alarm.rung == 1
    assert 1_010 <= ring_time(wheel, alarm, 1_000.0, 1.0) <= 1_011


def test_after_a_pause_everything_that_is_due_rings() -> None:
    wheel = TimerWheel(0.0)
    alarms = [Alarm() for _ in range(50)]
    for seconds, alarm in enumerate(alarms):
        wheel.schedule(alarm, seconds)

    wheel.advance(30.0)

    assert [alarm.rung for alarm in alarms] == [1] * 30 + [0] * 20


def test_a_cancelled_alarm_does_not_ring() -> None:
    wheel, alarm = TimerWheel(0.0), Alarm()
    wheel.schedule(alarm, 5)

    wheel.cancel(alarm)
    wheel.advance(100.0)

    assert alarm.rung == 0


def test_cancelling_what_is_not_scheduled_does_nothing() -> None:
    wheel, alarm = TimerWheel(0.0), Alarm()

    wheel.cancel(alarm)
    wheel.schedule(alarm, 1)
    wheel.advance(10.0)
    wheel.cancel(alarm)
    wheel.cancel(alarm)

    assert alarm.rung == 1


def test_a_cancelled_alarm_can_be_set_again() -> None:
    wheel, alarm = TimerWheel(0.0), Alarm()
    wheel.schedule(alarm, 5)
    wheel.cancel(alarm)

    wheel.schedule(alarm, 50)

    assert 50 <= ring_time(wheel, alarm, 0.0, 1.0) <= 51


def test_an_alarm_may_cancel_another_that_is_due_at_the_same_time() -> None:
    wheel = TimerWheel(0.0)
    alarms = [Alarm() for _ in range(10)]

    def cancel_all() -> None:
        for alarm in alarms:
            wheel.cancel(alarm)

    for alarm in alarms:
        alarm.action = cancel_all
        wheel.schedule(alarm, 5)
    wheel.advance(100.0)

    assert sum(alarm.rung for alarm in alarms) == 1


def test_an_alarm_may_put_off_another_that_is_due_at_the_same_time() -> None:
    wheel = TimerWheel(0.0)
    one, other = Alarm(), Alarm()
    one.action = lambda: wheel.schedule(other, 20)
    other.action = lambda: wheel.schedule(one, 20)
    wheel.schedule(one, 5)
    wheel.schedule(other, 5)

    wheel.advance(6.0)
    assert one.rung + other.rung == 1

    one.action = other.action = None
    wheel.advance(100.0)
    assert (one.rung, other.rung) in ((1, 1), (0, 2), (2, 0))


def test_what_was_cancelled_or_has_rung_is_let_go() -> None:
    wheel = TimerWheel(0.0)
    cancelled, rung, moved = Alarm(), Alarm(), Alarm()
    wheel.schedule(cancelled, 50)
    wheel.schedule(rung, 5)
    wheel.schedule(moved, 5)
    wheel.schedule(moved, 500)
    wheel.advance(10.0)
    wheel.cancel(cancelled)
    wheel.cancel(moved)

    references = [weakref.ref(alarm) for alarm in (cancelled, rung, moved)]
    del cancelled, rung, moved
    gc.collect()

    assert [reference() for reference in references] == [None, None, None]


def test_an_idle_wheel_keeps_no_slots() -> None:
    wheel = TimerWheel(0.0)
    alarms = [Alarm() for _ in range(20)]
    for seconds, alarm in enumerate(alarms):
        wheel.schedule(alarm, seconds)
        if seconds % 2:
            wheel.cancel(alarm)

    wheel.advance(100.0)

    assert wheel._slots == {}


def test_ticks_are_the_cheapest_clock() -> None:
    wheel = TimerWheel(0.0, resolution=0.5)
    tick = wheel.tick

    wheel.advance(10.0)

    assert wheel.seconds_since(tick) == 10.0


def test_a_clock_that_stands_still_turns_nothing() -> None:
    wheel, alarm = TimerWheel(0.0), Alarm()
    wheel.advance(10.0)
    wheel.schedule(alarm, 0)
    tick = wheel.tick

    wheel.advance(10.0)
    wheel.advance(9.0)

    assert (wheel.tick, alarm.rung) == (tick, 0)


class WheelBesideALog(RuleBasedStateMachine):
    """A wheel beside a list of deadlines, under any order of settings, cancellations and pauses."""

    alarms = st.integers(0, 4)
    # Quarters are exact in binary, so the model needs no tolerance.
    seconds = st.integers(0, 40).map(lambda quarters: quarters / 4)

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.wheel = TimerWheel(self.now)
        self.set_at: dict[int, tuple[float, float]] = {}
        self.again: dict[int, float] = {}
        self.victims: dict[int, int] = {}
        self.objects = [Alarm(lambda n=n: self.rings(n)) for n in range(5)]  # type: ignore[misc]

    def rings(self, number: int) -> None:
        at, seconds = self.set_at.pop(number)
        assert self.now >= at + seconds, "early"
        if number in self.again:
            self.set(number, self.again.pop(number))
        if number in self.victims:
            self.cancel(self.victims.pop(number))

    @rule(number=alarms, seconds=seconds)
    def set(self, number: int, seconds: float) -> None:
        self.set_at[number] = (self.now, seconds)
        self.wheel.schedule(self.objects[number], seconds)

    @rule(number=alarms)
    def cancel(self, number: int) -> None:
        self.set_at.pop(number, None)
        self.wheel.cancel(self.objects[number])

    @rule(number=alarms, seconds=seconds)
    def tell_to_set_itself_again(self, number: int, seconds: float) -> None:
        self.again[number] = seconds

    @rule(number=alarms, victim=alarms)
    def tell_to_cancel(self, number: int, victim: int) -> None:
        self.victims[number] = victim

    @rule(pause=st.one_of(st.just(1.0), seconds, st.just(200.0)))
    def time_passes(self, pause: float) -> None:
        self.now += pause
        self.wheel.advance(self.now)
        for at, seconds in self.set_at.values():
            assert at + math.ceil(seconds) + 1 > self.now, "late"

    def teardown(self) -> None:
        self.again.clear()
        self.time_passes(1_000.0)
        assert self.set_at == {}
        assert self.wheel._slots == {}


TestWheelBesideALog = WheelBesideALog.TestCase
TestWheelBesideALog.settings = settings(max_examples=60, stateful_step_count=30)
