"""Who may be asking: people with an account, customers without one, whom a proxy vouches for."""

import ipaddress
from dataclasses import dataclass
from typing import Final

from chat_api.kernel.texts import full_name

__all__ = ["ROLES", "STAFF", "Caller", "Identity", "Network", "Participant", "Person", "Visitor"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ROLES: Final = ("user", "agent", "supervisor")
STAFF: Final = frozenset({"agent", "supervisor"})


@dataclass(frozen=True, slots=True)
class Person:
    """An account as others may see it."""

    id: int
    email: str
    first_name: str
    last_name: str

    @property
    def name(self) -> str:
        """Return the full name."""
        return full_name(self.first_name, self.last_name)


@dataclass(frozen=True, slots=True)
class Caller(Person):
    """Whom an account's token names, as the database knows them at the time of the request."""

    role: str
    tenants: tuple[str, ...]
    token_id: str
    token_expires_at: int
    """When the token ends, in seconds since 1970."""

    @property
    def is_staff(self) -> bool:
        """Tell whether they answer customers, or supervise those who do."""
        return self.role in STAFF

    def serves(self, tenant: str) -> bool:
        """Tell whether they are staff of this tenant, by what their token says."""
        return self.is_staff and ("*" in self.tenants or tenant in self.tenants)


@dataclass(frozen=True, slots=True)
class Visitor:
    """A customer without an account, by the token of the one conversation it was given for."""

    customer_id: str
    name: str
    tenant: str
    conversation_id: str
    token_id: str
    token_expires_at: int
    """When the token ends, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Participant:
    """
    Somebody whom the deployment's own proxy let in (`CHAT_AUTH=proxy`), customer or agent.

    `id` and `name` are what it wrote into X-Participant-Id and X-Participant-Name; None where it
    wrote nothing, and then it is the proxy's word that the request is in order. `tenant` is the
    one that the request names, empty where it names none. `is_staff` says that it let them through
    to where only staff ask.
    """

    id: str | None
    name: str | None
    tenant: str
    is_staff: bool = False


Identity = Caller | Visitor | Participant
