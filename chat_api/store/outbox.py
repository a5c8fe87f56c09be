"""
The queue of events that are owed to the realtime server, oldest first.

Adding belongs to the transaction of what the event announces; taking is the relay's.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, update

from chat_api.store.engine import Store, UnitOfWork
from chat_api.store.tables import OutboxRow

__all__ = ["Backlog", "Outbox", "OwedEvent"]


# Built once: putting a statement together costs more than running it.
_ADD = insert(OutboxRow)
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


class Outbox:
    """The outbox table of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

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

    async def backlog(self) -> Backlog:
        """Count what is owed and what was refused."""
        owed = OutboxRow.refused_at.is_(None)
        query = select(
            func.count().filter(owed), func.min(OutboxRow.created_at).filter(owed), func.count()
        ).select_from(OutboxRow)
        [(waiting, oldest, total)] = await self._store.all(query)
        return Backlog(waiting, oldest, total - waiting)
