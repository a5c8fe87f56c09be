"""Direct chats over HTTP, in the words of both families of apps that use them."""

from typing import Annotated, Any, Final

import msgspec

from chat_api.features import Feature
from chat_api.features.chats.events import EVENTS
from chat_api.features.chats.service import (
    MAX_CONTENT,
    MAX_KIND,
    MAX_MESSAGE_IDS,
    MAX_TEMP_ID,
    Chats,
    Draft,
    Sent,
)
from chat_api.features.chats.views import ChatView, History, ReadMarks, SentMessage, Typing
from chat_api.kernel.errors import Forbidden, NotFound, TooMany, Unprocessable
from chat_api.kernel.routes import Answer, Call, Example, Header, Route, stated
from chat_api.kernel.texts import id_from

__all__ = ["chats_feature"]

_MAX_CHATS = 500
_MAX_PAGE = 200
_MAX_OFFSET = 1_000_000

Id = Annotated[int | str, stated("A number, which may be sent as a text.")]
"""Clients send ids as they got them: as numbers or as strings."""

_TempId = stated(
    "The client's own name for the message: what is sent again under it is not stored again.",
    minLength=1,
    maxLength=MAX_TEMP_ID,
)
_Kind = Annotated[
    str,
    stated("`text`, or what the apps agree on, such as `image`.", minLength=1, maxLength=MAX_KIND),
]
_Limit = Annotated[int, stated("The most messages to answer.", minimum=1, maximum=_MAX_PAGE)]
_Before = Annotated[int | str | None, stated("Only messages older than the one with this id.")]


class ChatsQuery(msgspec.Struct, frozen=True):
    """A page of chats."""

    limit: Annotated[int, stated("The most chats to answer.", minimum=1, maximum=_MAX_CHATS)] = 100
    offset: Annotated[int, stated("How many to pass over.", minimum=0, maximum=_MAX_OFFSET)] = 0


class OpenInput(msgspec.Struct, frozen=True):
    """The person to have a chat with."""

    user_id: Id


class HistoryQuery(msgspec.Struct, frozen=True):
    """A page of messages, going back from the newest or from before a message."""

    limit: _Limit = 50
    before: _Before = None


class SendInput(msgspec.Struct, frozen=True, rename={"temp_id": "tempId", "kind": "type"}):
    """A message into a chat."""

    content: Annotated[
        str, stated("May be empty beside `metadata` of another type.", maxLength=MAX_CONTENT)
    ]
    temp_id: Annotated[str, _TempId]
    kind: _Kind = "text"
    metadata: Annotated[
        dict[str, Any] | None, stated("What to keep beside the text, up to 4,000 bytes.")
    ] = None


class TypingInput(msgspec.Struct, frozen=True):
    """Whether the caller is writing."""

    typing: Annotated[bool, stated("Having stopped is told by silence: only true is told.")] = True


class ReadInput(msgspec.Struct, frozen=True):
    """Which messages were read."""

    message_ids: Annotated[
        list[Id] | None, stated("All of them when left out.", maxItems=MAX_MESSAGE_IDS)
    ] = None


class PersonalInput(
    msgspec.Struct,
    frozen=True,
    rename={"recipient_id": "recipientId", "kind": "type", "temp_id": "tempId"},
):
    """A message to a person."""

    recipient_id: Id
    message: Annotated[str, stated("May be empty beside `media`.", maxLength=MAX_CONTENT)] = ""
    kind: _Kind = "text"
    media: Annotated[Any, stated("What to keep beside the text, up to 4,000 bytes.")] = None
    temp_id: Annotated[str | None, _TempId] = None


class PersonalQuery(msgspec.Struct, frozen=True, rename={"other": "with"}):
    """The messages exchanged with a person."""

    other: Annotated[int | str, stated("The person's id.")]
    limit: _Limit = 50
    before: _Before = None


_DESCRIPTION: Final = (
    "Every two accounts can have one chat. What is said in it goes out to both people on their "
    "own channel, `private-user.{id}`; a client that names its connection in `X-Socket-ID` does "
    "not hear its own events."
)


def chats_feature(chats: Chats) -> Feature:
    """Return the routes of direct chats."""

    async def overview(call: Call[ChatsQuery]) -> Answer:
        limit = _checked_limit(call.input.limit, most=_MAX_CHATS)
        offset = call.input.offset
        if not 0 <= offset <= _MAX_OFFSET:
            raise Unprocessable(f"offset must be from 0 to {_MAX_OFFSET}.")
        return Answer(await chats.overview(call.caller, limit=limit, offset=offset))

    async def open_chat(call: Call[OpenInput]) -> Answer:
        chat, opened = await chats.open(call.caller, id_from(call.input.user_id, "user"))
        return Answer(chat, 201 if opened else 200)

    async def history(call: Call[HistoryQuery]) -> Answer:
        messages, has_more = await chats.history(
            call.caller,
            call.path_id("chat_id", "chat"),
            limit=_checked_limit(call.input.limit, most=_MAX_PAGE),
            before=_optional_id(call.input.before),
        )
        return Answer(History(messages, has_more))

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
        return Answer(Typing(call.input.typing))

    async def mark_read(call: Call[ReadInput]) -> Answer:
        marked = await chats.mark_read(
            call.caller,
            call.path_id("chat_id", "chat"),
            _known_ids(call.input.message_ids),
            from_socket=call.socket_id,
        )
        return Answer(ReadMarks(marked))

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
            limit=_checked_limit(call.input.limit, most=_MAX_PAGE),
            before=_optional_id(call.input.before),
        )
        return Answer(History(messages, has_more))

    messages = "/api/chats/{chat_id}/messages"
    personal = "/api/chat/personal/messages"
    chat = {"chat_id": "{chat_id}"}
    return Feature(
        (
            Route(
                "POST",
                "/api/chats",
                OpenInput,
                open_chat,
                summary="Open the chat with a person, or find it",
                answers={201: ChatView, 200: ChatView},
                errors=(NotFound, Unprocessable),
                examples=(Example({"user_id": 2}, keeps={"chat_id": "id"}),),
            ),
            Route(
                "GET",
                "/api/chats",
                ChatsQuery,
                overview,
                summary="List one's chats, the latest active first",
                answers={200: list[ChatView]},
                errors=(Unprocessable,),
                examples=(Example(), Example({"limit": 20, "offset": 0}, summary="A page")),
            ),
            Route(
                "POST",
                messages,
                SendInput,
                send,
                summary="Send a message",
                answers={201: SentMessage, 200: SentMessage},
                errors=(Forbidden, NotFound, Unprocessable, TooMany),
                headers=(Header.SOCKET_ID,),
                examples=(
                    Example(
                        {"content": "Hello!", "tempId": "temp-1"},
                        chat,
                        {Header.SOCKET_ID: "1234.5678"},
                        keeps={"message_id": "message.id"},
                    ),
                    Example(
                        {"content": "Hello!", "tempId": "temp-1"},
                        chat,
                        status=200,
                        summary="The same again, because the answer got lost",
                    ),
                    Example(
                        {
                            "content": "",
                            "tempId": "temp-2",
                            "type": "image",
                            "metadata": {"url": "https://example.com/cat.png"},
                        },
                        chat,
                        summary="A picture",
                    ),
                ),
            ),
            Route(
                "GET",
                messages,
                HistoryQuery,
                history,
                summary="Read a chat, going back",
                answers={200: History},
                errors=(Forbidden, NotFound, Unprocessable),
                examples=(
                    Example(path=chat),
                    Example(
                        {"limit": 20, "before": "{message_id}"}, chat, summary="What came before"
                    ),
                ),
            ),
            Route(
                "POST",
                "/api/chats/{chat_id}/typing",
                TypingInput,
                show_typing,
                summary="Tell the other person that one is writing",
                answers={200: Typing},
                errors=(Forbidden, NotFound, TooMany),
                headers=(Header.SOCKET_ID,),
                examples=(Example({"typing": True}, chat),),
            ),
            Route(
                "POST",
                "/api/chats/{chat_id}/read",
                ReadInput,
                mark_read,
                summary="Mark what the other person wrote as read",
                answers={200: ReadMarks},
                errors=(Forbidden, NotFound, Unprocessable),
                headers=(Header.SOCKET_ID,),
                examples=(
                    Example({"message_ids": ["{message_id}"]}, chat, sender="vali@example.com"),
                    Example({}, chat, sender="vali@example.com", summary="All of it"),
                ),
            ),
            Route(
                "POST",
                personal,
                PersonalInput,
                send_personal,
                summary="Send a message to a person, opening the chat if there is none",
                answers={201: SentMessage, 200: SentMessage},
                errors=(NotFound, Unprocessable, TooMany),
                headers=(Header.SOCKET_ID,),
                examples=(
                    Example({"recipientId": 2, "message": "Hello!"}),
                    Example(
                        {
                            "recipientId": 2,
                            "type": "image",
                            "media": {"url": "https://example.com/cat.png"},
                        },
                        summary="A picture",
                    ),
                ),
            ),
            Route(
                "GET",
                personal,
                PersonalQuery,
                personal_history,
                summary="Read what was exchanged with a person, going back",
                answers={200: History},
                errors=(NotFound, Unprocessable),
                examples=(Example({"with": 2}),),
            ),
        ),
        measures=chats.measures(),
        name="chats",
        description=_DESCRIPTION,
        events=EVENTS,
    )


def _sent(sent: Sent, temp_id: str | None) -> Answer:
    return Answer(SentMessage(sent.message, temp_id), 201 if sent.is_new else 200)


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
