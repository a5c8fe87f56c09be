"""What direct chats look like on the wire, to those who ask and to those who listen."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from chat_api.features.auth.views import UserView
from chat_api.kernel.routes import stated

__all__ = [
    "ChatView",
    "History",
    "MessageSent",
    "MessageView",
    "MessagesRead",
    "ReadMarks",
    "ReadNews",
    "SentMessage",
    "Typing",
    "TypingNews",
    "UserIsTyping",
]

_Id = Annotated[str, stated("A number, as a text.", pattern="^[0-9]+$")]
_Time = Annotated[str, stated("ISO 8601, in UTC.", format="date-time")]


class MessageView(msgspec.Struct, frozen=True, rename={"kind": "type"}):
    """A message."""

    id: _Id
    chat_id: _Id
    sender_id: _Id
    sender_name: str
    content: str
    sent_at: _Time
    status: Annotated[str, stated(enum=["sent", "read"])]
    # The apps know messages without these; only those that have more carry it.
    kind: Annotated[str | UnsetType, stated("What kind it is; left out of plain texts.")] = UNSET
    metadata: Annotated[
        msgspec.Raw | UnsetType, stated("What the sender put beside the text.", type="object")
    ] = UNSET


class ChatView(msgspec.Struct, frozen=True):
    """A chat of two people, as one of them sees it."""

    id: int
    participants: list[UserView]
    last_message: MessageView | None
    unread_count: int
    created_at: _Time


class History(msgspec.Struct, frozen=True):
    """A page of messages, oldest first."""

    messages: list[MessageView]
    has_more: Annotated[bool, stated("Whether there are older ones.")]


class SentMessage(msgspec.Struct, frozen=True, rename={"temp_id": "tempId"}):
    """A message as it was stored, and the sender's own name for it."""

    message: MessageView
    temp_id: str | None


class Typing(msgspec.Struct, frozen=True):
    """What was told about the caller's writing."""

    typing: bool


class ReadMarks(msgspec.Struct, frozen=True):
    """Which messages were unread until now."""

    message_ids: list[_Id]


class MessageSent(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """The news of a message."""

    data: SentMessage


class TypingNews(msgspec.Struct, frozen=True):
    """Who writes, and where."""

    conversation_id: int
    user: UserView


class UserIsTyping(msgspec.Struct, frozen=True, tag_field="type", tag="typing"):
    """The sign that somebody writes."""

    data: TypingNews


class ReadNews(msgspec.Struct, frozen=True):
    """Who has read what, and where."""

    conversation_id: int
    reader_id: int
    message_ids: list[_Id]


class MessagesRead(msgspec.Struct, frozen=True, tag_field="type", tag="read"):
    """The news that messages were read."""

    data: ReadNews
