"""What all tables share, and the one table that belongs to no feature: the outbox."""

from datetime import UTC, datetime
from typing import Annotated, Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "Id", "OutboxRow", "UtcDateTime"]


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime, also from databases that forget the time zone or have another."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_BIG = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER keys count up in SQLite

Id = Annotated[int, mapped_column(_BIG, primary_key=True, autoincrement=True)]
"""A primary key the database counts up. Every table's."""


class Base(DeclarativeBase):
    """The tables of the product. Constraints are named, so that a migration can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it off the class
        datetime: UtcDateTime(),
        int: _BIG,
    }


_REFUSED = text("refused_at IS NOT NULL")


class OutboxRow(Base):
    """
    An event on one channel that was decided on and has not reached the realtime server yet.

    Written in the transaction of what it announces, deleted once the server has it. `event_key` is
    unique for ever, unlike `id`, which starts again in a new database. A row with `refused_at` is
    kept for people to look at and never sent again.
    """

    __tablename__ = "outbox"
    # Without it SQLite would hand out the ids of deleted rows again, and order would be lost.
    __table_args__: Any = (
        Index(None, "channel", "name"),
        Index("ix_outbox_refused", "refused_at", sqlite_where=_REFUSED, postgresql_where=_REFUSED),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[Id]
    event_key: Mapped[str] = mapped_column(String(40))
    channel: Mapped[str] = mapped_column(String(200))
    name: Mapped[str] = mapped_column(String(200))
    data: Mapped[str] = mapped_column(Text)
    socket_id: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    refused_at: Mapped[datetime | None]
    refusal: Mapped[str | None] = mapped_column(Text)
