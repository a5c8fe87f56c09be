"""What support conversations are made of: routes, who may listen, demo data, background work."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple

from chat_api.features import Feature
from chat_api.features.auth.tokens import Tokens
from chat_api.features.notifications.service import Devices, Pushes
from chat_api.features.support.agent_routes import agent_routes
from chat_api.features.support.agents import Agents
from chat_api.features.support.attendance import Attendance, customer_member
from chat_api.features.support.customer_routes import customer_routes
from chat_api.features.support.customers import Customers, Visit
from chat_api.features.support.events import EVENTS
from chat_api.features.support.live_agent_routes import live_agent_routes
from chat_api.features.support.messages import Messages
from chat_api.features.support.queue import INTERVAL, Queue
from chat_api.features.support.reconciliation import INTERVAL as LOOKS
from chat_api.features.support.reconciliation import Reconciliation
from chat_api.features.support.retention import Idleness, Retention
from chat_api.features.support.rules import Party, Role, Standing
from chat_api.features.support.service import Conversations, Limits
from chat_api.features.support.transitions import Transitions
from chat_api.features.tenants.service import Tenants
from chat_api.kernel.callers import Caller, Identity, Participant
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Forbidden, NotFound
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.realtime.channel_rules import ChannelRule, Grant
from chat_api.realtime.reverb import ReverbClient
from chat_api.realtime.webhooks import Webhooks
from chat_api.store.engine import Store

__all__ = ["Support", "Timing"]

_CONCERNED: Final = "its customer, its agent, and the tenant's supervisors"

DEMO_TENANTS: Final = ("tenant1.example.com", "tenant2.example.com")
_DEMO_CUSTOMERS: Final = (
    ("Jane Doe", "0123456789", "My invoice shows the wrong amount."),
    ("John Roe", "john.roe@example.com", "I can't find where to change my password."),
    ("Ann Poe", None, "Hello?"),
)


class Timing(NamedTuple):
    """
    How long things take, in seconds.

    `gone` is how long a customer's last connection has to be gone, of which the realtime server has
    waited `told_after` when it tells; `snapshots` the least time between two of a queue; `looks`
    the time between two looks who is there.
    """

    gone: float = 5.0
    told_after: float = 3.0
    snapshots: float = INTERVAL
    looks: float = LOOKS


@dataclass(frozen=True, slots=True)
class Support:
    """Support conversations, put together."""

    conversations: Conversations
    messages: Messages
    agents: Agents
    queue: Queue
    attendance: Attendance
    reconciliation: Reconciliation
    retention: Retention | None
    idleness: Idleness | None
    clock: Clock

    @classmethod
    def on(
        cls,
        store: Store,
        broadcaster: Broadcaster,
        clock: Clock,
        *,
        tenants: Tenants,
        tokens: Tokens,
        devices: Devices,
        pushes: Pushes,
        reverb: ReverbClient,
        leads: Callable[[], bool],
        return_of_clients: float,
        limits: Limits,
        secret: str,
        keep_for: timedelta | None,
        close_after: timedelta | None,
        timing: Timing = Timing(),  # noqa: B008 - immutable
    ) -> "Support":
        """
        Put everything together on one store.

        `reverb` is asked who is there, while this process is the one that `leads`; after it was
        away, its clients get `return_of_clients` seconds. `secret` is what fingerprints are hashed
        under. `keep_for` is how long closed conversations are kept, and `close_after` how long
        those are open in which nothing happens; None is for ever.
        """
        agents = Agents(store, devices, clock)
        queue = Queue(store, broadcaster, clock, interval=timing.snapshots)
        transitions = Transitions(
            broadcaster, clock, agents=agents, queue=queue, capacity=limits.conversations_by_agent
        )
        messages = Messages(
            store,
            broadcaster,
            clock,
            transitions=transitions,
            queue=queue,
            pushes=pushes,
            throttle=limits.messages,
        )
        conversations = Conversations(
            store,
            clock,
            tenants=tenants,
            tokens=tokens,
            customers=Customers(clock, secret),
            agents=agents,
            queue=queue,
            transitions=transitions,
            messages=messages,
            pushes=pushes,
            limits=limits,
        )
        attendance = Attendance(
            store,
            broadcaster,
            clock,
            hold=timedelta(seconds=timing.gone),
            told_after=timedelta(seconds=timing.told_after),
        )
        reconciliation = Reconciliation(
            attendance,
            reverb,
            clock,
            leads=leads,
            hold=timing.gone,
            return_of_clients=return_of_clients,
            interval=timing.looks,
        )
        return cls(
            conversations,
            messages,
            agents,
            queue,
            attendance,
            reconciliation,
            None if keep_for is None else Retention(store, clock, keep_for=keep_for),
            None
            if close_after is None
            else Idleness(store, clock, transitions, close_after=close_after),
            clock,
        )

    def feature(self, webhooks: Webhooks) -> Feature:
        """Return the feature, having it told by `webhooks` who comes and goes."""
        self.attendance.listen_to(webhooks)
        conversations, messages = self.conversations, self.messages
        return Feature(
            (
                *customer_routes(conversations, messages),
                *agent_routes(conversations, messages, self.queue, self.clock),
                *live_agent_routes(conversations, messages, self.agents),
            ),
            (
                ChannelRule("private-conversation.{id}", self._may_hear, _CONCERNED),
                ChannelRule("presence-conversation.{id}", self._may_be_seen, _CONCERNED),
                ChannelRule(
                    "private-queue.{tenant...}",
                    self._may_hear_queue,
                    "the tenant's agents and supervisors",
                ),
            ),
            populate=self.populate,
            name="support",
            description=(
                "Customers ask a tenant for help, wait in its queue, and talk to the agent who "
                "takes them. Customers need no account: they get a token with their conversation."
            ),
            events=EVENTS,
            measures=(*conversations.measures(), *messages.measures()),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do what nobody asks for while the block runs: snapshots, attendance, retention."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.queue.running())
            await stack.enter_async_context(self.attendance.running())
            await stack.enter_async_context(self.reconciliation.running())
            if self.retention is not None:
                await stack.enter_async_context(self.retention.running())
            if self.idleness is not None:
                await stack.enter_async_context(self.idleness.running())
            yield

    async def populate(self) -> Mapping[str, Any]:
        """Have demo customers wait in the queues of the demo tenants, where they do not already."""
        ids = []
        for tenant in DEMO_TENANTS:
            for name, contact, message in _DEMO_CUSTOMERS:
                visit = Visit(
                    tenant=tenant,
                    address="127.0.0.1",
                    fingerprint=f"demo {name}",
                    name=name,
                    contact=contact,
                    message=message,
                    temp_id="demo",
                )
                started = await self.conversations.start(visit, enters_queue=True)
                ids.append(started.conversation.id)
        return {"conversations": ids}

    async def _may_hear(self, identity: Identity, names: Mapping[str, str]) -> Grant | None:
        try:
            await self.conversations.listener(identity, names["id"])
        except (Forbidden, NotFound):
            return None
        return Grant()

    async def _may_be_seen(self, identity: Identity, names: Mapping[str, str]) -> Grant | None:
        try:
            who, conversation, party = await self.conversations.listener(identity, names["id"])
        except (Forbidden, NotFound):
            return None
        customer = conversation.customer
        if who & Standing.CUSTOMER:
            member = {"name": customer.name, "role": "customer"}
            return Grant(member, customer_member(customer.id))
        member_id = _staff_member(party)
        if member_id is None:
            return None  # nobody can be seen without a name
        role = "supervisor" if party.role is Role.SUPERVISOR else "agent"
        return Grant({"name": party.name, "role": role}, member_id)

    async def _may_hear_queue(self, identity: Identity, names: Mapping[str, str]) -> Grant | None:
        match identity:
            case Caller():
                return Grant() if identity.serves(names["tenant"]) else None
            case Participant():
                is_theirs = identity.is_staff and identity.tenant == names["tenant"]
                return Grant() if is_theirs else None
            case _:
                return None


def _staff_member(party: Party) -> str | None:
    """Return what staff are called among the members: never what a customer is."""
    if party.user_id is not None:
        return str(party.user_id)
    return None if party.id is None else f"agent:{party.id}"
