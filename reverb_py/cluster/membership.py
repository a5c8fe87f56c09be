"""
What Redis is told that this node holds, and for whom.

What Redis is to know is state, not a list of commands: what has changed is sent in batches, one at
a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from reverb_py.cluster.connections import Command, RedisLink, SpoiledKey, evaluation
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.lease import Lease
from reverb_py.cluster.scripts import COUNT, HOLD, REGISTER, RELEASE, SETTLE
from reverb_py.cluster.topics import USER_PREFIX, Hold, Topic, take
from reverb_py.core.holding import Departure

if TYPE_CHECKING:
    from reverb_py.cluster.app_bus import AppBus

__all__ = ["BATCH", "Membership"]

BATCH = 500
"""Channels of which Redis is told at once."""

_Due = tuple[str, Departure]
"""A departure that was held for its time, and the id of its app."""


class Membership:
    """
    What this node holds, under the name that its lease is for.

    `changing` is held by whoever tells Redis of it: one batch at a time.
    """

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        lease: Lease,
        apps: Mapping[str, AppBus],
        topics: Mapping[bytes, Topic],
    ) -> None:
        self._link = link
        self._keys = keys
        self._lease = lease
        self._apps = apps
        self._topics = topics
        self._log = structlog.get_logger("reverb_py")
        self._may_change = False
        self.changing = asyncio.Lock()
        self._to_change: dict[Hold, None] = {}
        self._to_count: dict[Topic, None] = {}
        self._to_settle: dict[_Due, None] = {}
        self._doubtful: dict[_Due, None] = {}
        self._spoiled: dict[Hold | Topic, None] = {}
        self._to_unregister: dict[bytes, tuple[str, str]] = {}
        self._registered: dict[bytes, bytes] = {}
        self._something_to_change = asyncio.Event()

    # The name.

    async def take_name(self) -> bool:
        """
        Be another node from now on, which has yet to hold anything.

        Returns whether Redis has forgotten the last name, and so, presumably, everything.
        """
        lease = self._lease
        async with self.changing:
            has_forgotten = bool(lease.name) and not await lease.is_known()
            if has_forgotten:
                # Something may be held since, under a name of which Redis does not know the rest.
                await self._note_again()
            await lease.begin()
            self._registered.clear()
            self.forget_departures()
            self._may_change = True
            for topic in self._topics.values():
                topic.is_held_no_more()
                for hold in topic.holds.values():
                    self._to_change[hold] = None
                if topic.subscribers:
                    self._to_count[topic] = None
        return has_forgotten

    async def give_up_name(self) -> tuple[bool, list[bytes]]:
        """
        Hold nothing any more under the name, and have nobody believe that its node lives.

        Returns whether other nodes do, and the names of which nobody does.
        """
        await self.tell_changes()
        async with self.changing:
            self._may_change = False
            self._to_change.clear()
            self._to_count.clear()
            return await self._lease.leave()

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
        self.look_whether_needed(topic.app_id, topic.name)

    def look_whether_needed(self, app_id: str, channel: str) -> None:
        """Have it known, in time, where this node holds nothing in a channel any more."""
        key = self._keys.topic(app_id, channel)
        if key in self._registered and not self._is_needed(key, app_id, channel):
            self._to_unregister[key] = (app_id, channel)
            self._something_to_change.set()

    def _is_needed(self, key: bytes, app_id: str, channel: str) -> bool:
        """Tell whether this node may hold something in a topic."""
        return key in self._topics or self._apps[app_id].departures.has_any_of(channel)

    def forget(self) -> None:
        """Redis is out of reach: under the next name, everything is told anew."""
        self._may_change = False
        self.forget_departures()
        self._to_unregister.clear()
        self._to_change.clear()
        self._to_count.clear()
        self._spoiled.clear()

    def forget_departures(self) -> None:
        """Whoever reaps the name under which they are held, holds them anew."""
        self._to_settle.clear()
        for app_bus in self._apps.values():
            app_bus.departures.forget()

    def settle(self, app_id: str, departure: Departure) -> None:
        """Have a departure told that was held for its time, unless somebody has come back."""
        self._to_settle[app_id, departure] = None
        self._something_to_change.set()

    async def settle_doubtful(self) -> None:
        """Have those told of which Redis was asked when it went away, and is known no more."""
        doubtful = list(self._doubtful)
        if doubtful:
            async with self.changing:
                asked = [self._settling(due, is_again=1) for due in doubtful]
                answers = await self._link.run(asked)
            for due, answer in zip(doubtful, answers, strict=True):
                del self._doubtful[due]
                if answer == 1:
                    app_id, departure = due
                    self._apps[app_id].tell_gone(departure)

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
        while self._to_settle or self._to_change or self._to_count or self._to_unregister:
            async with self.changing:
                await self._tell_some()

    async def _tell_some(self) -> None:
        await self._unregister()
        settling: list[_Due] = take(self._to_settle, BATCH)
        holds: list[Hold] = take(self._to_change, BATCH)
        topics: list[Topic] = take(self._to_count, BATCH)
        if not await self._register({hold.topic for hold in holds}.union(topics)):
            # Under the next name all of them are told.
            holds, topics = [], []
        due: list[Hold] = []
        held_back: dict[Hold, tuple[bool, bool]] = {}
        # First, as what comes after them may undo them.
        commands = [self._settling(one) for one in settling]
        for hold in holds:
            topic = hold.topic
            # Who brings another info leaves first, as on a node alone.
            is_wanted = hold.connections > 0 and not hold.is_outdated
            if is_wanted == hold.is_held:
                if _is_over(hold):
                    topic.was_not_told(hold.user_id)
                    _drop(hold)
                continue
            due.append(hold)
            hold.is_held = is_wanted
            if is_wanted:
                most = 0 if hold.is_admitted else self._most_members(topic)
                commands.append(
                    self._script(HOLD, topic, hold.user_id, hold.info, most, self._lease.deadline)
                )
            else:
                hold.version = None
                hold.is_outdated = False
                holds_back = held_back[hold] = self._apps[topic.app_id].holds_back(topic.name)
                commands.append(
                    self._script(
                        RELEASE, topic, hold.user_id, self._lease.name, *map(int, holds_back)
                    )
                )
        for topic in topics:
            commands.append(
                self._script(
                    COUNT, topic, self._lease.name, topic.subscribers, self._lease.deadline
                )
            )
        self._doubtful.update(dict.fromkeys(settling))
        answers = await self._link.run(commands) if commands else []
        for one, answer in zip(settling, answers, strict=False):
            del self._doubtful[one]
            self._settled(one, answer)
        answers = answers[len(settling) :]
        for hold, answer in zip(due, answers, strict=False):
            if isinstance(answer, SpoiledKey):
                # It has failed as a whole; what is asked for again is not refused for that.
                hold.is_held = not hold.is_held and hold.connections == 0
                hold.is_outdated = False
                self._spoiled[hold] = None
                self.complain(answer, hold.topic.key)
            else:
                self._hold_changed(hold, answer, held_back.get(hold, (False, False)))
        for topic, answer in zip(topics, answers[len(due) :], strict=True):
            if isinstance(answer, SpoiledKey):
                self._spoiled[topic] = None
                self.complain(answer, topic.key)
                topic.count_is_not_told()

    def _settled(self, due: _Due, answer: Any) -> None:
        app_id, departure = due
        app_bus = self._apps[app_id]
        if isinstance(answer, SpoiledKey):
            app_bus.departures.hold(departure)
            self.complain(answer, self._keys.topic(app_id, departure.channel))
            return
        app_bus.departures.settled(departure)
        self.look_whether_needed(app_id, departure.channel)
        if answer:
            app_bus.tell_gone(departure)

    def _hold_changed(self, hold: Hold, answer: list[Any], holds_back: tuple[bool, bool]) -> None:
        topic = hold.topic
        app_bus = self._apps[topic.app_id]
        if hold.is_held:
            if answer[0] == b"late":
                hold.is_held = False
                self._is_late()
                return
            if answer[0] == b"full":
                hold.is_held = False
                topic.refused(hold)
            else:
                for departure in (Departure(topic.name, hold.user_id), Departure(topic.name)):
                    self._to_settle.pop((topic.app_id, departure), None)
                    app_bus.departures.settled(departure)
                app_bus.held(hold, is_first=bool(answer[1]), is_occupied=bool(answer[2]))
                topic.held(hold, int(answer[3]))
        else:
            users = [hold.user_id] if answer[0] else []
            app_bus.released(topic.name, users, is_vacated=bool(answer[1]), holds_back=holds_back)
            _drop(hold)
        if (hold.connections > 0) != hold.is_held and topic.holds.get(hold.user_id) is hold:
            self.change(hold)

    def _most_members(self, topic: Topic) -> int:
        if topic.name.startswith(USER_PREFIX) or topic.members is None:
            return 0
        return self._apps[topic.app_id].hub.app.max_presence_members

    async def _register(self, topics: Iterable[Topic]) -> bool:
        """Have it known where this node may hold something, before it does; not if it is dead."""
        return await self.note(
            {
                topic.key: f"{topic.app_id}\0{topic.name}".encode()
                for topic in topics
                if topic.key not in self._registered
            }
        )

    def _is_late(self) -> None:
        """Nothing can be held under the name any more: the next one is told of everything."""
        self._may_change = False
        self._lease.is_over = True

    async def note(self, topics: Mapping[bytes, bytes]) -> bool:
        """
        Have topics known, by their keys, in which this node may hold something.

        Returns False if the node is dead for the others, so that it may not.
        """
        if not topics:
            return True
        key = self._keys.held_by(self._lease.name)
        if not await self._link.run_own(
            evaluation(REGISTER, [key], self._lease.deadline, *topics.values())
        ):
            self._is_late()
            return False
        self._registered.update(topics)
        return True

    async def _note_again(self) -> None:
        """Have it known what may be held under the name, so that it is reaped."""
        key, topics = self._keys.held_by(self._lease.name), list(self._registered.values())
        for start in range(0, len(topics), BATCH):
            await self._link.run_own(("SADD", key, *topics[start : start + BATCH]))

    async def _unregister(self) -> None:
        """Have it known where this node holds nothing any more."""
        names = []
        for key, (app_id, channel) in self._to_unregister.items():
            if not self._is_needed(key, app_id, channel):
                self._registered.pop(key, None)
                names.append(f"{app_id}\0{channel}")
        self._to_unregister.clear()
        if names:
            await self._link.run_own(("SREM", self._keys.held_by(self._lease.name), *names))

    def _settling(self, due: _Due, *, is_again: int = 0) -> Command:
        app_id, departure = due
        key = self._keys.topic(app_id, departure.channel)
        user_id = departure.user_id or ""
        return self._link.about(SETTLE, key, self._lease.name, user_id, self._lease.name, is_again)

    def _script(self, script: str, topic: Topic, *arguments: object) -> Command:
        return self._link.about(script, topic.key, self._lease.name, *arguments)

    def complain(self, spoiled: SpoiledKey, key: bytes) -> None:
        """Say in the log what has to be deleted in Redis."""
        self._log.error(
            "Something else was written to a channel's keys in Redis: delete them",
            channel=key.decode(errors="replace"),
            reason=str(spoiled),
        )


def _is_over(hold: Hold) -> bool:
    """Tell whether a hold is neither wanted nor there, and not forgotten yet."""
    is_unwanted = hold.connections == 0 and not hold.is_held
    return is_unwanted and hold.topic.holds.get(hold.user_id) is hold


def _drop(hold: Hold) -> None:
    """Forget a hold that is over."""
    if _is_over(hold):
        hold.topic.forget_hold(hold)
