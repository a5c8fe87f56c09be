"""Which tenants there are, and which of them a member of staff asks about."""

from dataclasses import dataclass

from sqlalchemy import bindparam, insert, select, update
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
_REGISTERED = _KNOWN.where(Tenant.name != "")
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

    Anybody can make any domain a tenant, by asking for help there. So the address that a request
    was sent to says which tenant it is about only where the operator has said that it is one's: by
    registering it, or in the token.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def scope_of(self, caller: Caller, requested: RequestedTenant) -> Scope:
        """
        Return which tenants a request of staff is about.

        That is the tenant which X-Tenant-Domain names, or whose own domain the request was sent to:
        one that the token names as such, or that is registered. Any other address, where one API
        serves them all, narrows nothing: it is about every tenant the token names.

        Raises:
            Forbidden: The token does not name the tenant, or is not of staff.
        """
        if not caller.is_staff:
            raise Forbidden("This is for agents and supervisors.")
        if requested.domain in caller.tenants:
            return Scope(frozenset({requested.domain}))
        domain = await self.named_by(requested)
        if domain is not None:
            if not caller.serves(domain):
                raise Forbidden(f"Your token does not name the tenant {domain}.")
            return Scope(frozenset({domain}))
        return Scope(None if "*" in caller.tenants else frozenset(caller.tenants))

    async def named_by(self, requested: RequestedTenant) -> str | None:
        """Return the tenant that a request names; None where its address is no registered one's."""
        if requested.is_explicit:
            return requested.domain
        row = await self._store.one_or_none(_REGISTERED, {"domain": requested.domain})
        return None if row is None else requested.domain

    async def register(self, domain: str, name: str = "") -> str:
        """
        Register a domain as a tenant's own and return it as it is stored.

        It is called `name`, or else by its domain. Where customers have asked for help already, it
        is the same tenant from then on.

        Raises:
            Malformed: It is no domain.
            Unprocessable: The name is too long.
            Conflict: It is registered already.
        """
        domain = checked_tenant(domain)
        checked_text(name, "name", longest=200, may_be_empty=True)
        row = {"domain": domain, "name": name.strip() or domain, "created_at": self._clock()}
        adopt = (
            update(Tenant)
            .where(Tenant.domain == domain, Tenant.name == "")
            .values(name=row["name"])
        )

        def register(unit: UnitOfWork) -> None:
            if not unit.connection.execute(adopt).rowcount:
                unit.connection.execute(_ADD, row)

        try:
            await self._store.write(register)
        except IntegrityError:
            raise Conflict(f"{domain} is a tenant already.") from None
        return domain

    def ensure(self, unit: UnitOfWork, domain: str) -> None:
        """Make a domain a tenant, as part of its first conversation, unless it is one."""
        if unit.connection.execute(_KNOWN, {"domain": domain}).one_or_none() is None:
            row = {"domain": domain, "name": "", "created_at": self._clock()}
            unit.connection.execute(_ADD, row)
