"""What is counted where it happens: each limit under its variable, each value in its bucket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from reverb_py.core.apps import ClientEventsFrom, RateLimit
from reverb_py.core.channel import Channel
from reverb_py.core.delivery import MAX_TICK_BYTES, Delivery
from reverb_py.core.figures import Histogram
from reverb_py.core.hubs import Hubs
from reverb_py.core.last_events import LastEvents
from reverb_py.core.recent_keys import RecentKeys
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.protocol import signing
from reverb_py.server.http_api import HttpApi, Request
from tests.support.sessions import APP, FakeClock, RecordingSession, Turns, hub_of

Act = Callable[[RecordingSession], object]


def say(session: RecordingSession, event: str, **fields: object) -> None:
    session.receive(orjson.dumps({"event": event, **fields}).decode())


def subscribe(session: RecordingSession, channel: str, channel_data: str | None = None) -> None:
    data = {"channel": channel, "auth": session.auth_for(channel, channel_data)}
    if channel_data is not None:
        data["channel_data"] = channel_data
    say(session, "pusher:subscribe", data=data)


def subscribe_each(session: RecordingSession, channels: str) -> None:
    for channel in channels:
        subscribe(session, channel)


def sign_in(session: RecordingSession) -> None:
    app = session.hub.app
    user = '{"id":"1","watchlist":["2","3"]}'
    auth = signing.user_auth(app.key, app.secret, session.socket_id, user)
    say(session, "pusher:signin", data={"auth": auth, "user_data": user})


def relay(session: RecordingSession, data: str = "1") -> None:
    say(session, "client-x", channel="private-a", data=data)


def join_twice(session: RecordingSession) -> None:
    subscribe(session, "presence-a", '{"user_id":"1"}')
    subscribe(RecordingSession.begun(session.hub), "presence-a", '{"user_id":"2"}')


def twice(act: Act) -> Act:
    return lambda session: [act(session), act(session)]


LIMITS: dict[str, tuple[dict[str, Any], Act]] = {
    "RATE_LIMITING_ENABLED": (
        {"rate_limit": RateLimit(max_attempts=1, decay_seconds=60, terminate=False)},
        twice(lambda s: say(s, "pusher:ping")),
    ),
    "MALFORMED_MESSAGES_PER_MINUTE": (
        {"malformed_messages_per_minute": 1},
        twice(lambda s: s.receive("nonsense")),
    ),
    "SUBSCRIPTIONS_PER_SECOND": (
        {"subscriptions_per_second": 1, "max_channels_per_connection": 1},
        lambda s: subscribe_each(s, "aaa"),
    ),
    "SUBSCRIPTIONS_PER_SECOND_PER_ADDRESS": (
        {"subscriptions_per_second_per_address": 1},
        lambda s: subscribe_each(s, "ab"),
    ),
    "MAX_CHANNELS_PER_CONNECTION": (
        {"max_channels_per_connection": 1},
        lambda s: subscribe_each(s, "ab"),
    ),
    "MAX_PRESENCE_MEMBERS": ({"max_presence_members": 1}, join_twice),
    "MAX_PRESENCE_MEMBER_SIZE": (
        {"max_presence_member_bytes": 5},
        lambda s: subscribe(s, "presence-a", '{"user_id":"1"}'),
    ),
    "MAX_WATCHLIST": ({"max_watchlist": 1}, sign_in),
    "MAX_EVENT_DATA_SIZE": ({"max_event_data_bytes": 5}, lambda s: relay(s, "too long")),
    "CLIENT_EVENTS_PER_SECOND": ({"client_events_per_second": 1}, twice(relay)),
    "CLIENT_EVENTS_PER_SECOND_PER_ADDRESS": (
        {"client_events_per_second_per_address": 1},
        twice(relay),
    ),
    "CLIENT_EVENTS_PER_SECOND_PER_APP": ({"client_events_per_second_per_app": 1}, twice(relay)),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_that_has_an_effect_is_counted_under_its_variable(limit: str) -> None:
    settings, act = LIMITS[limit]
    app = replace(APP, client_events_from=ClientEventsFrom.ALL, **settings)
    session = RecordingSession.begun(hub_of(app, clock=FakeClock()))

    act(session)

    assert session.hub.figures.limit_hits == {f"REVERB_APP_{limit}": 1}


def test_a_client_that_does_not_prove_itself_in_time_is_counted() -> None:
    wheel = TimerWheel(0.0)
    hub = hub_of(replace(APP, authorization_seconds=5.0), wheel=wheel)
    RecordingSession.begun(hub)

    wheel.advance(10.0)

    assert hub.figures.limit_hits == {"REVERB_APP_AUTHORIZATION_SECONDS": 1}


@pytest.mark.parametrize(
    ("settings", "limit", "status"),
    [
        ({"publishes_per_second": 1}, "REVERB_APP_PUBLISHES_PER_SECOND", 429),
        ({"max_event_data_bytes": 1}, "REVERB_APP_MAX_EVENT_DATA_SIZE", 413),
    ],
)
def test_a_refused_publish_is_counted_with_what_it_was_answered(
    settings: dict[str, Any], limit: str, status: int
) -> None:
    app = replace(APP, **settings)
    hub = hub_of(app, clock=FakeClock())
    api = HttpApi(Hubs([app], lambda _: hub), FakeClock())
    answers = []
    bodies = (
        b'{"name":"a","channels":["a"],"data":"1"}',
        b'{"name":"a","channels":["a"],"data":"22"}',
    )
    for body in bodies:
        path = f"/apps/{app.id}/events"
        query = signing.signed_query(app.key, app.secret, "POST", path, body, 1_000, None)
        text = "&".join(f"{name}={value}" for name, value in query.items())
        answers.append(api.respond(Request("POST", path, text, body)))

    assert [answer.status for answer in answers] == [200, status]
    figures = hub.figures
    assert figures.limit_hits == {limit: 1}
    assert figures.http_calls == 2
    assert figures.http_bytes_received == sum(map(len, bodies))
    assert figures.http_bytes_sent == sum(len(answer.body) for answer in answers)
    assert ("Retry-After: 1" in answers[1].headers) == (status == 429)


def test_a_value_is_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram((1, 2.5))
    for value in (0, 1, 1.5, 2.5, 3, 100):
        histogram.observe(value)

    assert histogram.counts == [2, 2, 2]
    assert histogram.total == 108


def test_a_turn_is_one_delivery_and_each_of_its_channels_one_batch() -> None:
    turns, clock = Turns(), FakeClock()
    delivery = Delivery(turns, clock)
    hub = hub_of()
    orders, news = Channel("orders"), Channel("news")
    for channel, count in ((orders, 3), (news, 1)):
        for _ in range(count):
            channel.subscribers[RecordingSession(hub)] = None
    for _ in range(4):
        delivery.publish(orders, b"abc")
        clock.advance(0.5)
    delivery.publish(news, b"de")
    turns.end()

    assert (orders.figures.messages_sent, orders.figures.bytes_sent) == (12, 36)
    assert (news.figures.messages_sent, news.figures.bytes_sent) == (1, 2)
    assert delivery.latency.total == 2.0
    assert sum(delivery.latency.counts) == 1
    assert delivery.batches.total == 5
    assert sum(delivery.batches.counts) == 2


def test_a_turn_that_is_sent_early_is_timed_from_its_own_first_frame() -> None:
    turns, clock = Turns(), FakeClock()
    delivery = Delivery(turns, clock)
    channel = Channel("orders")
    channel.subscribers[RecordingSession(hub_of())] = None
    delivery.publish(channel, b"x")
    clock.advance(1.0)
    delivery.publish(channel, b"x" * MAX_TICK_BYTES)
    clock.advance(7.0)
    delivery.publish(channel, b"x")
    clock.advance(0.5)
    turns.end()

    assert delivery.latency.total == 1.5
    assert sum(delivery.latency.counts) == 2


def test_what_is_forgotten_early_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reverb_py.core.last_events.MAX_REMEMBERED", 2)
    monkeypatch.setattr("reverb_py.core.recent_keys.MAX_KEYS", 2)
    events, keys = LastEvents(), RecentKeys()
    for number, now in enumerate((0.0, 1.0, 2.0)):
        events.remember(f"cache-{number}", b"frame", "1", 60.0, now)
        keys.remember(f"key-{number}", b"{}", now)
    assert (events.dropped, len(events), events.size) == (1, 2, 10)
    assert (keys.dropped, len(keys), keys.size) == (1, 2, 14)

    events.remember("cache-late", b"frame", "1", 60.0, 1_000.0)
    keys.remember("key-late", b"{}", 1_000.0)
    assert (events.dropped, len(events)) == (1, 1)
    assert (keys.dropped, len(keys)) == (1, 1)
