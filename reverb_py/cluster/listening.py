"""Which topics this node listens to, and what it hears there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from reverb_py.cluster.connections import (
    PATIENCE_SECONDS,
    Command,
    RedisLink,
    SpoiledKey,
    Subscription,
)
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.lease import Lease
from reverb_py.cluster.membership import Membership
from reverb_py.cluster.messages import Change, Counts, Published, decode, decode_members
from reverb_py.cluster.outgoing import Outgoing
from reverb_py.cluster.scripts import SNAPSHOT
from reverb_py.cluster.topics import USER_PREFIX, Entry, Hold, Topic, take
from reverb_py.protocol.channel_names import kind_of

if TYPE_CHECKING:
    from reverb_py.cluster.app_bus import AppBus

__all__ = ["Listening"]

_BATCH = 50
_IDLE_SECONDS = 2.0


class Listening:
    """
    The topics that are of interest here, from the first reason on until a while after the last.

    It is what topics ask for what they need of Redis.
    """

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        node_id: str,
        apps: Mapping[str, AppBus],
        topics: dict[bytes, Topic],
        lease: Lease,
        membership: Membership,
        outgoing: Outgoing,
    ) -> None:
        self._link = link
        self._keys = keys
        self._node_id = node_id
        self._apps = apps
        self._topics = topics
        self._lease = lease
        self._membership = membership
        self._outgoing = outgoing
        self._loop = asyncio.get_running_loop()
        self._subscription: Subscription | None = None
        self._lenient_until = 0.0
        self._idle: dict[Topic, float] = {}
        self._to_listen: dict[Topic, None] = {}
        self._to_look_at: dict[Topic, None] = {}
        self._spoiled: dict[Topic, None] = {}
        self._something_to_listen = asyncio.Event()
        self._something_to_look_at = asyncio.Event()

    # Topics.

    def topic(self, app_bus: AppBus, name: str) -> Topic:
        """Return an app's topic, which is made if need be."""
        key = self._keys.topic(app_bus.app_id, name)
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(
                self,
                lambda: app_bus.hub,
                app_bus.app_id,
                name,
                key,
                has_members=app_bus.has_members(name),
                is_cached=not name.startswith(USER_PREFIX) and kind_of(name).cached,
            )
            self._idle[topic] = self._loop.time()
        return topic

    def find_topic(self, app_id: str, name: str) -> Topic | None:
        """Return an app's topic, if it is of interest here."""
        return self._topics.get(self._keys.topic(app_id, name))

    def idle(self, topic: Topic) -> None:
        self._idle.pop(topic, None)
        self._idle[topic] = self._loop.time()

    async def keep_tidy(self) -> None:
        """Leave topics that have been of no interest for a while, and forget them."""
        while True:
            await asyncio.sleep(_IDLE_SECONDS / 4)
            leaving = self._tidy()
            if leaving and self._subscription is not None:
                await self._subscription.leave(leaving)

    def _tidy(self) -> list[bytes]:
        """Forget idle topics; return those that are listened to no longer."""
        leaving = []
        now = self._loop.time()
        while self._idle:
            topic, since = next(iter(self._idle.items()))
            if now - since < _IDLE_SECONDS:
                break
            del self._idle[topic]
            if topic.listeners:
                continue
            if topic.is_asked_for and not topic.is_listening:
                self._idle[topic] = now
                continue
            if topic.is_listening:
                leaving.append(topic.key)
                topic.stop_listening()
                self._outgoing.is_not_heard(topic.key)
            if self._membership.has_count_to_tell(topic):
                self._idle[topic] = now
            elif not topic.holds:
                del self._topics[topic.key]
                self._membership.forgotten(topic)
        return leaving

    # What topics ask for.

    @property
    def is_away(self) -> bool:
        return self._link.is_away

    def listen(self, topic: Topic) -> None:
        self._to_listen[topic] = None
        self._something_to_listen.set()

    def fetch_members(self, topic: Topic) -> None:
        self._to_look_at[topic] = None
        self._something_to_look_at.set()

    def fetch_last_event(self, topic: Topic) -> None:
        self._outgoing.fetch_last_event(topic)

    def change(self, hold: Hold) -> None:
        self._membership.change(hold)

    def change_count(self, topic: Topic) -> None:
        self._membership.change_count(topic)

    def redis_may_have_forgotten(self) -> None:
        self.be_lenient(self._lease.seconds)

    def degrade_later(self, entry: Entry) -> None:
        """Subscribe a session in a second, from what is known here, if it still waits then."""
        entry.timer = self._loop.call_later(PATIENCE_SECONDS, entry.topic.admit, entry)

    def call_later(self, then: Callable[[], None]) -> None:
        """Call this in a second."""
        self._loop.call_later(PATIENCE_SECONDS, then)

    # Listening.

    async def begin(self, subscription: Subscription, own: Iterable[bytes]) -> None:
        """Listen to the node's own topics and to all that are of interest, until confirmed."""
        self._subscription = subscription
        await subscription.listen(own)
        self._to_listen.clear()
        for topic in self._topics.values():
            # Of some that were asked for meanwhile, nobody wants to hear any more.
            topic.is_asked_for = topic.listeners > 0
            if topic.is_asked_for:
                self._to_listen[topic] = None
        await self._listen(subscription)
        await subscription.is_complete.wait()

    async def keep_listening(self, subscription: Subscription) -> None:
        """Listen to what comes to be of interest, until Redis fails, which raises."""
        while True:
            await self._something_to_listen.wait()
            self._something_to_listen.clear()
            await self._listen(subscription)

    async def _listen(self, subscription: Subscription) -> None:
        topics = list(self._to_listen)
        self._to_listen.clear()
        await subscription.listen([topic.key for topic in topics])

    def confirmed(self, key: bytes) -> None:
        """Redis has confirmed that it will tell of a topic."""
        topic = self._topics.get(key)
        if topic is not None:
            topic.listening()

    def heard(self, key: bytes, message: bytes) -> None:
        """
        Take what was said on a topic; what is of no interest any more is passed over.

        Raises:
            Unintelligible: It is nothing that a node or a script says.
        """
        topic = self._topics.get(key)
        if topic is None:
            return
        said = decode(message)
        if isinstance(said, Published):
            self._published(topic, said)
        elif isinstance(said, Change):
            topic.changed(said)
        elif isinstance(said, Counts):
            own = self._lease.name.decode()
            elsewhere = (
                number
                for node, number in said.by_node.items()
                if not node.startswith(self._node_id)
            )
            topic.counted(said.by_node.get(own, 0), sum(elsewhere))

    def _published(self, topic: Topic, said: Published) -> None:
        """
        Deliver what other nodes have published, and remember last events in the order of Redis.

        This node has delivered and remembered its own at once. Until they come back, they are the
        younger ones: Redis has yet to take them.
        """
        hub, outgoing = self._apps[topic.app_id].hub, self._outgoing
        is_own = said.node == self._node_id
        if is_own and not topic.is_cached:
            return
        for frame, excluded, data in said.events:
            if is_own:
                if data is not None and outgoing.has_come_back(topic.key, frame):
                    hub.remember(topic.name, frame, data)
            elif data is not None and outgoing.is_on_its_way(topic.key):
                hub.deliver_from_elsewhere(topic.name, frame, excluded, None)
            else:
                hub.deliver_from_elsewhere(topic.name, frame, excluded, data)
            if data is not None and not topic.has_last_event:
                # What Redis answers may be older than this.
                topic.last_event_is_known()

    def forget(self) -> None:
        """Redis is out of reach; who waits for it is answered from what is known here."""
        self._subscription = None
        self._to_listen.clear()
        self._to_look_at.clear()
        self._spoiled.clear()
        for topic in list(self._topics.values()):
            topic.lost()
        for topic in list(self._topics.values()):
            topic.admit_all()

    # Members.

    def be_lenient(self, seconds: float) -> None:
        """Take no member away for so long: Redis has forgotten those of nodes yet to come back."""
        self._lenient_until = self._loop.time() + seconds

    def look_again(self) -> None:
        """Fetch the members of every topic: they may have changed unheard."""
        for topic in self._topics.values():
            self._look_again(topic)

    async def keep_looking(self) -> None:
        """Fetch members where they have to be, until Redis fails, which raises."""
        while True:
            await self._something_to_look_at.wait()
            self._something_to_look_at.clear()
            await self.look()

    async def look(self) -> None:
        """Fetch the members of topics that have asked for it."""
        while self._to_look_at:
            topics = take(self._to_look_at, _BATCH)
            answers = await self._link.run([self._snapshot(topic) for topic in topics])
            is_lenient = self._loop.time() < self._lenient_until
            for topic, answer in zip(topics, answers, strict=True):
                if not topic.is_listening or topic in self._to_look_at:
                    continue  # It has asked again since; what was answered may be too old.
                if isinstance(answer, SpoiledKey) or not answer[0].isdigit():
                    self._spoiled[topic] = None
                    continue
                version, pairs = answer
                topic.snapshot(int(version), decode_members(pairs), is_lenient=is_lenient)
                if is_lenient:
                    self._loop.call_at(self._lenient_until, self._look_again, topic)

    def retry(self) -> None:
        """Fetch again what could not be read because a key was spoiled."""
        spoiled, self._spoiled = self._spoiled, {}
        for topic in spoiled:
            self._look_again(topic)

    def _look_again(self, topic: Topic) -> None:
        if topic.members is not None and topic.is_listening and not self.is_away:
            topic.look_again()

    def _snapshot(self, topic: Topic) -> Command:
        return self._link.about(SNAPSHOT, topic.key, self._lease.name)
