"""Checking passwords in threads, without telling accounts apart."""

import asyncio
import threading
from typing import Literal

import pytest
from argon2 import PasswordHasher

from chat_api.features.auth.passwords import Passwords
from chat_api.kernel.errors import TooMany
from tests.chat_api.world import CHEAP_HASHER


class SlowHasher(PasswordHasher):
    """Counts checks and how many ran at once, and holds each until it is let go."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.let_go = threading.Event()
        self.checked: list[str | bytes] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
        with self._lock:
            self.checked.append(hash)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        self.let_go.wait(60)
        with self._lock:
            self._now -= 1
        return super().verify(hash, password)


async def test_the_right_password_and_no_other_matches() -> None:
    passwords = Passwords(CHEAP_HASHER, workers=1)
    stored = await passwords.hash("parol")

    assert await passwords.verify("parol", stored)
    assert not await passwords.verify("Parol", stored)
    assert not await passwords.verify("parol", "not a hash")
    passwords.close()


async def test_an_unknown_account_costs_a_check_and_never_matches() -> None:
    hasher = SlowHasher()
    hasher.let_go.set()
    passwords = Passwords(hasher, workers=1)

    assert not await passwords.verify("a password that no account has", None)
    assert len(hasher.checked) == 1
    passwords.close()


async def test_checks_run_in_few_threads_and_a_long_line_is_turned_away() -> None:
    hasher = SlowHasher()
    passwords = Passwords(hasher, workers=2)
    waiting = [asyncio.create_task(passwords.verify("x", None)) for _ in range(66)]
    await asyncio.sleep(0)  # every task gets as far as its thread

    with pytest.raises(TooMany) as refusal:
        await passwords.verify("x", None)
    hasher.let_go.set()
    answers = await asyncio.gather(*waiting)

    assert refusal.value.retry_after == 1
    assert answers == [False] * 66
    assert hasher.most_at_once <= 2
    passwords.close()
