"""What goes to Redis on several connections, without Redis: in which order."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from redis.asyncio.connection import Connection

from reverb_py.cluster.connections import Subscription


class _Connection:
    """Notes what is sent; while it is full, whoever sends waits."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.is_used = asyncio.Event()

    def pack_commands(self, commands: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return commands

    async def send_packed_command(
        self, commands: list[tuple[Any, ...]], check_health: bool = True
    ) -> None:
        self.sent += commands
        self.is_used.set()
        await self.has_room.wait()


async def test_a_topic_that_is_left_and_asked_for_again_is_listened_to_whatever_is_full() -> None:
    full, free = _Connection(), _Connection()
    connections = cast(dict[str, Connection], {"full": full, "free": free})
    subscription = Subscription(
        connections,
        lambda topic: "full" if topic == b"a" else "free",
        "S",
        lambda topic, message: None,
        timeout=60.0,
    )
    await subscription.listen([b"a", b"b"])
    full.has_room.clear()
    full.is_used.clear()

    leaving = asyncio.create_task(subscription.leave([b"a", b"b"]))
    await full.is_used.wait()
    await subscription.listen([b"b"])
    full.has_room.set()
    await leaving

    assert full.sent == [("SSUBSCRIBE", b"a"), ("SUNSUBSCRIBE", b"a")]
    assert free.sent == [("SSUBSCRIBE", b"b"), ("SUNSUBSCRIBE", b"b"), ("SSUBSCRIBE", b"b")]
