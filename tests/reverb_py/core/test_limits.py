"""The token bucket."""

from hypothesis import given
from hypothesis import strategies as st

from reverb_py.core.limits import TokenBucket


def test_a_fresh_bucket_is_full() -> None:
    bucket = TokenBucket(rate=1, capacity=3, now=100.0)

    assert [bucket.take(100.0) for _ in range(5)] == [True, True, True, False, False]


def test_tokens_come_back_at_the_rate() -> None:
    bucket = TokenBucket(rate=2, capacity=2, now=100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [True, True, False]

    assert not bucket.take(100.25)
    assert bucket.take(100.5)
    assert not bucket.take(100.75)
    assert [bucket.take(101.5) for _ in range(3)] == [True, True, False]


def test_a_refused_take_costs_nothing() -> None:
    bucket = TokenBucket(rate=1, capacity=1, now=0.0)
    assert bucket.take(0.0)

    assert [bucket.take(n / 8) for n in range(1, 8)] == [False] * 7
    assert bucket.take(1.0)


def test_waiting_long_fills_the_bucket_and_no_more() -> None:
    bucket = TokenBucket(rate=10, capacity=3, now=0.0)

    assert [bucket.take(1_000_000.0) for _ in range(4)] == [True, True, True, False]


# Times in 64ths of a second and rates that are powers of two make every sum exact.
@given(
    st.sampled_from([0.25, 0.5, 1, 2, 8]),
    st.integers(1, 8),
    st.lists(st.integers(0, 256), max_size=60),
)
def test_no_stretch_of_time_allows_more_than_its_share(
    rate: float, capacity: int, waits: list[int]
) -> None:
    bucket = TokenBucket(rate, capacity, 0.0)
    now, taken = 0.0, []
    for wait in waits:
        now += wait / 64
        if bucket.take(now):
            taken.append(now)
        elif taken:
            # A refusal says that the share was used up, not that it was withheld.
            assert any(
                len([at for at in taken if at >= start]) + 1 > (now - start) * rate
                for start in taken
            )

    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= capacity + (taken[last] - start) * rate
