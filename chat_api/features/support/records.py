"""Reading conversations and messages: the queries, and their rows as the values rules speak of."""

import re
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select, true

from chat_api.features.auth.models import User
from chat_api.features.support.models import SupportConversation, SupportCustomer, SupportMessage
from chat_api.features.support.rules import (
    Agent,
    Closing,
    Conversation,
    Customer,
    Message,
    Side,
    Status,
)
from chat_api.kernel.errors import ChatError, Forbidden, NotFound
from chat_api.store.engine import Store

__all__ = [
    "CONVERSATIONS",
    "IS_OPEN",
    "MESSAGES",
    "WAITING",
    "conversation_of",
    "find_conversation",
    "find_position",
    "is_in",
    "message_of",
    "messages_of",
    "position_of",
    "queue_of",
    "the_conversation",
]

CONVERSATIONS: Final = (
    select(
        SupportConversation.id,
        SupportConversation.tenant,
        SupportConversation.status,
        SupportConversation.queued_at,
        SupportConversation.agent_id,
        SupportConversation.agent_name,
        SupportConversation.agent_user_id,
        SupportConversation.channel,
        SupportConversation.close_status,
        SupportConversation.close_reason,
        SupportConversation.closed_by,
        SupportConversation.closed_at,
        SupportConversation.details,
        SupportConversation.unread_customer,
        SupportConversation.unread_agent,
        SupportConversation.last_message_at,
        SupportConversation.preview,
        SupportConversation.created_at,
        SupportConversation.updated_at,
        SupportConversation.is_customer_away,
        SupportConversation.customer_seen_at,
        SupportConversation.customer_left_at,
        SupportCustomer.id.label("customer_id"),
        SupportCustomer.display_name,
        SupportCustomer.participant_id,
        SupportCustomer.contact,
        SupportCustomer.user_id,
        User.email,
    )
    .join(SupportCustomer, SupportCustomer.id == SupportConversation.customer_id)
    .outerjoin(User, User.id == SupportCustomer.user_id)
)
"""Conversations with their customers."""

MESSAGES: Final = select(
    SupportMessage.id,
    SupportMessage.conversation_id,
    SupportMessage.sender_type,
    SupportMessage.sender_id,
    SupportMessage.sender_name,
    SupportMessage.kind,
    SupportMessage.content,
    SupportMessage.details,
    SupportMessage.sent_at,
    SupportMessage.read_by_customer,
    SupportMessage.read_by_agent,
)

WAITING: Final = (
    SupportConversation.status == Status.QUEUED.value,
    SupportConversation.queued_at.is_not(None),
)
"""What is true of a conversation in the queue."""

IS_OPEN: Final[ColumnElement[bool]] = SupportConversation.status != bindparam(
    None, Status.CLOSED.value, literal_execute=True
)
"""What is true of one that is not over, in the words of the indexes of those."""

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Built once: putting a statement together costs more than running it.
_ONE = CONVERSATIONS.where(SupportConversation.id == bindparam("id"))
_ONE_IN = _ONE.where(SupportConversation.tenant.in_(bindparam("domains", expanding=True)))
_IS_THERE = select(SupportConversation.id).where(SupportConversation.id == bindparam("id"))


def is_in(domains: frozenset[str] | None) -> ColumnElement[bool]:
    """Return the condition that a conversation is one of these tenants'; None for any."""
    return true() if domains is None else SupportConversation.tenant.in_(sorted(domains))


def the_conversation(
    connection: Connection, conversation_id: str, domains: frozenset[str] | None
) -> Conversation:
    """
    Return a conversation of these tenants.

    Raises:
        NotFound: There is no such conversation.
        Forbidden: It is of another tenant.
    """
    _check_id(conversation_id)
    row = connection.execute(*_query_of(conversation_id, domains)).one_or_none()
    if row is None:
        is_there = connection.execute(_IS_THERE, {"id": conversation_id}).one_or_none()
        raise _not_found(is_there is not None)
    return conversation_of(row)


async def find_conversation(
    store: Store, conversation_id: str, domains: frozenset[str] | None
) -> Conversation:
    """Do the same outside a unit of work."""
    _check_id(conversation_id)
    row = await store.one_or_none(*_query_of(conversation_id, domains))
    if row is None:
        is_there = await store.one_or_none(_IS_THERE, {"id": conversation_id})
        raise _not_found(is_there is not None)
    return conversation_of(row)


def _check_id(conversation_id: str) -> None:
    if not _ID.fullmatch(conversation_id):
        raise _not_found(is_there=False)


def _query_of(
    conversation_id: str, domains: frozenset[str] | None
) -> tuple[Select[*tuple[Any, ...]], dict[str, Any]]:
    if domains is None:
        return _ONE, {"id": conversation_id}
    return _ONE_IN, {"id": conversation_id, "domains": sorted(domains)}


def _not_found(is_there: bool) -> ChatError:
    if is_there:
        return Forbidden("This conversation belongs to another tenant.")
    return NotFound("There is no such conversation.")


def position_of(connection: Connection, conversation: Conversation) -> int | None:
    """Return a conversation's place in its tenant's queue, from 1; None when it is not in it."""
    if not conversation.is_waiting:
        return None
    return 1 + connection.execute(_earlier_than(conversation)).scalar_one()


async def find_position(store: Store, conversation: Conversation) -> int | None:
    """Do the same outside a unit of work."""
    if not conversation.is_waiting:
        return None
    [(earlier,)] = await store.all(_earlier_than(conversation))
    return 1 + earlier


def _earlier_than(conversation: Conversation) -> Select[int]:
    queued_at = conversation.queued_at
    return select(func.count()).where(
        SupportConversation.tenant == conversation.tenant,
        *WAITING,
        (SupportConversation.queued_at < queued_at)
        | (
            (SupportConversation.queued_at == queued_at)
            & (SupportConversation.id < conversation.id)
        ),
    )


def queue_of(domains: frozenset[str] | None) -> Select[*tuple[Any, ...]]:
    """Select who waits, the longest wait first, each with its `position` in its tenant's queue."""
    order = (SupportConversation.queued_at, SupportConversation.id)
    position = func.row_number().over(partition_by=SupportConversation.tenant, order_by=order)
    return (
        CONVERSATIONS.add_columns(position.label("position"))
        .where(*WAITING, is_in(domains))
        .order_by(*order)
    )


def conversation_of(row: Any, position: int | None = None) -> Conversation:
    """Return a row of `CONVERSATIONS` as a value."""
    return Conversation(
        id=row.id,
        tenant=row.tenant,
        customer=Customer(
            id=row.customer_id,
            name=row.display_name,
            participant_id=row.participant_id,
            contact=row.contact,
            user_id=row.user_id,
            email=row.email,
        ),
        status=Status(row.status),
        created_at=row.created_at,
        updated_at=row.updated_at,
        channel=row.channel,
        queued_at=row.queued_at,
        agent=None
        if row.agent_id is None
        else Agent(row.agent_id, row.agent_name or "", row.agent_user_id),
        closing=None if row.close_status is None else Closing(row.close_status),
        close_reason=row.close_reason,
        closed_by=row.closed_by,
        closed_at=row.closed_at,
        details=row.details,
        unread_customer=row.unread_customer,
        unread_agent=row.unread_agent,
        last_message_at=row.last_message_at,
        preview=row.preview,
        is_customer_away=row.is_customer_away,
        position=position,
    )


def message_of(row: Any, customer: Customer) -> Message:
    """Return a row of `MESSAGES`, of a conversation of this customer, as a value."""
    side = Side(row.sender_type)
    return Message(
        id=row.id,
        conversation_id=row.conversation_id,
        side=side,
        sender_id=customer.shown_id if side is Side.CUSTOMER else row.sender_id,
        sender_name=row.sender_name,
        kind=row.kind,
        content=row.content,
        sent_at=row.sent_at,
        details=row.details,
        read_by_customer=row.read_by_customer,
        read_by_agent=row.read_by_agent,
    )


def messages_of(rows: Iterable[Any], customer: Customer) -> list[Message]:
    """Return rows of `MESSAGES`, all of one conversation, as values."""
    return [message_of(row, customer) for row in rows]
