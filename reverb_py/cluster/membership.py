"""
What Redis is told of this node: under which name it is there, and what it holds under it.

A node of which nothing was heard for the length of its lease is dead: whoever notices takes away
what it held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import RedisError

from reverb_py.cluster.connections import Command, RedisLink, SpoiledKey, evaluation
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.scripts import COUNT, HOLD, LEASE, REAP, RELEASE, keys_of
from reverb_py.cluster.topics import USER_PREFIX, Hold, Topic, take

if TYPE_CHECKING:
    from reverb_py.cluster.app_bus import AppBus

__all__ = ["Membership"]

_BATCH = 500
_RETIRED_SECONDS = 60.0


class Membership:
    """
    This node's name among the nodes, its lease, and its holds.

    What Redis is to know is state, not a list of commands: what has changed is sent in batches, one
    at a time. `lease_seconds` is how long Redis believes that the node lives.
    """

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        node_id: str,
        apps: Mapping[str, AppBus],
        topics: Mapping[bytes, Topic],
        lease_seconds: float,
    ) -> None:
        self._link = link
        self._keys = keys
        self._node_id = node_id
        self._apps = apps
        self._topics = topics
        self._lease_milliseconds = int(lease_seconds * 1000)
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger("reverb_py")
        self._numbers = count(1)
        self.name = b""
        self._retired: dict[bytes, float] = {}
        self._may_change = False
        self._changing = asyncio.Lock()
        self._to_change: dict[Hold, None] = {}
        self._to_count: dict[Topic, None] = {}
        self._spoiled: dict[Hold | Topic, None] = {}
        self._to_unregister: dict[bytes, str] = {}
        self._registered: set[bytes] = set()
        self._something_to_change = asyncio.Event()

    # The name.

    async def take_name(self) -> list[bytes]:
        """
        Be another node from now on, which has yet to hold anything.

        Returns the names of dead nodes.
        """
        async with self._changing:
            now = self._loop.time()
            for name, since in list(self._retired.items()):
                if now - since > _RETIRED_SECONDS:
                    del self._retired[name]
            if self.name:
                self._retired[self.name] = now
            self.name = f"{self._node_id}.{next(self._numbers)}".encode()
            dead = await self._renew(is_new=True)
            self._registered.clear()
            self._may_change = True
            for topic in self._topics.values():
                topic.is_held_no_more()
                for hold in topic.holds.values():
                    self._to_change[hold] = None
                if topic.subscribers:
                    self._to_count[topic] = None
        return dead or []

    async def is_known(self, name: bytes) -> bool:
        """Tell whether Redis has not forgotten a node of this name, dead or alive."""
        return await self._run(("ZSCORE", self._keys.nodes, name)) is not None

    async def renew(self) -> list[bytes] | None:
        """Renew the lease; return the names of dead nodes, or None when this one is dead."""
        return await self._renew(is_new=False)

    async def _renew(self, *, is_new: bool) -> list[bytes] | None:
        arguments = (self.name, self._lease_milliseconds, int(is_new))
        dead = await self._run(evaluation(LEASE, [self._keys.nodes], *arguments))
        if dead is None:
            return None
        return [name for name in dead if name != self.name]

    async def reap(self, name: bytes) -> None:
        """
        Take away what a node held that is not there any more. May be done by several at once.

        Where a key is spoiled, the rest is taken away, and the name stays until it can go.
        """
        key = self._keys.held_by(name)
        while topics := await self._run(("SRANDMEMBER", key, _BATCH)):
            places = [topic.decode(errors="replace").partition("\0") for topic in topics]
            answers = await self._link.run(
                [
                    self._script_at(REAP, self._keys.topic(app_id, channel), name, name)
                    for app_id, _, channel in places
                ]
            )
            done = []
            for topic, (app_id, _, channel), answer in zip(topics, places, answers, strict=True):
                if isinstance(answer, SpoiledKey):
                    self._complain(answer, self._keys.topic(app_id, channel))
                    continue
                done.append(topic)
                app_bus = self._apps.get(app_id)
                if app_bus is not None:
                    is_vacated, gone = answer
                    users = [user_id.decode(errors="replace") for user_id in gone]
                    app_bus.released(channel, users, is_vacated=bool(is_vacated))
            if not done:
                return
            await self._run(("SREM", key, *done))
        await self._run(("ZREM", self._keys.nodes, name))

    async def reap_retired(self) -> None:
        """Reap the names that this node has had: what was under way may have arrived late."""
        now = self._loop.time()
        for name, since in list(self._retired.items()):
            await self.reap(name)
            if now - since > _RETIRED_SECONDS:
                del self._retired[name]

    async def leave(self) -> None:
        """Give up the name and everything that is held under it."""
        async with self._changing:
            await self.reap(self.name)

    # Holds.

    def change(self, hold: Hold) -> None:
        """Have Redis told what is wanted of a hold."""
        if self._may_change:
            self._to_change[hold] = None
            self._something_to_change.set()
        else:
            _drop(hold)

    def change_count(self, topic: Topic) -> None:
        """Have Redis told the number of subscribers here."""
        if self._may_change:
            self._to_count[topic] = None
            self._something_to_change.set()

    def has_count_to_tell(self, topic: Topic) -> bool:
        """Tell whether Redis has yet to be told a topic's number of subscribers."""
        return topic in self._to_count

    def forgotten(self, topic: Topic) -> None:
        """Have it known, in time, that this node holds nothing in a topic any more."""
        if topic.key in self._registered:
            self._to_unregister[topic.key] = f"{topic.app_id}\0{topic.name}"
            self._something_to_change.set()

    def forget(self) -> None:
        """Redis is out of reach: under the next name, everything is told anew."""
        self._may_change = False
        self._registered.clear()
        self._to_unregister.clear()
        self._to_change.clear()
        self._to_count.clear()
        self._spoiled.clear()

    def retry(self) -> None:
        """Tell Redis again what it could not take because a key was spoiled."""
        spoiled, self._spoiled = self._spoiled, {}
        for one in spoiled:
            if isinstance(one, Hold):
                self.change(one)
            else:
                self.change_count(one)

    async def keep_changing(self) -> None:
        """Tell Redis what changes, until it fails, which raises."""
        while True:
            await self._something_to_change.wait()
            self._something_to_change.clear()
            await self.tell_changes()

    async def tell_changes(self) -> None:
        """Have Redis know which channels this node holds, for whom, and for how many."""
        while self._to_change or self._to_count or self._to_unregister:
            async with self._changing:
                await self._tell_some()

    async def _tell_some(self) -> None:
        await self._unregister()
        holds: list[Hold] = take(self._to_change, _BATCH)
        topics: list[Topic] = take(self._to_count, _BATCH)
        await self._register({hold.topic for hold in holds}.union(topics))
        due: list[Hold] = []
        commands: list[Command] = []
        for hold in holds:
            topic = hold.topic
            is_wanted = hold.connections > 0
            if is_wanted == hold.is_held:
                if not is_wanted:
                    _drop(hold)
                continue
            due.append(hold)
            hold.is_held = is_wanted
            if is_wanted:
                most = 0 if hold.is_admitted else self._most_members(topic)
                commands.append(self._script(HOLD, topic, hold.user_id, hold.info, most))
            else:
                hold.version = None
                commands.append(self._script(RELEASE, topic, hold.user_id))
        for topic in topics:
            commands.append(self._script(COUNT, topic, self.name, topic.subscribers))
        answers = await self._link.run(commands) if commands else []
        for hold, answer in zip(due, answers, strict=False):
            if isinstance(answer, SpoiledKey):
                # It has failed as a whole.
                hold.is_held = not hold.is_held
                self._spoiled[hold] = None
                self._complain(answer, hold.topic.key)
            else:
                self._hold_changed(hold, answer)
        for topic, answer in zip(topics, answers[len(due) :], strict=True):
            if isinstance(answer, SpoiledKey):
                self._spoiled[topic] = None
                self._complain(answer, topic.key)

    def _hold_changed(self, hold: Hold, answer: list[Any]) -> None:
        topic = hold.topic
        app_bus = self._apps[topic.app_id]
        if hold.is_held:
            if answer[0] == b"full":
                hold.is_held = False
                topic.refused(hold)
            else:
                app_bus.held(hold, is_first=bool(answer[1]), is_occupied=bool(answer[2]))
                topic.held(hold, int(answer[3]))
        else:
            users = [hold.user_id] if answer[0] else []
            app_bus.released(topic.name, users, is_vacated=bool(answer[1]))
            _drop(hold)
        if (hold.connections > 0) != hold.is_held and topic.holds.get(hold.user_id) is hold:
            self.change(hold)

    def _most_members(self, topic: Topic) -> int:
        if topic.name.startswith(USER_PREFIX) or topic.members is None:
            return 0
        return self._apps[topic.app_id].hub.app.max_presence_members

    async def _register(self, topics: Iterable[Topic]) -> None:
        """Have it known where this node may hold something, before it does."""
        new = [topic for topic in topics if topic.key not in self._registered]
        if new:
            names = [f"{topic.app_id}\0{topic.name}" for topic in new]
            await self._run(("SADD", self._keys.held_by(self.name), *names))
            self._registered.update(topic.key for topic in new)

    async def _unregister(self) -> None:
        """Have it known where this node holds nothing any more."""
        names = [name for key, name in self._to_unregister.items() if key not in self._topics]
        self._registered.difference_update(self._to_unregister.keys() - self._topics.keys())
        self._to_unregister.clear()
        if names:
            await self._run(("SREM", self._keys.held_by(self.name), *names))

    def _script(self, script: str, topic: Topic, *arguments: object) -> Command:
        return self._script_at(script, topic.key, self.name, *arguments)

    def _script_at(self, script: str, key: bytes, name: bytes, *arguments: object) -> Command:
        return evaluation(script, keys_of(key, name), key, self._link.publish_command, *arguments)

    async def _run(self, command: Command) -> Any:
        """Run a command on one of the nodes' own keys, without which nothing goes."""
        [answer] = await self._link.run([command])
        if isinstance(answer, SpoiledKey):
            raise RedisError(f"{answer} ({command[0]} of the nodes)")
        return answer

    def _complain(self, spoiled: SpoiledKey, key: bytes) -> None:
        self._log.error(
            "Something else was written to a channel's keys in Redis: delete them",
            channel=key.decode(errors="replace"),
            reason=str(spoiled),
        )


def _drop(hold: Hold) -> None:
    """Forget a hold that is neither wanted nor there."""
    topic = hold.topic
    if hold.connections == 0 and not hold.is_held and topic.holds.get(hold.user_id) is hold:
        del topic.holds[hold.user_id]
        topic.look_whether_idle()
