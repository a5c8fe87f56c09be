"""The table of tenants."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from chat_api.kernel.tenants import MAX_TENANT
from chat_api.store.tables import Base

__all__ = ["Tenant"]


class Tenant(Base):
    """A domain that was registered, or that somebody asked for help on; the name may be empty."""

    __tablename__ = "tenants"

    domain: Mapped[str] = mapped_column(String(MAX_TENANT), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
