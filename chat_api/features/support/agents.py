"""Those who answer: who of the staff can be reached, and who may be given a conversation."""

from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, func, insert, select, update

from chat_api.features.auth.models import User
from chat_api.features.notifications.service import Devices
from chat_api.features.support.models import AgentProfile, SupportConversation
from chat_api.features.support.records import is_in
from chat_api.features.support.rules import TAKEN, Agent
from chat_api.kernel.callers import STAFF, Caller
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Forbidden, NotFound, Unprocessable
from chat_api.kernel.texts import full_name, id_from
from chat_api.store.engine import Store, UnitOfWork

__all__ = ["AGENT_STATUSES", "AgentStatus", "Agents"]

AGENT_STATUSES: Final = ("online", "busy", "offline")

_STAFF_MEMBER = select(User.id, User.first_name, User.last_name, User.role, User.tenants).where(
    User.id == bindparam("user_id")
)
_ONLINE = (
    select(User.id, User.tenants)
    .join(AgentProfile, AgentProfile.user_id == User.id)
    .where(AgentProfile.is_online, User.role.in_(sorted(STAFF)))
    .order_by(User.id)
)
_PROFILE = select(AgentProfile.user_id).where(AgentProfile.user_id == bindparam("user_id"))


class AgentStatus(NamedTuple):
    """Whether a member of staff can be reached, and since when that is known."""

    is_online: bool
    status: str
    updated_at: datetime


class Agents:
    """The staff of one store, as conversations need them."""

    def __init__(self, store: Store, devices: Devices, clock: Clock) -> None:
        self._store = store
        self._devices = devices
        self._clock = clock

    async def set_status(
        self,
        caller: Caller,
        *,
        is_online: bool,
        status: str | None = None,
        device_token: str | None = None,
    ) -> AgentStatus:
        """
        Keep whether a member of staff can be reached, and on which device.

        `status` is online or offline if not given.

        Raises:
            Forbidden: The caller is not of staff.
            Unprocessable: There is no such status, it contradicts `is_online`, or the token of the
                device cannot be one.
        """
        if not caller.is_staff:
            raise Forbidden("This is for agents and supervisors.")
        status = status or ("online" if is_online else "offline")
        if status not in AGENT_STATUSES:
            raise Unprocessable(f"status must be one of {', '.join(AGENT_STATUSES)}.")
        if is_online is (status == "offline"):
            raise Unprocessable("is_online and status contradict each other.")
        now = self._clock()
        values = {"is_online": is_online, "status": status, "last_seen": now, "updated_at": now}

        def keep(unit: UnitOfWork) -> None:
            given = {"user_id": caller.id}
            if unit.connection.execute(_PROFILE, given).one_or_none() is None:
                unit.connection.execute(insert(AgentProfile), given | values)
            else:
                change = update(AgentProfile).where(AgentProfile.user_id == caller.id)
                unit.connection.execute(change.values(values))
            if device_token is not None:
                self._devices.register(unit, caller.id, device_token)

        await self._store.write(keep)
        return AgentStatus(is_online, status, now)

    def who_serves(self, connection: Connection, agent_id: str, tenant: str) -> Agent:
        """
        Return the member of staff whom a supervisor names.

        Raises:
            NotFound: There is no such account.
            Unprocessable: They are not staff of this tenant.
        """
        user_id = id_from(agent_id, "agent")
        row = connection.execute(_STAFF_MEMBER, {"user_id": user_id}).one_or_none()
        if row is None:
            raise NotFound("There is no such agent.")
        if row.role not in STAFF or not _serves(row.tenants, tenant):
            raise Unprocessable(f"This account does not answer for {tenant}.")
        return Agent(str(row.id), full_name(row.first_name, row.last_name), row.id)

    def online(self, connection: Connection, tenant: str) -> list[int]:
        """Return the accounts of those who serve a tenant and can be reached."""
        return [row.id for row in connection.execute(_ONLINE) if _serves(row.tenants, tenant)]

    def taken_by(self, connection: Connection, agent: Agent, domains: frozenset[str] | None) -> int:
        """Return how many conversations of these tenants (None: all) an agent has."""
        query = select(func.count()).where(
            SupportConversation.agent_id == agent.id,
            SupportConversation.agent_user_id.is_not_distinct_from(agent.user_id),
            SupportConversation.status.in_([status.value for status in TAKEN]),
            is_in(domains),
        )
        return int(connection.execute(query).scalar_one())


def _serves(tenants: str, tenant: str) -> bool:
    domains = tenants.split()
    return "*" in domains or tenant in domains
