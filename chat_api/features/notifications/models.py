"""The tables of devices and of what is owed to them."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from chat_api.features.auth.models import User
from chat_api.store.tables import Base, Id

__all__ = ["MAX_TOKEN", "Device", "OwedPush"]

MAX_TOKEN = 1024
"""Characters of a registration token; Google's have about 160, and an index takes up to 2700."""


class Device(Base):
    """
    An installation of an app, by the token under which Google delivers to it.

    A token belongs to one account at a time: the last one it was registered for. `platform` is None
    where the app did not say.
    """

    __tablename__ = "devices"
    __table_args__ = (Index(None, "user_id"),)

    id: Mapped[Id]
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"))
    token: Mapped[str] = mapped_column(String(MAX_TOKEN), unique=True)
    platform: Mapped[str | None] = mapped_column(String(20))
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


class OwedPush(Base):
    """
    A notification that was decided on and that Google does not have yet, for one device.

    Written in the transaction of what it announces, deleted once Google has it, or when it has
    expired; it goes with its device. `data` is a JSON object of strings.
    """

    __tablename__ = "pushes"
    __table_args__ = (
        Index(None, "device_id"),
        Index(None, "next_attempt_at"),
        Index(None, "expires_at"),
    )

    id: Mapped[Id]
    device_id: Mapped[int] = mapped_column(ForeignKey(Device.id, ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    data: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime]
    expires_at: Mapped[datetime]
