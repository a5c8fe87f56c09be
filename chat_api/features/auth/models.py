"""The tables of accounts and of tokens that no longer count."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from chat_api.store.tables import Base, Id

__all__ = ["RevokedToken", "User"]


class User(Base):
    """
    An account, of a user or of staff.

    `email` is in lower case. `tenants` are the domains a member of staff serves, separated by
    spaces; `*` stands for all of them.
    """

    __tablename__ = "users"

    id: Mapped[Id]
    email: Mapped[str] = mapped_column(String(320), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    first_name: Mapped[str] = mapped_column(String(100))
    last_name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(20))
    tenants: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class RevokedToken(Base):
    """
    A token that was logged out; the row is of use until the token would have ended anyway.

    `user_id` is None for the token of a visitor, who has no account.
    """

    __tablename__ = "revoked_tokens"
    __table_args__ = (Index(None, "expires_at"),)

    token_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"))
    expires_at: Mapped[datetime]
