"""One app's line to the other nodes, by way of its topics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from reverb_py.cluster.connections import RedisLink
from reverb_py.cluster.departures import Departures
from reverb_py.cluster.idempotency import Claims
from reverb_py.cluster.inquiries import Inquiries, RequestFigures
from reverb_py.cluster.listening import Listening
from reverb_py.cluster.messages import Unintelligible, decode_last_event
from reverb_py.cluster.outgoing import Outgoing
from reverb_py.cluster.topics import NOBODY, USER_PREFIX, Entry, Hold, Topic
from reverb_py.core.bus import Census
from reverb_py.core.holding import Departure
from reverb_py.core.session import other_member_message
from reverb_py.core.users import SignedInUser
from reverb_py.protocol.channel_names import Access, kind_of

if TYPE_CHECKING:
    from reverb_py.core.channel import Channel
    from reverb_py.core.hub import Hub
    from reverb_py.core.session import Session

__all__ = ["AppBus"]


class AppBus:
    """The bus of one app's hub. A hub that takes another's place takes its bus as well."""

    is_shared = True

    def __init__(
        self,
        hub: Hub,
        link: RedisLink,
        listening: Listening,
        outgoing: Outgoing,
        inquiries: Inquiries,
        claims: Claims,
        departures: Departures,
    ) -> None:
        self.hub = hub
        self.app_id = hub.app.id
        self.requests = RequestFigures()
        self.departures = departures
        self._link = link
        self._listening = listening
        self._outgoing = outgoing
        self._inquiries = inquiries
        self._claims = claims

    # Subscriptions.

    def enter(self, session: Session, name: str, user_id: str | None, info: bytes) -> None:
        entering = session.entering
        if entering is None:
            entering = session.entering = {}
        elif isinstance(first := entering.get(name), Entry):
            if first.user_id != user_id:
                message = other_member_message(name)
                session.subscription_refused(name, "InvalidMember", 409, message)
            return  # The answer to the first request answers this one.
        topic = self._listening.topic(self, name)
        entry = Entry(topic, session, user_id, info)
        entering[name] = entry
        topic.enter(entry)
        if name in entering:
            self._listening.degrade_later(entry)

    def withdraw(self, session: Session, name: str) -> None:
        entry = session.entering.get(name) if session.entering is not None else None
        if isinstance(entry, Entry):
            entry.topic.withdraw(entry)

    def left(self, channel: Channel, user_id: str | None) -> None:
        topic = self._listening.topic(self, channel.name)
        topic.release(user_id or NOBODY)
        topic.remove_listener()

    def vacated(self, name: str) -> None:
        topic = self._listening.topic(self, name)
        if topic.subscribers:
            topic.subscribers = 0
            topic.tell_count()

    def counted(self, channel: Channel) -> bool:
        if not self.hub.wants_counts:
            return False
        topic = self._listening.topic(self, channel.name)
        topic.subscribers = len(channel.subscribers)
        topic.tell_count()
        return not self._link.is_away

    def has_members(self, name: str) -> bool:
        """Tell whether the topic of this name is one of which members are known."""
        return name.startswith(USER_PREFIX) or kind_of(name).access is Access.PRESENCE

    # Events.

    def publish(
        self, name: str, frame: bytes, excluded_socket_id: str | None, data: str | None
    ) -> None:
        ttl = self.hub.app.last_event_seconds
        self._outgoing.publish(self.app_id, name, frame, excluded_socket_id, data, ttl)

    # Users.

    def sign_in(self, session: Session, user: SignedInUser) -> None:
        users = self.hub.users
        if users.sign_in(session, user._replace(watchlist=())):
            topic = self._listening.topic(self, USER_PREFIX + user.id)
            topic.hold(user.id, b"")
            if topic.members is not None and user.id not in topic.members:
                # Here it is certain; Redis has yet to tell the others.
                topic.show(user.id, b"")
        if user.watchlist:
            _Watch(self, session, user)

    def sign_out(self, session: Session, user: SignedInUser) -> None:
        if self.hub.users.sign_out(session, user):
            self._listening.topic(self, USER_PREFIX + user.id).release(user.id)
        for watched in user.watchlist:
            self._listening.topic(self, USER_PREFIX + watched).remove_listener()

    def terminate(self, user_id: str) -> None:
        self._inquiries.terminate(self.app_id, user_id)

    def watched(self, watch: _Watch) -> None:
        """Tell a session who is online of those it watches, as far as is known."""
        session, user = watch.session, watch.user
        if self.hub.sessions.get(session.socket_id) is session:
            self.hub.users.watch(session, user.watchlist)
            self.hub.tell_watchlist(session, user, self._is_online)

    def topic_of_user(self, user_id: str) -> Topic:
        return self._listening.topic(self, USER_PREFIX + user_id)

    def call_later(self, then: Callable[[], None]) -> None:
        self._listening.call_later(then)

    def _is_online(self, user_id: str) -> bool:
        topic = self.topic_of_user(user_id)
        return topic.members is not None and user_id in topic.members

    # Requests.

    def settled(self) -> Awaitable[object] | None:
        return self._outgoing.settled()

    def census(
        self, prefix: str, names: Sequence[str] | None = None
    ) -> Awaitable[list[Census]] | None:
        return None if self._link.is_away else self._inquiries.ask_all(self.app_id, prefix, names)

    def last_event(self, name: str) -> Awaitable[object] | None:
        topic = self._listening.find_topic(self.app_id, name)
        if self._link.is_away or (topic is not None and topic.is_known):
            return None
        return self._inquiries.recall(self, name)

    def claim(self, keys: Sequence[str]) -> Awaitable[Mapping[str, bytes]] | None:
        return None if self._link.is_away else self._claims.claim(self.app_id, keys)

    def answered(self, answers: Mapping[str, bytes]) -> None:
        self._claims.answered(self.app_id, answers)

    # What Redis answers.

    def held(self, hold: Hold, *, is_first: bool, is_occupied: bool) -> None:
        """Redis has noted a hold: what is new by that is told to the backend from here."""
        name = hold.topic.name
        if name.startswith(USER_PREFIX):
            return
        if is_occupied:
            self.hub.tell_occupied(name)
        if is_first and hold.user_id:
            self.hub.tell_added(name, hold.user_id)

    def holds_back(self, name: str) -> tuple[bool, bool]:
        """Tell whether it is held back that a member has left, and that everybody has."""
        if name.startswith(USER_PREFIX):
            return False, False
        app = self.hub.app
        return Departure(name, "").is_wanted(app), Departure(name).is_wanted(app)

    def released(
        self,
        name: str,
        user_ids: Sequence[str],
        *,
        is_vacated: bool,
        holds_back: tuple[bool, bool],
    ) -> None:
        """
        Redis has forgotten the last holds of these users: that is held back here, or told.

        `holds_back` is what Redis was told to do.
        """
        if name.startswith(USER_PREFIX):
            return
        holds_members, holds_channel = holds_back
        for user_id in user_ids:
            if user_id:
                self._has_gone(Departure(name, user_id), is_held=holds_members)
        if is_vacated:
            self._has_gone(Departure(name), is_held=holds_channel)

    def _has_gone(self, departure: Departure, *, is_held: bool) -> None:
        if is_held:
            self.departures.hold(departure)
        else:
            self.tell_gone(departure)

    def tell_gone(self, departure: Departure) -> None:
        """It is certain that nobody has come back."""
        if departure.user_id is None:
            self.hub.tell_vacated(departure.channel)
        else:
            self.hub.tell_removed(departure.channel, departure.user_id)

    def remember(self, name: str, value: bytes | None, ttl: int) -> None:
        """Redis has said what was said last on a cache channel, and for how many ms it counts."""
        if value is not None and ttl > 0:
            try:
                frame, data = decode_last_event(value)
            except Unintelligible:
                return  # Whatever it is, no node has said it.
            self.hub.remember(name, frame, data, ttl / 1000)


class _Watch:
    """A session that is to be told who of its watchlist is online, once that is known."""

    __slots__ = ("_app_bus", "_is_told", "_unknown", "session", "user")

    def __init__(self, app_bus: AppBus, session: Session, user: SignedInUser) -> None:
        self._app_bus = app_bus
        self._is_told = False
        self.session = session
        self.user = user
        topics = [app_bus.topic_of_user(watched) for watched in user.watchlist]
        self._unknown = set(topics)
        for topic in topics:
            topic.add_listener()
        for topic in topics:
            topic.when_known(partial(self._is_known, topic))
        if not self._is_told:
            app_bus.call_later(self._tell)

    def _is_known(self, topic: Topic) -> None:
        self._unknown.discard(topic)
        if not self._unknown:
            self._tell()

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            self._app_bus.watched(self)
