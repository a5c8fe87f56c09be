"""Delivery by tick: what is batched, and that nobody can tell."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from reverb_py.core.channel import Channel
from reverb_py.core.delivery import MAX_TICK_BYTES, Delivery
from reverb_py.core.hub import Hub
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.protocol import frames
from tests.support.sessions import APP, FakeClock, RecordingSession, Turns, hub_of

SUCCESS = frames.subscription_succeeded("a")


class Scene:
    """A hub whose turns the test ends, with a verb for each thing that happens in one."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.hub = hub_of(turns=self.turns)

    def session(self, *channels: str) -> RecordingSession:
        return RecordingSession.begun(self.hub, *channels)

    def publish(self, channel: str, frame: bytes, excluded: RecordingSession | None = None) -> None:
        self.hub.send(self.hub.channels[channel], frame, excluded)


def test_an_event_leaves_at_the_end_of_the_turn() -> None:
    scene = Scene()
    session = scene.session("a")

    scene.publish("a", b"<1>")
    assert session.writes == []

    scene.turns.end()
    assert session.writes == [b"<1>"]


def test_all_subscribers_of_one_event_are_given_the_very_same_bytes() -> None:
    scene = Scene()
    sessions = [scene.session("a") for _ in range(3)]
    frame = b"<a frame that was encoded once>"

    scene.publish("a", frame)
    scene.turns.end()

    for session in sessions:
        [write] = session.writes
        assert write is frame


def test_all_subscribers_of_many_events_are_given_the_very_same_bytes_in_one_write() -> None:
    scene = Scene()
    sessions = [scene.session("a") for _ in range(3)]

    for n in range(5):
        scene.publish("a", b"<%d>" % n)
    scene.turns.end()

    for session in sessions:
        assert session.writes == [b"<0><1><2><3><4>"]
        assert session.writes[0] is sessions[0].writes[0]


def test_one_flush_is_scheduled_a_turn_however_much_is_published() -> None:
    scene = Scene()
    scene.session("a", "b")

    for _ in range(3):
        scene.publish("a", b"<a>")
        scene.publish("b", b"<b>")
    assert len(scene.turns.scheduled) == 1

    scene.turns.end()
    assert scene.turns.scheduled == []
    scene.publish("a", b"<a>")
    assert len(scene.turns.scheduled) == 1


def test_an_event_without_subscribers_costs_nothing() -> None:
    turns = Turns()
    delivery = Delivery(turns, FakeClock())
    channel = Channel("a")

    delivery.publish(channel, b"<1>")

    assert turns.scheduled == []
    assert channel.pending == []


def test_an_excluded_session_misses_that_event_and_no_other() -> None:
    scene = Scene()
    sender, receiver = scene.session("a"), scene.session("a")

    scene.publish("a", b"<1>")
    scene.publish("a", b"<2>", excluded=sender)
    scene.publish("a", b"<3>")
    scene.turns.end()

    assert sender.writes == [b"<1><3>"]
    assert receiver.writes == [b"<1><2><3>"]


def test_a_session_excluded_from_everything_is_written_nothing() -> None:
    scene = Scene()
    sender, receiver = scene.session("a"), scene.session("a")

    scene.publish("a", b"<1>", excluded=sender)
    scene.turns.end()

    assert sender.writes == []
    assert receiver.writes == [b"<1>"]


def test_two_senders_each_miss_their_own_event() -> None:
    scene = Scene()
    one, other, listener = scene.session("a"), scene.session("a"), scene.session("a")

    scene.publish("a", b"<1>", excluded=one)
    scene.publish("a", b"<2>", excluded=other)
    scene.turns.end()

    assert (one.writes, other.writes, listener.writes) == ([b"<2>"], [b"<1>"], [b"<1><2>"])


def test_excluding_somebody_who_is_not_subscribed_changes_nothing() -> None:
    scene = Scene()
    listener, stranger = scene.session("a"), scene.session("b")

    scene.publish("a", b"<1>", excluded=stranger)
    scene.publish("b", b"<2>")
    scene.turns.end()

    assert (listener.writes, stranger.writes) == ([b"<1>"], [b"<2>"])


def test_an_exclusion_ends_with_its_turn() -> None:
    scene = Scene()
    sender = scene.session("a")

    scene.publish("a", b"<1>", excluded=sender)
    scene.turns.end()
    scene.publish("a", b"<2>")
    scene.turns.end()

    assert sender.writes == [b"<2>"]


def test_a_late_joiner_gets_what_is_published_after_it_joined() -> None:
    scene = Scene()
    early, late = scene.session("a"), scene.session()

    scene.publish("a", b"<1>")
    scene.hub.subscribe(late, "a")
    scene.publish("a", b"<2>")
    scene.turns.end()

    assert (early.writes, late.writes) == ([b"<1><2>"], [SUCCESS, b"<2>"])


def test_a_joiner_of_a_quiet_channel_gets_everything() -> None:
    scene = Scene()
    scene.session("a")
    late = scene.session()

    scene.hub.subscribe(late, "a")
    scene.publish("a", b"<1>")
    scene.publish("a", b"<2>")
    scene.turns.end()

    assert late.writes == [SUCCESS, b"<1><2>"]


def test_a_reply_waits_behind_what_was_published_before_it() -> None:
    scene = Scene()
    session, neighbour = scene.session("a"), scene.session("a")

    scene.publish("a", b"<1>")
    session.reply(b"<pong>")
    scene.publish("a", b"<2>")
    session.reply(b"<pong again>")
    assert session.writes == []
    scene.turns.end()

    assert session.writes == [b"<1><pong><2><pong again>"]
    assert neighbour.writes == [b"<1><2>"]


def test_a_reply_to_somebody_with_nothing_pending_is_written_at_once() -> None:
    scene = Scene()
    scene.session("a")
    session = scene.session("b", "c")

    session.reply(b"<1>")
    scene.publish("a", b"<not for it>")
    session.reply(b"<2>")

    assert session.writes == [b"<1>", b"<2>"]


def test_a_success_comes_before_the_events_of_its_channel_and_behind_those_of_others() -> None:
    scene = Scene()
    scene.session("b")
    session = scene.session("a")

    scene.publish("a", b"<1>")
    scene.publish("b", b"<too early>")
    scene.hub.subscribe(session, "b")
    scene.publish("b", b"<2>")
    scene.turns.end()

    assert session.writes == [b"<1>" + frames.subscription_succeeded("b") + b"<2>"]


def test_a_subscriber_of_two_busy_channels_gets_both_in_the_order_of_publication() -> None:
    scene = Scene()
    both, only_a, only_b = scene.session("a", "b"), scene.session("a"), scene.session("b")

    scene.publish("a", b"<a1>")
    scene.publish("b", b"<b2>")
    scene.publish("a", b"<a3>")
    scene.publish("b", b"<b4>")
    scene.turns.end()

    assert both.writes == [b"<a1><b2><a3><b4>"]
    assert only_a.writes == [b"<a1><a3>"]
    assert only_b.writes == [b"<b2><b4>"]


def test_a_subscriber_of_many_channels_gets_only_the_busy_ones() -> None:
    scene = Scene()
    session = scene.session("a", "b", "c", "d", "e")

    scene.publish("d", b"<d1>")
    scene.publish("b", b"<b2>", excluded=session)
    scene.publish("b", b"<b3>")
    scene.turns.end()

    assert session.writes == [b"<d1><b3>"]


def test_who_leaves_in_the_same_turn_may_miss_what_was_pending_and_nobody_else_does() -> None:
    scene = Scene()
    leaver, stayer = scene.session("a", "b"), scene.session("a")

    scene.publish("a", b"<1>")
    scene.hub.unsubscribe(leaver, "a")
    scene.publish("b", b"<2>")
    scene.turns.end()

    assert leaver.writes in ([b"<2>"], [b"<1><2>"])
    assert stayer.writes == [b"<1>"]


def test_who_leaves_and_returns_in_the_same_turn_gets_nothing_of_the_time_away() -> None:
    scene = Scene()
    scene.session("a")
    session = scene.session("a")

    scene.hub.unsubscribe(session, "a")
    scene.publish("a", b"<while away>")
    scene.hub.subscribe(session, "a")
    scene.publish("a", b"<back>")
    scene.turns.end()

    assert session.writes == [SUCCESS, b"<back>"]


def test_a_channel_that_empties_and_fills_again_in_one_turn_forgets_what_was_pending() -> None:
    scene = Scene()
    first, second = scene.session("a"), scene.session()

    scene.publish("a", b"<1>")
    scene.hub.unsubscribe(first, "a")
    scene.hub.subscribe(second, "a")
    scene.publish("a", b"<2>")
    scene.turns.end()

    assert second.writes == [SUCCESS, b"<2>"]
    assert scene.hub.channels["a"].pending == []


def test_who_has_left_every_channel_still_gets_its_replies() -> None:
    scene = Scene()
    session = scene.session("a")

    scene.publish("a", b"<1>")
    session.reply(b"<pong>")
    scene.hub.unsubscribe(session, "a")
    session.reply(b"<another>")
    scene.turns.end()

    assert b"".join(session.writes).endswith(b"<pong><another>")


def test_a_turn_that_grows_too_big_is_sent_before_it_ends() -> None:
    scene = Scene()
    session = scene.session("a", "b")
    half = b"x" * (MAX_TICK_BYTES // 2)

    scene.publish("a", half)
    scene.publish("b", half)
    assert session.writes == []

    scene.publish("a", b"<the last straw>")
    assert session.writes == [half + half + b"<the last straw>"]

    scene.publish("a", b"<next>")
    scene.turns.end()
    assert session.writes[1:] == [b"<next>"]
    assert scene.turns.scheduled == []


def test_an_early_flush_keeps_exclusions_and_replies_in_their_places() -> None:
    scene = Scene()
    session = scene.session("a")
    big = b"x" * (MAX_TICK_BYTES + 1)

    scene.publish("a", b"<1>", excluded=session)
    scene.publish("a", b"<2>")
    session.reply(b"<pong>")
    scene.publish("a", big, excluded=session)
    assert session.writes == [b"<2><pong>"]

    scene.publish("a", b"<3>")
    scene.turns.end()
    assert session.writes == [b"<2><pong>", b"<3>"]


def test_flushing_nothing_does_nothing() -> None:
    scene = Scene()
    session = scene.session("a")

    scene.hub.delivery.flush()
    scene.hub.delivery.flush()

    assert session.writes == []


def test_hubs_that_share_a_delivery_share_one_flush() -> None:
    turns = Turns()
    delivery = Delivery(turns, FakeClock())
    hubs = [Hub(APP, delivery, TimerWheel(0.0), FakeClock(), random.Random(n)) for n in range(2)]
    sessions = [RecordingSession.begun(hub, "a") for hub in hubs]

    for n, hub in enumerate(hubs):
        hub.send(hub.channels["a"], b"<%d>" % n)
    assert len(turns.scheduled) == 1
    turns.end()

    assert [session.writes for session in sessions] == [[b"<0>"], [b"<1>"]]


@dataclass
class Expected:
    """One frame that immediate delivery would have written, and whether it may be missing."""

    frame: bytes
    channel: str | None
    optional: bool = False


@dataclass(eq=False)
class Client:
    """A session beside what the model says it is to be written in this turn."""

    session: RecordingSession
    expected: list[Expected] = field(default_factory=list)

    def expect(self, frame: bytes, channel: str | None = None) -> None:
        self.expected.append(Expected(frame, channel))

    def excuse(self, channel: str | None = None) -> None:
        """Let what is pending from one channel, or from everywhere, be missing."""
        for expected in self.expected:
            if channel is None or expected.channel == channel:
                expected.optional = True

    def settle(self) -> None:
        """Hold what was written against what was expected, and start afresh."""
        joined = b"".join(self.session.writes)
        received = re.findall(rb"<\d+>x*|\x81[^<\x81]*", joined)
        assert b"".join(received) == joined
        remaining = iter([*received, None])
        frame = next(remaining)
        for expected in self.expected:
            if frame == expected.frame:
                frame = next(remaining)
            else:
                assert expected.optional, (expected, received)
        assert frame is None, f"{frame!r} is out of order or was not for this session"
        self.session.writes.clear()
        self.expected.clear()


class DeliveryByTick(RuleBasedStateMachine):
    """
    Delivery by tick beside a model that writes every frame the moment it is published.

    A session must be written the model's frames in the model's order. Only those may be missing
    that were pending when the session left their channel or disconnected.
    """

    clients = Bundle("clients")
    channels = st.sampled_from(["a", "b", "c"])

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.hub = hub_of(turns=self.turns)
        self.connected: list[Client] = []
        self.gone: list[Client] = []
        self.subscribers: dict[str, list[Client]] = {"a": [], "b": [], "c": []}
        self.frames = 0

    def next_frame(self, size: int = 0) -> bytes:
        self.frames += 1
        return b"<%d>" % self.frames + b"x" * size

    @precondition(lambda self: len(self.connected) < 5)
    @rule(target=clients, subscribed=st.sets(channels))
    def connect(self, subscribed: set[str]) -> Client:
        client = Client(RecordingSession.begun(self.hub))
        self.connected.append(client)
        for channel in sorted(subscribed):
            self.join(client, channel)
        return client

    @rule(client=consumes(clients))
    def disconnect(self, client: Client) -> None:
        client.session.end()
        client.excuse()
        for subscribers in self.subscribers.values():
            if client in subscribers:
                subscribers.remove(client)
        self.connected.remove(client)
        self.gone.append(client)

    @rule(client=clients, channel=channels)
    def join(self, client: Client, channel: str) -> None:
        self.hub.subscribe(client.session, channel)

        client.expect(frames.subscription_succeeded(channel))
        if client not in self.subscribers[channel]:
            self.subscribers[channel].append(client)

    @rule(client=clients, channel=channels)
    def leave(self, client: Client, channel: str) -> None:
        self.hub.unsubscribe(client.session, channel)

        if client in self.subscribers[channel]:
            self.subscribers[channel].remove(client)
            client.excuse(channel)

    @rule(channel=channels, size=st.sampled_from([0, 0, 0, 0, MAX_TICK_BYTES // 2]))
    def publish(self, channel: str, size: int) -> None:
        self.publish_except(channel, None, size)

    @rule(channel=channels, sender=clients)
    def publish_excluding(self, channel: str, sender: Client) -> None:
        self.publish_except(channel, sender, 0)

    def publish_except(self, channel: str, sender: Client | None, size: int) -> None:
        if channel not in self.hub.channels:
            return
        frame = self.next_frame(size)
        for client in self.subscribers[channel]:
            if client is not sender:
                client.expect(frame, channel)
        excluded = None if sender is None else sender.session
        self.hub.send(self.hub.channels[channel], frame, excluded)

    @rule(client=clients)
    def reply(self, client: Client) -> None:
        frame = self.next_frame()
        client.expect(frame)
        client.session.reply(frame)

    @rule()
    def end_turn(self) -> None:
        before = {client: len(client.session.writes) for client in self.connected}
        self.turns.end()
        for client, writes in before.items():
            assert len(client.session.writes) <= writes + 1
        for client in self.connected + self.gone:
            client.settle()
        self.gone.clear()

    @invariant()
    def the_hub_knows_who_is_where(self) -> None:
        listeners = {
            name: [client.session for client in subscribers]
            for name, subscribers in self.subscribers.items()
            if subscribers
        }
        assert {
            name: list(channel.subscribers) for name, channel in self.hub.channels.items()
        } == listeners

    def teardown(self) -> None:
        self.end_turn()
        for client in self.connected:
            client.session.end()
        assert self.hub.channels == {}
        assert self.hub.sessions == {}


TestDeliveryByTick = DeliveryByTick.TestCase
TestDeliveryByTick.settings = settings(max_examples=60, stateful_step_count=30)
