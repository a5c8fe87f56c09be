"""
The name under which a node is there, and the lease for which it is believed to live.

A node of which nothing was heard for the length of its lease is dead. One that has lost Redis gives
its name up and takes another. Redis keeps the names that were given up until they are buried, and
leaves each to one node that reaps it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count

from reverb_py.cluster.connections import RedisLink, evaluation
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.scripts import LEASE, LEAVE

__all__ = ["Lease"]

_LATENESS_LEASES = 1
"""Leases by which what was said under a name may be late: the clocks of a Cluster may differ."""

_CLAIM_LEASES = 2
"""Leases for which a name is left to the node that is to reap it: that may die, too."""

_GRAVE_LEASES = 6
"""Leases for which a name that was reaped is left to the node that is to bury it."""


class Lease:
    """
    This node's name, and until when it counts. `seconds` is how long Redis believes in it.

    What is said under the name counts until `deadline`, in ms since 1970 by the clock of Redis.
    `is_over` tells that nothing can be said under it any more. `to_reap` are the names that are
    left to this node, `has_left` those of which it is known that nothing is on its way; there may
    be more of either when `something_to_reap` is set. By the clock of Redis, in ms: `silence` is
    how long the lease had not been renewed when the name was taken, `age` how long the node had
    been there by then; both are 0 for its first name.
    """

    def __init__(self, link: RedisLink, keys: Keys, node_id: str, seconds: float) -> None:
        self._link = link
        self._keys = keys
        self._node_id = node_id
        self._numbers = count(1)
        self.seconds = seconds
        self._milliseconds = int(seconds * 1000)
        self.name = b""
        self.deadline = 0
        self.is_over = False
        self._first_end = self._last_end = 0
        self.silence = 0
        self.age = 0
        self.to_reap: dict[bytes, None] = {}
        self.has_left: set[bytes] = set()
        self.something_to_reap = asyncio.Event()

    async def begin(self) -> None:
        """Take a new name; the last one is left to this node to reap."""
        old, name = self.name, f"{self._node_id}.{next(self._numbers)}".encode()
        ends = await self._renew(name, old, is_new=True)
        assert ends is not None, "a lease that begins has an end"
        self.name = name
        if self._first_end:
            self.silence = int(ends) - self._last_end
            self.age = int(ends) - self._first_end
        else:
            self._first_end = int(ends)
        self._extend(ends)
        self.is_over = False
        if old:
            self.to_reap[old] = None

    async def keep(self) -> None:
        """Have Redis believe that this node lives, until it fails, which raises."""
        while True:
            await asyncio.sleep(self.seconds / 3)
            name = self.name
            ends = await self._renew(name, b"", is_new=False)
            if name != self.name:
                continue  # It was given up meanwhile.
            if ends is None:
                self.is_over = True
            else:
                self._extend(ends)

    async def is_known(self) -> bool:
        """Tell whether Redis has not forgotten the name, dead or alive."""
        for key in (self._keys.nodes, self._keys.gone):
            if await self._link.run_own(("ZSCORE", key, self.name)) is not None:
                return True
        return False

    def is_own(self, name: bytes) -> bool:
        """Tell whether a name is one that this node has had."""
        return name.startswith(f"{self._node_id}.".encode())

    async def leave(self) -> tuple[bool, list[bytes]]:
        """
        Have nobody believe any more that a node of this name lives; nothing is on its way.

        Returns whether other nodes live, and the names of which nobody does.
        """
        return await self._others(is_leaving=1)

    async def has_others(self) -> bool:
        """Tell whether other nodes live."""
        others, _ = await self._others(is_leaving=0)
        return others

    async def give_back(self, names: Iterable[bytes]) -> None:
        """Leave names to whichever other node asks first, instead of this one."""
        scores = [each for name in names if name != self.name for each in (0, name)]
        if scores:
            await self._link.run_own(("ZADD", self._keys.gone, "XX", *scores))

    async def claim_grave(self, name: bytes) -> None:
        """Have a name that was reaped left to this node until it is buried."""
        until = self.deadline + _GRAVE_LEASES * self._milliseconds
        await self._link.run_own(("ZADD", self._keys.gone, "XX", until, name))

    async def forget(self, name: bytes) -> None:
        """Have a name forgotten under which nothing is held any more."""
        await self._link.run_own(("ZREM", self._keys.gone, name))

    async def _others(self, *, is_leaving: int) -> tuple[bool, list[bytes]]:
        keys = [self._keys.nodes, self._keys.gone]
        command = evaluation(LEAVE, keys, self.name, is_leaving)
        is_anybody, dead, left = await self._link.run_own(command)
        self.has_left.update(left)
        return bool(is_anybody), dead

    async def _renew(self, name: bytes, old: bytes, *, is_new: bool) -> bytes | None:
        """Return when a lease of this name ends, by the clock of Redis; None if it is dead."""
        lease = self._milliseconds
        keys = [self._keys.nodes, self._keys.gone]
        command = evaluation(LEASE, keys, name, lease, int(is_new), _CLAIM_LEASES * lease, old)
        ends, due, left = await self._link.run_own(command)
        self.to_reap.update(dict.fromkeys(due))
        self.has_left.update(left)
        self.something_to_reap.set()
        return ends  # type: ignore[no-any-return]

    def _extend(self, ends: bytes) -> None:
        self._last_end = int(ends)
        self.deadline = int(ends) + _LATENESS_LEASES * self._milliseconds
