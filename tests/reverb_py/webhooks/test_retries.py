"""Pauses grow, have a limit, follow the endpoint's wish, and end after five minutes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.webhooks.retries import Retries, retry_after


def retries(jitter: float = 1.0) -> Retries:
    return Retries(first=1.0, longest=60.0, give_up=300.0, jitter=lambda: jitter)


def test_pauses_double_from_one_second_to_a_minute() -> None:
    pauses = [retries().pause(failures) for failures in range(1, 10)]

    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert retries().pause(1_000_000) == 60.0


def test_a_pause_is_between_a_half_and_the_whole_of_what_it_could_be() -> None:
    assert [retries(jitter=0.0).pause(failures) for failures in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert [retries(jitter=0.5).pause(failures) for failures in (1, 2, 3)] == [0.75, 1.5, 3.0]


@given(st.floats(0.0, 1.0), st.floats(0.0, 10.0), st.lists(st.floats(0.0, 1e6)))
def test_every_request_is_tried_for_five_minutes_and_no_longer(
    jitter: float, latency: float, wishes: list[float]
) -> None:
    subject, tried, failures = retries(jitter), latency, 1
    wishes.reverse()
    while True:
        pause = subject.next_pause(failures, tried, wishes.pop() if wishes else 0.0)
        if pause is None:
            break
        assert tried + pause <= 300.0 + 1e-6
        tried += pause + latency
        failures += 1
        assert failures < 1_000

    assert tried == pytest.approx(300.0, abs=latency + 1e-6)


def test_the_endpoint_s_wish_is_followed_as_far_as_the_time_allows() -> None:
    subject = retries()

    assert subject.next_pause(1, 0.0, wish=30.0) == 30.0
    assert subject.next_pause(2, 30.0, wish=0.5) == 2.0
    assert subject.next_pause(3, 32.0, wish=3_600.0) == 268.0
    assert subject.next_pause(4, 300.0, wish=3_600.0) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("9" * 400, 0.0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:13:19 GMT", 0.0),
        ("Tue, 14 Nov 99999 22:13:19 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float) -> None:
    assert retry_after(header, now=1_700_000_000.0) == seconds
