"""How often somebody may do something."""

from datetime import UTC, datetime, timedelta

import pytest

from chat_api.kernel.errors import TooMany
from chat_api.kernel.throttling import Throttle


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2024, 10, 25, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def test_each_key_has_its_own_count() -> None:
    throttle = Throttle(2, 60, "Too fast.", Clock())
    for key in ("ann", "ann", "bob"):
        throttle.hit(key)

    with pytest.raises(TooMany, match=r"^Too fast\. Try again in 60 s\.$") as refusal:
        throttle.hit("ann")
    throttle.hit("bob")

    assert refusal.value.retry_after == 60
    assert refusal.value.headers == {"Retry-After": "60"}


def test_the_wait_is_the_rest_of_the_window_and_then_all_is_forgotten() -> None:
    clock = Clock()
    throttle = Throttle(1, 60, "Too fast.", clock)
    throttle.hit("ann")
    clock.move(30)
    throttle.hit("bob")
    clock.move(29.5)

    waits = []
    for key in ("ann", "bob"):
        with pytest.raises(TooMany) as refusal:
            throttle.hit(key)
        waits.append(refusal.value.retry_after)
    assert waits == [1, 31]

    clock.move(0.5)
    throttle.hit("ann")
    with pytest.raises(TooMany):
        throttle.hit("bob")


def test_a_clock_that_is_put_back_locks_nobody_out() -> None:
    clock = Clock()
    throttle = Throttle(1, 60, "Too fast.", clock)
    throttle.hit("ann")

    clock.move(-3600)

    throttle.hit("ann")


def test_a_hit_given_back_does_not_count() -> None:
    throttle = Throttle(1, 60, "Too fast.", Clock())
    throttle.give_back("ann")
    for _ in range(3):
        throttle.hit("ann")
        throttle.give_back("ann")
    throttle.hit("ann")

    with pytest.raises(TooMany):
        throttle.hit("ann")


def test_zero_is_no_limit() -> None:
    throttle = Throttle(0, 60, "Too fast.", Clock())
    for _ in range(100):
        throttle.hit("ann")
    throttle.give_back("ann")
