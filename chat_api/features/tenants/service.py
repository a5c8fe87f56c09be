"""Which tenants there are, and which of them a member of staff asks about."""

import ipaddress
from dataclasses import dataclass

from sqlalchemy import bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from chat_api.features.tenants.models import Tenant
from chat_api.kernel.callers import Caller
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Conflict, Forbidden
from chat_api.kernel.tenants import RequestedTenant, checked_tenant
from chat_api.kernel.texts import checked_text
from chat_api.store.engine import Store, UnitOfWork

__all__ = ["Scope", "Tenants"]

_KNOWN = select(Tenant.domain).where(Tenant.domain == bindparam("domain"))
_ADD = insert(Tenant)


@dataclass(frozen=True, slots=True)
class Scope:
    """The tenants a request may see; `domains` is None where that is all of them."""

    domains: frozenset[str] | None

    def covers(self, tenant: str) -> bool:
        """Tell whether this tenant is one of them."""
        return self.domains is None or tenant in self.domains


class Tenants:
    """
    The tenants of one store.

    `own_hosts` are the names under which the API itself is reached: what is sent there is not
    thereby about the tenant of that name, even if somebody made it one.
    """

    def __init__(
        self, store: Store, clock: Clock, *, own_hosts: frozenset[str] = frozenset()
    ) -> None:
        self._store = store
        self._clock = clock
        self._own_hosts = own_hosts

    async def scope_of(self, caller: Caller, requested: RequestedTenant) -> Scope:
        """
        Return which tenants a request of staff is about.

        That is the tenant which X-Tenant-Domain names, or whose own domain the request was sent to.
        An address that is no tenant's, where one API serves them all, narrows nothing: it is about
        every tenant the token names.

        Raises:
            Forbidden: The token does not name the tenant, or is not of staff.
        """
        if not caller.is_staff:
            raise Forbidden("This is for agents and supervisors.")
        domain = await self.named_by(requested)
        if domain is not None:
            if not caller.serves(domain):
                raise Forbidden(f"Your token does not name the tenant {domain}.")
            return Scope(frozenset({domain}))
        return Scope(None if "*" in caller.tenants else frozenset(caller.tenants))

    async def named_by(self, requested: RequestedTenant) -> str | None:
        """Return the tenant that a request names; None where its address is no tenant's."""
        if requested.is_explicit or await self._is_known(requested.domain):
            return requested.domain
        return None

    async def register(self, domain: str, name: str = "") -> str:
        """
        Make a domain a tenant and return it as it is stored.

        Raises:
            Malformed: It is no domain.
            Unprocessable: The name is too long.
            Conflict: It is a tenant already.
        """
        domain = checked_tenant(domain)
        checked_text(name, "name", longest=200, may_be_empty=True)
        row = {"domain": domain, "name": name, "created_at": self._clock()}
        try:
            await self._store.write(lambda unit: unit.connection.execute(_ADD, row))
        except IntegrityError:
            raise Conflict(f"{domain} is a tenant already.") from None
        return domain

    def ensure(self, unit: UnitOfWork, domain: str) -> None:
        """Make a domain a tenant, as part of its first conversation, unless it is one."""
        if unit.connection.execute(_KNOWN, {"domain": domain}).one_or_none() is None:
            row = {"domain": domain, "name": "", "created_at": self._clock()}
            unit.connection.execute(_ADD, row)

    async def _is_known(self, domain: str) -> bool:
        # Where the API itself is reached, rather than somebody's name on the web.
        if domain == "localhost" or domain in self._own_hosts or _is_address(domain):
            return False
        return await self._store.one_or_none(_KNOWN, {"domain": domain}) is not None


def _is_address(domain: str) -> bool:
    try:
        ipaddress.ip_address(domain.replace("_", ":"))  # see `checked_tenant`
    except ValueError:
        return False
    return True
