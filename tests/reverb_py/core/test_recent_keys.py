"""Idempotency keys: answered alike for a while, and then as if never seen."""

import weakref

from hypothesis import given
from hypothesis import strategies as st

from reverb_py.core.recent_keys import KEY_SECONDS, MAX_BYTES, MAX_KEYS, RecentKeys


class Key(str):
    """A string whose end can be watched."""


def test_a_key_that_never_came_has_no_answer() -> None:
    assert RecentKeys().answer_to("a", 100.0) is None


def test_a_key_that_comes_again_gets_the_same_answer() -> None:
    keys = RecentKeys()
    keys.remember("a", b"<1>", 100.0)
    keys.remember("b", b"", 100.0)

    assert [keys.answer_to(key, 101.0) for key in "abac"] == [b"<1>", b"", b"<1>", None]


def test_a_key_is_known_for_two_minutes() -> None:
    keys = RecentKeys()
    assert KEY_SECONDS == 120.0
    keys.remember("a", b"<1>", 100.0)

    assert keys.answer_to("a", 219.75) == b"<1>"
    assert keys.answer_to("a", 220.0) is None


def test_a_key_that_comes_back_after_its_time_is_known_for_as_long_again() -> None:
    keys = RecentKeys()
    keys.remember("a", b"<1>", 0.0)
    keys.remember("b", b"<2>", 100.0)
    keys.remember("a", b"<3>", 120.0)

    assert keys.answer_to("a", 239.0) == b"<3>"
    assert keys.answer_to("b", 219.0) == b"<2>"
    assert keys.answer_to("b", 239.0) is None


def test_asking_does_not_prolong() -> None:
    keys = RecentKeys()
    keys.remember("a", b"", 0.0)
    assert keys.answer_to("a", 119.0) == b""

    assert keys.answer_to("a", 120.0) is None


def test_expired_keys_are_let_go_with_the_next_key() -> None:
    keys = RecentKeys()
    key = Key("a")
    watch = weakref.ref(key)
    keys.remember(key, b"", 0.0)
    del key
    assert watch() is not None

    keys.remember("b", b"", 120.0)

    assert watch() is None


def test_beyond_the_most_the_oldest_are_forgotten() -> None:
    keys = RecentKeys()
    for n in range(MAX_KEYS):
        keys.remember(f"key-{n}", b"", 0.0)
    assert keys.answer_to("key-0", 0.0) == b""

    keys.remember("another", b"", 0.0)

    assert keys.answer_to("key-0", 0.0) is None
    assert keys.answer_to("key-1", 0.0) == b""
    assert keys.answer_to("another", 0.0) == b""


def test_beyond_so_many_bytes_the_oldest_are_forgotten() -> None:
    keys = RecentKeys()
    half = b"x" * (MAX_BYTES // 2 - 1)
    for _ in range(3):
        keys.remember("a", half, 0.0)
    keys.remember("b", half, 0.0)
    assert keys.answer_to("a", 0.0) == half

    keys.remember("c", b"", 0.0)

    assert keys.answer_to("a", 0.0) is None
    assert keys.answer_to("b", 0.0) == half
    assert keys.answer_to("c", 0.0) == b""


def test_the_keys_themselves_are_counted_too() -> None:
    keys = RecentKeys()
    keys.remember("a", b"x" * (MAX_BYTES - 100), 0.0)

    keys.remember("k" * 100, b"", 0.0)

    assert keys.answer_to("a", 0.0) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 80)), max_size=30))
def test_each_key_has_its_first_answer_for_two_minutes(steps: list[tuple[str, int]]) -> None:
    keys, now = RecentKeys(), 0.0
    answered: dict[str, tuple[bytes, float]] = {}
    for number, (key, wait) in enumerate(steps):
        now += wait
        body, until = answered.get(key, (b"", 0.0))
        expected = body if until > now else None
        assert keys.answer_to(key, now) == expected
        if expected is None:
            keys.remember(key, b"%d" % number, now)
            answered[key] = (b"%d" % number, now + KEY_SECONDS)
