"""Cache channels: what a subscriber finds, whoever was there before and whoever has left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reverb_py.core.apps import App
from reverb_py.core.last_events import MISS_SECONDS
from tests.support.notices import RecordingNotices
from tests.support.sessions import APP, FakeClock, RecordingSession, Turns, hub_of

CACHE_CHANNELS = [
    "cache-prices",
    "private-cache-prices",
    "private-encrypted-cache-prices",
    "presence-cache-prices",
]


class Market:
    """An app with cache channels, whose time moves by hand."""

    def __init__(self, app: App = APP) -> None:
        self.turns = Turns()
        self.clock = FakeClock()
        self.notices = RecordingNotices()
        self.hub = hub_of(app, turns=self.turns, clock=self.clock, notices=self.notices)

    def client(self) -> RecordingSession:
        return RecordingSession.begun(self.hub)

    def subscribe(self, session: RecordingSession, channel: str = "cache-prices") -> list[str]:
        """Subscribe, end the turn, and return what comes behind the success."""
        user_id = "7" if channel.startswith("presence-") else None
        self.hub.subscribe(session, channel, user_id)
        self.turns.end()
        success, *rest = session.texts()
        assert success.startswith('{"event":"pusher_internal:subscription_succeeded"')
        return rest

    def publish(self, data: str, channel: str = "cache-prices", name: str = "price") -> None:
        self.hub.publish(name, data, [channel])
        self.turns.end()


def miss(channel: str = "cache-prices") -> str:
    return f'{{"event":"pusher:cache_miss","channel":"{channel}"}}'


def price(data: str, channel: str = "cache-prices") -> str:
    return f'{{"event":"price","channel":"{channel}","data":"{data}"}}'


@pytest.fixture
def market() -> Market:
    return Market()


@pytest.mark.parametrize("channel", CACHE_CHANNELS)
def test_where_nothing_was_said_a_subscriber_is_told_so(market: Market, channel: str) -> None:
    assert market.subscribe(market.client(), channel) == [miss(channel)]


@pytest.mark.parametrize("channel", CACHE_CHANNELS)
def test_a_subscriber_gets_the_last_event_as_it_was_broadcast(market: Market, channel: str) -> None:
    first = market.client()
    market.subscribe(first, channel)
    market.publish("1", channel)
    market.publish("2", channel)

    assert first.texts() == [price("1", channel), price("2", channel)]
    assert market.subscribe(market.client(), channel) == [price("2", channel)]


@pytest.mark.parametrize("channel", ["prices", "private-prices", "my-cache-prices", "cached"])
def test_other_channels_remember_nothing(market: Market, channel: str) -> None:
    market.publish("1", channel)

    assert market.subscribe(market.client(), channel) == []


def test_an_event_is_remembered_when_nobody_heard_it(market: Market) -> None:
    market.publish("1")
    assert market.hub.channels == {}

    assert market.subscribe(market.client()) == [price("1")]


def test_an_event_is_remembered_when_the_last_who_heard_it_has_left(market: Market) -> None:
    client = market.client()
    market.subscribe(client)
    market.publish("1")
    client.end()
    assert market.hub.channels == {}

    assert market.subscribe(market.client()) == [price("1")]


def test_an_event_is_forgotten_when_its_time_is_up() -> None:
    market = Market(replace(APP, last_event_seconds=60.0))
    market.publish("1")

    market.clock.advance(59.75)
    assert market.subscribe(market.client()) == [price("1")]
    market.clock.advance(0.25)
    assert market.subscribe(market.client()) == [miss()]


def test_an_app_may_remember_nothing_at_all() -> None:
    market = Market(replace(APP, last_event_seconds=0.0))
    market.publish("1")

    assert market.subscribe(market.client()) == [miss()]


def test_the_excluded_socket_gets_the_event_when_it_subscribes_again(market: Market) -> None:
    client = market.client()
    market.subscribe(client)
    market.hub.publish("price", "1", ["cache-prices"], client.socket_id)
    market.turns.end()
    assert client.texts() == []

    assert market.subscribe(client) == [price("1")]


def test_subscribing_again_repeats_the_last_event(market: Market) -> None:
    client = market.client()
    market.publish("1")

    assert market.subscribe(client) == [price("1")]
    assert market.subscribe(client) == [price("1")]


def test_each_channel_of_a_publish_remembers_its_own_frame(market: Market) -> None:
    market.hub.publish("price", "1", ["cache-a", "orders", "cache-b"])

    assert market.subscribe(market.client(), "cache-a") == [price("1", "cache-a")]
    assert market.subscribe(market.client(), "cache-b") == [price("1", "cache-b")]


@pytest.mark.parametrize(
    "name", ["client-typing", "pusher:ping", "pusher_internal:subscription_count"]
)
def test_internal_and_client_names_are_not_remembered(market: Market, name: str) -> None:
    market.publish("1")
    market.publish("2", name=name)

    assert market.subscribe(market.client()) == [price("1")]


def test_client_events_are_relayed_and_not_remembered(market: Market) -> None:
    sender, other = market.client(), market.client()
    for session in (sender, other):
        market.subscribe(session, "private-cache-prices")
    market.publish("1", "private-cache-prices")
    other.writes.clear()

    sender.receive('{"event":"client-bid","channel":"private-cache-prices","data":2}')
    market.turns.end()

    assert other.texts() == ['{"event":"client-bid","channel":"private-cache-prices","data":2}']
    assert market.subscribe(market.client(), "private-cache-prices") == [
        price("1", "private-cache-prices")
    ]


def test_members_that_come_and_go_do_not_replace_the_event() -> None:
    market = Market(replace(APP, subscription_counts=True))
    channel = "presence-cache-prices"
    market.publish("1", channel)
    market.subscribe(market.client(), channel)
    other = market.client()
    market.hub.subscribe(other, channel, "8")
    other.end()
    market.turns.end()

    assert market.subscribe(market.client(), channel) == [price("1", channel)]


def test_the_last_event_stands_between_the_success_and_what_comes_next(market: Market) -> None:
    market.subscribe(market.client())
    client = market.client()

    market.hub.publish("price", "1", ["cache-prices"])
    market.hub.subscribe(client, "cache-prices")
    market.hub.publish("price", "2", ["cache-prices"])
    market.turns.end()

    assert client.texts() == [
        '{"event":"pusher_internal:subscription_succeeded","channel":"cache-prices","data":"{}"}',
        price("1"),
        price("2"),
    ]


def test_a_backend_hears_of_a_miss_and_of_no_hit(market: Market) -> None:
    market.subscribe(market.client())
    assert market.notices.take() == [
        "1001 channel_occupied cache-prices",
        "1001 cache_miss cache-prices",
        "1001 subscription_count cache-prices 1",
    ]

    market.publish("1")
    market.subscribe(market.client())
    assert market.notices.take() == ["1001 subscription_count cache-prices 2"]


def misses(market: Market) -> list[str]:
    return [line for line in market.notices.take() if "cache_miss" in line]


def test_a_backend_hears_of_a_crowds_miss_once_and_everybody_in_it_does(market: Market) -> None:
    for _ in range(5):
        assert market.subscribe(market.client()) == [miss()]
    assert market.subscribe(market.client(), "cache-other") == [miss("cache-other")]

    assert misses(market) == ["1001 cache_miss cache-prices", "1001 cache_miss cache-other"]


def test_who_comes_and_goes_repeats_no_miss(market: Market) -> None:
    client = market.client()
    for _ in range(5):
        market.subscribe(client)
        market.hub.unsubscribe(client, "cache-prices")

    assert misses(market) == ["1001 cache_miss cache-prices"]


def test_a_backend_that_did_nothing_about_a_miss_hears_of_the_next_one_after_a_while(
    market: Market,
) -> None:
    market.subscribe(market.client())
    market.clock.advance(MISS_SECONDS - 0.25)
    market.subscribe(market.client())
    assert misses(market) == ["1001 cache_miss cache-prices"]

    market.clock.advance(0.25)
    market.subscribe(market.client())

    assert misses(market) == ["1001 cache_miss cache-prices"]


def test_a_miss_after_an_event_is_news() -> None:
    market = Market(replace(APP, last_event_seconds=1.0))
    market.subscribe(market.client())
    market.publish("1")
    market.clock.advance(1.0)

    market.subscribe(market.client())

    assert misses(market) == ["1001 cache_miss cache-prices"] * 2


def test_what_one_app_said_is_not_known_to_another(market: Market) -> None:
    market.publish("1")
    other = Market(replace(APP, id="1002", key="another-key"))

    assert other.subscribe(other.client()) == [miss()]
