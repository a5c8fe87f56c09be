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

if TYPE_CHECKING:
    from reverb_py.core.channel import Channel
    from reverb_py.core.session import Session

__all__ = ["MAX_TICK_BYTES", "Delivery"]

MAX_TICK_BYTES = 262_144
"""Bytes of frames that may wait for the end of a tick; what exceeds this is sent at once."""


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
    """

    __slots__ = ("_apart", "_busy", "_bytes", "_order", "_schedule")

    def __init__(self, schedule: Callable[[Callable[[], None]], object]) -> None:
        self._schedule = schedule
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
            frames = pending[0][1] if len(pending) == 1 else b"".join([f for _, f in pending])
            if apart:
                for session in channel.subscribers:
                    if session not in apart:
                        session.deliver(frames)
            else:
                for session in channel.subscribers:
                    session.deliver(frames)

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
    return b"".join([frame for _, frame in frames])
