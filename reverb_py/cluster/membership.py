"""
What Redis is told of this node: under which name it is there, and what it holds under it.

A node of which nothing was heard for the length of its lease is dead: whoever notices takes away
what it held. A node that has lost Redis gives its name up and takes another. A name that is given
up, by death or otherwise, is reaped twice: at once, and again before it is buried, when nothing can
arrive any more that was said under it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from redis.exceptions import RedisError

from reverb_py.cluster.connections import Command, RedisLink, SpoiledKey, evaluation
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.scripts import (
    COUNT,
    HOLD,
    LEASE,
    LEAVE,
    REAP,
    REGISTER,
    RELEASE,
    SETTLE,
    keys_of,
)
from reverb_py.cluster.topics import USER_PREFIX, Hold, Topic, take
from reverb_py.core.holding import Departure

if TYPE_CHECKING:
    from reverb_py.cluster.app_bus import AppBus

__all__ = ["Membership"]

_BATCH = 500

_Due = tuple[str, Departure]
"""A departure that was held for its time, and the id of its app."""

_LATENESS_LEASES = 1
"""Leases by which what was said under a name may be late: the clocks of a Cluster may differ."""

_GRACE_LEASES = 3
"""Leases from the first reaping of a name to the last: one that lives, its lateness, and a rest."""

_CLAIM_LEASES = 6
"""Leases for which a name is left to the node that reaps it."""


class _Legacy(NamedTuple):
    """A topic in which a node held something, and what its heir holds back of that."""

    topic: bytes
    app_id: str
    name: str
    key: bytes
    holds_back: tuple[bool, bool]


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
        self.lease_seconds = lease_seconds
        self.name = b""
        self.is_presumed_dead = False
        """Whether nothing can be held under the name any more."""
        self._deadline = 0
        self._to_reap: dict[bytes, None] = {}
        self._has_left: set[bytes] = set()
        self._graves: dict[bytes, float] = {}
        self._something_to_reap = asyncio.Event()
        self._may_change = False
        self._changing = asyncio.Lock()
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

        Its last name is left to this node to reap. Returns whether Redis has forgotten that name,
        and so, presumably, everything.
        """
        async with self._changing:
            old = self.name
            has_forgotten = bool(old) and not await self._is_known(old)
            if has_forgotten:
                # Something may be held since, under a name of which Redis does not know the rest.
                await self._note_again(old)
            name = f"{self._node_id}.{next(self._numbers)}".encode()
            ends = await self._renew(name, old, is_new=True)
            self.name = name
            self._extend(ends)
            if old:
                self._to_reap[old] = None
            self.is_presumed_dead = False
            self._registered.clear()
            self._forget_departures()
            self._may_change = True
            for topic in self._topics.values():
                topic.is_held_no_more()
                for hold in topic.holds.values():
                    self._to_change[hold] = None
                if topic.subscribers:
                    self._to_count[topic] = None
        return has_forgotten

    async def _is_known(self, name: bytes) -> bool:
        """Tell whether Redis has not forgotten a node of this name, dead or alive."""
        for key in (self._keys.nodes, self._keys.gone):
            if await self._run(("ZSCORE", key, name)) is not None:
                return True
        return False

    async def keep_lease(self) -> None:
        """Have Redis believe that this node lives, until it fails, which raises."""
        while True:
            await asyncio.sleep(self.lease_seconds / 3)
            name = self.name
            ends = await self._renew(name, b"", is_new=False)
            if name != self.name:
                continue  # It was given up meanwhile.
            if ends is None:
                self._presume_dead()
            else:
                self._extend(ends)

    async def _renew(self, name: bytes, old: bytes, *, is_new: bool) -> bytes | None:
        """Return when a lease of this name ends, by the clock of Redis; None if it is dead."""
        lease = self._lease_milliseconds
        keys = [self._keys.nodes, self._keys.gone]
        command = evaluation(LEASE, keys, name, lease, int(is_new), _CLAIM_LEASES * lease, old)
        ends, due, left = await self._run(command)
        self._to_reap.update(dict.fromkeys(due))
        self._has_left.update(left)
        self._something_to_reap.set()
        return ends  # type: ignore[no-any-return]

    def _extend(self, ends: bytes | None) -> None:
        assert ends is not None, "a lease that begins has an end"
        self._deadline = int(ends) + _LATENESS_LEASES * self._lease_milliseconds

    def _presume_dead(self) -> None:
        self._may_change = False
        self.is_presumed_dead = True

    async def reap_own_names(self) -> None:
        """Reap the names that this node has given up."""
        own = f"{self._node_id}.".encode()
        for name in list(self._to_reap):
            if name.startswith(own):
                await self.reap(name)

    async def keep_reaping(self) -> None:
        """Reap the names of which nobody lives, and bury them in time, until Redis fails."""
        while True:
            while self._to_reap:
                await self.reap(next(iter(self._to_reap)))
            now = self._loop.time()
            grace = _GRACE_LEASES * self.lease_seconds
            for name, since in list(self._graves.items()):
                if now - since >= grace:
                    await self._bury(name)
            self._something_to_reap.clear()
            try:
                async with asyncio.timeout(self.lease_seconds / 3 if self._graves else None):
                    await self._something_to_reap.wait()
            except TimeoutError:
                pass

    async def reap(self, name: bytes) -> None:
        """
        Take away what a node held that is not there any more. May be done by several at once.

        That its users have gone is held back here, and so is what it held back itself, unless this
        node reaps itself. The name is buried later, unless its node has left in order, so that
        nothing is on its way.
        """
        if name in self._has_left:
            self._has_left.discard(name)
            await self._bury(name)
        else:
            await self._take_away(name)
            self._graves[name] = self._loop.time()
        self._to_reap.pop(name, None)

    async def _bury(self, name: bytes) -> None:
        """Reap a name for the last time. Where a key is spoiled, it stays until it can go."""
        self._graves.pop(name, None)
        if await self._take_away(name, is_last_time=True):
            await self._run(("ZREM", self._keys.gone, name))

    async def _take_away(self, name: bytes, *, is_last_time: bool = False) -> bool:
        """Take away what is held under a name; tell whether that was possible everywhere."""
        key = self._keys.held_by(name)
        is_done = True
        cursor = 0
        while True:
            cursor, topics = await self._run(("SSCAN", key, cursor, "COUNT", _BATCH))
            if topics:
                async with self._changing:
                    done = await self._reap_topics(name, topics)
                is_done = is_done and len(done) == len(topics)
                if done and is_last_time:
                    await self._run(("SREM", key, *done))
            if not int(cursor):
                return is_done

    async def _reap_topics(self, name: bytes, topics: Sequence[bytes]) -> list[bytes]:
        """Take away what a node held in these topics; return those where that could be done."""
        heir = self.name
        legacies = [self._legacy(topic, is_own=name == heir) for topic in topics]
        inherited = {one.key: one.topic for one in legacies if any(one.holds_back)}
        # As everything that is held, known before it is.
        if inherited and not await self._note(inherited):
            return []
        answers = await self._link.run(
            [
                self._script_at(REAP, one.key, name, name, heir, *map(int, one.holds_back))
                for one in legacies
            ]
        )
        done = []
        for one, answer in zip(legacies, answers, strict=True):
            if isinstance(answer, SpoiledKey):
                self._complain(answer, one.key)
                continue
            done.append(one.topic)
            app_bus = self._apps.get(one.app_id)
            if app_bus is not None:
                is_vacated, gone = answer
                users = [user_id.decode(errors="replace") for user_id in gone]
                app_bus.released(
                    one.name, users, is_vacated=bool(is_vacated), holds_back=one.holds_back
                )
                self._look_whether_needed(one.app_id, one.name)
        return done

    def _legacy(self, topic: bytes, *, is_own: bool) -> _Legacy:
        app_id, _, name = topic.decode(errors="replace").partition("\0")
        app_bus = self._apps.get(app_id)
        holds_back = (False, False) if app_bus is None or is_own else app_bus.holds_back(name)
        return _Legacy(topic, app_id, name, self._keys.topic(app_id, name), holds_back)

    async def leave(self) -> None:
        """
        Give up the name and everything that is held under it.

        Departures that are held back are left to the other nodes, which reap the name; where there
        are none, nobody can come back, and all are told.
        """
        await self.tell_changes()
        async with self._changing:
            self._may_change = False
            self._to_change.clear()
            self._to_count.clear()
            others, dead = await self._others(is_leaving=1)
        if others and any(app_bus.departures for app_bus in self._apps.values()):
            self._forget_departures()
            return
        if not others:
            for name in dead:
                if name != self.name:
                    await self.reap(name)
            for app_bus in self._apps.values():
                app_bus.departures.hurry()
            await self.tell_changes()
        # It was said under this name that it is over, and nothing after that.
        await self._bury(self.name)

    async def hurry(self) -> None:
        """Hold no departure back any more, unless somebody could come back on another node."""
        others, _ = await self._others(is_leaving=0)
        if not others:
            for app_bus in self._apps.values():
                app_bus.departures.hurry()

    async def _others(self, *, is_leaving: int) -> tuple[bool, list[bytes]]:
        """Return whether there are other nodes, and the names of dead ones."""
        keys = [self._keys.nodes, self._keys.gone]
        command = evaluation(LEAVE, keys, self.name, is_leaving)
        is_anybody, dead, left = await self._run(command)
        self._has_left.update(left)
        return bool(is_anybody), dead

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
        self._look_whether_needed(topic.app_id, topic.name)

    def _look_whether_needed(self, app_id: str, channel: str) -> None:
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
        self._forget_departures()
        self._to_unregister.clear()
        self._to_change.clear()
        self._to_count.clear()
        self._spoiled.clear()

    def _forget_departures(self) -> None:
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
            async with self._changing:
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
            async with self._changing:
                await self._tell_some()

    async def _tell_some(self) -> None:
        await self._unregister()
        settling: list[_Due] = take(self._to_settle, _BATCH)
        holds: list[Hold] = take(self._to_change, _BATCH)
        topics: list[Topic] = take(self._to_count, _BATCH)
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
                if not is_wanted and _is_over(hold):
                    topic.was_not_told(hold.user_id)
                    _drop(hold)
                continue
            due.append(hold)
            hold.is_held = is_wanted
            if is_wanted:
                most = 0 if hold.is_admitted else self._most_members(topic)
                commands.append(
                    self._script(HOLD, topic, hold.user_id, hold.info, most, self._deadline)
                )
            else:
                hold.version = None
                hold.is_outdated = False
                holds_back = held_back[hold] = self._apps[topic.app_id].holds_back(topic.name)
                commands.append(
                    self._script(RELEASE, topic, hold.user_id, self.name, *map(int, holds_back))
                )
        for topic in topics:
            commands.append(
                self._script(COUNT, topic, self.name, topic.subscribers, self._deadline)
            )
        self._doubtful.update(dict.fromkeys(settling))
        answers = await self._link.run(commands) if commands else []
        for one, answer in zip(settling, answers, strict=False):
            del self._doubtful[one]
            self._settled(one, answer)
        answers = answers[len(settling) :]
        for hold, answer in zip(due, answers, strict=False):
            if isinstance(answer, SpoiledKey):
                # It has failed as a whole.
                hold.is_held = not hold.is_held
                self._spoiled[hold] = None
                self._complain(answer, hold.topic.key)
            else:
                self._hold_changed(hold, answer, held_back.get(hold, (False, False)))
        for topic, answer in zip(topics, answers[len(due) :], strict=True):
            if isinstance(answer, SpoiledKey):
                self._spoiled[topic] = None
                self._complain(answer, topic.key)
                topic.count_is_not_told()

    def _settled(self, due: _Due, answer: Any) -> None:
        app_id, departure = due
        app_bus = self._apps[app_id]
        if isinstance(answer, SpoiledKey):
            app_bus.departures.hold(departure)
            self._complain(answer, self._keys.topic(app_id, departure.channel))
            return
        app_bus.departures.settled(departure)
        self._look_whether_needed(app_id, departure.channel)
        if answer:
            app_bus.tell_gone(departure)

    def _hold_changed(self, hold: Hold, answer: list[Any], holds_back: tuple[bool, bool]) -> None:
        topic = hold.topic
        app_bus = self._apps[topic.app_id]
        if hold.is_held:
            if answer[0] == b"late":
                hold.is_held = False
                self._presume_dead()
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
        return await self._note(
            {
                topic.key: f"{topic.app_id}\0{topic.name}".encode()
                for topic in topics
                if topic.key not in self._registered
            }
        )

    async def _note(self, topics: Mapping[bytes, bytes]) -> bool:
        """Have topics known, by their keys, in which this node may hold something."""
        if not topics:
            return True
        key = self._keys.held_by(self.name)
        if not await self._run(evaluation(REGISTER, [key], self._deadline, *topics.values())):
            self._presume_dead()
            return False
        self._registered.update(topics)
        return True

    async def _note_again(self, name: bytes) -> None:
        """Have it known what may be held under a name, so that it is reaped."""
        topics = list(self._registered.values())
        for start in range(0, len(topics), _BATCH):
            await self._run(("SADD", self._keys.held_by(name), *topics[start : start + _BATCH]))

    async def _unregister(self) -> None:
        """Have it known where this node holds nothing any more."""
        names = []
        for key, (app_id, channel) in self._to_unregister.items():
            if not self._is_needed(key, app_id, channel):
                self._registered.pop(key, None)
                names.append(f"{app_id}\0{channel}")
        self._to_unregister.clear()
        if names:
            await self._run(("SREM", self._keys.held_by(self.name), *names))

    def _settling(self, due: _Due, *, is_again: int = 0) -> Command:
        app_id, departure = due
        key = self._keys.topic(app_id, departure.channel)
        user_id = departure.user_id or ""
        return self._script_at(SETTLE, key, self.name, user_id, self.name, is_again)

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


def _is_over(hold: Hold) -> bool:
    """Tell whether a hold is neither wanted nor there, and not forgotten yet."""
    is_unwanted = hold.connections == 0 and not hold.is_held
    return is_unwanted and hold.topic.holds.get(hold.user_id) is hold


def _drop(hold: Hold) -> None:
    """Forget a hold that is over."""
    if _is_over(hold):
        del hold.topic.holds[hold.user_id]
        hold.topic.look_whether_idle()
