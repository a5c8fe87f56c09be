"""Checking passwords in threads, without telling accounts apart."""

import asyncio

import pytest

from chat_api.features.auth.passwords import Passwords
from chat_api.kernel.errors import TooMany
from tests.chat_api.features.auth.hashers import SlowHasher
from tests.chat_api.world import CHEAP_HASHER


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
