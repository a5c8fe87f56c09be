"""What direct chats tell listening clients: the names and exact payloads the apps were built on."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from chat_api.features import DocumentedEvent
from chat_api.features.auth.views import user_view
from chat_api.features.chats.views import (
    MessageSent,
    MessagesRead,
    MessageView,
    ReadNews,
    SentMessage,
    TypingNews,
    UserIsTyping,
)
from chat_api.kernel.callers import Caller
from chat_api.realtime.broadcaster import Event

__all__ = ["EVENTS", "message_sent", "messages_read", "private_channel", "user_is_typing"]

_TYPING_LIFETIME = timedelta(seconds=10)  # apps hide the indicator after a few seconds
_IDS_PER_EVENT = 400  # of up to 19 digits each, so that an event stays below 10 kB
_OWN_CHANNEL = ("private-user.{id}",)

EVENTS: Final = (
    DocumentedEvent(
        "MessageSent",
        _OWN_CHANNEL,
        MessageSent,
        "A message was sent. Both people hear it, except the connection it was sent from.",
    ),
    DocumentedEvent(
        "UserIsTyping",
        _OWN_CHANNEL,
        UserIsTyping,
        "The other person is writing. It is worth nothing after ten seconds.",
    ),
    DocumentedEvent(
        "MessagesRead",
        _OWN_CHANNEL,
        MessagesRead,
        "Messages were read. Both people hear it; many messages take several events.",
    ),
)


def private_channel(user_id: int) -> str:
    """Return the channel on which one account hears everything meant for it."""
    return f"private-user.{user_id}"


def message_sent(message: MessageView, temp_id: str | None) -> Event:
    """Return the news of a message; `temp_id` lets the sender's other devices match it."""
    return Event("MessageSent", MessageSent(SentMessage(message, temp_id)))


def user_is_typing(chat_id: int, typist: Caller) -> Event:
    """Return the sign that somebody is writing, which is worth nothing ten seconds later."""
    return Event(
        "UserIsTyping",
        UserIsTyping(TypingNews(chat_id, user_view(typist))),
        lifetime=_TYPING_LIFETIME,
    )


def messages_read(chat_id: int, reader_id: int, message_ids: Sequence[str]) -> Iterator[Event]:
    """Yield the news that messages were read, in as many events as their number takes."""
    for start in range(0, len(message_ids), _IDS_PER_EVENT):
        ids = list(message_ids[start : start + _IDS_PER_EVENT])
        yield Event("MessagesRead", MessagesRead(ReadNews(chat_id, reader_id, ids)))
