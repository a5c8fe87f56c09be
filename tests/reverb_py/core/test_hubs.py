"""The apps of a server: how each is found, and what becomes of connections when they change."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from reverb_py.core.apps import App, ClientEventsFrom, RateLimit
from reverb_py.core.delivery import Delivery
from reverb_py.core.hub import Hub
from reverb_py.core.hubs import Hubs
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.protocol import signing
from reverb_py.protocol.errors import ErrorCode
from tests.support.sessions import APP, FakeClock, RecordingSession, Turns

OTHER = App(id="1002", key="other-key", secret="other-secret")
PING = '{"event":"pusher:ping"}'
PONG = '{"event":"pusher:pong","data":"{}"}'


class House:
    """Hubs that share what those of a server share."""

    def __init__(self, *apps: App) -> None:
        self.turns = Turns()
        self.clock = FakeClock()
        self.made: list[str] = []
        delivery, wheel, source = (
            Delivery(self.turns, FakeClock()),
            TimerWheel(0.0),
            random.Random(1),
        )

        def make(app: App) -> Hub:
            self.made.append(app.id)
            return Hub(app, delivery, wheel, self.clock, source)

        self.hubs = Hubs(apps, make)

    def hub(self, app: App) -> Hub:
        hub = self.hubs.with_id(app.id)
        assert hub is not None
        return hub

    def client(self, app: App, *channels: str) -> RecordingSession:
        session = RecordingSession.begun(self.hub(app), *channels)
        session.end_when_closed()
        return session

    def say(self, session: RecordingSession, text: str) -> list[str]:
        session.receive(text)
        self.turns.end()
        return session.texts()


def test_a_hub_is_found_by_the_id_and_by_the_key_of_its_app() -> None:
    hubs = House(APP, OTHER).hubs

    assert [hub.app for hub in hubs] == [APP, OTHER]
    for app in (APP, OTHER):
        hub = hubs.with_id(app.id)
        assert hub is not None
        assert hub.app is app
        assert hubs.with_key(app.key) is hub
    for unknown in ("", "unheard-of", APP.secret):
        assert hubs.with_id(unknown) is None
        assert hubs.with_key(unknown) is None
    assert hubs.with_id(APP.key) is None
    assert hubs.with_key(APP.id) is None


def test_an_app_that_stays_keeps_its_hub_and_its_connections() -> None:
    house = House(APP, OTHER)
    before = house.hub(APP)
    client = house.client(APP, "orders")
    before.publish("price", "1", ["cache-prices"])

    house.hubs.replace([replace(APP, activity_timeout=99), OTHER])

    assert house.hub(APP) is before
    assert before.app.activity_timeout == 99
    assert client.closed == []
    assert list(before.channels) == ["orders"]
    assert before.last_events.recall("cache-prices", house.clock.now) is not None
    assert house.made == ["1001", "1002"]


def test_the_connections_of_an_app_that_is_gone_are_closed_for_good() -> None:
    house = House(APP, OTHER)
    hub = house.hub(APP)
    mine = [house.client(APP, "orders", "stock"), house.client(APP, "orders")]
    other = house.client(OTHER, "orders")

    house.hubs.replace([OTHER])

    for session in mine:
        assert session.closed == [(ErrorCode.UNKNOWN_APP, "Application does not exist any more")]
    assert (hub.sessions, hub.channels) == ({}, {})
    assert other.closed == []
    assert house.hubs.with_id(APP.id) is None
    assert house.hubs.with_key(APP.key) is None
    assert list(house.hubs) == [house.hub(OTHER)]


def test_the_connections_of_an_app_that_is_disabled_are_closed_for_good() -> None:
    house = House(APP, OTHER)
    mine, other = house.client(APP, "orders"), house.client(OTHER)
    disabled = replace(APP, enabled=False)

    house.hubs.replace([disabled, OTHER])

    assert mine.closed == [(ErrorCode.APP_DISABLED, "Application is disabled")]
    assert other.closed == []
    assert house.hub(APP).app is disabled
    assert house.hub(APP).sessions == {}

    house.hubs.replace([APP, OTHER])
    assert house.client(APP).closed == []


def test_an_app_that_comes_is_found() -> None:
    house = House(APP)

    house.hubs.replace([APP, OTHER])

    assert house.hub(OTHER).app is OTHER
    assert house.hubs.with_key(OTHER.key) is house.hub(OTHER)


def test_an_app_that_comes_back_starts_afresh() -> None:
    house = House(APP)
    before = house.hub(APP)

    house.hubs.replace([])
    assert list(house.hubs) == []
    house.hubs.replace([APP])

    assert house.hub(APP) is not before


def test_a_new_key_takes_the_place_of_the_old() -> None:
    house = House(APP)
    hub, client = house.hub(APP), house.client(APP)

    house.hubs.replace([replace(APP, key="new-key")])

    assert house.hubs.with_key(APP.key) is None
    assert house.hubs.with_key("new-key") is hub
    assert client.closed == []


def test_two_apps_may_swap_their_keys() -> None:
    house = House(APP, OTHER)
    first, second = house.hub(APP), house.hub(OTHER)

    house.hubs.replace([replace(APP, key=OTHER.key), replace(OTHER, key=APP.key)])

    assert house.hubs.with_key(OTHER.key) is first
    assert house.hubs.with_key(APP.key) is second


def test_a_key_that_moves_to_another_app_leads_there() -> None:
    house = House(APP)
    client = house.client(APP)

    house.hubs.replace([replace(APP, id="1003")])

    assert client.closed == [(ErrorCode.UNKNOWN_APP, "Application does not exist any more")]
    hub = house.hubs.with_key(APP.key)
    assert hub is not None
    assert hub is house.hubs.with_id("1003")
    assert hub.sessions == {}


# What connections that stay may do from then on.


def test_new_limits_of_channels_hold_for_connections_that_stay() -> None:
    house = House(APP)
    client = house.client(APP, "a", "b")

    house.hubs.replace([replace(APP, max_channels_per_connection=2, max_connections=1)])

    assert list(client.channels) == ["a", "b"]
    refusal, _ = house.say(client, '{"event":"pusher:subscribe","data":{"channel":"c"}}')
    assert "A connection may subscribe to 2 channels at most" in refusal
    assert house.hub(APP).is_full


def refusals(house: House, client: RecordingSession, text: str, times: int) -> list[bool]:
    """Say something so many times and return which were refused."""
    return [
        any('"code":4301' in answer for answer in house.say(client, text)) for _ in range(times)
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1, 3, [False, False, False, True]),
        (3, 1, [False, True, True, True]),
        (2, 0, [False, False, False, False]),
        (0, 2, [False, False, True, True]),
        (2, 2, [True, True, True, True]),
    ],
)
def test_a_new_rate_of_client_events_holds_for_connections_that_stay(
    before: int, after: int, expected: list[bool]
) -> None:
    house = House(replace(APP, client_events_per_second=before))
    client = house.client(APP, "private-room")
    event = '{"event":"client-x","channel":"private-room"}'
    refusals(house, client, event, 4)

    house.hubs.replace([replace(APP, client_events_per_second=after)])

    assert refusals(house, client, event, 4) == expected


def limit(attempts: int, seconds: float) -> RateLimit:
    return RateLimit(max_attempts=attempts, decay_seconds=seconds, terminate=False)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (limit(1, 1.0), limit(3, 3.0), [False, False, False, True]),
        (limit(3, 3.0), limit(1, 1.0), [False, True, True, True]),
        (limit(2, 60.0), None, [False, False, False, False]),
        (None, limit(2, 60.0), [False, False, True, True]),
        (limit(2, 60.0), limit(2, 60.0), [True, True, True, True]),
    ],
)
def test_a_new_rate_of_messages_holds_for_connections_that_stay(
    before: RateLimit | None, after: RateLimit | None, expected: list[bool]
) -> None:
    house = House(replace(APP, rate_limit=before))
    client = house.client(APP)
    refusals(house, client, PING, 4)

    house.hubs.replace([replace(APP, rate_limit=after)])

    assert refusals(house, client, PING, 4) == expected


def test_client_events_may_be_switched_off_for_connections_that_stay() -> None:
    house = House(APP)
    client = house.client(APP, "private-room")

    house.hubs.replace([replace(APP, client_events_from=ClientEventsFrom.NONE)])

    assert house.say(client, '{"event":"client-x","channel":"private-room"}') == [
        '{"event":"pusher:error","data":{"code":4301,'
        '"message":"Client event refused: this app does not accept client events"}}'
    ]
    assert house.say(client, PING) == [PONG]


@pytest.mark.parametrize(
    ("key", "secret", "is_let_in"),
    [
        (APP.key, "new-secret", True),
        (APP.key, APP.secret, True),
        (APP.key, "older-secret", True),
        (APP.key, "another-secret", False),
        ("another-key", "new-secret", False),
    ],
)
def test_previous_secrets_are_accepted_after_the_change(
    key: str, secret: str, is_let_in: bool
) -> None:
    house = House(APP)
    client = house.client(APP)
    old = ("older-secret", APP.secret)
    house.hubs.replace([replace(APP, secret="new-secret", previous_secrets=old)])

    auth = signing.channel_auth(key, secret, client.socket_id, "private-a")
    house.say(
        client,
        f'{{"event":"pusher:subscribe","data":{{"channel":"private-a","auth":"{auth}"}}}}',
    )

    assert ("private-a" in client.channels) is is_let_in
