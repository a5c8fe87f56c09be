"""What many ask is found out once, and again when it is old or was not found."""

import asyncio

import pytest

from chat_api.kernel.sharing import Shared


class Attempts:
    """Something to find out: each attempt takes until it is released, and is counted."""

    def __init__(self) -> None:
        self.count = 0
        self.may_end = asyncio.Event()
        self.fails = False

    async def __call__(self) -> int:
        self.count += 1
        count = self.count
        await self.may_end.wait()
        if self.fails:
            raise ValueError(count)
        return count


async def test_a_crowd_waits_for_one_attempt() -> None:
    attempts = Attempts()
    shared = Shared(attempts, every=3_600)
    crowd = [asyncio.create_task(shared.get()) for _ in range(100)]
    await asyncio.sleep(0)
    crowd[0].cancel()
    attempts.may_end.set()

    assert await asyncio.gather(*crowd[1:]) == [1] * 99
    assert await shared.get() == 1


async def test_what_is_old_is_found_out_anew() -> None:
    attempts = Attempts()
    attempts.may_end.set()
    shared = Shared(attempts, every=0)

    assert [await shared.get() for _ in range(3)] == [1, 2, 3]


async def test_a_failure_is_everybodys_and_not_kept() -> None:
    attempts = Attempts()
    attempts.may_end.set()
    attempts.fails = True
    shared = Shared(attempts, every=3_600)

    failures = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
    assert [str(failure) for failure in failures] == ["1", "1"]
    with pytest.raises(ValueError, match="2"):
        await shared.get()

    attempts.fails = False
    assert await shared.get() == 3
