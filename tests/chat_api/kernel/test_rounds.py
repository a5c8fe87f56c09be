"""One round after another, whatever becomes of them."""

import asyncio

from structlog.testing import capture_logs

from chat_api.kernel.errors import Unavailable
from chat_api.kernel.rounds import Rounds

NEVER = 3600.0
PATIENCE = 30.0


class Work:
    """What is done: each round as the next of `outcomes` says, and then for ever the last."""

    def __init__(self, *outcomes: float | Exception) -> None:
        self._outcomes = list(outcomes)
        self._rounds: asyncio.Queue[None] = asyncio.Queue()

    async def __call__(self) -> float:
        self._rounds.put_nowait(None)
        outcome = self._outcomes[0] if len(self._outcomes) == 1 else self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def has_done(self, rounds: int) -> None:
        """Wait until there were so many further rounds."""
        async with asyncio.timeout(PATIENCE):
            for _ in range(rounds):
                await self._rounds.get()

    @property
    def rests(self) -> bool:
        """Whether there was no round that nobody waited for."""
        return self._rounds.empty()


async def test_the_next_round_comes_when_the_last_one_said() -> None:
    work = Work(0.0, 0.001, NEVER)
    async with Rounds("work", work, pause=NEVER).running():
        await work.has_done(3)
    assert work.rests


async def test_waking_does_not_wait_for_that() -> None:
    work = Work(NEVER)
    rounds = Rounds("work", work, pause=NEVER)
    async with rounds.running():
        for _ in range(3):
            await work.has_done(1)
            rounds.wake()
        await work.has_done(1)


async def test_what_wakes_during_a_round_brings_another() -> None:
    work = Work(NEVER)
    rounds: Rounds

    async def wake_itself() -> float:
        if work.rests:
            rounds.wake()
        return await work()

    rounds = Rounds("work", wake_itself, pause=NEVER)
    async with rounds.running():
        await work.has_done(2)


async def test_a_round_that_fails_is_logged_and_the_next_one_comes_after_a_pause() -> None:
    work = Work(ValueError("a mistake"), NEVER)
    with capture_logs() as logs:
        async with Rounds("looking around", work, pause=0.001).running():
            await work.has_done(2)

    [line] = logs
    assert line["event"] == "Work in the background failed and is tried again"
    assert line["work"] == "looking around"
    assert line["log_level"] == "error"


async def test_what_is_out_of_reach_has_said_so_itself() -> None:
    work = Work(Unavailable("The database is away"), NEVER)
    with capture_logs() as logs:
        async with Rounds("work", work, pause=0.001).running():
            await work.has_done(2)

    assert logs == []


async def test_its_end_ends_a_round_that_is_under_way() -> None:
    has_begun, was_cancelled = asyncio.Event(), False

    async def hang() -> float:
        nonlocal was_cancelled
        has_begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled = True
            raise
        return NEVER

    async with asyncio.timeout(PATIENCE), Rounds("work", hang, pause=NEVER).running():
        await has_begun.wait()
    assert was_cancelled
