"""
What is said in support conversations: sending, reading, and who has read what.

As with the conversations themselves, a message is stored in one unit of work with what it makes
others hear.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, func, insert, select, update

from chat_api.features.notifications.service import Pushes, new_message_push
from chat_api.features.support.customers import known_as
from chat_api.features.support.events import chat_message, conversation_channel, system_error
from chat_api.features.support.models import SupportConversation, SupportMessage
from chat_api.features.support.queue import Queue
from chat_api.features.support.records import (
    MESSAGES,
    find_conversation,
    message_of,
    messages_of,
    the_conversation,
)
from chat_api.features.support.rules import (
    Agent,
    Conversation,
    Message,
    Party,
    Side,
    Status,
    check_named,
    check_open,
    check_read,
    checked_kind,
    preview_of,
    reading_side,
    sending_side,
    standing,
)
from chat_api.features.support.transitions import (
    STAFF,
    WHICH_AGENT,
    Transitions,
    agent_of,
    change,
)
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Gone, Unprocessable
from chat_api.kernel.measures import Measure, single
from chat_api.kernel.texts import checked_object, checked_text
from chat_api.kernel.throttling import Throttle
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.store.engine import Store, UnitOfWork

__all__ = ["MAX_CONTENT", "Draft", "MessagePage", "Messages", "Sent"]

MAX_CONTENT: Final = 4_000


@dataclass(frozen=True, slots=True)
class Draft:
    """
    A message to be sent.

    `temp_id` is the app's own name for it: sent twice, it is stored once. `metadata` is any JSON
    object of up to 4,000 bytes.
    """

    content: str
    temp_id: str | None = None
    kind: str = "TEXT"
    metadata: dict[str, Any] | None = None

    def check(self) -> None:
        """
        See that it can be sent.

        Raises:
            Unprocessable: It is empty or too long.
        """
        checked_text(self.content, "The message", longest=MAX_CONTENT)
        checked_object(self.metadata, "metadata")
        if self.temp_id is not None:
            checked_text(self.temp_id, "tempId", longest=100)


class Sent(NamedTuple):
    """
    A message as stored, and whether that was just now or by an earlier, equal request.

    `is_notified` tells whether a device of the other side will be notified.
    """

    message: Message
    conversation: Conversation
    is_new: bool
    is_notified: bool


class MessagePage(NamedTuple):
    """Some messages of a conversation, oldest first, and how many it has."""

    messages: list[Message]
    total: int
    conversation: Conversation


class Messages:
    """The messages of one store. `throttle` is for each sender."""

    def __init__(
        self,
        store: Store,
        broadcaster: Broadcaster,
        clock: Clock,
        *,
        transitions: Transitions,
        queue: Queue,
        pushes: Pushes,
        throttle: Throttle,
    ) -> None:
        self._store = store
        self._broadcaster = broadcaster
        self._clock = clock
        self._transitions = transitions
        self._queue = queue
        self._pushes = pushes
        self._throttle = throttle
        self._sent = 0

    def measures(self) -> tuple[Measure, ...]:
        """Return what tells how much is said."""
        return (
            single(
                "support_messages_total",
                "Messages in support conversations.",
                lambda: self._sent,
            ),
        )

    async def send(
        self,
        party: Party,
        conversation_id: str,
        draft: Draft,
        *,
        side: Side | None = None,
        sender_id: str | None = None,
        from_socket: str | None,
    ) -> Sent:
        """
        Store a message and tell both sides, except the connection it came from.

        An agent's message into a conversation that nobody has takes it. A draft whose `temp_id` the
        sender has used in this conversation changes nothing and returns the first message. `side`
        and `sender_id` are who the body says writes.

        Raises:
            Unprocessable: The draft is empty or too long, or nothing says which agent writes.
            NotFound: There is no such conversation.
            Forbidden: They may not write here, or not as whom they say.
            Gone: The conversation is closed.
            Conflict: It would be one more than the agent may have.
            TooMany: The sender is too fast.
        """
        draft.check()
        self._throttle.hit(f"{party.role.name} {party.id or conversation_id}")

        def send(unit: UnitOfWork) -> Sent:
            connection = unit.connection
            conversation = the_conversation(connection, conversation_id, party.domains)
            as_side = sending_side(standing(party, conversation), conversation, side)
            agent = None
            if as_side is Side.AGENT:
                agent = agent_of(party) if party.role in STAFF else conversation.agent
                if agent is None:
                    raise Unprocessable(WHICH_AGENT)
                check_named([sender_id], [agent.id])
                if conversation.status is Status.QUEUED:
                    conversation = self._transitions.accept(
                        unit, conversation, party, agent, from_socket
                    )
            elif sender_id is not None:
                conversation = known_as(connection, conversation, party, sender_id)
            return self.add(unit, conversation, as_side, agent, draft, from_socket)

        try:
            return await self._store.write(send)
        except Gone as error:
            # Their other connections may be waiting for it to go through.
            channels, event = [conversation_channel(conversation_id)], system_error(error)
            await self._store.write(
                lambda unit: self._broadcaster.publish(
                    unit, channels, event, except_socket=from_socket
                )
            )
            raise

    async def latest(self, party: Party, conversation_id: str, *, limit: int) -> list[Message]:
        """
        Return the last `limit` messages, oldest first.

        Raises:
            NotFound, Forbidden: There is no such conversation, or it is not theirs to read.
        """
        conversation = await find_conversation(self._store, conversation_id, party.domains)
        check_read(standing(party, conversation), conversation)
        return await self._latest(conversation, limit=limit, offset=0)

    async def page(
        self,
        party: Party,
        conversation_id: str,
        *,
        limit: int,
        offset: int,
        marks_read: bool = False,
        side: Side | None = None,
    ) -> MessagePage:
        """
        Return `limit` messages, oldest first, after passing over the `offset` latest ones.

        With `marks_read` the other side's messages count as read, if it is one of the two sides
        that asks, as any agent is while it waits; `side` is whose endpoint it is.

        Raises:
            NotFound, Forbidden: There is no such conversation, or it is not theirs to read.
        """
        conversation = await find_conversation(self._store, conversation_id, party.domains)
        who = standing(party, conversation)
        check_read(who, conversation)
        reader = reading_side(who, conversation, side)
        if marks_read and reader is not None:
            conversation = await self._mark_read(conversation, reader)
        messages = await self._latest(conversation, limit=limit, offset=offset)
        count = select(func.count()).where(SupportMessage.conversation_id == conversation.id)
        [(total,)] = await self._store.all(count)
        return MessagePage(messages, total, conversation)

    def add(
        self,
        unit: UnitOfWork,
        conversation: Conversation,
        side: Side,
        agent: Agent | None,
        draft: Draft,
        from_socket: str | None,
    ) -> Sent:
        """
        Store a message of an authorized sender, the customer or this agent, as part of a unit.

        Raises:
            Gone: The conversation is closed.
        """
        connection, customer = unit.connection, conversation.customer
        sender = Agent(customer.id, customer.name) if agent is None else agent
        if draft.temp_id is not None:
            given = {"of": conversation.id, "sender": sender.id, "temp": draft.temp_id}
            earlier = connection.execute(_EARLIER, given).one_or_none()
            if earlier is not None:
                return Sent(message_of(earlier, customer), conversation, False, False)
        check_open(conversation)
        if agent is not None:
            conversation = self._transitions.connect(unit, conversation, from_socket)
        kind = checked_kind(draft.kind, side)
        now = self._clock()
        stored = {
            "conversation_id": conversation.id,
            "sender_type": side.value,
            "sender_id": sender.id,
            "sender_name": sender.name,
            "kind": kind,
            "content": draft.content,
            "details": checked_object(draft.metadata, "metadata"),
            "sent_at": now,
            "read_by_customer": side is Side.CUSTOMER,
            "read_by_agent": side is Side.AGENT,
            "temp_id": draft.temp_id,
        }
        message = message_of(connection.execute(_ADD_MESSAGE, stored).one(), customer)
        unit.when_committed(self._count_message)
        conversation = replace(
            conversation,
            unread_customer=conversation.unread_customer + (side is Side.AGENT),
            unread_agent=conversation.unread_agent + (side is Side.CUSTOMER),
            last_message_at=now,
            updated_at=now,
            preview=preview_of(draft.content),
        )
        connection.execute(
            _AFTER_MESSAGE,
            {
                "of": conversation.id,
                "domain": conversation.tenant,
                "new_unread_customer": conversation.unread_customer,
                "new_unread_agent": conversation.unread_agent,
                "new_preview": conversation.preview,
                "now": now,
            },
        )
        channels = [conversation_channel(conversation.id)]
        self._broadcaster.publish(unit, channels, chat_message(message), except_socket=from_socket)
        if conversation.is_waiting:
            self._queue.changed(unit, conversation.tenant)  # entries show the last message
        is_notified = self._notify_other_side(unit, conversation, message)
        return Sent(message, conversation, True, is_notified)

    def _count_message(self) -> None:
        self._sent += 1

    def _notify_other_side(
        self, unit: UnitOfWork, conversation: Conversation, message: Message
    ) -> bool:
        agent, user_id = conversation.agent, conversation.customer.user_id
        if message.side is Side.CUSTOMER:
            user_id = None if agent is None else agent.user_id
        if user_id is None:
            return False
        push = new_message_push(
            session_id=conversation.id,
            sender_type="user" if message.side is Side.CUSTOMER else "agent",
            sender_name=message.sender_name,
            message_text=message.content,
        )
        return self._pushes.owe(unit, [user_id], push)

    async def _latest(
        self, conversation: Conversation, *, limit: int, offset: int
    ) -> list[Message]:
        query = (
            MESSAGES.where(SupportMessage.conversation_id == conversation.id)
            .order_by(SupportMessage.id.desc())
            .limit(limit)
            .offset(offset)
        )
        rows = await self._store.all(query)
        return messages_of(reversed(rows), conversation.customer)

    async def _mark_read(self, conversation: Conversation, reader: Side) -> Conversation:
        is_customer = reader is Side.CUSTOMER
        if not (conversation.unread_customer if is_customer else conversation.unread_agent):
            return conversation
        read = SupportMessage.read_by_customer if is_customer else SupportMessage.read_by_agent
        marks = (
            update(SupportMessage)
            .where(
                SupportMessage.conversation_id == conversation.id,
                SupportMessage.sender_type != reader.value,
                read.is_(False),
            )
            .values({read: True})
        )

        def mark(unit: UnitOfWork) -> None:
            unit.connection.execute(marks)
            if is_customer:
                change(unit.connection, conversation, unread_customer=0)
            else:
                change(unit.connection, conversation, unread_agent=0)

        await self._store.write(mark)
        if is_customer:
            return replace(conversation, unread_customer=0)
        return replace(conversation, unread_agent=0)


# The statements of every message, built once: that costs more than running them.
_ADD_MESSAGE = insert(SupportMessage).returning(*MESSAGES.selected_columns)
_EARLIER = MESSAGES.where(
    SupportMessage.conversation_id == bindparam("of"),
    SupportMessage.sender_id == bindparam("sender"),
    SupportMessage.temp_id == bindparam("temp"),
)
_AFTER_MESSAGE = (
    update(SupportConversation)
    .where(
        SupportConversation.id == bindparam("of"),
        SupportConversation.tenant == bindparam("domain"),
    )
    .values(
        unread_customer=bindparam("new_unread_customer"),
        unread_agent=bindparam("new_unread_agent"),
        last_message_at=bindparam("now"),
        active_at=bindparam("now"),
        updated_at=bindparam("now"),
        preview=bindparam("new_preview"),
    )
)
