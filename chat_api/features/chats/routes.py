"""Direct chats over HTTP, in the words of both families of apps that use them."""

from typing import Any

import msgspec

from chat_api.features import Feature
from chat_api.features.chats.service import MAX_MESSAGE_IDS, Chats, Draft, Sent
from chat_api.kernel.errors import NotFound, Unprocessable
from chat_api.kernel.routes import Answer, Call, Route
from chat_api.kernel.texts import id_from

__all__ = ["chats_feature"]

Id = int | str
"""Clients send ids as they got them: as numbers or as strings."""


class ChatsQuery(msgspec.Struct, frozen=True):
    """A page of chats."""

    limit: int = 100
    offset: int = 0


class OpenInput(msgspec.Struct, frozen=True):
    """The person to have a chat with."""

    user_id: Id


class HistoryQuery(msgspec.Struct, frozen=True):
    """A page of messages, going back from the newest or from before a message."""

    limit: int = 50
    before: Id | None = None


class SendInput(msgspec.Struct, frozen=True, rename={"temp_id": "tempId", "kind": "type"}):
    """A message into a chat."""

    content: str
    temp_id: str
    kind: str = "text"
    metadata: dict[str, Any] | None = None


class TypingInput(msgspec.Struct, frozen=True):
    """Whether the caller is writing."""

    typing: bool = True


class ReadInput(msgspec.Struct, frozen=True):
    """Which messages were read; all of them when left out."""

    message_ids: list[Id] | None = None


class PersonalInput(
    msgspec.Struct,
    frozen=True,
    rename={"recipient_id": "recipientId", "kind": "type", "temp_id": "tempId"},
):
    """A message to a person."""

    recipient_id: Id
    message: str = ""
    kind: str = "text"
    media: Any = None
    temp_id: str | None = None


class PersonalQuery(msgspec.Struct, frozen=True, rename={"other": "with"}):
    """The messages exchanged with a person."""

    other: Id
    limit: int = 50
    before: Id | None = None


def chats_feature(chats: Chats) -> Feature:
    """Return the routes of direct chats."""

    async def overview(call: Call[ChatsQuery]) -> Answer:
        limit = _checked_limit(call.input.limit, most=500)
        offset = call.input.offset
        if not 0 <= offset <= 1_000_000:
            raise Unprocessable("offset must be from 0 to 1000000.")
        return Answer(await chats.overview(call.caller, limit=limit, offset=offset))

    async def open_chat(call: Call[OpenInput]) -> Answer:
        chat, opened = await chats.open(call.caller, id_from(call.input.user_id, "user"))
        return Answer(chat, 201 if opened else 200)

    async def history(call: Call[HistoryQuery]) -> Answer:
        messages, has_more = await chats.history(
            call.caller,
            call.path_id("chat_id", "chat"),
            limit=_checked_limit(call.input.limit, most=200),
            before=_optional_id(call.input.before),
        )
        return Answer({"messages": messages, "has_more": has_more})

    async def send(call: Call[SendInput]) -> Answer:
        given = call.input
        draft = Draft(given.content, given.temp_id, given.kind, given.metadata)
        chat_id = call.path_id("chat_id", "chat")
        sent = await chats.send(call.caller, chat_id, draft, from_socket=call.socket_id)
        return _sent(sent, given.temp_id)

    async def show_typing(call: Call[TypingInput]) -> Answer:
        await chats.show_typing(
            call.caller,
            call.path_id("chat_id", "chat"),
            is_typing=call.input.typing,
            from_socket=call.socket_id,
        )
        return Answer({"typing": call.input.typing})

    async def mark_read(call: Call[ReadInput]) -> Answer:
        marked = await chats.mark_read(
            call.caller,
            call.path_id("chat_id", "chat"),
            _known_ids(call.input.message_ids),
            from_socket=call.socket_id,
        )
        return Answer({"message_ids": marked})

    async def send_personal(call: Call[PersonalInput]) -> Answer:
        given = call.input
        metadata = None if given.media is None else {"media": given.media}
        kind = "media" if metadata is not None and given.kind == "text" else given.kind
        draft = Draft(given.message, given.temp_id, kind, metadata)
        sent = await chats.send_to(
            call.caller,
            id_from(given.recipient_id, "user"),
            draft,
            from_socket=call.socket_id,
        )
        return _sent(sent, given.temp_id)

    async def personal_history(call: Call[PersonalQuery]) -> Answer:
        messages, has_more = await chats.history_with(
            call.caller,
            id_from(call.input.other, "user"),
            limit=_checked_limit(call.input.limit, most=200),
            before=_optional_id(call.input.before),
        )
        return Answer({"messages": messages, "has_more": has_more})

    messages = "/api/chats/{chat_id}/messages"
    personal = "/api/chat/personal/messages"
    return Feature(
        (
            Route("GET", "/api/chats", ChatsQuery, overview),
            Route("POST", "/api/chats", OpenInput, open_chat),
            Route("GET", messages, HistoryQuery, history),
            Route("POST", messages, SendInput, send),
            Route("POST", "/api/chats/{chat_id}/typing", TypingInput, show_typing),
            Route("POST", "/api/chats/{chat_id}/read", ReadInput, mark_read),
            Route("POST", personal, PersonalInput, send_personal),
            Route("GET", personal, PersonalQuery, personal_history),
        )
    )


def _sent(sent: Sent, temp_id: str | None) -> Answer:
    return Answer({"message": sent.message, "tempId": temp_id}, 201 if sent.is_new else 200)


def _checked_limit(limit: int, *, most: int) -> int:
    if not 1 <= limit <= most:
        raise Unprocessable(f"limit must be from 1 to {most}.")
    return limit


def _optional_id(value: Id | None) -> int | None:
    return None if value is None else id_from(value, "message")


def _known_ids(values: list[Id] | None) -> list[int] | None:
    """Return the ids that messages can have; the others are no messages of this chat either."""
    if values is None:
        return None
    if len(values) > MAX_MESSAGE_IDS:
        raise Unprocessable(f"message_ids must not be more than {MAX_MESSAGE_IDS}.")
    ids = []
    for value in values:
        try:
            ids.append(id_from(value, "message"))
        except NotFound:
            pass
    return ids
