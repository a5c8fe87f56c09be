"""Forgetting: conversations that have been over for long enough, and customers left without any."""

from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import structlog
from sqlalchemy import delete, exists, select

from chat_api.features.support.models import SupportConversation, SupportCustomer, SupportMessage
from chat_api.features.support.rules import Status
from chat_api.kernel.clock import Clock
from chat_api.kernel.rounds import Rounds
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

    def running(self, *, every: float = _EVERY) -> AbstractAsyncContextManager[None]:
        """Look every so many seconds, beginning now, while the block runs."""

        async def look() -> float:
            if deleted := await self.delete_old():
                _log.info("Deleted old conversations", conversations=deleted)
            return every

        return Rounds("retention", look, pause=every).running()

    async def delete_old(self) -> int:
        """Delete what is old enough, in several units of work; return how many conversations."""
        total = 0
        while deleted := await self._store.write(self._delete_some):
            total += deleted
        return total

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
