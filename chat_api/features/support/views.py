"""Support conversations on the wire, in the words of customers' and agents' apps, and paging."""

from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType

from chat_api.features.support.rules import Agent, Conversation, Customer, Message, Side, Status
from chat_api.kernel.clock import precise_wire_time
from chat_api.kernel.errors import Unprocessable
from chat_api.kernel.routes import stated

__all__ = [
    "MAX_OFFSET",
    "AgentView",
    "BootView",
    "ChatMessage",
    "ConversationView",
    "CustomerView",
    "ErrorNews",
    "MessageView",
    "QueueEntry",
    "QueueView",
    "SenderView",
    "SessionView",
    "StartedView",
    "SystemEvent",
    "agent_view",
    "conversation_view",
    "customer_view",
    "message_view",
    "offset_of",
    "queue_entry",
]

MAX_OFFSET: Final = 1_000_000
"""Entries that a list can be paged through."""

_Time = Annotated[str, stated("ISO 8601, in UTC.", format="date-time")]
_Status = Annotated[str, stated(enum=[status.value for status in Status])]
_Position = Annotated[
    int | UnsetType, stated("The place in the tenant's queue, from 1; left out when it has none.")
]
_Token = Annotated[str, stated("The customer's bearer token, for this conversation alone.")]


class CustomerView(msgspec.Struct, frozen=True, rename={"display_name": "displayName"}):
    """Who asks for help."""

    id: str
    display_name: str
    phone: Annotated[str | None, stated("How else to reach them, as they gave it.")]


class AgentView(msgspec.Struct, frozen=True, rename={"display_name": "displayName"}):
    """Who answers."""

    id: str
    display_name: str


class ConversationView(msgspec.Struct, frozen=True, rename="camel"):
    """A conversation."""

    id: str
    status: _Status
    customer: CustomerView
    agent: AgentView | None
    created_at: _Time
    updated_at: _Time
    tenant: str
    channel: str
    position: _Position = UNSET
    close_reason: str | UnsetType = UNSET


class StartedView(ConversationView, frozen=True, kw_only=True):
    """A conversation and the token to go on with."""

    token: _Token
    expires_in: Annotated[int, stated("Seconds for which the token is good.")]


class SessionView(msgspec.Struct, frozen=True, rename="camel"):
    """Which conversation the customer is in, and the token to go on with."""

    conversation_id: str
    status: _Status
    token: _Token
    expires_in: Annotated[int, stated("Seconds for which the token is good.")]
    position: _Position = UNSET


class SenderView(msgspec.Struct, frozen=True, rename={"display_name": "displayName"}):
    """Who wrote a message."""

    id: str
    type: Annotated[str, stated(enum=[side.value for side in Side])]
    display_name: str


class MessageView(
    msgspec.Struct, frozen=True, rename={"conversation_id": "conversationId", "kind": "type"}
):
    """A message."""

    id: Annotated[str, stated("A number, as a text.", pattern="^[0-9]+$")]
    conversation_id: str
    sender: SenderView
    kind: Annotated[str, stated(enum=["TEXT", "SYSTEM"])]
    content: str
    timestamp: _Time
    metadata: Annotated[
        msgspec.Raw | UnsetType, stated("What the sender put beside the text.", type="object")
    ] = UNSET


class QueueEntry(msgspec.Struct, frozen=True, rename="camel"):
    """A conversation that waits for an agent."""

    id: str
    conversation_id: str
    status: _Status
    customer: CustomerView
    tenant: str
    channel: str
    position: Annotated[int, stated("The place in the tenant's queue, from 1.")]
    waiting_seconds: int
    queued_at: _Time
    preview: Annotated[str | UnsetType, stated("The beginning of the last message.")] = UNSET


class QueueView(msgspec.Struct, frozen=True, rename="camel"):
    """A page of the queue, the longest wait first."""

    content: list[QueueEntry]
    page: Annotated[int, stated("Counted from 0.")]
    size: int
    total_elements: int
    total_pages: int


class BootView(msgspec.Struct, frozen=True, rename="camel"):
    """What an agent's app starts with."""

    agent: AgentView
    channel: str
    conversations: Annotated[list[ConversationView], stated("The agent's own.")]
    queue: Annotated[list[QueueEntry], stated("Those who wait, the longest wait first.")]
    max_concurrent: Annotated[int, stated("Conversations at a time; 0 for any number.")]


class ChatMessage(msgspec.Struct, frozen=True, rename={"conversation_id": "conversationId"}):
    """The news of a message."""

    conversation_id: str
    message: MessageView


class SystemEvent(msgspec.Struct, frozen=True, rename={"conversation_id": "conversationId"}):
    """The news of a conversation's state; DISCONNECTED says that the customer has gone."""

    conversation_id: str
    status: Annotated[str, stated(enum=[*(status.value for status in Status), "DISCONNECTED"])]
    timestamp: _Time
    agent: AgentView | UnsetType = UNSET
    position: _Position = UNSET


class ErrorNews(msgspec.Struct, frozen=True):
    """The news that something was refused."""

    code: str
    message: str


def customer_view(customer: Customer) -> CustomerView:
    """Return a customer as both sides see them."""
    return CustomerView(customer.shown_id, customer.name, customer.contact)


def agent_view(agent: Agent) -> AgentView:
    """Return an agent as both sides see them."""
    return AgentView(agent.id, agent.name)


def conversation_view(conversation: Conversation) -> ConversationView:
    """Return a conversation as both sides see it."""
    agent, position = conversation.agent, conversation.position
    return ConversationView(
        id=conversation.id,
        status=conversation.status,
        customer=customer_view(conversation.customer),
        agent=None if agent is None else agent_view(agent),
        created_at=precise_wire_time(conversation.created_at),
        updated_at=precise_wire_time(conversation.updated_at),
        tenant=conversation.tenant,
        channel=conversation.channel,
        position=UNSET if position is None else position,
        close_reason=conversation.close_reason or UNSET,
    )


def message_view(message: Message) -> MessageView:
    """Return a message as both sides see it."""
    return MessageView(
        id=str(message.id),
        conversation_id=message.conversation_id,
        sender=SenderView(message.sender_id, message.side, message.sender_name),
        kind=message.kind,
        content=message.content,
        timestamp=precise_wire_time(message.sent_at),
        metadata=UNSET if message.details is None else msgspec.Raw(message.details.encode()),
    )


def queue_entry(conversation: Conversation, now: datetime) -> QueueEntry:
    """Return a waiting conversation as agents see it in the queue."""
    assert conversation.queued_at is not None, "it waits"
    assert conversation.position is not None, "it was asked for"
    return QueueEntry(
        id=conversation.id,
        conversation_id=conversation.id,
        status=conversation.status,
        customer=customer_view(conversation.customer),
        tenant=conversation.tenant,
        channel=conversation.channel,
        position=conversation.position,
        waiting_seconds=max(0, int((now - conversation.queued_at).total_seconds())),
        queued_at=precise_wire_time(conversation.queued_at),
        preview=conversation.preview or UNSET,
    )


def offset_of(page: int, size: int, *, most: int, first: int = 0, size_name: str = "size") -> int:
    """
    Return how many entries come before a page of a list.

    `most` is how large a page may be, `first` the number of the first one, `size_name` what the app
    calls its size.

    Raises:
        Unprocessable: The size, or the number of the page, is out of bounds.
    """
    if not 1 <= size <= most:
        raise Unprocessable(f"{size_name} must be from 1 to {most}.")
    if not first <= page <= MAX_OFFSET // size:
        raise Unprocessable(f"page must be from {first} to {MAX_OFFSET // size}.")
    return (page - first) * size
