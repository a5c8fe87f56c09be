"""
What joins the nodes of a deployment: the promise that `reverb_py.cluster` keeps with Redis.

A hub decides nothing that other nodes take part in. It asks its bus, and the bus calls the hub back
when a step can be taken here: at once where there is no other node, later where there is one. Each
step is one synchronous call of the hub, so that on a node nothing interleaves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from reverb_py.core.channel import Channel
    from reverb_py.core.hub import Hub
    from reverb_py.core.session import Session
    from reverb_py.core.users import SignedInUser

__all__ = ["Alone", "Bus", "Census", "MakeBus", "merged"]


class Census(NamedTuple):
    """
    What a node knows of an app.

    `channels` are those with subscribers on the node, by name: how many of its connections are
    subscribed, and on presence channels the ids of the members that it lists, wherever they are
    connected. `connections` is the number of the node's connections.
    """

    channels: dict[str, tuple[int, Collection[str]]]
    connections: int


class Bus(Protocol):
    """
    One app's line to the other nodes. Nothing here blocks or raises.

    `is_shared` tells whether there may be other nodes: without any, nobody else needs to be told.
    """

    is_shared: bool

    def enter(self, session: Session, name: str, user_id: str | None, info: bytes) -> None:
        """
        Have a session subscribed to a channel that it is not in.

        `Hub.entered` is called, once, when from now on everything that is published on any node
        arrives and, on a presence channel, when the user stands among its members; or
        `Session.subscription_refused`, when the channel is full.
        """

    def withdraw(self, session: Session, name: str) -> None:
        """Forget that a session is to be subscribed; it need not be."""

    def left(self, channel: Channel, user_id: str | None) -> None:
        """A session, present as this user, is not subscribed any more; others may be."""

    def vacated(self, name: str) -> None:
        """The last of this node's sessions has left a channel."""

    def publish(
        self, name: str, frame: bytes, excluded_socket_id: str | None, data: str | None
    ) -> None:
        """
        Send a frame to a channel's subscribers on other nodes.

        `excluded_socket_id` is that of a connection that is not here; `data` is the event's, when a
        cache channel is to remember it.
        """

    def counted(self, channel: Channel) -> bool:
        """
        The number of this node's subscribers of a channel has changed.

        Returns whether `Hub.count_is_known` is called when the count of all nodes is known.
        """

    def sign_in(self, session: Session, user: SignedInUser) -> None:
        """Note a signed-in session; `Hub.tell_watchlist` is called when who is online is known."""

    def sign_out(self, session: Session, user: SignedInUser) -> None:
        """Forget a signed-in session."""

    def terminate(self, user_id: str) -> None:
        """Close a user's connections on other nodes."""

    def settled(self) -> Awaitable[object] | None:
        """
        Return what ends when the bus has taken everything published so far, or can't for now.

        None means at once. As everywhere here, what is returned ends within about a second.
        """

    def census(
        self, prefix: str, names: Sequence[str] | None = None
    ) -> Awaitable[list[Census]] | None:
        """
        Ask the other nodes about the channels whose names begin so, or about those named.

        None means that there are no other nodes. Those that do not answer in time are left out.
        """

    def last_event(self, name: str) -> Awaitable[object] | None:
        """Have `Hub.last_events` know a cache channel's last event, wherever it was published."""

    def claim(self, keys: Sequence[str]) -> Awaitable[Mapping[str, bytes]] | None:
        """
        Claim idempotency keys that this node has not seen.

        Ends with what was answered under those of them that another node has claimed before.
        """

    def answered(self, answers: Mapping[str, bytes]) -> None:
        """Tell the other nodes what was answered under keys that were claimed."""


MakeBus = Callable[["Hub"], Bus]


class Alone:
    """The bus of the only node: every step is taken at once."""

    __slots__ = ("_hub",)

    is_shared = False

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def enter(self, session: Session, name: str, user_id: str | None, info: bytes) -> None:
        hub = self._hub
        channel = hub.channels.get(name)
        if channel is None:
            channel = hub.open(name)
            hub.tell_occupied(name)
        members = channel.members
        if members is not None:
            assert user_id is not None, "a presence subscription says who it is"
            if members.join(user_id, info):
                hub.announce_added(channel, user_id, info)
                hub.tell_added(name, user_id)
        hub.entered(session, channel, user_id)

    def withdraw(self, session: Session, name: str) -> None:
        pass

    def left(self, channel: Channel, user_id: str | None) -> None:
        members = channel.members
        if members is not None and user_id is not None and members.leave(user_id):
            self._hub.announce_removed(channel, user_id)
            self._hub.tell_removed(channel.name, user_id)

    def vacated(self, name: str) -> None:
        self._hub.tell_vacated(name)

    def publish(
        self, name: str, frame: bytes, excluded_socket_id: str | None, data: str | None
    ) -> None:
        pass

    def counted(self, channel: Channel) -> bool:
        return False

    def sign_in(self, session: Session, user: SignedInUser) -> None:
        users = self._hub.users
        if users.sign_in(session, user):
            self._hub.announce_user(user.id, is_online=True, unless=session)
        self._hub.tell_watchlist(session, user, users.is_online)

    def sign_out(self, session: Session, user: SignedInUser) -> None:
        if self._hub.users.sign_out(session, user):
            self._hub.announce_user(user.id, is_online=False)

    def terminate(self, user_id: str) -> None:
        pass

    def settled(self) -> Awaitable[object] | None:
        return None

    def census(
        self, prefix: str, names: Sequence[str] | None = None
    ) -> Awaitable[list[Census]] | None:
        return None

    def last_event(self, name: str) -> Awaitable[object] | None:
        return None

    def claim(self, keys: Sequence[str]) -> Awaitable[Mapping[str, bytes]] | None:
        return None

    def answered(self, answers: Mapping[str, bytes]) -> None:
        pass


def merged(censuses: Sequence[Census]) -> Census:
    """
    Return what several nodes know together: their connections add up.

    Of the members each node that lists any knows all, wherever they are; the first is believed,
    since another may be about to hear what this one has heard.
    """
    if len(censuses) == 1:
        return censuses[0]
    channels: dict[str, tuple[int, Collection[str]]] = {}
    for census in censuses:
        for name, (subscribers, user_ids) in census.channels.items():
            before = channels.get(name)
            if before is not None:
                subscribers += before[0]
                user_ids = before[1]
            channels[name] = (subscribers, user_ids)
    return Census(channels, sum(census.connections for census in censuses))
