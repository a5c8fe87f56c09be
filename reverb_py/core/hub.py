"""One app's connections and channels: who is here, who listens to what, events to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from reverb_py.core.channel import Channel
from reverb_py.protocol import frames, socket_ids

if TYPE_CHECKING:
    from reverb_py.core.apps import App
    from reverb_py.core.delivery import Delivery
    from reverb_py.core.session import Session

__all__ = ["Hub", "Trace"]


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
    channels there are. `clock` returns seconds that never go backwards; `random` draws socket ids.
    """

    __slots__ = ("app", "channels", "clock", "delivery", "random", "sessions", "trace")

    def __init__(
        self,
        app: App,
        delivery: Delivery,
        clock: Callable[[], float],
        random: socket_ids.RandomSource,
        trace: Trace | None = None,
    ) -> None:
        self.app = app
        self.delivery = delivery
        self.clock = clock
        self.random = random
        self.trace = trace
        self.channels: dict[str, Channel] = {}
        self.sessions: dict[str, Session] = {}

    @property
    def is_full(self) -> bool:
        """Whether the app has as many connections as it may have."""
        limit = self.app.max_connections
        return limit is not None and len(self.sessions) >= limit

    def new_socket_id(self) -> str:
        """Draw a socket id that no connection of this app has."""
        socket_id = socket_ids.new_socket_id(self.random)
        while socket_id in self.sessions:
            socket_id = socket_ids.new_socket_id(self.random)
        return socket_id

    def subscribe(self, session: Session, name: str) -> bool:
        """Add the session to the channel; return False if it was there already."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name)
        elif session in channel.subscribers:
            return False
        self.delivery.joined(channel, session)
        channel.subscribers[session] = None
        session.channels[name] = channel
        return True

    def unsubscribe(self, session: Session, name: str) -> bool:
        """Take the session out of the channel; return False if it was not there."""
        channel = session.channels.pop(name, None)
        if channel is None:
            return False
        del channel.subscribers[session]
        if not channel.subscribers:
            del self.channels[name]
        return True

    def publish(
        self, name: str, data: str, channels: Iterable[str], excluded_socket_id: str | None = None
    ) -> None:
        """
        Send one event to every subscriber of the channels, except the socket that is excluded.

        An unknown socket id excludes nobody. Where nobody is subscribed nothing is encoded.
        """
        excluded = None if excluded_socket_id is None else self.sessions.get(excluded_socket_id)
        for channel_name in channels:
            channel = self.channels.get(channel_name)
            if channel is not None:
                self.send(channel, frames.event(name, channel_name, data), excluded)

    def send(self, channel: Channel, frame: bytes, excluded: Session | None = None) -> None:
        """Send one finished frame to the channel's subscribers, except `excluded`."""
        if self.trace is not None:
            self.trace.broadcasting(self.app, channel.name, frame, len(channel.subscribers))
        self.delivery.publish(channel, frame, excluded)
