"""Pauses grow, have a limit, follow the endpoint's wish, and end after five minutes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.webhooks.retries import Pause, Retries, retry_after


def retries(jitter: float = 1.0) -> Retries:
    return Retries(first=1.0, longest=60.0, give_up=300.0, jitter=lambda: jitter)


def test_pauses_double_from_one_second_to_a_minute() -> None:
    subject = retries()
    subject.begin(0.0)

    pauses = [subject.failed(0.0).seconds for _ in range(9)]

    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_a_pause_is_between_a_half_and_the_whole_of_what_it_could_be() -> None:
    shortest, middle = retries(jitter=0.0), retries(jitter=0.5)
    shortest.begin(0.0)
    middle.begin(0.0)

    assert [shortest.failed(0.0).seconds for _ in range(3)] == [0.5, 1.0, 2.0]
    assert [middle.failed(0.0).seconds for _ in range(3)] == [0.75, 1.5, 3.0]


@given(st.floats(0.0, 1.0), st.floats(0.0, 10.0), st.lists(st.floats(0.0, 1e6)))
def test_every_request_is_tried_for_five_minutes_and_no_longer(
    jitter: float, latency: float, wishes: list[float]
) -> None:
    subject, now = retries(jitter), 1_000.0
    subject.begin(now)
    wishes.reverse()
    attempts = 1
    while (pause := subject.failed(now + latency, wishes.pop() if wishes else 0.0)).again:
        now += latency + pause.seconds
        attempts += 1
        assert now <= 1_300.0 + 1e-6
        assert attempts < 1_000

    assert now == pytest.approx(1_300.0, abs=latency + 1e-6)


def test_the_next_request_goes_on_with_long_pauses_until_one_succeeds() -> None:
    subject = retries()
    subject.begin(0.0)
    for _ in range(8):
        subject.failed(0.0)
    assert subject.failed(300.0) == Pause(60.0, again=False)

    subject.begin(360.0)
    assert subject.failed(360.0) == Pause(60.0, again=True)
    subject.succeeded()

    subject.begin(420.0)
    assert subject.failed(420.0) == Pause(1.0, again=True)


def test_the_endpoint_s_wish_is_followed_as_far_as_the_time_allows() -> None:
    subject = retries()
    subject.begin(0.0)

    assert subject.failed(0.0, wish=30.0) == Pause(30.0, again=True)
    assert subject.failed(30.0, wish=0.5) == Pause(2.0, again=True)
    assert subject.failed(32.0, wish=3_600.0) == Pause(268.0, again=True)
    assert subject.failed(300.0, wish=3_600.0) == Pause(300.0, again=False)


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
