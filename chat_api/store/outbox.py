"""
The queue of events that are owed to the realtime server, oldest first.

Adding belongs to the transaction of what the event announces; taking is the relay's.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, update

from chat_api.kernel.clock import Clock
from chat_api.kernel.measures import Measure, Samples
from chat_api.kernel.rounds import Rounds
from chat_api.kernel.sharing import Shared
from chat_api.store.engine import Store, UnitOfWork
from chat_api.store.tables import OutboxRow

__all__ = ["Backlog", "Outbox", "OwedEvent"]


# Built once: putting a statement together costs more than running it.
_ADD = insert(OutboxRow)
_WITHDRAW = delete(OutboxRow).where(
    OutboxRow.channel.in_(bindparam("channels", expanding=True)),
    OutboxRow.name == bindparam("name"),
    OutboxRow.refused_at.is_(None),
)
_OLDEST = (
    select(
        OutboxRow.id,
        OutboxRow.event_key,
        OutboxRow.channel,
        OutboxRow.name,
        OutboxRow.data,
        OutboxRow.socket_id,
        OutboxRow.expires_at,
    )
    .where(OutboxRow.refused_at.is_(None), OutboxRow.id > bindparam("after"))
    .order_by(OutboxRow.id)
    .limit(bindparam("limit"))
)
_OLDEST_SINCE = (
    select(OutboxRow.created_at)
    .where(OutboxRow.refused_at.is_(None))
    .order_by(OutboxRow.id)
    .limit(1)
)
_ALL = select(func.count()).select_from(OutboxRow)
_REFUSED = select(func.count()).select_from(OutboxRow).where(OutboxRow.refused_at.is_not(None))
_FORGET_EVERY: Final = 3600.0  # seconds
_COUNT_EVERY: Final = 2.0  # seconds; counting takes the longer, the longer the server is away


class OwedEvent(NamedTuple):
    """
    One event on one channel as it waits; `data` is the JSON text that clients will get.

    `key` names it for ever: a server that is sent the same key again knows that it has had it.
    """

    id: int
    key: str
    channel: str
    name: str
    data: str
    socket_id: str | None
    expires_at: datetime | None

    def has_expired(self, now: datetime) -> bool:
        """Tell whether the event is worth nothing any more."""
        return self.expires_at is not None and self.expires_at <= now


class Backlog(NamedTuple):
    """How many events are owed, since when (None when none is), and how many were given up."""

    owed: int
    oldest: datetime | None
    refused: int

    def waited(self, now: datetime) -> float:
        """Return for how many seconds the oldest event has waited; 0 where none does."""
        return max(0.0, (now - self.oldest).total_seconds()) if self.oldest is not None else 0.0


class Outbox:
    """The outbox table of one store, whose rows are counted every `count_every` seconds at most."""

    def __init__(self, store: Store, *, count_every: float = _COUNT_EVERY) -> None:
        self._store = store
        self._backlog = Shared(self._count, every=count_every)

    def add(
        self,
        unit: UnitOfWork,
        *,
        channels: Sequence[str],
        name: str,
        data: str,
        socket_id: str | None,
        created_at: datetime,
        expires_at: datetime | None,
    ) -> None:
        """Owe an event on each of the channels, from the moment the unit of work is committed."""
        unit.connection.execute(
            _ADD,
            [
                {
                    "event_key": secrets.token_hex(16),
                    "channel": channel,
                    "name": name,
                    "data": data,
                    "socket_id": socket_id,
                    "created_at": created_at,
                    "expires_at": expires_at,
                }
                for channel in channels
            ],
        )

    def withdraw(self, unit: UnitOfWork, *, channels: Sequence[str], name: str) -> None:
        """Owe no event of this name any more on these channels; one may be on its way already."""
        unit.connection.execute(_WITHDRAW, {"channels": list(channels), "name": name})

    async def oldest(self, limit: int, *, after: int = 0) -> list[OwedEvent]:
        """Return up to `limit` owed events in commit order, of those with an id above `after`."""
        rows = await self._store.all(_OLDEST, {"limit": limit, "after": after})
        return [OwedEvent(*row) for row in rows]

    async def settle(self, ids: Sequence[int]) -> None:
        """Forget events that the server has, or that have expired."""
        settled = delete(OutboxRow).where(OutboxRow.id.in_(ids))
        await self._store.write(lambda unit: unit.connection.execute(settled))

    async def set_aside(self, outbox_id: int, reason: str, now: datetime) -> None:
        """Keep an event that the server will never take, where it blocks nobody."""
        refused = (
            update(OutboxRow)
            .where(OutboxRow.id == outbox_id)
            .values(refused_at=now, refusal=reason)
        )
        await self._store.write(lambda unit: unit.connection.execute(refused))

    def forgetting(
        self, clock: Clock, *, keep_for: timedelta, every: float = _FORGET_EVERY
    ) -> AbstractAsyncContextManager[None]:
        """Delete events that were refused `keep_for` ago while the block runs, beginning now."""

        async def forget() -> float:
            old = delete(OutboxRow).where(OutboxRow.refused_at < clock() - keep_for)
            await self._store.write(lambda unit: unit.connection.execute(old))
            return every

        return Rounds("refused-events", forget, pause=every).running()

    async def lead(
        self, work: Callable[[], Coroutine[Any, Any, None]], awake: asyncio.Event
    ) -> None:
        """Run `work` while this process is the one that takes; otherwise as `Store.lead`."""
        await self._store.lead(work, awake)

    async def backlog(self) -> Backlog:
        """Return what is owed and what was refused, as it was counted a moment ago."""
        return await self._backlog.get()

    async def _count(self) -> Backlog:
        oldest = await self._store.one_or_none(_OLDEST_SINCE)
        [(refused,)] = await self._store.all(_REFUSED)
        [(both,)] = await self._store.all(_ALL)
        return Backlog(
            max(0, both - refused), None if oldest is None else oldest.created_at, refused
        )

    def measures(self, clock: Clock) -> tuple[Measure, ...]:
        """Return what tells whether events get through."""

        async def events() -> Samples:
            backlog = await self.backlog()
            return {("owed",): backlog.owed, ("refused",): backlog.refused}

        async def oldest_seconds() -> Samples:
            return {(): (await self.backlog()).waited(clock())}

        return (
            Measure(
                "outbox_events",
                "Events that the realtime server does not have yet, or would not take.",
                events,
                labels=("state",),
            ),
            Measure(
                "outbox_oldest_seconds",
                "How long the oldest event has waited for the realtime server.",
                oldest_seconds,
            ),
        )
