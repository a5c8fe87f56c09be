"""The tables of direct chats."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from chat_api.features.auth.models import User
from chat_api.store.tables import Base, Id

__all__ = ["DirectChat", "DirectMessage"]


class DirectChat(Base):
    """The one chat that two people have; `first_id` is the smaller of the two ids."""

    __tablename__ = "direct_chats"
    __table_args__: Any = (
        UniqueConstraint("first_id", "second_id"),
        CheckConstraint("first_id < second_id", name="ordered"),
        Index(None, "second_id"),
    )

    id: Mapped[Id]
    first_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    second_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    created_at: Mapped[datetime]


class DirectMessage(Base):
    """
    A message of one of the two to the other, who has read it when `read_at` is set.

    `temp_id` is the sender's own name for it, by which a repeated request is recognised. `details`
    is the client's `metadata` as JSON text.
    """

    __tablename__ = "direct_messages"
    __table_args__: Any = (
        UniqueConstraint("chat_id", "sender_id", "temp_id"),
        Index("ix_direct_messages_page", "chat_id", "id"),
        Index("ix_direct_messages_unread", "chat_id", "read_at", "sender_id"),
    )

    id: Mapped[Id]
    chat_id: Mapped[int] = mapped_column(ForeignKey(DirectChat.id))
    sender_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    temp_id: Mapped[str | None] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(32))
    content: Mapped[str] = mapped_column(Text)
    details: Mapped[str | None] = mapped_column(Text)
    sent_at: Mapped[datetime]
    read_at: Mapped[datetime | None]
