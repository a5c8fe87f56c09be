"""One app's connections and channels: who is here, who listens to what, events to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from reverb_py.core.channel import Channel
from reverb_py.core.last_events import LastEvents
from reverb_py.core.limits import ClientEventLimits
from reverb_py.core.recent_keys import RecentKeys
from reverb_py.core.subscription_counts import SubscriptionCounts
from reverb_py.core.users import SignedInUser, Users
from reverb_py.protocol import frames, socket_ids
from reverb_py.protocol.channel_names import Access, kind_of
from reverb_py.protocol.errors import ErrorCode

if TYPE_CHECKING:
    from reverb_py.core.apps import App
    from reverb_py.core.delivery import Delivery
    from reverb_py.core.notices import Notices
    from reverb_py.core.session import Session
    from reverb_py.core.timer_wheel import TimerWheel

__all__ = ["Hub", "Trace"]

# Presence channels have members instead, and on encrypted ones Java would try to decrypt a count.
_COUNTED = (Access.PUBLIC, Access.PRIVATE)


class Trace(Protocol):
    """Where every message is shown to whoever debugs; None in its place costs nothing."""

    def connection_established(self, app: App, socket_id: str) -> None: ...

    def connection_closed(self, app: App, socket_id: str) -> None: ...

    def message_received(self, app: App, socket_id: str, text: str) -> None: ...

    def message_sent(self, app: App, socket_id: str, frame: bytes) -> None: ...

    def broadcasting(self, app: App, channel: str, frame: bytes, subscribers: int) -> None: ...


class Hub:
    """
    The state of one app on this node.

    Subscribing, unsubscribing and disconnecting cost the same however many connections and
    channels there are; on a presence channel a join costs as much as its members' list is long.
    `clock` returns seconds that never go backwards; `random` draws socket ids.
    """

    __slots__ = (
        "_counts",
        "_notices",
        "app",
        "channels",
        "client_event_limits",
        "clock",
        "delivery",
        "last_events",
        "random",
        "recent_batches",
        "recent_keys",
        "sessions",
        "trace",
        "users",
        "wheel",
    )

    def __init__(
        self,
        app: App,
        delivery: Delivery,
        wheel: TimerWheel,
        clock: Callable[[], float],
        random: socket_ids.RandomSource,
        *,
        notices: Notices | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.app = app
        self.delivery = delivery
        self.wheel = wheel
        self.clock = clock
        self.random = random
        self.trace = trace
        self.channels: dict[str, Channel] = {}
        self.sessions: dict[str, Session] = {}
        self.last_events = LastEvents()
        self.users = Users()
        self.client_event_limits = ClientEventLimits()
        self.recent_keys = RecentKeys()
        self.recent_batches = RecentKeys()
        self._notices = notices
        self._counts = SubscriptionCounts(wheel, self._announce_count)

    @property
    def is_full(self) -> bool:
        """Whether the app has as many connections as it may have."""
        return 0 < self.app.max_connections <= len(self.sessions)

    def new_socket_id(self) -> str:
        """Draw a socket id that no connection of this app has."""
        socket_id = socket_ids.new_socket_id(self.random)
        while socket_id in self.sessions:
            socket_id = socket_ids.new_socket_id(self.random)
        return socket_id

    def close_all(self, code: ErrorCode, reason: str) -> None:
        """Close every connection of the app."""
        for session in list(self.sessions.values()):
            session.close(code, reason)

    # Subscriptions.

    def subscribe(
        self, session: Session, name: str, user_id: str | None = None, info: bytes = b"null"
    ) -> None:
        """
        Add the session to the channel and answer it; a session that is there is answered again.

        On a presence channel `user_id` says as whom, and `info`, which is JSON, what the others
        learn of that user. Snapshot, join and announcement are one step: the others hear of a user
        once, the one who joins gets nothing published before the acknowledgement, and a cache
        channel's last event follows directly behind it (wire rule: subscription success).
        """
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name)
            if self._notices is not None:
                self._notices.channel_occupied(self.app, name)
        is_new = session not in channel.subscribers
        members = channel.members
        if members is not None and is_new:
            assert user_id is not None, "a presence subscription says who it is"
            if members.join(user_id, info):
                self.send(channel, frames.member_added(name, user_id, info))
                if self._notices is not None:
                    self._notices.member_added(self.app, name, user_id)
        data = "{}" if members is None else members.snapshot()
        session.reply(frames.subscription_succeeded(name, data))
        if is_new:
            self.delivery.joined(channel, session)
            channel.subscribers[session] = user_id
            session.channels[name] = channel
        if channel.kind.cached:
            self._reply_with_last_event(session, name)
        if is_new:
            self._counts.changed(channel)

    def unsubscribe(self, session: Session, name: str) -> None:
        """Take the session out of the channel; it need not be there."""
        channel = session.channels.pop(name, None)
        if channel is None:
            return
        user_id = channel.subscribers.pop(session)
        if channel.members is not None and user_id is not None and channel.members.leave(user_id):
            self.send(channel, frames.member_removed(name, user_id))
            if self._notices is not None:
                self._notices.member_removed(self.app, name, user_id)
        if channel.subscribers:
            self._counts.changed(channel)
            return
        del self.channels[name]
        if self._notices is not None:
            self._notices.channel_vacated(self.app, name)

    # Events.

    def publish(
        self, name: str, data: str, channels: Iterable[str], excluded_socket_id: str | None = None
    ) -> None:
        """
        Send one event to every subscriber of the channels, except the socket that is excluded.

        An unknown socket id excludes nobody. Cache channels remember the event, whether or not
        somebody is subscribed; on others nothing is encoded where nobody is.
        """
        excluded = None if excluded_socket_id is None else self.sessions.get(excluded_socket_id)
        for channel_name in channels:
            channel = self.channels.get(channel_name)
            if channel is None:
                # The cheap look first: most channels of most apps have no cache.
                if "cache-" in channel_name and kind_of(channel_name).cached:
                    self._remember(name, data, channel_name, frames.event(name, channel_name, data))
                continue
            frame = frames.event(name, channel_name, data)
            self.send(channel, frame, excluded)
            if channel.kind.cached:
                self._remember(name, data, channel_name, frame)

    def relay(self, sender: Session, channel: Channel, event: str, data: bytes) -> None:
        """Send a client event to everybody on the channel but its sender."""
        user_id = channel.subscribers.get(sender)
        self.send(channel, frames.client_event(event, channel.name, data, user_id), sender)
        if self._notices is not None:
            self._notices.client_event(
                self.app, channel.name, event, data, sender.socket_id, user_id
            )

    def send(self, channel: Channel, frame: bytes, excluded: Session | None = None) -> None:
        """Send one finished frame to the channel's subscribers, except `excluded`."""
        if self.trace is not None:
            self.trace.broadcasting(self.app, channel.name, frame, len(channel.subscribers))
        self.delivery.publish(channel, frame, excluded)

    # Users.

    def sign_in(self, session: Session, user: SignedInUser) -> None:
        """Note a signed-in session, and tell it and whoever watches the user what that changes."""
        if self.users.sign_in(session, user):
            announcement = frames.watchlist_events([user.id], [])
            for watcher in self.users.watchers_of(user.id):
                if watcher is not session:
                    watcher.reply(announcement)
        if user.watchlist:
            session.reply(frames.watchlist_events(*self.users.by_presence(user.watchlist)))

    def sign_out(self, session: Session, user: SignedInUser) -> None:
        """Forget a signed-in session, and tell whoever watches the user if it was the last."""
        if self.users.sign_out(session, user):
            announcement = frames.watchlist_events([], [user.id])
            for watcher in self.users.watchers_of(user.id):
                watcher.reply(announcement)

    def terminate(self, user_id: str) -> None:
        """
        Close every connection of a user: those signed in as it, and those present under its id.

        The code is 4009, on which clients do not come back by themselves.
        """
        sessions = dict.fromkeys(self.users.connections_of(user_id))
        for channel in self.channels.values():
            if channel.members is not None and user_id in channel.members:
                sessions |= {
                    s: None for s, present in channel.subscribers.items() if present == user_id
                }
        for session in sessions:
            session.close(ErrorCode.UNAUTHORIZED, "Connection terminated by the application")

    def _remember(self, name: str, data: str, channel: str, frame: bytes) -> None:
        if not name.startswith(("client-", "pusher:", "pusher_internal:")):
            seconds = self.app.last_event_seconds
            self.last_events.remember(channel, frame, data, seconds, self.clock())

    def _reply_with_last_event(self, session: Session, channel: str) -> None:
        last_event = self.last_events.recall(channel, self.clock())
        if last_event is not None:
            session.reply(last_event.frame)
            return
        session.reply(frames.cache_miss(channel))
        if self._notices is not None and self.last_events.is_first_miss(channel, self.clock()):
            self._notices.cache_miss(self.app, channel)

    def _announce_count(self, channel: Channel) -> None:
        count = len(channel.subscribers)
        if self._notices is not None:
            self._notices.subscription_count(self.app, channel.name, count)
        if self.app.subscription_counts and channel.kind.access in _COUNTED:
            self.send(channel, frames.subscription_count(channel.name, count))
