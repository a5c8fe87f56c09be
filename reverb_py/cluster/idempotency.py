"""Idempotency keys that are those of all nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from redis.exceptions import RedisError

from reverb_py.cluster.connections import PATIENCE_SECONDS, Command, RedisLink
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.outgoing import Outgoing
from reverb_py.core.recent_keys import KEY_SECONDS

__all__ = ["Claims"]

_CLAIM_MILLISECONDS = 5_000
_LOOK_SECONDS = 0.02


class Claims:
    """Keys that nodes have claimed: who claims one first publishes, and tells what was answered."""

    def __init__(self, link: RedisLink, keys: Keys, outgoing: Outgoing) -> None:
        self._link = link
        self._keys = keys
        self._outgoing = outgoing

    async def claim(self, app_id: str, keys: Sequence[str]) -> dict[str, bytes]:
        """
        Claim keys; return what others have answered under some of them.

        It ends within `PATIENCE_SECONDS`; without Redis, keys count as claimed.
        """
        taken: dict[str, bytes] = {}
        names = [self._keys.idempotency(app_id, key) for key in keys]
        commands: list[Command] = []
        for name in names:
            commands += [("SET", name, b"", "NX", "PX", _CLAIM_MILLISECONDS), ("GET", name)]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answers = await self._link.ask(commands)
                for key, name, is_new, value in zip(
                    keys, names, answers[::2], answers[1::2], strict=True
                ):
                    while not is_new and value == b"":
                        # Another node is at it.
                        await asyncio.sleep(_LOOK_SECONDS)
                        [value] = await self._link.ask([("GET", name)])
                    if not is_new and value:
                        taken[key] = value[1:]
        except (RedisError, OSError, TimeoutError):
            pass  # Rather twice than not at all.
        return taken

    def answered(self, app_id: str, answers: Mapping[str, bytes]) -> None:
        """Have other nodes know what was answered under keys."""
        if not self._link.is_away:
            for key, body in answers.items():
                name = self._keys.idempotency(app_id, key)
                milliseconds = int(KEY_SECONDS * 1000)
                self._outgoing.command(("SET", name, b"1" + body, "PX", milliseconds))
