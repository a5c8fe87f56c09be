"""Forgetting: conversations that have been over for long enough, and customers left without any."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import structlog
from sqlalchemy import delete, exists, select

from chat_api.features.support.models import SupportConversation, SupportCustomer, SupportMessage
from chat_api.features.support.rules import Status
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Unavailable
from chat_api.store.engine import Store, UnitOfWork

__all__ = ["Retention"]

_log = structlog.get_logger("chat_api.support")

_AT_ONCE = 100  # conversations in one unit of work: nobody who writes meanwhile waits for long
_EVERY = 3600.0  # seconds between two looks


class Retention:
    """Deletes closed conversations of one store, `keep_for` after their end."""

    def __init__(self, store: Store, clock: Clock, *, keep_for: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._keep_for = keep_for

    @asynccontextmanager
    async def running(self, *, every: float = _EVERY) -> AsyncIterator[None]:
        """Look every so many seconds, beginning now, while the block runs."""
        task = asyncio.create_task(self._look(every), name="retention")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def delete_old(self) -> int:
        """Delete what is old enough, in several units of work; return how many conversations."""
        total = 0
        while deleted := await self._store.write(self._delete_some):
            total += deleted
        return total

    async def _look(self, every: float) -> None:
        while True:
            try:
                if deleted := await self.delete_old():
                    _log.info("Deleted old conversations", conversations=deleted)
            except Unavailable:
                pass  # the store has said so
            except Exception:
                _log.exception("Old conversations could not be deleted; trying again later")
            await asyncio.sleep(every)

    def _delete_some(self, unit: UnitOfWork) -> int:
        connection = unit.connection
        old = connection.execute(
            select(SupportConversation.id, SupportConversation.customer_id)
            .where(
                SupportConversation.status == Status.CLOSED.value,
                SupportConversation.closed_at < self._clock() - self._keep_for,
            )
            .order_by(SupportConversation.closed_at)
            .limit(_AT_ONCE)
        ).all()
        if not old:
            return 0
        ids = [row.id for row in old]
        connection.execute(delete(SupportMessage).where(SupportMessage.conversation_id.in_(ids)))
        connection.execute(delete(SupportConversation).where(SupportConversation.id.in_(ids)))
        others = exists().where(SupportConversation.customer_id == SupportCustomer.id)
        connection.execute(
            delete(SupportCustomer).where(
                SupportCustomer.id.in_({row.customer_id for row in old}), ~others
            )
        )
        return len(ids)
