"""What support conversations tell listening clients, and whom they wake by push messages."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import UNSET

from chat_api.features import DocumentedEvent
from chat_api.features.support.rules import Conversation, Message
from chat_api.features.support.views import (
    ChatMessage,
    ErrorNews,
    QueueEntry,
    SystemEvent,
    agent_view,
    message_view,
)
from chat_api.kernel.clock import precise_wire_time
from chat_api.kernel.errors import ChatError
from chat_api.realtime.broadcaster import MAX_EVENT_BYTES, Event

__all__ = [
    "EVENTS",
    "chat_message",
    "conversation_channel",
    "customer_disconnected",
    "presence_channel",
    "queue_channel",
    "queue_snapshot",
    "system_error",
    "system_event",
]

_POSITION_LIFETIME = timedelta(minutes=1)
_ERROR_LIFETIME = timedelta(seconds=10)
_CONVERSATION = ("private-conversation.{id}",)

EVENTS: Final = (
    DocumentedEvent(
        "chat:message",
        _CONVERSATION,
        ChatMessage,
        "A message was sent. Both sides hear it, except the connection it was sent from.",
    ),
    DocumentedEvent(
        "system:event",
        _CONVERSATION,
        SystemEvent,
        "The conversation has another state or agent, the customer has gone for more than five "
        "seconds (DISCONNECTED) or is back, or one of the first fifty in the queue has moved up.",
    ),
    DocumentedEvent(
        "system:error",
        _CONVERSATION,
        ErrorNews,
        "A message was refused because the conversation is closed.",
    ),
    DocumentedEvent(
        "queue:snapshot",
        ("private-queue.{tenant...}",),
        list[QueueEntry],
        "The queue has changed: who waits, the longest wait first, as many as fit into 10 kB. At "
        "most one in 200 ms, and always the last state.",
    ),
)


def conversation_channel(conversation_id: str) -> str:
    """Return the channel on which the parties of a conversation hear of it."""
    return f"private-conversation.{conversation_id}"


def presence_channel(conversation_id: str) -> str:
    """Return the channel that shows who of them is there."""
    return f"presence-conversation.{conversation_id}"


def queue_channel(tenant: str) -> str:
    """Return the channel on which a tenant's staff hear of its queue."""
    return f"private-queue.{tenant}"


def chat_message(message: Message) -> Event:
    """Return the news of a message."""
    return Event("chat:message", ChatMessage(message.conversation_id, message_view(message)))


def system_event(conversation: Conversation, now: datetime) -> Event:
    """Return the news of a conversation's state; news of a mere place in the queue grow old."""
    return _state(conversation, conversation.status, now)


def customer_disconnected(conversation: Conversation, now: datetime) -> Event:
    """Return the news that the customer has gone."""
    return _state(conversation, "DISCONNECTED", now)


def _state(conversation: Conversation, status: str, now: datetime) -> Event:
    agent, position = conversation.agent, conversation.position
    return Event(
        "system:event",
        SystemEvent(
            conversation.id,
            status,
            precise_wire_time(now),
            UNSET if agent is None else agent_view(agent),
            UNSET if position is None else position,
        ),
        lifetime=None if position is None else _POSITION_LIFETIME,
    )


def system_error(error: ChatError) -> Event:
    """Return the news that something was refused, which helps only at once."""
    return Event("system:error", ErrorNews(error.code, error.message), lifetime=_ERROR_LIFETIME)


def queue_snapshot(entries: Sequence[QueueEntry]) -> Event:
    """Return the state of a queue: as many of its first entries as fit into an event."""
    left = MAX_EVENT_BYTES - len("[]")
    fitting = []
    for entry in entries:
        encoded = msgspec.json.encode(entry)
        left -= len(encoded) + len(",")
        if left < 0:
            break
        fitting.append(msgspec.Raw(encoded))
    return Event("queue:snapshot", fitting, is_whole_state=True)
