"""How often somebody may do something, and how many of one address at a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.core import limits as limits_module
from reverb_py.core.limits import (
    AddressLimits,
    ClientEventLimits,
    Objection,
    TokenBucket,
    TokenBuckets,
)
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


@pytest.mark.parametrize(("rate", "wait"), [(0.5, 2.0), (1, 1.0), (8, 0.125)])
def test_an_empty_bucket_says_how_long_it_takes_to_the_next(rate: float, wait: float) -> None:
    bucket = TokenBucket(rate, capacity=2, now=100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [True, True, False]

    assert bucket.seconds_until_next() == wait
    assert not bucket.take(100.0 + wait / 2)
    assert bucket.seconds_until_next() == wait / 2
    assert bucket.take(100.0 + wait)


def test_a_bucket_that_is_not_empty_needs_no_time() -> None:
    bucket = TokenBucket(rate=1, capacity=2, now=100.0)
    bucket.take(100.0)

    assert bucket.seconds_until_next() == 0.0


def test_each_key_has_a_bucket_of_its_own() -> None:
    buckets = TokenBuckets(rate=1, capacity=2, now=0.0)

    assert [buckets.of("a", 0.0).take(0.0) for _ in range(3)] == [True, True, False]
    assert buckets.of("b", 0.0).take(0.0)


# Time in quarters of a second makes every sum exact.
@given(
    st.sampled_from([0.5, 1, 2]),
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20)), max_size=60),
)
def test_forgetting_a_bucket_changes_no_answer(
    rate: float, capacity: int, takes: list[tuple[str, int]]
) -> None:
    buckets = TokenBuckets(rate, capacity, 0.0)
    never_forgotten = {key: TokenBucket(rate, capacity, 0.0) for key in "ab"}
    now = 0.0
    for key, wait in takes:
        now += wait / 4
        assert buckets.of(key, now).take(now) == never_forgotten[key].take(now)


def test_a_crowd_of_keys_fills_two_tables_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "MAX_ADDRESSES", 3)
    buckets = TokenBuckets(rate=1, capacity=1, now=0.0)
    assert buckets.of("a", 0.0).take(0.0)
    for key in "bcde":
        buckets.of(key, 0.0)
    # Early, the older table is kept as long as the newer one is not full.
    assert not buckets.of("a", 0.0).take(0.0)
    assert len(buckets) == 6
    for key in "fghij":
        buckets.of(key, 0.0)
    assert len(buckets) <= 6
    assert buckets.of("b", 0.0).take(0.0)


def test_an_address_may_have_so_many_connections_at_a_time() -> None:
    limits = AddressLimits(2, 0, 0, FakeClock())

    assert [limits.admit("192.0.2.1") for _ in range(3)] == [
        None,
        None,
        Objection(
            "More than 2 connections from one address", 60, "REVERB_MAX_CONNECTIONS_PER_ADDRESS"
        ),
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
    limits = AddressLimits(0, 3, 0, clock)

    def connect_and_go() -> Objection | None:
        objection = limits.admit("192.0.2.1")
        limits.release("192.0.2.1")
        return objection

    objection = Objection(
        "More than 3 new connections in a minute from one address",
        20,
        "REVERB_CONNECTS_PER_MINUTE_PER_ADDRESS",
    )
    assert [connect_and_go() for _ in range(5)] == [None, None, None, objection, objection]
    clock.now += 12.5
    assert connect_and_go() == objection._replace(retry_after=8)
    clock.now += 7.5
    assert [connect_and_go() for _ in range(2)] == [None, objection]
    clock.now += 61
    assert [connect_and_go() for _ in range(4)] == [None, None, None, objection]


def test_an_address_may_make_so_many_requests_in_a_second() -> None:
    clock = FakeClock()
    limits = AddressLimits(0, 0, 2, clock)
    objection = Objection(
        "More than 2 requests in a second from one address",
        1,
        "REVERB_REQUESTS_PER_SECOND_PER_ADDRESS",
    )

    assert [limits.admit_request("192.0.2.1") for _ in range(3)] == [None, None, objection]
    assert limits.admit_request("192.0.2.2") is None
    clock.now += 0.5
    assert [limits.admit_request("192.0.2.1") for _ in range(2)] == [None, objection]


def test_limits_of_an_address_that_are_not_set_hold_nobody_back() -> None:
    limits = AddressLimits(0, 0, 0, FakeClock())

    assert [limits.admit("192.0.2.1") for _ in range(1_000)] == [None] * 1_000
    assert [limits.admit_request("192.0.2.1") for _ in range(1_000)] == [None] * 1_000


def test_addresses_that_have_gone_are_forgotten() -> None:
    clock = FakeClock()
    limits = AddressLimits(5, 5, 5, clock)
    for number in range(1_000):
        limits.admit(f"address {number}")
        limits.admit_request(f"address {number}")
        limits.release(f"address {number}")

    for _ in range(2):
        clock.now += 61
        limits.admit("192.0.2.1")
        limits.admit_request("192.0.2.1")
        limits.release("192.0.2.1")

    assert limits._connections == {}
    for buckets in (limits._connects, limits._requests):
        assert buckets is not None
        assert set(buckets._buckets) | set(buckets._before) == {"192.0.2.1"}


def test_client_events_of_an_address_are_counted_before_those_of_the_app() -> None:
    limits = ClientEventLimits()
    flood = [limits.objection(2, 3, "192.0.2.1", 0.0) for _ in range(9)]

    of_address = Objection(
        "more than 2 in a second from one address",
        1,
        "REVERB_APP_CLIENT_EVENTS_PER_SECOND_PER_ADDRESS",
    )
    assert flood == [None, None] + [of_address] * 7
    assert limits.objection(2, 3, "192.0.2.2", 0.0) is None
    assert limits.objection(2, 3, "192.0.2.3", 0.0) == Objection(
        "more than 3 in a second from all clients of the app",
        1,
        "REVERB_APP_CLIENT_EVENTS_PER_SECOND_PER_APP",
    )
