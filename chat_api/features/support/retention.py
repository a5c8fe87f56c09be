"""
Ending what nobody goes on with, and forgetting what has been over for long enough.

Customers without any conversation left are forgotten, too.
"""

from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import structlog
from sqlalchemy import delete, exists, select

from chat_api.features.support.models import SupportConversation, SupportCustomer, SupportMessage
from chat_api.features.support.records import CONVERSATIONS, IS_OPEN, conversation_of
from chat_api.features.support.rules import Closing, Status
from chat_api.features.support.transitions import Transitions
from chat_api.kernel.clock import Clock
from chat_api.kernel.rounds import Rounds
from chat_api.store.engine import Store, UnitOfWork

__all__ = ["Idleness", "Retention"]

_log = structlog.get_logger("chat_api.support")

_AT_ONCE = 100  # conversations in one unit of work: nobody who writes meanwhile waits for long
_ENDED_AT_ONCE = 20  # likewise; each of them is told of
_EVERY = 3600.0  # seconds between two looks
_LOOKS_FOR_IDLE = 300.0  # seconds


class Idleness:
    """Ends conversations of one store in which nothing has happened for `close_after`."""

    def __init__(
        self, store: Store, clock: Clock, transitions: Transitions, *, close_after: timedelta
    ) -> None:
        self._store = store
        self._clock = clock
        self._transitions = transitions
        self._close_after = close_after
        self._reason = f"Nothing has happened for {_in_hours(close_after)}."

    def running(self, *, every: float = _LOOKS_FOR_IDLE) -> AbstractAsyncContextManager[None]:
        """Look every so many seconds, beginning now, while the block runs."""

        async def look() -> float:
            if closed := await self.close_idle():
                _log.info("Closed idle conversations", conversations=closed)
            return every

        return Rounds("idleness", look, pause=every).running()

    async def close_idle(self) -> int:
        """End what is idle, in several units of work, telling it; return how many."""
        total = 0
        while closed := await self._store.write(self._close_some):
            total += closed
        return total

    def _close_some(self, unit: UnitOfWork) -> int:
        idle = unit.connection.execute(
            CONVERSATIONS.where(
                IS_OPEN, SupportConversation.updated_at < self._clock() - self._close_after
            ).limit(_ENDED_AT_ONCE)
        ).all()
        for row in idle:
            self._transitions.close(
                unit,
                conversation_of(row),
                closing=Closing.CLOSED,
                reason=self._reason,
                closed_by="SYSTEM",
                from_socket=None,
            )
        return len(idle)


def _in_hours(time: timedelta) -> str:
    hours = time.total_seconds() / 3600
    return "an hour" if hours == 1 else f"{hours:g} hours"


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
