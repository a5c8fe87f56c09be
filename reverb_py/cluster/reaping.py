"""
Taking away what is held under names of which nobody lives, this node's own at the end.

A name is reaped twice: at once, and again before it is buried, when nothing can arrive any more
that was said under it. In between, the list of the channels in which something was held stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from reverb_py.cluster.connections import RedisLink, SpoiledKey
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.lease import Lease
from reverb_py.cluster.membership import BATCH, Membership
from reverb_py.cluster.scripts import REAP

if TYPE_CHECKING:
    from reverb_py.cluster.app_bus import AppBus

__all__ = ["Reaping"]

_GRACE_LEASES = 3
"""Leases from the first reaping of a name to the last: one that lives, its lateness, and a rest."""


class _Legacy(NamedTuple):
    """A topic in which a node held something, and what its heir holds back of that."""

    topic: bytes
    app_id: str
    name: str
    key: bytes
    holds_back: tuple[bool, bool]


class Reaping:
    """The names that are left to this node, from when nobody lives under them until the end."""

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        lease: Lease,
        membership: Membership,
        apps: Mapping[str, AppBus],
    ) -> None:
        self._link = link
        self._keys = keys
        self._lease = lease
        self._membership = membership
        self._apps = apps
        self._loop = asyncio.get_running_loop()
        self._graves: dict[bytes, float] = {}
        self._is_leaving = False

    async def own_names(self) -> None:
        """Reap the names that this node has given up."""
        for name in list(self._lease.to_reap):
            if self._lease.is_own(name):
                await self.reap(name)

    async def keep_on(self) -> None:
        """Reap the names of which nobody lives, and bury them in time, until Redis fails."""
        while True:
            while self._lease.to_reap:
                await self.reap(next(iter(self._lease.to_reap)))
            now = self._loop.time()
            grace = _GRACE_LEASES * self._lease.seconds
            for name, since in list(self._graves.items()):
                if now - since >= grace:
                    await self._bury(name)
            self._lease.something_to_reap.clear()
            try:
                async with asyncio.timeout(self._lease.seconds / 3 if self._graves else None):
                    await self._lease.something_to_reap.wait()
            except TimeoutError:
                pass

    async def reap(self, name: bytes) -> None:
        """
        Take away what a node held that is not there any more. May be done by several at once.

        That its users have gone is held back here, and so is what it held back itself, unless this
        node reaps itself. The name is buried later, unless its node has left in order, so that
        nothing is on its way.
        """
        if name in self._lease.has_left:
            self._lease.has_left.discard(name)
            await self._bury(name)
        else:
            await self._take_away(name)
            await self._lease.claim_grave(name)
            self._graves[name] = self._loop.time()
        self._lease.to_reap.pop(name, None)

    async def _bury(self, name: bytes) -> None:
        """Reap a name for the last time. Where a key is spoiled, it stays until it can go."""
        self._graves.pop(name, None)
        if await self._take_away(name, is_last_time=True):
            await self._lease.forget(name)

    async def _take_away(self, name: bytes, *, is_last_time: bool = False) -> bool:
        """Take away what is held under a name; tell whether that was possible everywhere."""
        key = self._keys.held_by(name)
        is_done = True
        cursor = 0
        while True:
            cursor, topics = await self._link.run_own(("SSCAN", key, cursor, "COUNT", BATCH))
            if topics:
                async with self._membership.changing:
                    done = await self._reap_topics(name, topics)
                is_done = is_done and len(done) == len(topics)
                if done and is_last_time:
                    await self._link.run_own(("SREM", key, *done))
            if not int(cursor):
                return is_done

    async def _reap_topics(self, name: bytes, topics: Sequence[bytes]) -> list[bytes]:
        """Take away what a node held in these topics; return those where that could be done."""
        heir = self._lease.name
        if self._is_leaving and name != heir:
            return []  # Nobody would settle what this node inherits now.
        legacies = [self._legacy(topic, is_own=name == heir) for topic in topics]
        inherited = {one.key: one.topic for one in legacies if any(one.holds_back)}
        # As everything that is held, known before it is.
        if inherited and not await self._membership.note(inherited):
            return []
        answers = await self._link.run(
            [
                self._link.about(REAP, one.key, name, name, heir, *map(int, one.holds_back))
                for one in legacies
            ]
        )
        done = []
        for one, answer in zip(legacies, answers, strict=True):
            if isinstance(answer, SpoiledKey):
                self._membership.complain(answer, one.key)
                continue
            done.append(one.topic)
            app_bus = self._apps.get(one.app_id)
            if app_bus is not None:
                is_vacated, gone = answer
                users = [user_id.decode(errors="replace") for user_id in gone]
                app_bus.released(
                    one.name, users, is_vacated=bool(is_vacated), holds_back=one.holds_back
                )
                self._membership.look_whether_needed(one.app_id, one.name)
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
        membership, name = self._membership, self._lease.name
        async with membership.changing:
            self._is_leaving = True
        others, dead = await membership.give_up_name()
        if others:
            await self._lease.give_back([*self._lease.to_reap, *self._graves])
            if any(app_bus.departures for app_bus in self._apps.values()):
                membership.forget_departures()
                return
        else:
            self._is_leaving = False
            for other in dead:
                if other != name:
                    await self.reap(other)
            for app_bus in self._apps.values():
                app_bus.departures.hurry()
            await membership.tell_changes()
        # It was said under this name that it is over, and nothing after that.
        await self._bury(name)

    async def hurry(self) -> None:
        """Hold no departure back any more, unless somebody could come back on another node."""
        if not await self._lease.has_others():
            for app_bus in self._apps.values():
                app_bus.departures.hurry()
