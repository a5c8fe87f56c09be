"""One app's connections and channels: who is here, who listens to what, events to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from reverb_py.core.bus import Alone, Census, MakeBus
from reverb_py.core.channel import Channel
from reverb_py.core.figures import AppFigures
from reverb_py.core.last_events import LastEvents
from reverb_py.core.limits import AddressRates, ClientEventLimits
from reverb_py.core.recent_keys import RecentKeys
from reverb_py.core.subscription_counts import SubscriptionCounts
from reverb_py.core.users import SignedInUser, Users
from reverb_py.protocol import frames, socket_ids
from reverb_py.protocol.channel_names import Access, kind_of
from reverb_py.protocol.errors import ErrorCode

if TYPE_CHECKING:
    from reverb_py.core.apps import App
    from reverb_py.core.delivery import Delivery
    from reverb_py.core.members import Members
    from reverb_py.core.notices import Notices
    from reverb_py.core.session import Session
    from reverb_py.core.timer_wheel import TimerWheel

__all__ = ["Hub", "Trace"]

# Presence channels have members instead, and on encrypted ones Java would try to decrypt a count.
_COUNTED = (Access.PUBLIC, Access.PRIVATE)
_NEVER_CACHED = ("client-", "pusher:", "pusher_internal:")


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
    `clock` returns seconds that never go backwards; `random` draws socket ids. `make_bus` returns
    the hub's line to other nodes. `error_frame` returns `pusher:error` for a code and a message.
    """

    __slots__ = (
        "_counts",
        "_notices",
        "app",
        "bus",
        "channels",
        "client_event_limits",
        "clock",
        "delivery",
        "error_frame",
        "figures",
        "last_events",
        "random",
        "recent_batches",
        "recent_keys",
        "sessions",
        "subscription_rates",
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
        make_bus: MakeBus = Alone,
        error_frame: Callable[[int, str], bytes] = frames.error,
    ) -> None:
        self.app = app
        self.delivery = delivery
        self.wheel = wheel
        self.clock = clock
        self.random = random
        self.trace = trace
        self.error_frame = error_frame
        self.figures = AppFigures()
        self.channels: dict[str, Channel] = {}
        self.sessions: dict[str, Session] = {}
        self.last_events = LastEvents()
        self.users = Users()
        self.client_event_limits = ClientEventLimits()
        self.subscription_rates = AddressRates()
        self.recent_keys = RecentKeys()
        self.recent_batches = RecentKeys()
        self._notices = notices
        self._counts = SubscriptionCounts(wheel, self._announce_count)
        self.bus = make_bus(self)

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

    # Subscriptions: what sessions ask for.

    def subscribe(
        self, session: Session, name: str, user_id: str | None = None, info: bytes = b"null"
    ) -> None:
        """
        Have the session subscribed and answer it; a session that is there is answered again.

        On a presence channel `user_id` says as whom, and `info`, which is JSON, what the others
        learn of that user.
        """
        channel = session.channels.get(name)
        if channel is None:
            self.bus.enter(session, name, user_id, info)
            return
        self._acknowledge(session, channel)
        if channel.kind.cached:
            self._reply_with_last_event(session, name)

    def unsubscribe(self, session: Session, name: str) -> None:
        """Take the session out of the channel; it need not be there."""
        channel = session.channels.pop(name, None)
        if channel is None:
            self.bus.withdraw(session, name)
            return
        user_id = channel.subscribers.pop(session)
        access = channel.kind.access.value
        self.figures.unsubscriptions[access] += 1
        self.bus.left(channel, user_id)
        if channel.subscribers:
            self._count_changed_here(channel)
            return
        del self.channels[name]
        self.figures.channels[access] -= 1
        self.bus.vacated(name)

    # Subscriptions: the steps that the bus takes here.

    def open(self, name: str, members: Members | None = None) -> Channel:
        """Make a channel for its first subscriber; a presence channel may be told its members."""
        channel = self.channels[name] = Channel(name, members, self.figures)
        self.figures.channels[channel.kind.access.value] += 1
        return channel

    def entered(self, session: Session, channel: Channel, user_id: str | None) -> None:
        """
        Add the session to the channel, and acknowledge it.

        On a presence channel the user is among the members by now, which the others have heard of.
        List and join are one step: the one who joins gets nothing published before the
        acknowledgement, everything that is published after it, and a cache channel's last event
        directly behind it (wire rule: subscription success).
        """
        self._acknowledge(session, channel)
        self.delivery.joined(channel, session)
        channel.subscribers[session] = user_id
        session.channels[channel.name] = channel
        self.figures.subscriptions[channel.kind.access.value] += 1
        if channel.kind.cached:
            self._reply_with_last_event(session, channel.name)
        self._count_changed_here(channel)

    def announce_added(self, channel: Channel, user_id: str, info: bytes) -> None:
        """Tell this node's subscribers of a new member."""
        self.send(channel, frames.member_added(channel.name, user_id, info))

    def announce_removed(self, channel: Channel, user_id: str) -> None:
        """Tell this node's subscribers that a member has left."""
        self.send(channel, frames.member_removed(channel.name, user_id))

    def count_is_known(self, channel: Channel) -> None:
        """Tell, in time, how many are subscribed to a channel on all nodes."""
        self._counts.changed(channel)

    # What one node of all tells the app's backend.

    def tell_occupied(self, name: str) -> None:
        """Tell the backend that a channel has its first subscriber."""
        if self._notices is not None:
            self._notices.channel_occupied(self.app, name)

    def tell_vacated(self, name: str) -> None:
        """Tell the backend that a channel has lost its last subscriber."""
        if self._notices is not None:
            self._notices.channel_vacated(self.app, name)

    def tell_added(self, name: str, user_id: str) -> None:
        """Tell the backend that a presence channel has a new member."""
        if self._notices is not None:
            self._notices.member_added(self.app, name, user_id)

    def tell_removed(self, name: str, user_id: str) -> None:
        """Tell the backend that a presence channel has lost a member."""
        if self._notices is not None:
            self._notices.member_removed(self.app, name, user_id)

    # Events.

    def publish(
        self, name: str, data: str, channels: Iterable[str], excluded_socket_id: str | None = None
    ) -> None:
        """
        Send one event to every subscriber of the channels, except the socket that is excluded.

        An unknown socket id excludes nobody. Cache channels remember the event, whether or not
        somebody is subscribed; on others nothing is encoded where nobody is.
        """
        excluded = None
        if excluded_socket_id is not None:
            excluded = self.sessions.get(excluded_socket_id)
            if excluded is not None:
                excluded_socket_id = None
        bus = self.bus
        for channel_name in channels:
            channel = self.channels.get(channel_name)
            if channel is not None:
                is_cached = channel.kind.cached
            else:
                # The cheap look first: most channels of most apps have no cache.
                is_cached = "cache-" in channel_name and kind_of(channel_name).cached
                if not is_cached and not bus.is_shared:
                    continue
            frame = frames.event(name, channel_name, data)
            if channel is not None:
                self.send(channel, frame, excluded)
            is_cached = is_cached and not name.startswith(_NEVER_CACHED)
            if is_cached:
                self.remember(channel_name, frame, data)
            if bus.is_shared:
                bus.publish(channel_name, frame, excluded_socket_id, data if is_cached else None)

    def deliver_from_elsewhere(
        self, name: str, frame: bytes, excluded_socket_id: str | None, data: str | None
    ) -> None:
        """Take what another node has published; `data` is there when it is to be remembered."""
        if data is not None:
            self.remember(name, frame, data)
        channel = self.channels.get(name)
        if channel is not None:
            excluded = excluded_socket_id and self.sessions.get(excluded_socket_id)
            self.send(channel, frame, excluded or None)

    def relay(self, sender: Session, name: str, event: str, data: bytes) -> None:
        """Send a client event to everybody on the channel but its sender."""
        channel = self.channels.get(name)
        user_id = None if channel is None else channel.subscribers.get(sender)
        frame = frames.client_event(event, name, data, user_id)
        self.bus.publish(name, frame, None, None)
        if channel is None:
            return
        self.send(channel, frame, sender)
        if self._notices is not None:
            self._notices.client_event(
                self.app, channel.name, event, data, sender.socket_id, user_id
            )

    def send(self, channel: Channel, frame: bytes, excluded: Session | None = None) -> None:
        """Send one finished frame to the channel's subscribers, except `excluded`."""
        if self.trace is not None:
            self.trace.broadcasting(self.app, channel.name, frame, len(channel.subscribers))
        self.delivery.publish(channel, frame, excluded)

    def remember(self, channel: str, frame: bytes, data: str, seconds: float | None = None) -> None:
        """Remember a cache channel's last event, for as long as the app says unless told."""
        if seconds is None:
            seconds = self.app.last_event_seconds
        self.last_events.remember(channel, frame, data, seconds, self.clock())

    # Users.

    def sign_in(self, session: Session, user: SignedInUser) -> None:
        """Note a signed-in session, and tell it and whoever watches the user what that changes."""
        self.bus.sign_in(session, user)

    def sign_out(self, session: Session, user: SignedInUser) -> None:
        """Forget a signed-in session, and tell whoever watches the user if it was the last."""
        self.bus.sign_out(session, user)

    def announce_user(
        self, user_id: str, *, is_online: bool, unless: Session | None = None
    ) -> None:
        """Tell this node's watchers, except one, that a user has come on- or gone offline."""
        changed = ([user_id], []) if is_online else ([], [user_id])
        announcement = frames.watchlist_events(*changed)
        for watcher in self.users.watchers_of(user_id):
            if watcher is not unless:
                watcher.reply(announcement)

    def tell_watchlist(
        self, session: Session, user: SignedInUser, is_online: Callable[[str], bool]
    ) -> None:
        """Tell a session who of its watchlist is online, and who is not."""
        if user.watchlist:
            online = [watched for watched in user.watchlist if is_online(watched)]
            offline = [watched for watched in user.watchlist if not is_online(watched)]
            session.reply(frames.watchlist_events(online, offline))

    def terminate(self, user_id: str) -> None:
        """
        Close every connection of a user: those signed in as it, and those present under its id.

        The code is 4009, on which clients do not come back by themselves.
        """
        self.bus.terminate(user_id)
        self.terminate_here(user_id)

    def terminate_here(self, user_id: str) -> None:
        """Close the user's connections that are on this node."""
        sessions = dict.fromkeys(self.users.connections_of(user_id))
        for channel in self.channels.values():
            if channel.members is not None and user_id in channel.members:
                sessions |= {
                    s: None for s, present in channel.subscribers.items() if present == user_id
                }
        for session in sessions:
            session.close(ErrorCode.UNAUTHORIZED, "Connection terminated by the application")

    # What is known here.

    def census(self, prefix: str, names: Sequence[str] | None = None) -> Census:
        """Return what this node knows of the channels that begin so, or of those named."""
        if names is None:
            names = [name for name in self.channels if name.startswith(prefix)]
        channels = {}
        for name in names:
            channel = self.channels.get(name)
            if channel is not None:
                members = channel.members
                user_ids = () if members is None else members.ids
                channels[name] = (len(channel.subscribers), user_ids)
        return Census(channels, len(self.sessions))

    @property
    def wants_counts(self) -> bool:
        """Whether anybody is told how many are subscribed to a channel."""
        app = self.app
        return app.subscription_counts or any(
            "subscription_count" in webhook.kinds for webhook in app.webhooks
        )

    def _acknowledge(self, session: Session, channel: Channel) -> None:
        data = "{}" if channel.members is None else channel.members.snapshot()
        session.reply(frames.subscription_succeeded(channel.name, data))

    def _reply_with_last_event(self, session: Session, channel: str) -> None:
        last_event = self.last_events.recall(channel, self.clock())
        if last_event is not None:
            session.reply(last_event.frame)
            return
        session.reply(frames.cache_miss(channel))
        if self._notices is not None and self.last_events.is_first_miss(channel, self.clock()):
            self._notices.cache_miss(self.app, channel)

    def _count_changed_here(self, channel: Channel) -> None:
        channel.has_count_to_tell = True
        if not self.bus.counted(channel):
            self._counts.changed(channel)

    def _announce_count(self, channel: Channel) -> None:
        if channel.has_count_to_tell:
            channel.has_count_to_tell = False
            if self._notices is not None:
                self._notices.subscription_count(self.app, channel.name, channel.count)
        if self.app.subscription_counts and channel.kind.access in _COUNTED:
            self.send(channel, frames.subscription_count(channel.name, channel.count))
