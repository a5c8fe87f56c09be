"""How often somebody may do something, and how many of one address at a time."""

from hypothesis import given
from hypothesis import strategies as st

from reverb_py.core.limits import AddressLimits, TokenBucket
from tests.support.sessions import FakeClock


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


def test_an_address_may_have_so_many_connections_at_a_time() -> None:
    limits = AddressLimits(2, 0, FakeClock())

    assert [limits.admit("192.0.2.1") for _ in range(3)] == [
        None,
        None,
        "More than 2 connections from one address",
    ]
    assert limits.admit("192.0.2.2") is None
    # The refused one counts until it is gone, too.
    limits.release("192.0.2.1")
    assert limits.admit("192.0.2.1") is not None
    limits.release("192.0.2.1")
    limits.release("192.0.2.1")
    assert limits.admit("192.0.2.1") is None


def test_an_address_may_open_so_many_connections_in_a_minute() -> None:
    clock = FakeClock()
    limits = AddressLimits(0, 3, clock)

    def connect_and_go() -> str | None:
        objection = limits.admit("192.0.2.1")
        limits.release("192.0.2.1")
        return objection

    objection = "More than 3 new connections in a minute from one address"
    assert [connect_and_go() for _ in range(5)] == [None, None, None, objection, objection]
    clock.now += 20
    assert [connect_and_go() for _ in range(2)] == [None, objection]
    clock.now += 61
    assert [connect_and_go() for _ in range(4)] == [None, None, None, objection]


def test_addresses_that_have_gone_are_forgotten() -> None:
    clock = FakeClock()
    limits = AddressLimits(5, 5, clock)
    for number in range(1_000):
        limits.admit(f"address {number}")
        limits.release(f"address {number}")

    for _ in range(2):
        clock.now += 61
        limits.admit("192.0.2.1")
        limits.release("192.0.2.1")

    assert limits._connections == {}
    assert set(limits._buckets) | set(limits._last_buckets) == {"192.0.2.1"}
