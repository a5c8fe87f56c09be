"""What waits for Redis, without Redis: how much, and which of the last events are still to come."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from reverb_py.cluster import outgoing as module
from reverb_py.cluster.connections import RedisAddress, RedisLink
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.outgoing import Outgoing
from reverb_py.cluster.topics import Topic
from tests.reverb_py.cluster.test_topics import Surroundings
from tests.support.sessions import hub_of


def outgoing_of(topics: dict[bytes, Topic] | None = None) -> Outgoing:
    return Outgoing(RedisLink(RedisAddress()), Keys("test:", "here"), "here", {}, topics or {})


def publish(outgoing: Outgoing, channel: str, frame: bytes, data: str | None = None) -> None:
    outgoing.publish("1001", channel, frame, None, data, ttl=60.0)


async def test_a_big_event_after_many_small_ones_leaves_no_more_than_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_OUTGOING_BYTES", 1_000)
    outgoing = outgoing_of()
    for number in range(100):
        publish(outgoing, f"small-{number}", b"x" * 10)
    assert (outgoing.waiting_bytes, outgoing.dropped) == (1_000, 0)

    for number in range(5):
        publish(outgoing, f"big-{number}", b"x" * 500)
        assert outgoing.waiting_bytes <= 1_000

    assert (outgoing.waiting_bytes, outgoing.dropped) == (1_000, 103)


async def test_that_events_are_dropped_is_said_now_and_then_and_again_when_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_OUTGOING_BYTES", 0)
    outgoing = outgoing_of()
    with capture_logs() as logs:
        for _ in range(10):
            publish(outgoing, "orders", b"x")
        monkeypatch.setattr(outgoing, "_quiet_until", 0.0)
        for _ in range(10):
            publish(outgoing, "orders", b"x")

    assert logs == [
        {
            "event": "What other nodes should have had is dropped: Redis is too slow or away",
            "log_level": "error",
            "so_far": so_far,
        }
        for so_far in (1, 11)
    ]


async def test_answers_that_wait_for_redis_are_bounded_by_number_and_by_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGES", 5)
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 1_000)
    outgoing = outgoing_of()
    for _ in range(8):
        outgoing.command(("SET", b"k", b"x" * 9))
    assert (outgoing.waiting_bytes, outgoing.dropped) == (50, 3)

    outgoing.command(("SET", b"k", b"x" * 979))
    assert (outgoing.waiting_bytes, outgoing.dropped) == (1_000, 6)
    # One alone may be as big as it is.
    outgoing.command(("SET", b"k", b"x" * 5_000))
    assert (outgoing.waiting_bytes, outgoing.dropped) == (5_001, 9)


async def test_an_older_last_event_that_comes_back_is_passed_over_while_a_younger_is_to_come() -> (
    None
):
    hub = hub_of()
    key = b"test:{1001:cache-a}"
    topic = Topic(
        Surroundings(), lambda: hub, "1001", "cache-a", key, has_members=False, is_cached=True
    )
    outgoing = outgoing_of({key: topic})
    publish(outgoing, "cache-a", b"before anybody listens", "0")
    assert not outgoing.is_on_its_way(key)

    topic.listening()
    publish(outgoing, "cache-a", b"older", "1")
    publish(outgoing, "cache-a", b"younger", "2")

    assert outgoing.is_on_its_way(key)
    assert not outgoing.has_come_back(key, b"older")
    assert outgoing.is_on_its_way(key)
    assert outgoing.has_come_back(key, b"younger")
    assert not outgoing.is_on_its_way(key)
    # Of a time in which nobody listened here, Redis knows the order.
    assert outgoing.has_come_back(key, b"another")


async def test_what_does_not_come_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = hub_of()
    key = b"test:{1001:cache-a}"
    topic = Topic(
        Surroundings(), lambda: hub, "1001", "cache-a", key, has_members=False, is_cached=True
    )
    outgoing = outgoing_of({key: topic})
    topic.listening()

    publish(outgoing, "cache-a", b"one", "1")
    outgoing.is_not_heard(key)
    assert not outgoing.is_on_its_way(key)
    publish(outgoing, "cache-a", b"two", "2")
    outgoing.forget()
    assert not outgoing.is_on_its_way(key)
    monkeypatch.setattr(module, "MAX_OUTGOING_BYTES", 0)
    publish(outgoing, "cache-a", b"three", "3")
    assert not outgoing.is_on_its_way(key)
