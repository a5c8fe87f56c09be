"""
Delivery by tick: what is published in one turn of the event loop leaves in one write a subscriber.

An idle server sends an event on the next turn; a busy one sends many events in one system call,
which is where its speed comes from. The batching can't be seen from outside. Every session gets
its frames in the order in which they were published, across channels and together with direct
replies; a frame skips the session that is excluded from it; and a session that joined during the
tick gets only what was published after it joined.

Nearly every session wants the same bytes as its neighbours: the frames of its one busy channel,
joined once. The few that differ (a sender among the receivers, a late joiner, a subscriber of two
busy channels, one with a reply waiting) are served apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reverb_py.core.figures import Histogram

if TYPE_CHECKING:
    from reverb_py.core.channel import Channel
    from reverb_py.core.session import Session

__all__ = ["BATCH_FRAMES", "LATENCY_SECONDS", "MAX_TICK_BYTES", "Delivery"]

MAX_TICK_BYTES = 262_144
"""Bytes of frames that may wait for the end of a tick; what exceeds this is sent at once."""

LATENCY_SECONDS = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5),
)
"""Bounds of the buckets in which the time of a delivery is counted."""

BATCH_FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Bounds of the buckets in which the frames of one write are counted."""


class _Apart:
    """Why one session can't take the same bytes as its neighbours in this tick."""

    __slots__ = ("joined", "replies", "skipped")

    def __init__(self) -> None:
        self.skipped: set[int] = set()
        self.joined: dict[Channel, int] = {}
        self.replies: list[tuple[int, bytes]] = []


class Delivery:
    """
    The frames that wait for the end of the current tick.

    `schedule` is asked, once a tick, to call `flush` soon: `loop.call_soon` in the server, a list
    in tests. Not thread-safe; everything runs on the event loop's thread.

    `latency` are the seconds, by `clock`, from when a tick's first frame was published until its
    last subscriber's transport had it.
    """

    __slots__ = (
        "_apart",
        "_batches",
        "_busy",
        "_bytes",
        "_clock",
        "_order",
        "_schedule",
        "_since",
        "_singles",
        "latency",
    )

    def __init__(
        self,
        schedule: Callable[[Callable[[], None]], object],
        clock: Callable[[], float],
    ) -> None:
        self._schedule = schedule
        self._clock = clock
        self._since = 0.0
        self.latency = Histogram(LATENCY_SECONDS)
        self._batches = Histogram(BATCH_FRAMES)
        self._singles = 0
        self._busy: list[Channel] = []
        self._apart: dict[Session, _Apart] = {}
        self._order = 0
        self._bytes = 0

    def publish(self, channel: Channel, frame: bytes, excluded: Session | None = None) -> None:
        """Send `frame` to everyone who is subscribed to `channel` now, except `excluded`."""
        if not channel.subscribers:
            return
        if not channel.pending:
            if not self._busy:
                self._schedule(self.flush)
                self._since = self._clock()
            self._busy.append(channel)
        order = self._order = self._order + 1
        channel.pending.append((order, frame))
        if excluded is not None and excluded in channel.subscribers:
            self._set_apart(excluded).skipped.add(order)
        self._bytes += len(frame)
        if self._bytes > MAX_TICK_BYTES:
            self.flush()

    def reply(self, session: Session, frame: bytes) -> None:
        """Send `frame` to one session, behind everything already published to it."""
        if not self._busy or (session not in self._apart and not self._busy_channels_of(session)):
            figures = session.hub.figures
            figures.messages_sent += 1
            figures.bytes_sent += len(frame)
            session.deliver(frame)
            return
        self._order += 1
        self._set_apart(session).replies.append((self._order, frame))

    def joined(self, channel: Channel, session: Session) -> None:
        """Note that `session` has just subscribed: what is pending was published before."""
        if channel.pending:
            self._set_apart(session).joined[channel] = self._order

    def flush(self) -> None:
        """
        Write everything pending. Calling it with nothing pending does nothing.

        A session's `deliver` must not change any channel's subscribers; a connection that wants to
        close because of what it was given does so on a later turn.
        """
        busy, apart = self._busy, self._apart
        if not busy:
            return
        self._busy, self._apart, self._order, self._bytes = [], {}, 0, 0
        if len(busy) > 1:
            # Whoever listens to two busy channels needs them merged. Sets find these few in C.
            seen: set[Session] = set()
            for channel in busy:
                if not seen.isdisjoint(channel.subscribers):
                    for session in seen.intersection(channel.subscribers):
                        if session not in apart:
                            apart[session] = _Apart()
                seen.update(channel.subscribers)
        for session, reasons in apart.items():
            if frames := _frames_for(session, reasons, busy):
                session.deliver(frames)
        for channel in busy:
            pending = channel.pending
            channel.pending = []
            subscribers = channel.subscribers
            count = len(pending)
            frames = pending[0][1] if count == 1 else b"".join([f for _, f in pending])
            served = len(subscribers)
            if apart:
                served -= len(apart.keys() & subscribers.keys())
                for session in subscribers:
                    if session not in apart:
                        session.deliver(frames)
            else:
                for session in subscribers:
                    session.deliver(frames)
            figures = channel.figures
            figures.messages_sent += served * count
            figures.bytes_sent += served * len(frames)
            if count == 1:
                self._singles += 1
            else:
                self._batches.observe(count)
        self.latency.observe(self._clock() - self._since)

    @property
    def batches(self) -> Histogram:
        """How many frames each channel had in each tick; nearly all had a single one."""
        batches = Histogram(BATCH_FRAMES)
        batches.counts = [self._batches.counts[0] + self._singles, *self._batches.counts[1:]]
        batches.total = self._batches.total + self._singles
        return batches

    def _set_apart(self, session: Session) -> _Apart:
        reasons = self._apart.get(session)
        if reasons is None:
            reasons = self._apart[session] = _Apart()
        return reasons

    def _busy_channels_of(self, session: Session) -> list[Channel]:
        return _intersection(session, self._busy)


def _intersection(session: Session, busy: list[Channel]) -> list[Channel]:
    """Return the busy channels of a session, looking at the shorter of the two lists."""
    if len(busy) < len(session.channels):
        return [channel for channel in busy if session in channel.subscribers]
    return [channel for channel in session.channels.values() if channel.pending]


def _frames_for(session: Session, reasons: _Apart, busy: list[Channel]) -> bytes:
    frames = list(reasons.replies)
    for channel in _intersection(session, busy):
        since = reasons.joined.get(channel, 0)
        frames += [
            (order, frame)
            for order, frame in channel.pending
            if order > since and order not in reasons.skipped
        ]
    frames.sort()
    joined = b"".join([frame for _, frame in frames])
    figures = session.hub.figures
    figures.messages_sent += len(frames)
    figures.bytes_sent += len(joined)
    return joined
