"""Who is here, who listens to what, and that nothing is left behind."""

import gc
from dataclasses import replace

import pytest

from reverb_py.core.session import Session
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.core.users import SignedInUser
from reverb_py.protocol.channel_names import Access, ChannelKind
from tests.support.sessions import APP, RecordingSession, ScriptedRandom, Turns, hub_of


def test_a_subscription_is_known_on_both_sides() -> None:
    hub = hub_of()
    session = RecordingSession.begun(hub)

    hub.subscribe(session, "private-cache-orders")

    channel = hub.channels["private-cache-orders"]
    assert list(channel.subscribers) == [session]
    assert session.channels == {"private-cache-orders": channel}
    assert (channel.name, channel.kind) == (
        "private-cache-orders",
        ChannelKind(Access.PRIVATE, True),
    )


def test_subscribing_twice_is_one_subscription_and_two_answers() -> None:
    hub = hub_of()
    session = RecordingSession.begun(hub, "orders")

    hub.subscribe(session, "orders")

    assert list(hub.channels["orders"].subscribers) == [session]
    assert session.texts() == [
        '{"event":"pusher_internal:subscription_succeeded","channel":"orders","data":"{}"}'
    ]


def test_subscribers_keep_the_order_in_which_they_came() -> None:
    hub = hub_of()
    sessions = [RecordingSession.begun(hub, "orders") for _ in range(5)]

    assert list(hub.channels["orders"].subscribers) == sessions


def test_a_channel_ends_with_its_last_subscriber() -> None:
    hub = hub_of()
    first, last = RecordingSession.begun(hub, "orders"), RecordingSession.begun(hub, "orders")

    hub.unsubscribe(first, "orders")
    assert list(hub.channels) == ["orders"]

    hub.unsubscribe(last, "orders")
    assert hub.channels == {}
    assert first.channels == last.channels == {}


def test_leaving_a_channel_one_is_not_in_changes_nothing() -> None:
    hub = hub_of()
    session = RecordingSession.begun(hub)
    RecordingSession.begun(hub, "orders")

    hub.unsubscribe(session, "orders")
    hub.unsubscribe(session, "unheard-of")

    assert list(hub.channels) == ["orders"]
    assert len(hub.channels["orders"].subscribers) == 1


def test_a_thousand_visits_of_every_kind_leave_nothing_behind() -> None:
    turns, wheel = Turns(), TimerWheel(0.0)
    app = replace(APP, subscription_counts=True, authorization_seconds=60.0)
    hub = hub_of(app, turns=turns, wheel=wheel)

    for n in range(1_000):
        session = RecordingSession.begun(hub, "lobby", f"room-{n}", f"cache-room-{n}")
        for room in ("presence-lobby", f"presence-room-{n}"):
            hub.subscribe(session, room, f"user-{n}")
        session.user = SignedInUser(f"user-{n}", b"null", (f"user-{n}", f"user-{n - 1}"))
        hub.sign_in(session, session.user)
        hub.publish("hello", "1", ["lobby", f"room-{n}"], session.socket_id)
        session.end()
    del session
    turns.end()
    wheel.advance(100.0)

    assert (hub.channels, hub.sessions, turns.scheduled) == ({}, {}, [])
    gc.collect()
    sessions = [each for each in gc.get_objects() if isinstance(each, Session)]
    assert [session for session in sessions if session.hub is hub] == []


def test_an_event_goes_to_each_channel_it_names() -> None:
    turns = Turns()
    hub = hub_of(turns=turns)
    one, both = RecordingSession.begun(hub, "a"), RecordingSession.begun(hub, "a", "b")

    hub.publish("order-shipped", '{"id":7}', ["a", "b", "nobody-is-here"])
    turns.end()

    on_a = '{"event":"order-shipped","channel":"a","data":"{\\"id\\":7}"}'
    on_b = '{"event":"order-shipped","channel":"b","data":"{\\"id\\":7}"}'
    assert one.texts() == [on_a]
    assert both.texts() == [on_a, on_b]
    assert list(hub.channels) == ["a", "b"]


def test_the_excluded_socket_is_skipped_on_every_channel() -> None:
    turns = Turns()
    hub = hub_of(turns=turns)
    sender, other = RecordingSession.begun(hub, "a", "b"), RecordingSession.begun(hub, "b")

    hub.publish("x", "1", ["a", "b"], sender.socket_id)
    turns.end()

    assert sender.writes == []
    assert other.texts() == ['{"event":"x","channel":"b","data":"1"}']


def test_an_unknown_socket_id_excludes_nobody() -> None:
    turns = Turns()
    hub = hub_of(turns=turns)
    session = RecordingSession.begun(hub, "a")

    hub.publish("x", "1", ["a"], "1.1")
    turns.end()

    assert session.texts() == ['{"event":"x","channel":"a","data":"1"}']


def test_no_two_connections_share_a_socket_id() -> None:
    hub = hub_of(source=ScriptedRandom(1, 2, 1, 2, 1, 2, 3, 4))
    first = RecordingSession.begun(hub)
    second = RecordingSession.begun(hub)

    assert (first.socket_id, second.socket_id) == ("1.2", "3.4")


@pytest.mark.parametrize("limit", [1, 3])
def test_an_app_with_a_limit_is_full_when_it_is_reached(limit: int) -> None:
    hub = hub_of(replace(APP, max_connections=limit))

    taken = []
    while not hub.is_full:
        taken.append(RecordingSession.begun(hub))
    assert len(taken) == limit

    taken[0].end()
    assert not hub.is_full


def test_an_app_without_a_limit_is_never_full() -> None:
    hub = hub_of(replace(APP, max_connections=0))
    for _ in range(100):
        RecordingSession.begun(hub)

    assert not hub.is_full
