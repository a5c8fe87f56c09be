"""How often somebody may do something."""

import pytest

from chat_api.kernel.errors import TooMany
from chat_api.kernel.throttling import Throttle


async def test_each_key_has_its_own_count() -> None:
    throttle = Throttle(2, 60, "Too fast.")
    for key in ("ann", "ann", "bob"):
        await throttle.hit(key)

    with pytest.raises(TooMany, match=r"Too fast\. Try again in \d+ s\.") as refusal:
        await throttle.hit("ann")
    await throttle.hit("bob")

    assert 1 <= refusal.value.retry_after <= 60
    assert refusal.value.headers == {"Retry-After": str(refusal.value.retry_after)}


async def test_a_hit_given_back_does_not_count() -> None:
    throttle = Throttle(1, 60, "Too fast.")
    for _ in range(3):
        await throttle.hit("ann")
        await throttle.give_back("ann")
    await throttle.hit("ann")

    with pytest.raises(TooMany):
        await throttle.hit("ann")


async def test_zero_is_no_limit() -> None:
    throttle = Throttle(0, 60, "Too fast.")
    for _ in range(100):
        await throttle.hit("ann")
    await throttle.give_back("ann")
