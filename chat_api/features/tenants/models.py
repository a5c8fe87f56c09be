"""The table of tenants."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from chat_api.kernel.tenants import MAX_TENANT
from chat_api.store.tables import Base

__all__ = ["Tenant"]


class Tenant(Base):
    """
    A domain that the operator registered, or that somebody asked for help on.

    `name` is what it was registered as; it is empty for what only a customer has made a tenant.
    """

    __tablename__ = "tenants"

    domain: Mapped[str] = mapped_column(String(MAX_TENANT), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
