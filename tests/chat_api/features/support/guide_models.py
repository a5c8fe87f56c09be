"""The model classes of the Flutter guides, as strict about the JSON they read as Dart is."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple, Self, TypeVar

T = TypeVar("T")


def text(value: Any) -> str:
    """Read what Dart assigns to a `String`."""
    assert type(value) is str, value
    return value


def moment(value: Any) -> datetime:
    """Read what `DateTime.parse` takes, with its time zone."""
    parsed = datetime.fromisoformat(text(value))
    assert parsed.tzinfo is not None, value
    return parsed


def whole(value: Any) -> int:
    """Read what Dart assigns to an `int`."""
    assert type(value) is int, value
    return value


def flag(value: Any) -> bool:
    """Read what Dart assigns to a `bool`."""
    assert type(value) is bool, value
    return value


def object_of(value: Any) -> dict[str, Any]:
    """Read what Dart casts to a `Map<String, dynamic>`."""
    assert type(value) is dict, value
    return value


def list_of(read: Callable[[Any], T], value: Any) -> list[T]:
    """Read what Dart casts to a `List` and maps."""
    assert type(value) is list, value
    return [read(each) for each in value]


def maybe(read: Callable[[Any], T], json: Any, name: str) -> T | None:
    """Read a nullable field; in Dart, one that is left out is null."""
    value = json.get(name)
    return None if value is None else read(value)


class Participant(NamedTuple):
    id: str
    display_name: str | None

    @classmethod
    def from_json(cls, json: Any) -> Self:
        name = json["displayName"]
        return cls(text(json["id"]), None if name is None else text(name))


class ConversationMetadata(NamedTuple):
    id: str
    status: str
    customer: Participant | None
    agent: Participant | None
    created_at: datetime | None
    updated_at: datetime | None

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(
            text(json["id"]),
            text(json["status"]),
            maybe(Participant.from_json, json, "customer"),
            maybe(Participant.from_json, json, "agent"),
            maybe(moment, json, "createdAt"),
            maybe(moment, json, "updatedAt"),
        )


class ChatMessage(NamedTuple):
    id: str
    conversation_id: str
    sender: dict[str, Any] | None
    type: str
    content: str
    timestamp: datetime

    @classmethod
    def from_json(cls, json: Any) -> Self:
        sender = json["sender"]
        assert sender is None or type(sender) is dict, sender
        return cls(
            text(json["id"]),
            text(json["conversationId"]),
            sender,
            text(json["type"]),
            text(json["content"]),
            moment(json["timestamp"]),
        )


class AgentModel(NamedTuple):
    """Of guide 002: who has logged in; the app writes id and email into a store of strings."""

    id: str
    email: str
    name: str

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(text(json["id"]), text(json["email"]), text(json["name"]))


class SessionModel(NamedTuple):
    """Of guide 002: a row of the list and the details alike, with what only one of them has."""

    session_id: str
    tenant_domain: str
    user_account: str
    user_name: str | None
    assigned_agent_id: int | None
    assigned_agent_name: str | None
    status: str
    created_at: datetime
    updated_at: datetime | None
    last_message_at: datetime | None
    unread_count_user: int | None
    unread_count_agent: int
    preview: str | None
    metadata: dict[str, Any] | None

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(
            text(json["session_id"]),
            text(json["tenant_domain"]),
            text(json["user_account"]),
            maybe(text, json, "user_name"),
            maybe(whole, json, "assigned_agent_id"),
            maybe(text, json, "assigned_agent_name"),
            text(json["status"]),
            moment(json["created_at"]),
            maybe(moment, json, "updated_at"),
            maybe(moment, json, "last_message_at"),
            maybe(whole, json, "unread_count_user"),
            whole(json["unread_count_agent"]),
            maybe(text, json, "preview"),
            maybe(object_of, json, "metadata"),
        )


class MessageModel(NamedTuple):
    """Of guide 002: a row of the history and the answer to sending alike."""

    message_id: int
    session_id: str | None
    sender_type: str
    sender_name: str | None
    message_text: str
    created_at: datetime
    read_by_user: bool | None
    read_by_agent: bool | None
    notification_sent: bool | None

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(
            whole(json["message_id"]),
            maybe(text, json, "session_id"),
            text(json["sender_type"]),
            maybe(text, json, "sender_name"),
            text(json["message_text"]),
            moment(json["created_at"]),
            maybe(flag, json, "read_by_user"),
            maybe(flag, json, "read_by_agent"),
            maybe(flag, json, "notification_sent"),
        )


class Balance(NamedTuple):
    """Of guide 003: what a wallet holds, in whole minor units."""

    balance: int
    currency: str

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(whole(json["balance"]), text(json["currency"]))


class Transaction(NamedTuple):
    """Of guide 003: a transaction of a wallet."""

    id: str
    type: str
    amount: int
    currency: str
    counterparty: str
    note: str
    created_at: datetime

    @classmethod
    def from_json(cls, json: Any) -> Self:
        counterparty = object_of(json["counterparty"])
        text(counterparty["id"])
        return cls(
            text(json["id"]),
            text(json["type"]),
            whole(json["amount"]),
            text(json["currency"]),
            text(counterparty["name"]),
            text(json["note"]),
            moment(json["createdAt"]),
        )


class PaymentNotification(NamedTuple):
    """Of guide 003: the news of a payment that came in."""

    transaction_id: str
    amount: int
    currency: str
    payer: str
    note: str
    created_at: datetime

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(
            text(json["transactionId"]),
            whole(json["amount"]),
            text(json["currency"]),
            text(object_of(json["from"])["name"]),
            text(json["note"]),
            moment(json["createdAt"]),
        )


class User(NamedTuple):
    """Of guides 003 and 004: somebody with an account."""

    id: int
    first_name: str
    last_name: str
    email: str

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(
            whole(json["id"]),
            text(json["firstName"]),
            text(json["lastName"]),
            text(json["email"]),
        )


class Message(NamedTuple):
    """Of guides 003 and 004: a direct message; with media it has a type and metadata."""

    id: str
    chat_id: str
    sender_id: str
    sender_name: str
    content: str
    sent_at: datetime
    status: str
    type: str | None
    metadata: dict[str, Any] | None

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(
            text(json["id"]),
            text(json["chat_id"]),
            text(json["sender_id"]),
            text(json["sender_name"]),
            text(json["content"]),
            moment(json["sent_at"]),
            text(json["status"]),
            maybe(text, json, "type"),
            maybe(object_of, json, "metadata"),
        )


class MessageSentEvent(NamedTuple):
    message: Message
    temp_id: str | None

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(Message.from_json(json["message"]), maybe(text, json, "tempId"))


class UserIsTypingEvent(NamedTuple):
    conversation_id: int
    user: User

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(whole(json["conversation_id"]), User.from_json(json["user"]))


class MessagesReadEvent(NamedTuple):
    conversation_id: int
    reader_id: int
    message_ids: list[str]

    @classmethod
    def from_json(cls, json: Any) -> Self:
        return cls(
            whole(json["conversation_id"]),
            whole(json["reader_id"]),
            list_of(text, json["message_ids"]),
        )


WebSocketEvent = MessageSentEvent | UserIsTypingEvent | MessagesReadEvent
"""Of guide 004, told apart by their `type`."""


def websocket_event(json: Any) -> WebSocketEvent:
    """Read an event as guide 004's factory does."""
    match text(json["type"]):
        case "message":
            return MessageSentEvent.from_json(json["data"])
        case "typing":
            return UserIsTypingEvent.from_json(json["data"])
        case "read":
            return MessagesReadEvent.from_json(json["data"])
        case unknown:
            raise AssertionError(f"the app does not know the type {unknown!r}")
