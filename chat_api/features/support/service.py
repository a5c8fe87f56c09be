"""
The life of support conversations: starting, waiting, being taken, ending, being found.

All three families of apps come here. Whether somebody may do a thing is for `rules`, and what is
said for `messages`. The tenants that a request may see are a condition of the very queries that
read a conversation.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, desc, func, insert, select, true, union_all

from chat_api.features.auth.tokens import IssuedToken, Tokens
from chat_api.features.notifications.service import (
    Pushes,
    new_session_push,
)
from chat_api.features.support.agents import Agents
from chat_api.features.support.customers import MAX_NAME, Customers, Visit
from chat_api.features.support.messages import Draft, Messages
from chat_api.features.support.models import SupportConversation, SupportCustomer
from chat_api.features.support.queue import Queue
from chat_api.features.support.records import (
    CONVERSATIONS,
    IS_OPEN,
    WAITING,
    conversation_of,
    find_conversation,
    find_position,
    is_in,
    position_of,
    the_conversation,
)
from chat_api.features.support.rules import (
    OPEN,
    Agent,
    Closing,
    Conversation,
    Message,
    Party,
    Role,
    Side,
    Standing,
    Status,
    check_assign,
    check_named,
    check_open,
    check_read,
    check_release,
    closing_party,
    is_taken_anew,
    may_listen,
    sending_side,
    standing,
    status_after,
)
from chat_api.features.support.transitions import Transitions, agent_of, change
from chat_api.features.tenants.service import Tenants
from chat_api.kernel.callers import Caller, Identity, Participant, Visitor
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Forbidden, Unauthenticated
from chat_api.kernel.measures import Measure, Samples
from chat_api.kernel.tenants import RequestedTenant
from chat_api.kernel.texts import checked_object, checked_text
from chat_api.kernel.throttling import Throttle
from chat_api.store.engine import Store, UnitOfWork
from reverb_py.protocol.addresses import network_of

__all__ = ["Conversations", "Limits", "Page", "Started", "Wanted"]

MAX_CHANNEL: Final = 32
MAX_REASON: Final = 500


class Started(NamedTuple):
    """
    A conversation that was begun or found again.

    `token` is the customer's from now on; None for those who have an account. `message` is their
    first one, if they began with one.
    """

    conversation: Conversation
    is_new: bool
    token: IssuedToken | None
    message: Message | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    Which conversations a list is about; what is None does not matter.

    `agent_id` is an account's, or with `is_proxied` what a proxy calls somebody.
    """

    statuses: frozenset[Status] | None = None
    closing: Closing | None = None
    agent_id: str | None = None
    is_proxied: bool = False


class Page(NamedTuple):
    """Some conversations of a list, and how many it has."""

    conversations: list[Conversation]
    total: int


class Limits(NamedTuple):
    """
    How much is too much.

    `conversations_by_agent` is how many an agent may have at a time (0: any number). Attempts to
    start are throttled by address and tenant (`starts`), so that fingerprints cannot be guessed,
    and by address (`starts_anywhere`), so that nobody fills the database by making up tenants;
    `messages` throttles each sender.
    """

    conversations_by_agent: int
    starts: Throttle
    starts_anywhere: Throttle
    messages: Throttle


class Conversations:
    """The support conversations of one store."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        tenants: Tenants,
        tokens: Tokens,
        customers: Customers,
        agents: Agents,
        queue: Queue,
        transitions: Transitions,
        messages: Messages,
        pushes: Pushes,
        limits: Limits,
    ) -> None:
        self._store = store
        self._clock = clock
        self._tenants = tenants
        self._tokens = tokens
        self._customers = customers
        self._agents = agents
        self._queue = queue
        self._transitions = transitions
        self._messages = messages
        self._pushes = pushes
        self._limits = limits

    def measures(self) -> tuple[Measure, ...]:
        """Return what tells how many ask for help."""
        return (
            Measure(
                "support_conversations",
                "Support conversations that are open.",
                self._open_by_status,
                ("status",),
            ),
        )

    async def _open_by_status(self) -> Samples:
        counts = {row[0]: row[1] for row in await self._store.all(_OPEN_BY_STATUS)}
        # Where there is none it says so: a line that ends looks like a failure.
        return {(status.value,): counts.get(status.value, 0) for status in Status if status in OPEN}

    @property
    def capacity(self) -> int:
        """Return how many conversations an agent may have at a time; 0 for any number."""
        return self._transitions.capacity

    async def party(
        self,
        identity: Identity | None,
        requested: RequestedTenant | None,
        *,
        side: Side,
        named: str | None = None,
        name: str | None = None,
    ) -> Party:
        """
        Return who asks, and about which tenants.

        `side` is whose endpoint it is. `named` and `name` are who the body says they are: behind a
        proxy that is taken as said, and on the agents' side an account's can only be its own. Where
        a request names no tenant (None), it is about all that the token names.

        Raises:
            Unauthenticated: Nobody asks.
            Forbidden: They may not ask about this tenant, or `named` is somebody else.
            Unprocessable: `named` or `name` cannot be one.
        """
        for text in (named, name):
            if text is not None:
                checked_text(text, "The id or name of who asks", longest=MAX_NAME)
        match identity:
            case None:
                raise Unauthenticated("Log in, or send the token of the conversation.")
            case Participant():
                who = identity.id or named
                check_named([named], [who or ""])
                return Party(
                    Role.AGENT if side is Side.AGENT and who is not None else Role.VOUCHED,
                    frozenset({identity.tenant}),
                    id=who,
                    name=identity.name or name or who or "",
                )
            case Visitor():
                domain = await self._domain(requested)
                if domain not in (None, identity.tenant):
                    raise Forbidden(f"Your token is not for the tenant {domain}.")
                return Party(
                    Role.CUSTOMER,
                    frozenset({identity.tenant}),
                    id=identity.customer_id,
                    name=identity.name,
                    conversation_id=identity.conversation_id,
                )
            case Caller():
                if side is Side.AGENT:
                    check_named([named], [str(identity.id), identity.email])
                role = _ROLES.get(identity.role, Role.CUSTOMER)
                return Party(
                    role,
                    await self._domains_of(identity, requested),
                    id=str(identity.id),
                    name=identity.name,
                    user_id=identity.id,
                )

    async def _domain(self, requested: RequestedTenant | None) -> str | None:
        return None if requested is None else await self._tenants.named_by(requested)

    async def _domains_of(
        self, caller: Caller, requested: RequestedTenant | None
    ) -> frozenset[str] | None:
        if not caller.is_staff:
            domain = await self._domain(requested)
            return None if domain is None else frozenset({domain})
        if requested is not None:
            return (await self._tenants.scope_of(caller, requested)).domains
        return None if "*" in caller.tenants else frozenset(caller.tenants)

    async def start(self, visit: Visit, *, enters_queue: bool) -> Started:
        """
        Return the open conversation of a customer, a new one if there is none.

        However many such requests race, they get the same one. With `enters_queue` it waits from
        now on, and the tenant's agents are told.

        Raises:
            Unprocessable: Nothing says who they are, or a text is too long.
            Forbidden: It is a member of staff.
            TooMany: Too many attempts come from this address.
        """
        if visit.user is not None and visit.user.is_staff:
            raise Forbidden("Staff answer conversations: log in as a user to start one.")
        recognised = self._customers.recognise(visit)
        details = checked_object(visit.metadata, "metadata")
        checked_text(visit.channel, "channel", longest=MAX_CHANNEL)
        draft = None if visit.message is None else Draft(visit.message, visit.temp_id)
        if draft is not None:
            draft.check()
        # Without a name, the proxy's word does not say that the fingerprint is this customer's.
        if not visit.is_vouched_for or visit.participant_id is None:
            network = network_of(visit.address)
            self._limits.starts_anywhere.hit(network)
            self._limits.starts.hit(f"{network} {visit.tenant}")

        def start(unit: UnitOfWork) -> tuple[Conversation, bool, Message | None]:
            connection, now = unit.connection, self._clock()
            self._tenants.ensure(unit, visit.tenant)
            customer_id = self._customers.keep(connection, visit.tenant, recognised)
            open_one = connection.execute(
                CONVERSATIONS.where(
                    SupportConversation.customer_id == customer_id,
                    SupportConversation.tenant == visit.tenant,
                    SupportConversation.status != Status.CLOSED.value,
                )
            ).one_or_none()
            if open_one is None:
                row = _opened(visit, customer_id, details, now)
                connection.execute(insert(SupportConversation), row)
                conversation = the_conversation(connection, row["id"], frozenset({visit.tenant}))
            else:
                conversation = conversation_of(open_one)
            waited = conversation.is_waiting
            if enters_queue:
                conversation = self._transitions.enter_queue(unit, conversation, now)
            message = None
            if draft is not None:
                sent = self._messages.add(unit, conversation, Side.CUSTOMER, None, draft, None)
                conversation, message = sent.conversation, sent.message
            if conversation.is_waiting and not waited:
                self._notify_agents(unit, conversation)
            conversation = replace(conversation, position=position_of(connection, conversation))
            return conversation, open_one is None, message

        conversation, is_new, message = await self._store.write(start)
        token = None
        if visit.user is None:
            token = self._tokens.issue_to_visitor(
                customer_id=conversation.customer.id,
                name=conversation.customer.name,
                tenant=conversation.tenant,
                conversation_id=conversation.id,
            )
        return Started(conversation, is_new, token, message)

    async def get(self, party: Party, conversation_id: str) -> Conversation:
        """
        Return a conversation, with its place in the queue.

        Raises:
            NotFound, Forbidden: There is none, or it is not theirs to read.
        """
        conversation = await find_conversation(self._store, conversation_id, party.domains)
        check_read(standing(party, conversation), conversation)
        return replace(conversation, position=await find_position(self._store, conversation))

    async def enter_queue(
        self, party: Party, conversation_id: str, *, channel: str | None = None
    ) -> Conversation:
        """
        Have a conversation wait for an agent, if it does not already, or has one.

        Raises:
            NotFound, Forbidden: There is none, or it is not theirs.
            Gone: It is closed.
            Unprocessable: The channel cannot be one.
        """
        if channel is not None:
            checked_text(channel, "channel", longest=MAX_CHANNEL)

        def enter(unit: UnitOfWork) -> Conversation:
            conversation = the_conversation(unit.connection, conversation_id, party.domains)
            sending_side(standing(party, conversation), conversation, Side.CUSTOMER)
            check_open(conversation)
            waited = conversation.is_waiting
            conversation = self._transitions.enter_queue(unit, conversation, self._clock(), channel)
            if conversation.is_waiting and not waited:
                self._notify_agents(unit, conversation)
            return replace(conversation, position=position_of(unit.connection, conversation))

        return await self._store.write(enter)

    async def accept(
        self, party: Party, conversation_id: str, *, from_socket: str | None
    ) -> Conversation:
        """
        Give a waiting conversation to the agent who asks; their own is theirs already.

        Of any number who ask at once, one gets it.

        Raises:
            NotFound, Forbidden: There is none, or they are no agent of its tenant.
            Gone: It is closed.
            Conflict: Another agent has it, or they have as many as allowed.
            Unprocessable: Nothing says who they are.
        """
        agent = agent_of(party)

        def accept(unit: UnitOfWork) -> Conversation:
            conversation = the_conversation(unit.connection, conversation_id, party.domains)
            return self._transitions.accept(unit, conversation, party, agent, from_socket)

        return await self._store.write(accept)

    async def assign(
        self,
        party: Party,
        conversation_id: str,
        agent_id: str,
        *,
        agent_name: str | None = None,
        from_socket: str | None,
    ) -> Conversation:
        """
        Give a conversation to an agent, also one that another has; agents may accept so, too.

        An account goes by its own name. `agent_name` is for those whom only a proxy knows.

        Raises:
            NotFound: There is no such conversation or agent.
            Forbidden: Somebody who is not a supervisor names another agent.
            Gone: It is closed.
            Conflict: Another agent has it (accepting), or the agent has as many as allowed.
            Unprocessable: The agent does not answer for the tenant.
        """
        checked_text(agent_id, "The agent's id", longest=MAX_NAME)
        if agent_name is not None:
            checked_text(agent_name, "The agent's name", longest=MAX_NAME, may_be_empty=True)

        def assign(unit: UnitOfWork) -> Conversation:
            connection = unit.connection
            conversation = the_conversation(connection, conversation_id, party.domains)
            if party.role is Role.AGENT and party.id == agent_id:
                return self._transitions.accept(
                    unit, conversation, party, agent_of(party), from_socket
                )
            check_assign(standing(party, conversation))
            if party.role is Role.VOUCHED:
                agent = Agent(agent_id, agent_name or agent_id)
                taken = self._agents.taken_by(connection, agent, frozenset({conversation.tenant}))
            else:
                agent = self._agents.who_serves(connection, agent_id, conversation.tenant)
                taken = self._agents.taken_by(connection, agent, None)
            if not is_taken_anew(conversation, agent, taken_by_agent=taken, capacity=self.capacity):
                return conversation
            return self._transitions.give_to(unit, conversation, agent, from_socket)

        return await self._store.write(assign)

    async def release(
        self, party: Party, conversation_id: str, *, from_socket: str | None
    ) -> Conversation:
        """
        Put a conversation back into the queue, at the place it would have had.

        Raises:
            NotFound, Forbidden: There is none, or they are not its agent nor a supervisor.
            Gone: It is closed.
        """

        def release(unit: UnitOfWork) -> Conversation:
            connection, now = unit.connection, self._clock()
            conversation = the_conversation(connection, conversation_id, party.domains)
            check_release(standing(party, conversation))
            check_open(conversation)
            if conversation.status is Status.QUEUED:
                return replace(conversation, position=position_of(connection, conversation))
            queued_at = conversation.queued_at or now
            conversation = replace(
                conversation,
                status=Status.QUEUED,
                agent=None,
                queued_at=queued_at,
                updated_at=now,
            )
            change(
                connection,
                conversation,
                status=Status.QUEUED.value,
                agent_id=None,
                agent_name=None,
                agent_user_id=None,
                queued_at=queued_at,
                updated_at=now,
            )
            self._transitions.tell(unit, conversation, from_socket)
            self._queue.changed(unit, conversation.tenant)
            return replace(conversation, position=position_of(connection, conversation))

        return await self._store.write(release)

    async def listener(
        self, identity: Identity, conversation_id: str
    ) -> tuple[Standing, Conversation, Party]:
        """
        Return what somebody who wants to hear a conversation is to it, if they may.

        An agent who listens to a conversation of theirs is connected from then on.

        Raises:
            NotFound, Forbidden: There is none, or they may not.
        """
        party = await self.party(identity, None, side=Side.CUSTOMER)
        conversation = await find_conversation(self._store, conversation_id, party.domains)
        who = standing(party, conversation)
        if not may_listen(who):
            raise Forbidden("You may not listen to this conversation.")

        def connect(unit: UnitOfWork) -> None:
            # Since it was read, it may have become somebody else's.
            now = the_conversation(unit.connection, conversation_id, party.domains)
            if standing(party, now) & Standing.AGENT:
                self._transitions.connect(unit, now, None)

        if who & Standing.AGENT and status_after(conversation, agent_is_there=True) is not (
            conversation.status
        ):
            await self._store.write(connect)
        return who, conversation, party

    async def close(
        self,
        party: Party,
        conversation_id: str,
        *,
        closing: Closing = Closing.CLOSED,
        reason: str | None = None,
        side: Side | None = None,
        from_socket: str | None,
    ) -> Conversation:
        """
        End a conversation; one that is over already stays as it is.

        An agent who ends one that waits is its agent from then on, so that they still see it; it
        does not count as one more that they have. `side` is whose endpoint it is, for requests with
        nobody's name.

        Raises:
            NotFound, Forbidden: There is none, or it is not theirs to close.
            Unprocessable: The reason is too long.
        """
        if reason is not None:
            checked_text(reason, "reason", longest=MAX_REASON, may_be_empty=True)

        def close(unit: UnitOfWork) -> Conversation:
            conversation = the_conversation(unit.connection, conversation_id, party.domains)
            return self._transitions.close(
                unit,
                conversation,
                closing=closing,
                reason=reason,
                closed_by=closing_party(standing(party, conversation), conversation, side),
                agent=agent_of(party) if party.role is Role.AGENT else None,
                from_socket=from_socket,
            )

        return await self._store.write(close)

    async def listing(self, party: Party, wanted: Wanted, *, limit: int, offset: int) -> Page:
        """
        Return conversations that a party may read, the latest active first.

        Agents see their own and those that wait, supervisors all of the request's tenants,
        customers their own.

        Raises:
            Forbidden: An agent asks for those of another.
            Unprocessable: The agent's id cannot be one.
        """
        conditions = [is_in(party.domains)]
        if wanted.statuses is not None:
            statuses = sorted(status.value for status in wanted.statuses)
            conditions.append(SupportConversation.status.in_(statuses))
            if wanted.statuses <= OPEN:
                conditions.append(IS_OPEN)
        if wanted.closing is not None:
            conditions.append(SupportConversation.close_status == wanted.closing.value)
        if wanted.agent_id is not None:
            checked_text(wanted.agent_id, "The agent's id", longest=MAX_NAME)
            if party.role is Role.AGENT and wanted.agent_id != party.id:
                raise Forbidden("Only supervisors see the conversations of other agents.")
            conditions.append(SupportConversation.agent_id == wanted.agent_id)
            account = SupportConversation.agent_user_id
            conditions.append(account.is_(None) if wanted.is_proxied else account.is_not(None))
        kinds = [and_(*conditions, visible) for visible in _visible_to(party)]
        rows = await self._store.all(_latest(kinds, limit=limit, offset=offset))
        total = 0
        for kind in kinds:
            [(count,)] = await self._store.all(
                select(func.count()).select_from(SupportConversation).where(kind)
            )
            total += count
        return Page([conversation_of(row) for row in rows], total)

    def _notify_agents(self, unit: UnitOfWork, conversation: Conversation) -> None:
        customer = conversation.customer
        self._pushes.owe(
            unit,
            self._agents.online(unit.connection, conversation.tenant),
            new_session_push(
                session_id=conversation.id,
                tenant_domain=conversation.tenant,
                user_account=customer.account,
                user_name=customer.name,
                message_preview=conversation.preview or "",
            ),
        )


_ROLES: Final = {"agent": Role.AGENT, "supervisor": Role.SUPERVISOR}
_OPEN_BY_STATUS = (
    select(SupportConversation.status, func.count())
    .where(IS_OPEN)
    .group_by(SupportConversation.status)
)


def _visible_to(party: Party) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on conversations that a party may see in lists.

    One of them holds for each that they may see, and only one: each has an index of its own.
    """
    match party.role:
        case Role.SUPERVISOR:
            return (true(),)
        case Role.AGENT:
            waits = and_(IS_OPEN, *WAITING, SupportConversation.agent_id.is_(None))
            is_theirs = and_(
                SupportConversation.agent_id == party.id,
                SupportConversation.agent_user_id == party.user_id,
            )
            return (is_theirs, waits)
        case Role.CUSTOMER if party.user_id is not None:
            return (_is_of(SupportCustomer.user_id == party.user_id),)
        case Role.CUSTOMER:
            return (SupportConversation.id == party.conversation_id,)
        case Role.VOUCHED if party.id is None:
            return (true(),)
        case Role.VOUCHED:
            return (_is_of(SupportCustomer.participant_id == party.id),)


def _is_of(customer: ColumnElement[bool]) -> ColumnElement[bool]:
    return SupportConversation.customer_id.in_(select(SupportCustomer.id).where(customer))


def _latest(
    kinds: Sequence[ColumnElement[bool]], *, limit: int, offset: int
) -> Select[*tuple[Any, ...]]:
    """Select conversations of these kinds, which have none in common, the latest active first."""
    keys = [select(SupportConversation.id, SupportConversation.active_at).where(k) for k in kinds]
    # Ordered as a whole and not around it: so SQLite merges what comes in order already.
    together = keys[0] if len(keys) == 1 else union_all(*keys)
    page = together.order_by(desc("active_at"), desc("id")).limit(limit).offset(offset).subquery()
    return CONVERSATIONS.where(SupportConversation.id.in_(select(page.c.id))).order_by(
        SupportConversation.active_at.desc(), SupportConversation.id.desc()
    )


def _opened(visit: Visit, customer_id: str, details: str | None, now: datetime) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "tenant": visit.tenant,
        "customer_id": customer_id,
        "status": Status.QUEUED.value,
        "channel": visit.channel,
        "details": details,
        "unread_customer": 0,
        "unread_agent": 0,
        "active_at": now,
        "created_at": now,
        "updated_at": now,
        "is_customer_away": False,
    }
