"""
Who waits, where in the line, and telling it: staff by snapshots, customers by their position.

However quickly the queue of a tenant changes, it is told at most once in a while, and always as it
is last. What has still to be told is a row in the database, written with the change, so that a
crash in between only delays it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import structlog
from sqlalchemy import bindparam, delete, func, insert, select

from chat_api.features.support.events import (
    conversation_channel,
    queue_channel,
    queue_snapshot,
    system_event,
)
from chat_api.features.support.models import OwedSnapshot, SupportConversation
from chat_api.features.support.records import WAITING, conversation_of, is_in, queue_of
from chat_api.features.support.rules import Conversation
from chat_api.features.support.views import queue_entry
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Unavailable
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.store.engine import Store, UnitOfWork

__all__ = ["Queue", "QueuePage"]

_log = structlog.get_logger("chat_api.support")

INTERVAL: Final = 0.25
"""
Seconds between two snapshots of a tenant's queue. Clients are promised 0.2; what comes on top is
for their way there, which is not equally long each time.
"""

_MOST_TOLD = 50  # customers who are told their position
_MOST_SHOWN = 200  # entries that are read for a snapshot, of which fewer fit
_PAUSE = 5.0  # seconds before trying again when the database fails

_IS_OWED = select(OwedSnapshot.tenant).where(OwedSnapshot.tenant == bindparam("domain"))
_OWE = insert(OwedSnapshot)
_PAY = delete(OwedSnapshot).where(OwedSnapshot.tenant == bindparam("domain"))


class QueuePage(NamedTuple):
    """Some of those who wait, and how many there are."""

    conversations: list[Conversation]
    total: int


class Queue:
    """The queues of all tenants of one store."""

    def __init__(
        self,
        store: Store,
        broadcaster: Broadcaster,
        clock: Clock,
        *,
        interval: float = INTERVAL,
    ) -> None:
        self._store = store
        self._broadcaster = broadcaster
        self._clock = clock
        self._interval = interval
        self._tellers: dict[str, asyncio.Task[None]] = {}
        self._is_open = False
        self._changed: set[str] = set()
        self._told: dict[str, dict[str, int]] = {}
        """By tenant, the position that each customer heard last."""

    def changed(self, unit: UnitOfWork, tenant: str) -> None:
        """Owe staff and customers of a tenant the news of its queue, as part of a change to it."""
        given = {"domain": tenant}
        if unit.connection.execute(_IS_OWED, given).one_or_none() is None:
            unit.connection.execute(_OWE, {"tenant": tenant})
        unit.when_committed(lambda: self._tell_soon(tenant))

    async def page(
        self, domains: frozenset[str] | None, *, limit: int, offset: int = 0
    ) -> QueuePage:
        """Return who waits in the queues of these tenants (None: all), the longest wait first."""
        rows = await self._store.all(queue_of(domains).limit(limit).offset(offset))
        count = select(func.count()).select_from(SupportConversation)
        [(total,)] = await self._store.all(count.where(*WAITING, is_in(domains)))
        return QueuePage([conversation_of(row, row.position) for row in rows], total)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Tell what changes while the block runs, beginning with what was owed before.

        What is owed at the end stays owed.
        """
        self._is_open = True
        for row in await self._store.all(select(OwedSnapshot.tenant)):
            self._tell_soon(row.tenant)
        try:
            yield
        finally:
            self._is_open = False
            for task in list(self._tellers.values()):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def _tell_soon(self, tenant: str) -> None:
        if not self._is_open:
            return
        self._changed.add(tenant)
        if tenant not in self._tellers:
            # One task a tenant, for as long as its queue keeps changing.
            name = f"queue-of-{tenant}"
            self._tellers[tenant] = asyncio.create_task(self._keep_telling(tenant), name=name)

    async def _keep_telling(self, tenant: str) -> None:
        try:
            while tenant in self._changed:
                self._changed.discard(tenant)
                try:
                    await self._tell(tenant)
                except Exception as error:
                    # It is owed until it is told, whatever the matter is.
                    if not isinstance(error, Unavailable):  # which the store has said
                        _log.exception("A queue could not be told; trying again", tenant=tenant)
                    self._changed.add(tenant)
                    await asyncio.sleep(_PAUSE)
                await asyncio.sleep(self._interval)
        finally:
            del self._tellers[tenant]

    async def _tell(self, tenant: str) -> None:
        told = dict(self._told.get(tenant, {}))

        def tell(unit: UnitOfWork) -> dict[str, int] | None:
            connection, given = unit.connection, {"domain": tenant}
            if connection.execute(_IS_OWED, given).one_or_none() is None:
                return None  # another process has told it
            connection.execute(_PAY, given)
            now = self._clock()
            rows = connection.execute(queue_of(frozenset({tenant})).limit(_MOST_SHOWN))
            waiting = [conversation_of(row, row.position) for row in rows]
            snapshot = queue_snapshot([queue_entry(each, now) for each in waiting])
            self._broadcaster.publish(unit, [queue_channel(tenant)], snapshot)
            positions: dict[str, int] = {}
            for each in waiting[:_MOST_TOLD]:
                assert each.position is not None, "it was selected"
                positions[each.id] = each.position
                if told.get(each.id) != each.position:
                    news = system_event(each, now)
                    self._broadcaster.publish(unit, [conversation_channel(each.id)], news)
            return positions

        positions = await self._store.write(tell)
        if positions is not None:
            self._told[tenant] = positions
            if not positions:
                del self._told[tenant]
