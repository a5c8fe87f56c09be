"""The tables of support conversations."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from chat_api.features.auth.models import User
from chat_api.features.tenants.models import Tenant
from chat_api.store.tables import Base, Id

__all__ = [
    "AgentProfile",
    "OwedSnapshot",
    "SupportConversation",
    "SupportCustomer",
    "SupportMessage",
]

_IS_VOUCHED_FOR = text("is_vouched_for")
_IS_OPEN = text("status <> 'CLOSED'")
_WAS_SEEN = text("customer_seen_at IS NOT NULL")


class SupportCustomer(Base):
    """
    Somebody who asks one tenant for help.

    They are recognised by one of three: an account (`user_id`), a keyed hash of the secret that
    their device keeps (`fingerprint_hash`), or what a trusted proxy calls them (`participant_id`
    with `is_vouched_for`; without it, that is only what their app calls them).
    """

    __tablename__ = "customers"
    __table_args__: Any = (
        UniqueConstraint("tenant", "fingerprint_hash"),
        UniqueConstraint("tenant", "user_id"),
        Index(
            "uq_customers_vouched_for",
            "tenant",
            "participant_id",
            unique=True,
            sqlite_where=_IS_VOUCHED_FOR,
            postgresql_where=_IS_VOUCHED_FOR,
        ),
        Index(None, "user_id"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey(Tenant.domain))
    fingerprint_hash: Mapped[str | None] = mapped_column(String(64))
    user_id: Mapped[int | None] = mapped_column(ForeignKey(User.id))
    participant_id: Mapped[str | None] = mapped_column(String(200))
    is_vouched_for: Mapped[bool]
    display_name: Mapped[str] = mapped_column(String(255))
    contact: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]


class SupportConversation(Base):
    """
    A conversation of a customer, who has at most one that is open.

    `queued_at` is when it entered the queue, None while nobody was asked for. `active_at` is when
    something was said last, or else when it began. `agent_id` is an account's id, which then is
    `agent_user_id` too, or what a trusted proxy calls the agent. `details` is JSON text. A customer
    whose last connection has gone has `customer_left_at`, and `is_customer_away` once that was
    told. `customer_seen_at` is when they were last seen to join; None while nobody has to look
    whether they are there.
    """

    __tablename__ = "conversations"
    __table_args__: Any = (
        CheckConstraint("status IN ('QUEUED', 'ASSIGNED', 'CONNECTED', 'CLOSED')", name="status"),
        Index(
            "uq_conversations_open",
            "customer_id",
            unique=True,
            sqlite_where=_IS_OPEN,
            postgresql_where=_IS_OPEN,
        ),
        Index("ix_conversations_customer", "customer_id"),
        Index("ix_conversations_queue", "tenant", "status", "queued_at"),
        Index("ix_conversations_agent", "agent_id", "status"),
        # Lists show the latest first: of all, of a tenant, of an agent, and of what is open.
        Index("ix_conversations_latest", "active_at", "id"),
        Index("ix_conversations_latest_of_tenant", "tenant", "active_at", "id"),
        Index("ix_conversations_latest_of_agent", "agent_id", "active_at", "id"),
        Index(
            "ix_conversations_latest_open",
            "tenant",
            "active_at",
            "id",
            sqlite_where=_IS_OPEN,
            postgresql_where=_IS_OPEN,
        ),
        Index(None, "closed_at"),
        Index(None, "customer_left_at"),
        Index("ix_conversations_seen", "id", sqlite_where=_WAS_SEEN, postgresql_where=_WAS_SEEN),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey(Tenant.domain))
    customer_id: Mapped[str] = mapped_column(ForeignKey(SupportCustomer.id))
    status: Mapped[str] = mapped_column(String(20))
    queued_at: Mapped[datetime | None]
    agent_id: Mapped[str | None] = mapped_column(String(200))
    agent_name: Mapped[str | None] = mapped_column(String(255))
    agent_user_id: Mapped[int | None]
    channel: Mapped[str] = mapped_column(String(32))
    close_status: Mapped[str | None] = mapped_column(String(20))
    close_reason: Mapped[str | None] = mapped_column(String(500))
    closed_by: Mapped[str | None] = mapped_column(String(20))
    details: Mapped[str | None] = mapped_column(Text)
    unread_customer: Mapped[int]
    unread_agent: Mapped[int]
    last_message_at: Mapped[datetime | None]
    active_at: Mapped[datetime]
    preview: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    customer_seen_at: Mapped[datetime | None]
    customer_left_at: Mapped[datetime | None]
    is_customer_away: Mapped[bool]


class SupportMessage(Base):
    """
    A message of one side of a conversation to the other.

    `sender_id` is the customer's row or the conversation's agent; `temp_id` the sender's own name
    for the message, by which a repeated request is recognised. `details` is JSON text.
    """

    __tablename__ = "support_messages"
    __table_args__: Any = (
        UniqueConstraint("conversation_id", "sender_id", "temp_id"),
        Index("ix_support_messages_page", "conversation_id", "id"),
    )

    id: Mapped[Id]
    conversation_id: Mapped[str] = mapped_column(
        ForeignKey(SupportConversation.id, ondelete="CASCADE")
    )
    sender_type: Mapped[str] = mapped_column(String(20))
    sender_id: Mapped[str] = mapped_column(String(200))
    sender_name: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(20))
    content: Mapped[str] = mapped_column(Text)
    details: Mapped[str | None] = mapped_column(Text)
    sent_at: Mapped[datetime]
    read_by_customer: Mapped[bool]
    read_by_agent: Mapped[bool]
    temp_id: Mapped[str | None] = mapped_column(String(100))


class AgentProfile(Base):
    """Whether a member of staff can be reached; `status` is online, offline or busy."""

    __tablename__ = "agent_profiles"

    user_id: Mapped[int] = mapped_column(
        ForeignKey(User.id, ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    is_online: Mapped[bool]
    status: Mapped[str] = mapped_column(String(20))
    last_seen: Mapped[datetime]
    updated_at: Mapped[datetime]


class OwedSnapshot(Base):
    """
    A tenant whose queue has changed since it was last told.

    Written with the change and removed with the telling, so that no crash in between keeps it from
    being told.
    """

    __tablename__ = "owed_queue_snapshots"

    tenant: Mapped[str] = mapped_column(ForeignKey(Tenant.domain), primary_key=True)
