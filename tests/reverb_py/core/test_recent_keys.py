"""Idempotency keys: known for a while, and then as if never seen."""

import weakref

from reverb_py.core.recent_keys import KEY_SECONDS, MAX_KEYS, RecentKeys


class Key(str):
    """A string whose end can be watched."""


def test_a_key_is_repeated_when_it_comes_again() -> None:
    keys = RecentKeys()

    assert [keys.is_repeated(key, 100.0) for key in ("a", "b", "a", "b", "c")] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_a_key_is_known_for_two_minutes() -> None:
    keys = RecentKeys()
    assert KEY_SECONDS == 120.0
    assert not keys.is_repeated("a", 100.0)

    assert keys.is_repeated("a", 219.75)
    assert not keys.is_repeated("a", 220.0)


def test_a_key_that_comes_back_after_its_time_is_known_for_as_long_again() -> None:
    keys = RecentKeys()
    assert not keys.is_repeated("a", 0.0)
    assert not keys.is_repeated("b", 100.0)
    assert not keys.is_repeated("a", 120.0)

    assert keys.is_repeated("a", 239.0)
    assert not keys.is_repeated("b", 239.0)


def test_repeating_a_key_does_not_prolong_it() -> None:
    keys = RecentKeys()
    assert not keys.is_repeated("a", 0.0)
    assert keys.is_repeated("a", 119.0)

    assert not keys.is_repeated("a", 120.0)


def test_expired_keys_are_let_go() -> None:
    keys = RecentKeys()
    key = Key("a")
    watch = weakref.ref(key)
    assert not keys.is_repeated(key, 0.0)
    del key
    assert watch() is not None

    assert not keys.is_repeated("b", 120.0)

    assert watch() is None


def test_beyond_the_most_the_oldest_are_forgotten() -> None:
    keys = RecentKeys()
    for n in range(MAX_KEYS):
        assert not keys.is_repeated(f"key-{n}", 0.0)
    assert keys.is_repeated("key-0", 0.0)
    assert keys.is_repeated(f"key-{MAX_KEYS - 1}", 0.0)

    assert not keys.is_repeated("another", 0.0)

    assert keys.is_repeated("key-1", 0.0)
    assert keys.is_repeated("another", 0.0)
    assert not keys.is_repeated("key-0", 0.0)
