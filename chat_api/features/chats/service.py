"""
The rules of direct chats.

A chat belongs to two people and can be seen and changed by nobody else: whether the caller is one
of them is part of the very queries that read or change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET
from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from chat_api.features.auth.models import User
from chat_api.features.auth.views import user_view
from chat_api.features.chats.events import (
    message_sent,
    messages_read,
    private_channel,
    user_is_typing,
)
from chat_api.features.chats.models import DirectChat, DirectMessage
from chat_api.features.chats.views import ChatView, MessageView
from chat_api.kernel.callers import Caller, Person
from chat_api.kernel.clock import Clock, wire_time
from chat_api.kernel.errors import Forbidden, NotFound, Unprocessable
from chat_api.kernel.measures import Measure, single
from chat_api.kernel.texts import checked_object, checked_text, full_name
from chat_api.kernel.throttling import Throttle
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.store.engine import Store, UnitOfWork

__all__ = [
    "MAX_CONTENT",
    "MAX_KIND",
    "MAX_MESSAGE_IDS",
    "MAX_TEMP_ID",
    "Chats",
    "Draft",
    "Sent",
]

MAX_CONTENT: Final = 4_000
MAX_MESSAGE_IDS: Final = 1_000
MAX_TEMP_ID: Final = 100  # characters
MAX_KIND: Final = 32  # characters


@dataclass(frozen=True, slots=True)
class Draft:
    """
    A message to be sent.

    `temp_id` is the client's name for it: sent twice, it is stored once. `metadata` is any JSON
    object of up to 4,000 bytes.
    """

    content: str
    temp_id: str | None = None
    kind: str = "text"
    metadata: dict[str, Any] | None = None


class Sent(NamedTuple):
    """A message as stored, and whether that was just now or by an earlier, equal request."""

    message: MessageView
    is_new: bool


class Chats:
    """The direct chats of one store. `messages` and `typing` throttle each sender."""

    def __init__(
        self,
        store: Store,
        broadcaster: Broadcaster,
        clock: Clock,
        *,
        messages: Throttle,
        typing: Throttle,
    ) -> None:
        self._store = store
        self._broadcaster = broadcaster
        self._clock = clock
        self._message_throttle = messages
        self._typing_throttle = typing
        self._sent = 0

    async def overview(self, caller: Caller, *, limit: int, offset: int) -> list[ChatView]:
        """Return the caller's chats, the latest active first, in one query however many."""
        query = (
            _chats_of(caller)
            .order_by(
                func.coalesce(DirectMessage.sent_at, DirectChat.created_at).desc(),
                DirectChat.id.desc(),
            )
            .limit(limit)
            .offset(offset)
        )
        return [_chat_view(caller, row) for row in await self._store.all(query)]

    async def open(self, caller: Caller, other_id: int) -> tuple[ChatView, bool]:
        """
        Return the chat of the caller and another person, and whether it had to be opened.

        Raises:
            NotFound: There is no such person.
            Unprocessable: It would be a chat with oneself.
        """
        opened = await self._opened_with(caller, other_id)
        query = _chats_of(caller).where(_is_of(caller.id, other_id))
        [row] = await self._store.all(query)
        return _chat_view(caller, row), opened

    async def history(
        self, caller: Caller, chat_id: int, *, limit: int, before: int | None
    ) -> tuple[list[MessageView], bool]:
        """
        Return the last `limit` messages (of those before a message id), oldest first.

        The flag tells whether there are older ones.

        Raises:
            NotFound: There is no such chat.
            Forbidden: It is not the caller's.
        """
        query = (
            select(*_MESSAGE_COLUMNS, User.first_name, User.last_name)
            .join(DirectChat, DirectChat.id == DirectMessage.chat_id)
            .join(User, User.id == DirectMessage.sender_id)
            .where(DirectMessage.chat_id == chat_id, _has_member(caller))
            .order_by(DirectMessage.id.desc())
            .limit(limit + 1)
        )
        if before is not None:
            query = query.where(DirectMessage.id < before)
        rows = await self._store.all(query)
        if not rows:
            _other_of(caller, await self._store.one_or_none(_MEMBERS, {"chat_id": chat_id}))
        messages = [
            _message_view(row, full_name(row.first_name, row.last_name))
            for row in reversed(rows[:limit])
        ]
        return messages, len(rows) > limit

    async def history_with(
        self, caller: Caller, other_id: int, *, limit: int, before: int | None
    ) -> tuple[list[MessageView], bool]:
        """
        Return the same for the chat with a person; nothing if the two never had one.

        Raises:
            NotFound: There is no such person.
        """
        chat_id = await self._chat_with(caller, other_id)
        if chat_id is None:
            return [], False
        return await self.history(caller, chat_id, limit=limit, before=before)

    async def send(
        self, caller: Caller, chat_id: int, draft: Draft, *, from_socket: str | None
    ) -> Sent:
        """
        Store a message and tell both people, except the connection it came from.

        A draft whose `temp_id` the sender has used in this chat changes nothing and returns the
        first message, also when the two requests race.

        Raises:
            Unprocessable: The draft is empty or too long.
            NotFound: There is no such chat.
            Forbidden: It is not the caller's.
            TooMany: The caller sends too fast.
        """
        _check(draft)
        self._message_throttle.hit(str(caller.id))
        return await self._send(caller, chat_id, draft, from_socket)

    async def send_to(
        self, caller: Caller, other_id: int, draft: Draft, *, from_socket: str | None
    ) -> Sent:
        """
        Send to a person, opening the chat if this is its first message; otherwise as `send`.

        Raises:
            Unprocessable: The draft is empty or too long, or for the caller.
            NotFound: There is no such person.
            TooMany: The caller sends too fast.
        """
        _check(draft)
        self._message_throttle.hit(str(caller.id))
        await self._opened_with(caller, other_id)
        [(chat_id,)] = await self._store.all(
            select(DirectChat.id).where(_is_of(caller.id, other_id))
        )
        return await self._send(caller, chat_id, draft, from_socket)

    async def show_typing(
        self, caller: Caller, chat_id: int, *, is_typing: bool, from_socket: str | None
    ) -> None:
        """
        Tell the other person that the caller is writing.

        Having stopped is told by silence: the event has no form for it.

        Raises:
            NotFound: There is no such chat.
            Forbidden: It is not the caller's.
            TooMany: The caller types too fast.
        """
        self._typing_throttle.hit(str(caller.id))
        other_id = _other_of(caller, await self._store.one_or_none(_MEMBERS, {"chat_id": chat_id}))
        if not is_typing:
            return
        channels, event = [private_channel(other_id)], user_is_typing(chat_id, caller)
        await self._store.write(
            lambda unit: self._broadcaster.publish(unit, channels, event, except_socket=from_socket)
        )

    async def mark_read(
        self,
        caller: Caller,
        chat_id: int,
        message_ids: Sequence[int] | None,
        *,
        from_socket: str | None,
    ) -> list[str]:
        """
        Mark what the other person wrote as read: these messages, or all when None.

        Returns the ids that were unread until now, in order, and tells both people about them. Ids
        of other messages are ignored.

        Raises:
            NotFound: There is no such chat.
            Forbidden: It is not the caller's.
        """

        def mark(unit: UnitOfWork) -> list[str]:
            other_id = _other_of(
                caller, unit.connection.execute(_MEMBERS, {"chat_id": chat_id}).one_or_none()
            )
            change = (
                update(DirectMessage)
                .where(
                    DirectMessage.chat_id == chat_id,
                    DirectMessage.sender_id == other_id,
                    DirectMessage.read_at.is_(None),
                )
                .values(read_at=self._clock())
                .returning(DirectMessage.id)
            )
            if message_ids is not None:
                change = change.where(DirectMessage.id.in_(message_ids))
            marked = [str(row.id) for row in sorted(unit.connection.execute(change))]
            for event in messages_read(chat_id, caller.id, marked):
                self._broadcaster.publish(
                    unit, _channels(caller.id, other_id), event, except_socket=from_socket
                )
            return marked

        return await self._store.write(mark)

    def measures(self) -> tuple[Measure, ...]:
        """Return what tells how much people say to each other."""
        return (single("direct_messages_total", "Messages in direct chats.", lambda: self._sent),)

    async def _send(
        self, caller: Caller, chat_id: int, draft: Draft, from_socket: str | None
    ) -> Sent:
        row = {
            "chat_id": chat_id,
            "sender_id": caller.id,
            "temp_id": draft.temp_id,
            "kind": draft.kind,
            "content": draft.content,
            "details": checked_object(draft.metadata, "metadata"),
            "sent_at": self._clock(),
            "read_at": None,
        }

        def store(unit: UnitOfWork) -> MessageView:
            other_id = _other_of(
                caller, unit.connection.execute(_MEMBERS, {"chat_id": chat_id}).one_or_none()
            )
            stored = unit.connection.execute(_ADD, row)
            message = _message_view(stored.one(), caller.name)
            self._broadcaster.publish(
                unit,
                _channels(caller.id, other_id),
                message_sent(message, draft.temp_id),
                except_socket=from_socket,
            )
            return message

        try:
            message = await self._store.write(store)
            self._sent += 1
            return Sent(message, is_new=True)
        except IntegrityError:
            earlier = await self._earlier(caller, chat_id, draft.temp_id)
            if earlier is None:
                raise
            return Sent(earlier, is_new=False)

    async def _earlier(
        self, caller: Caller, chat_id: int, temp_id: str | None
    ) -> MessageView | None:
        query = select(*_MESSAGE_COLUMNS).where(
            DirectMessage.chat_id == chat_id,
            DirectMessage.sender_id == caller.id,
            DirectMessage.temp_id == temp_id,
        )
        row = await self._store.one_or_none(query)
        return None if row is None else _message_view(row, caller.name)

    async def _chat_with(self, caller: Caller, other_id: int) -> int | None:
        query = (
            select(User.id, DirectChat.id.label("chat_id"))
            .outerjoin(DirectChat, _is_of(caller.id, other_id))
            .where(User.id == other_id)
        )
        row = await self._store.one_or_none(query)
        if row is None:
            raise NotFound("There is no such user.")
        chat_id: int | None = row.chat_id
        return chat_id

    async def _opened_with(self, caller: Caller, other_id: int) -> bool:
        if other_id == caller.id:
            raise Unprocessable("A chat needs somebody else.")
        if await self._chat_with(caller, other_id) is not None:
            return False
        first_id, second_id = sorted((caller.id, other_id))
        chat = insert(DirectChat).values(
            first_id=first_id, second_id=second_id, created_at=self._clock()
        )
        try:
            await self._store.write(lambda unit: unit.connection.execute(chat))
        except IntegrityError:
            return False  # the other one opened it at the same moment
        return True


_MESSAGE_COLUMNS: Final = (
    DirectMessage.id,
    DirectMessage.chat_id,
    DirectMessage.sender_id,
    DirectMessage.kind,
    DirectMessage.content,
    DirectMessage.details,
    DirectMessage.sent_at,
    DirectMessage.read_at,
)

# The statements of every message, built once: that costs more than running them.
_MEMBERS = select(DirectChat.first_id, DirectChat.second_id).where(
    DirectChat.id == bindparam("chat_id")
)
_ADD = insert(DirectMessage).returning(*_MESSAGE_COLUMNS)


def _check(draft: Draft) -> None:
    checked_text(
        draft.content,
        "The message",
        longest=MAX_CONTENT,
        # A picture needs no words.
        may_be_empty=draft.metadata is not None and draft.kind != "text",
    )
    checked_text(draft.kind, "type", longest=MAX_KIND)
    if draft.temp_id is not None:
        checked_text(draft.temp_id, "tempId", longest=MAX_TEMP_ID)
    checked_object(draft.metadata, "metadata")


def _channels(*user_ids: int) -> list[str]:
    return [private_channel(user_id) for user_id in user_ids]


def _has_member(caller: Caller) -> ColumnElement[bool]:
    return or_(DirectChat.first_id == caller.id, DirectChat.second_id == caller.id)


def _is_of(one_id: int, other_id: int) -> ColumnElement[bool]:
    first_id, second_id = sorted((one_id, other_id))
    return and_(DirectChat.first_id == first_id, DirectChat.second_id == second_id)


def _other_of(caller: Caller, members: Row[int, int] | None) -> int:
    """Return with whom the caller has this chat; raises `NotFound` or `Forbidden`."""
    if members is None:
        raise NotFound("There is no such chat.")
    first_id, second_id = members
    if caller.id == first_id:
        return second_id
    if caller.id == second_id:
        return first_id
    raise Forbidden("This chat is not yours.")


def _chats_of(caller: Caller) -> Select[*tuple[Any, ...]]:
    """Select the caller's chats, each with the other person, its last message and unread count."""
    last_id = select(func.max(_Newer.id)).where(_Newer.chat_id == DirectChat.id).scalar_subquery()
    unread = (
        select(func.count())
        .where(
            _Newer.chat_id == DirectChat.id,
            _Newer.read_at.is_(None),
            _Newer.sender_id != caller.id,
        )
        .scalar_subquery()
    )
    other_id = case(
        (DirectChat.first_id == caller.id, DirectChat.second_id), else_=DirectChat.first_id
    )
    return (
        select(
            DirectChat.id.label("opened_id"),
            DirectChat.created_at,
            User.id.label("other_id"),
            User.email,
            User.first_name,
            User.last_name,
            unread.label("unread"),
            *_MESSAGE_COLUMNS,
        )
        .join(User, User.id == other_id)
        .outerjoin(DirectMessage, DirectMessage.id == last_id)
        .where(_has_member(caller))
    )


_Newer = aliased(DirectMessage)


def _chat_view(caller: Caller, row: Any) -> ChatView:
    other = Person(row.other_id, row.email, row.first_name, row.last_name)
    both = (caller, other) if caller.id < other.id else (other, caller)
    last_message = None
    if row.id is not None:
        by_caller = row.sender_id == caller.id
        last_message = _message_view(row, caller.name if by_caller else other.name)
    return ChatView(
        id=row.opened_id,
        participants=[user_view(person) for person in both],
        last_message=last_message,
        unread_count=row.unread,
        created_at=wire_time(row.created_at),
    )


def _message_view(row: Any, sender_name: str) -> MessageView:
    return MessageView(
        id=str(row.id),
        chat_id=str(row.chat_id),
        sender_id=str(row.sender_id),
        sender_name=sender_name,
        content=row.content,
        sent_at=wire_time(row.sent_at),
        status="sent" if row.read_at is None else "read",
        kind=UNSET if row.kind == "text" else row.kind,
        metadata=UNSET if row.details is None else msgspec.Raw(row.details.encode()),
    )
