"""
Whether the customer is still there: DISCONNECTED, and the return after it.

The realtime server tells who joins and leaves a conversation's presence channel. A customer whose
last connection has been gone for a while is said to be disconnected, unless the conversation is
over; the time they left is kept in the database, so that a restart in between loses nothing. What
the server could not tell is found out by `reconciliation`.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, func, select

from chat_api.features.support.events import (
    conversation_channel,
    customer_disconnected,
    presence_channel,
    system_event,
)
from chat_api.features.support.models import SupportConversation
from chat_api.features.support.records import CONVERSATIONS, conversation_of
from chat_api.features.support.rules import Status
from chat_api.features.support.transitions import change
from chat_api.kernel.clock import Clock
from chat_api.kernel.rounds import Rounds
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.realtime.webhooks import Notice, Webhooks
from chat_api.store.engine import Store, UnitOfWork

__all__ = ["Attendance", "Sighting", "customer_member"]

_TOLD_AFTER = timedelta(seconds=3)  # for so long the server waits whether somebody comes back
_LOOK_AGAIN = 30.0  # seconds; other processes hear of departures, too
_PAUSE = 5.0  # seconds before trying again when the database fails
_AT_ONCE = 100  # customers in one unit of work

_CHANNEL = re.compile(r"presence-conversation\.([0-9a-f-]{36})")
_MEMBER = re.compile(r"customer:([0-9a-f-]{36})")

_OF_CUSTOMER = CONVERSATIONS.where(
    SupportConversation.id == bindparam("id"),
    SupportConversation.customer_id == bindparam("customer"),
    SupportConversation.status != Status.CLOSED.value,
)
_IS_LEAVING = and_(
    SupportConversation.customer_left_at.is_not(None),
    SupportConversation.is_customer_away.is_(False),
    SupportConversation.status != Status.CLOSED.value,
)
_SEEN = (
    select(
        SupportConversation.id,
        SupportConversation.customer_id,
        SupportConversation.customer_seen_at,
        SupportConversation.customer_left_at,
    )
    .where(
        SupportConversation.customer_seen_at.is_not(None),
        SupportConversation.id > bindparam("after"),
    )
    .order_by(SupportConversation.id)
    .limit(bindparam("limit"))
)


def customer_member(customer_id: str) -> str:
    """Return what a customer is called among the members of a presence channel."""
    return f"customer:{customer_id}"


class Sighting(NamedTuple):
    """
    What is known of a customer who was seen: `id` is the conversation's.

    Whatever is heard of them afterwards changes `seen_at` or `left_at`.
    """

    id: str
    customer_id: str
    seen_at: datetime | None
    left_at: datetime | None

    @property
    def channel(self) -> str:
        """Return the channel on which they are present, if they are."""
        return presence_channel(self.id)

    @property
    def member(self) -> str:
        """Return what they are called there."""
        return customer_member(self.customer_id)


class Attendance:
    """
    The customers of one store, coming and going.

    `hold` is for how long somebody has to be gone. `told_after` is how long the server has waited
    before it says that somebody left; it counts.
    """

    def __init__(
        self,
        store: Store,
        broadcaster: Broadcaster,
        clock: Clock,
        *,
        hold: timedelta,
        told_after: timedelta = _TOLD_AFTER,
    ) -> None:
        self._store = store
        self._broadcaster = broadcaster
        self._clock = clock
        self._hold = hold
        self._told_after = told_after
        self._rounds = Rounds("attendance", self.tell_who_has_gone, pause=_PAUSE)

    def listen_to(self, webhooks: Webhooks) -> None:
        """Have the server's notices brought here."""
        webhooks.on("member_added", self.came)
        webhooks.on("member_removed", self.left)

    async def came(self, notice: Notice) -> None:
        """Note that somebody joined; if a customer was said to be gone, tell that they are back."""
        whose = _whose(notice)
        if whose is None:
            return

        def note(unit: UnitOfWork) -> None:
            row = unit.connection.execute(_OF_CUSTOMER, whose).one_or_none()
            if row is not None:
                self._note_return(unit, row)

        await self._store.write(note)

    async def left(self, notice: Notice) -> None:
        """Note that somebody's last connection has left."""
        whose = _whose(notice)
        if whose is None:
            return
        # The server's clock may be ahead of ours, but nobody leaves in the future.
        left_at = min(notice.at, self._clock()) - self._told_after

        def note(unit: UnitOfWork) -> None:
            row = unit.connection.execute(_OF_CUSTOMER, whose).one_or_none()
            if row is not None and not row.is_customer_away:
                self._note_departure(unit, row, left_at)

        await self._store.write(note)

    async def seen(self, *, after: str, limit: int) -> list[Sighting]:
        """
        Return those who may be there, in the order of their conversations' ids, above `after`.

        They are the customers of open conversations who were seen to join, and have not been
        forgotten (`correct`) since they left.
        """
        rows = await self._store.all(_SEEN, {"after": after, "limit": limit})
        return [Sighting(*row) for row in rows]

    async def correct(
        self,
        *,
        back: Sequence[Sighting] = (),
        gone: Sequence[Sighting] = (),
        forgotten: Sequence[Sighting] = (),
        left_at: datetime,
    ) -> None:
        """
        Take it that these are back, that those have left at this time, and that others stay away.

        It counts only for those of whom nothing has been heard since: a notice is always right.
        """

        def note(unit: UnitOfWork) -> None:
            for sighting in back:
                if (row := _unchanged(unit, sighting)) is not None:
                    self._note_return(unit, row)
            for sighting in gone:
                if (row := _unchanged(unit, sighting)) is not None:
                    self._note_departure(unit, row, left_at)
            for sighting in forgotten:
                if (row := _unchanged(unit, sighting)) is not None:
                    change(unit.connection, conversation_of(row), customer_seen_at=None)

        await self._store.write(note)

    async def tell_who_has_gone(self) -> float:
        """Tell of everybody whose time has come, and return in how many seconds to look again."""
        [(next_left_at,)] = await self._store.all(
            select(func.min(SupportConversation.customer_left_at)).where(_IS_LEAVING)
        )
        if next_left_at is None:
            return _LOOK_AGAIN
        wait = (next_left_at + self._hold - self._clock()).total_seconds()
        if wait > 0:
            return min(wait, _LOOK_AGAIN)
        await self._store.write(self._tell)
        return 0.0

    def running(self) -> AbstractAsyncContextManager[None]:
        """Tell of customers who have gone while the block runs, those of before included."""
        return self._rounds.running()

    def _note_return(self, unit: UnitOfWork, row: Any) -> None:
        conversation, now = conversation_of(row), self._clock()
        change(
            unit.connection,
            conversation,
            customer_seen_at=now,
            customer_left_at=None,
            is_customer_away=False,
        )
        if conversation.is_customer_away:
            channels = [conversation_channel(conversation.id)]
            self._broadcaster.publish(unit, channels, system_event(conversation, now))

    def _note_departure(self, unit: UnitOfWork, row: Any, left_at: datetime) -> None:
        change(unit.connection, conversation_of(row), customer_left_at=left_at)
        unit.when_committed(self._rounds.wake)

    def _tell(self, unit: UnitOfWork) -> None:
        now = self._clock()
        is_time = SupportConversation.customer_left_at <= now - self._hold
        rows = unit.connection.execute(CONVERSATIONS.where(_IS_LEAVING, is_time).limit(_AT_ONCE))
        for row in rows.all():
            conversation = conversation_of(row)
            change(unit.connection, conversation, is_customer_away=True)
            channels = [conversation_channel(conversation.id)]
            self._broadcaster.publish(unit, channels, customer_disconnected(conversation, now))


def _whose(notice: Notice) -> dict[str, str] | None:
    channel, member = _CHANNEL.fullmatch(notice.channel), _MEMBER.fullmatch(notice.user_id or "")
    if channel is None or member is None:
        return None
    return {"id": channel[1], "customer": member[1]}


def _unchanged(unit: UnitOfWork, sighting: Sighting) -> Any:
    """Return the row of an open conversation whose customer was last heard of before this."""
    given = {"id": sighting.id, "customer": sighting.customer_id}
    row = unit.connection.execute(_OF_CUSTOMER, given).one_or_none()
    if row is None or (row.customer_seen_at, row.customer_left_at) != sighting[2:]:
        return None
    return row
