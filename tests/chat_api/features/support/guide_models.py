"""The model classes of the Flutter guide, as strict about the JSON they read as Dart is."""

from datetime import datetime
from typing import Any, NamedTuple, Self


def text(value: Any) -> str:
    """Read what Dart assigns to a `String`."""
    assert type(value) is str, value
    return value


def moment(value: Any) -> datetime:
    """Read what `DateTime.parse` takes, with its time zone."""
    parsed = datetime.fromisoformat(text(value))
    assert parsed.tzinfo is not None, value
    return parsed


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
        def optional(name: str, read: Any) -> Any:
            return None if json.get(name) is None else read(json[name])

        return cls(
            text(json["id"]),
            text(json["status"]),
            optional("customer", Participant.from_json),
            optional("agent", Participant.from_json),
            optional("createdAt", moment),
            optional("updatedAt", moment),
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
