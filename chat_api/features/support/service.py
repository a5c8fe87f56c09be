"""
Support conversations: starting, taking, talking, ending.

All three families of apps come here. Whether somebody may do a thing is for `rules`; here it is
done, in one unit of work with what it makes others hear. The tenants that a request may see are a
condition of the very queries that read a conversation.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, or_, select, update

from chat_api.features.auth.tokens import IssuedToken, Tokens
from chat_api.features.notifications.service import (
    Pushes,
    new_message_push,
    new_session_push,
)
from chat_api.features.support.agents import Agents
from chat_api.features.support.customers import MAX_NAME, Customers, Visit, known_as
from chat_api.features.support.events import (
    chat_message,
    conversation_channel,
    system_error,
    system_event,
)
from chat_api.features.support.models import SupportConversation, SupportCustomer, SupportMessage
from chat_api.features.support.queue import Queue
from chat_api.features.support.records import (
    CONVERSATIONS,
    MESSAGES,
    conversation_of,
    find_conversation,
    find_position,
    is_in,
    message_of,
    messages_of,
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
    check_accept,
    check_assign,
    check_named,
    check_open,
    check_read,
    check_release,
    checked_kind,
    closing_party,
    has_to_be_taken,
    is_taken_anew,
    may_listen,
    preview_of,
    reading_side,
    sending_side,
    standing,
    status_after,
)
from chat_api.features.tenants.service import Tenants
from chat_api.kernel.callers import Caller, Identity, Participant, Visitor
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Forbidden, Gone, Unauthenticated, Unprocessable
from chat_api.kernel.measures import Measure, Samples, single
from chat_api.kernel.tenants import RequestedTenant
from chat_api.kernel.texts import checked_object, checked_text
from chat_api.kernel.throttling import Throttle, network_of
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.store.engine import Store, UnitOfWork

__all__ = [
    "MAX_CONTENT",
    "Conversations",
    "Draft",
    "Limits",
    "MessagePage",
    "Page",
    "Sent",
    "Started",
    "Wanted",
]

MAX_CONTENT: Final = 4_000
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
class Draft:
    """
    A message to be sent.

    `temp_id` is the app's own name for it: sent twice, it is stored once. `metadata` is any JSON
    object of up to 4,000 bytes.
    """

    content: str
    temp_id: str | None = None
    kind: str = "TEXT"
    metadata: dict[str, Any] | None = None


class Sent(NamedTuple):
    """
    A message as stored, and whether that was just now or by an earlier, equal request.

    `is_notified` tells whether a device of the other side will be notified.
    """

    message: Message
    conversation: Conversation
    is_new: bool
    is_notified: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which conversations a list is about; what is None does not matter."""

    statuses: frozenset[Status] | None = None
    closing: Closing | None = None
    agent_id: str | None = None


class Page(NamedTuple):
    """Some conversations of a list, and how many it has."""

    conversations: list[Conversation]
    total: int


class MessagePage(NamedTuple):
    """Some messages of a conversation, oldest first, and how many it has."""

    messages: list[Message]
    total: int
    conversation: Conversation


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
        broadcaster: Broadcaster,
        clock: Clock,
        *,
        tenants: Tenants,
        tokens: Tokens,
        customers: Customers,
        agents: Agents,
        queue: Queue,
        pushes: Pushes,
        limits: Limits,
    ) -> None:
        self._store = store
        self._broadcaster = broadcaster
        self._clock = clock
        self._tenants = tenants
        self._tokens = tokens
        self._customers = customers
        self._agents = agents
        self._queue = queue
        self._pushes = pushes
        self._limits = limits
        self._sent = 0

    def measures(self) -> tuple[Measure, ...]:
        """Return what tells how many ask for help, and how much is said."""
        return (
            Measure(
                "support_conversations",
                "Support conversations that are open.",
                self._open_by_status,
                ("status",),
            ),
            single(
                "support_messages_total",
                "Messages in support conversations.",
                lambda: self._sent,
            ),
        )

    async def _open_by_status(self) -> Samples:
        counts = {row[0]: row[1] for row in await self._store.all(_OPEN_BY_STATUS)}
        # Where there is none it says so: a line that ends looks like a failure.
        return {(status.value,): counts.get(status.value, 0) for status in Status if status in OPEN}

    @property
    def capacity(self) -> int:
        """Return how many conversations an agent may have at a time; 0 for any number."""
        return self._limits.conversations_by_agent

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
            _check(draft)
        if not visit.is_vouched_for:
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
                conversation = self._enter_queue(unit, conversation, now)
            message = None
            if draft is not None:
                sent = self._send(unit, conversation, Side.CUSTOMER, None, draft, None)
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
            conversation = self._enter_queue(unit, conversation, self._clock(), channel)
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
        agent = _agent_of(party)

        def accept(unit: UnitOfWork) -> Conversation:
            conversation = the_conversation(unit.connection, conversation_id, party.domains)
            return self._accept(unit, conversation, party, agent, from_socket)

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
                return self._accept(unit, conversation, party, _agent_of(party), from_socket)
            check_assign(standing(party, conversation))
            if party.role is Role.VOUCHED:
                agent = Agent(agent_id, agent_name or agent_id)
                taken = self._agents.taken_by(
                    connection, agent_id, frozenset({conversation.tenant})
                )
            else:
                agent = self._agents.who_serves(connection, agent_id, conversation.tenant)
                taken = self._agents.taken_by(connection, agent.id, None)
            if not is_taken_anew(
                conversation, agent.id, taken_by_agent=taken, capacity=self.capacity
            ):
                return conversation
            return self._give_to(unit, conversation, agent, from_socket)

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
            _change(
                connection,
                conversation,
                status=Status.QUEUED.value,
                agent_id=None,
                agent_name=None,
                queued_at=queued_at,
                updated_at=now,
            )
            self._tell(unit, conversation, from_socket)
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
                self._connect(unit, now, None)

        if who & Standing.AGENT and status_after(conversation, agent_is_there=True) is not (
            conversation.status
        ):
            await self._store.write(connect)
        return who, conversation, party

    async def send(
        self,
        party: Party,
        conversation_id: str,
        draft: Draft,
        *,
        side: Side | None = None,
        sender_id: str | None = None,
        from_socket: str | None,
    ) -> Sent:
        """
        Store a message and tell both sides, except the connection it came from.

        An agent's message into a conversation that nobody has takes it. A draft whose `temp_id` the
        sender has used in this conversation changes nothing and returns the first message. `side`
        and `sender_id` are who the body says writes.

        Raises:
            Unprocessable: The draft is empty or too long, or nothing says which agent writes.
            NotFound: There is no such conversation.
            Forbidden: They may not write here, or not as whom they say.
            Gone: The conversation is closed.
            Conflict: It would be one more than the agent may have.
            TooMany: The sender is too fast.
        """
        _check(draft)
        self._limits.messages.hit(f"{party.role.name} {party.id or conversation_id}")

        def send(unit: UnitOfWork) -> Sent:
            connection = unit.connection
            conversation = the_conversation(connection, conversation_id, party.domains)
            as_side = sending_side(standing(party, conversation), conversation, side)
            agent = None
            if as_side is Side.AGENT:
                agent = _agent_of(party) if party.role in _STAFF else conversation.agent
                if agent is None:
                    raise Unprocessable(_WHICH_AGENT)
                check_named([sender_id], [agent.id])
                if conversation.status is Status.QUEUED:
                    conversation = self._accept(unit, conversation, party, agent, from_socket)
            elif sender_id is not None:
                conversation = known_as(connection, conversation, party, sender_id)
            return self._send(unit, conversation, as_side, agent, draft, from_socket)

        try:
            return await self._store.write(send)
        except Gone as error:
            # Their other connections may be waiting for it to go through.
            channels, event = [conversation_channel(conversation_id)], system_error(error)
            await self._store.write(
                lambda unit: self._broadcaster.publish(
                    unit, channels, event, except_socket=from_socket
                )
            )
            raise

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

        `side` is whose endpoint it is, for requests with nobody's name.

        Raises:
            NotFound, Forbidden: There is none, or it is not theirs to close.
            Unprocessable: The reason is too long.
        """
        if reason is not None:
            checked_text(reason, "reason", longest=MAX_REASON, may_be_empty=True)

        def close(unit: UnitOfWork) -> Conversation:
            connection, now = unit.connection, self._clock()
            conversation = the_conversation(connection, conversation_id, party.domains)
            closed_by = closing_party(standing(party, conversation), side)
            if conversation.status is Status.CLOSED:
                return conversation
            was_waiting = conversation.is_waiting
            conversation = replace(
                conversation,
                status=Status.CLOSED,
                closing=closing,
                close_reason=reason or None,
                closed_by=closed_by,
                closed_at=now,
                updated_at=now,
                is_customer_away=False,
            )
            _change(
                connection,
                conversation,
                status=Status.CLOSED.value,
                close_status=closing.value,
                close_reason=conversation.close_reason,
                closed_by=closed_by,
                closed_at=now,
                updated_at=now,
                customer_left_at=None,
                is_customer_away=False,
            )
            self._tell(unit, conversation, from_socket)
            if was_waiting:
                self._queue.changed(unit, conversation.tenant)
            return conversation

        return await self._store.write(close)

    async def messages(self, party: Party, conversation_id: str, *, limit: int) -> list[Message]:
        """
        Return the last `limit` messages, oldest first.

        Raises:
            NotFound, Forbidden: There is no such conversation, or it is not theirs to read.
        """
        conversation = await find_conversation(self._store, conversation_id, party.domains)
        check_read(standing(party, conversation), conversation)
        return await self._latest(conversation, limit=limit, offset=0)

    async def page(
        self,
        party: Party,
        conversation_id: str,
        *,
        limit: int,
        offset: int,
        marks_read: bool = False,
        side: Side | None = None,
    ) -> MessagePage:
        """
        Return `limit` messages, oldest first, after passing over the `offset` latest ones.

        With `marks_read` the other side's messages count as read, if it is one of the two sides
        that asks; `side` is whose endpoint it is.

        Raises:
            NotFound, Forbidden: There is no such conversation, or it is not theirs to read.
        """
        conversation = await find_conversation(self._store, conversation_id, party.domains)
        who = standing(party, conversation)
        check_read(who, conversation)
        reader = reading_side(who, side)
        if marks_read and reader is not None:
            conversation = await self._mark_read(conversation, reader)
        messages = await self._latest(conversation, limit=limit, offset=offset)
        count = select(func.count()).where(SupportMessage.conversation_id == conversation.id)
        [(total,)] = await self._store.all(count)
        return MessagePage(messages, total, conversation)

    async def listing(self, party: Party, wanted: Wanted, *, limit: int, offset: int) -> Page:
        """
        Return conversations that a party may read, the latest active first.

        Agents see their own and those that wait, supervisors all of the request's tenants,
        customers their own.

        Raises:
            Forbidden: An agent asks for those of another.
            Unprocessable: The agent's id cannot be one.
        """
        conditions = [is_in(party.domains), *_visible_to(party)]
        if wanted.statuses is not None:
            statuses = sorted(status.value for status in wanted.statuses)
            conditions.append(SupportConversation.status.in_(statuses))
        if wanted.closing is not None:
            conditions.append(SupportConversation.close_status == wanted.closing.value)
        if wanted.agent_id is not None:
            checked_text(wanted.agent_id, "The agent's id", longest=MAX_NAME)
            if party.role is Role.AGENT and wanted.agent_id != party.id:
                raise Forbidden("Only supervisors see the conversations of other agents.")
            conditions.append(SupportConversation.agent_id == wanted.agent_id)
        query = (
            CONVERSATIONS.where(*conditions)
            .order_by(
                func.coalesce(
                    SupportConversation.last_message_at, SupportConversation.created_at
                ).desc(),
                SupportConversation.id,
            )
            .limit(limit)
            .offset(offset)
        )
        rows = await self._store.all(query)
        count = (
            select(func.count())
            .select_from(SupportConversation)
            .join(SupportCustomer, SupportCustomer.id == SupportConversation.customer_id)
            .where(*conditions)
        )
        [(total,)] = await self._store.all(count)
        return Page([conversation_of(row) for row in rows], total)

    def _enter_queue(
        self,
        unit: UnitOfWork,
        conversation: Conversation,
        now: datetime,
        channel: str | None = None,
    ) -> Conversation:
        if conversation.status is not Status.QUEUED or conversation.queued_at is not None:
            return conversation
        channel = channel or conversation.channel
        _change(unit.connection, conversation, queued_at=now, updated_at=now, channel=channel)
        self._queue.changed(unit, conversation.tenant)
        return replace(conversation, queued_at=now, updated_at=now, channel=channel)

    def _accept(
        self,
        unit: UnitOfWork,
        conversation: Conversation,
        party: Party,
        agent: Agent,
        from_socket: str | None,
    ) -> Conversation:
        check_accept(standing(party, conversation))
        # An account is the same everywhere; a proxy's name for somebody is one within a tenant.
        domains = None if party.user_id is not None else frozenset({conversation.tenant})
        taken = self._agents.taken_by(unit.connection, agent.id, domains)
        if has_to_be_taken(conversation, agent.id, taken_by_agent=taken, capacity=self.capacity):
            return self._give_to(unit, conversation, agent, from_socket)
        return conversation

    def _give_to(
        self,
        unit: UnitOfWork,
        conversation: Conversation,
        agent: Agent,
        from_socket: str | None,
    ) -> Conversation:
        now, was_waiting = self._clock(), conversation.is_waiting
        conversation = replace(
            conversation, status=Status.ASSIGNED, agent=agent, updated_at=now, position=None
        )
        _change(
            unit.connection,
            conversation,
            status=Status.ASSIGNED.value,
            agent_id=agent.id,
            agent_name=agent.name,
            updated_at=now,
        )
        self._tell(unit, conversation, from_socket)
        if was_waiting:
            self._queue.changed(unit, conversation.tenant)
        return conversation

    def _connect(
        self, unit: UnitOfWork, conversation: Conversation, from_socket: str | None
    ) -> Conversation:
        status = status_after(conversation, agent_is_there=True)
        if status is conversation.status:
            return conversation
        now = self._clock()
        conversation = replace(conversation, status=status, updated_at=now)
        _change(unit.connection, conversation, status=status.value, updated_at=now)
        self._tell(unit, conversation, from_socket)
        return conversation

    def _send(
        self,
        unit: UnitOfWork,
        conversation: Conversation,
        side: Side,
        agent: Agent | None,
        draft: Draft,
        from_socket: str | None,
    ) -> Sent:
        """Store a message of an authorized sender: the customer, or this agent."""
        connection, customer = unit.connection, conversation.customer
        sender = Agent(customer.id, customer.name) if agent is None else agent
        if draft.temp_id is not None:
            given = {"of": conversation.id, "sender": sender.id, "temp": draft.temp_id}
            earlier = connection.execute(_EARLIER, given).one_or_none()
            if earlier is not None:
                return Sent(message_of(earlier, customer), conversation, False, False)
        check_open(conversation)
        if agent is not None:
            conversation = self._connect(unit, conversation, from_socket)
        kind = checked_kind(draft.kind, side)
        now = self._clock()
        stored = {
            "conversation_id": conversation.id,
            "sender_type": side.value,
            "sender_id": sender.id,
            "sender_name": sender.name,
            "kind": kind,
            "content": draft.content,
            "details": checked_object(draft.metadata, "metadata"),
            "sent_at": now,
            "read_by_customer": side is Side.CUSTOMER,
            "read_by_agent": side is Side.AGENT,
            "temp_id": draft.temp_id,
        }
        message = message_of(connection.execute(_ADD_MESSAGE, stored).one(), customer)
        unit.when_committed(self._count_message)
        conversation = replace(
            conversation,
            unread_customer=conversation.unread_customer + (side is Side.AGENT),
            unread_agent=conversation.unread_agent + (side is Side.CUSTOMER),
            last_message_at=now,
            updated_at=now,
            preview=preview_of(draft.content),
        )
        connection.execute(
            _AFTER_MESSAGE,
            {
                "of": conversation.id,
                "domain": conversation.tenant,
                "new_unread_customer": conversation.unread_customer,
                "new_unread_agent": conversation.unread_agent,
                "new_preview": conversation.preview,
                "now": now,
            },
        )
        channels = [conversation_channel(conversation.id)]
        self._broadcaster.publish(unit, channels, chat_message(message), except_socket=from_socket)
        if conversation.is_waiting:
            self._queue.changed(unit, conversation.tenant)  # entries show the last message
        is_notified = self._notify_other_side(unit, conversation, message)
        return Sent(message, conversation, True, is_notified)

    def _count_message(self) -> None:
        self._sent += 1

    def _tell(self, unit: UnitOfWork, conversation: Conversation, from_socket: str | None) -> None:
        channels = [conversation_channel(conversation.id)]
        event = system_event(conversation, self._clock())
        self._broadcaster.publish(unit, channels, event, except_socket=from_socket)

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

    def _notify_other_side(
        self, unit: UnitOfWork, conversation: Conversation, message: Message
    ) -> bool:
        agent, user_id = conversation.agent, conversation.customer.user_id
        if message.side is Side.CUSTOMER:
            is_account = agent is not None and agent.id.isascii() and agent.id.isdigit()
            user_id = int(agent.id) if agent is not None and is_account else None
        if user_id is None:
            return False
        push = new_message_push(
            session_id=conversation.id,
            sender_type="user" if message.side is Side.CUSTOMER else "agent",
            sender_name=message.sender_name,
            message_text=message.content,
        )
        return self._pushes.owe(unit, [user_id], push)

    async def _latest(
        self, conversation: Conversation, *, limit: int, offset: int
    ) -> list[Message]:
        query = (
            MESSAGES.where(SupportMessage.conversation_id == conversation.id)
            .order_by(SupportMessage.id.desc())
            .limit(limit)
            .offset(offset)
        )
        rows = await self._store.all(query)
        return messages_of(reversed(rows), conversation.customer)

    async def _mark_read(self, conversation: Conversation, reader: Side) -> Conversation:
        is_customer = reader is Side.CUSTOMER
        if not (conversation.unread_customer if is_customer else conversation.unread_agent):
            return conversation
        read = SupportMessage.read_by_customer if is_customer else SupportMessage.read_by_agent
        marks = (
            update(SupportMessage)
            .where(
                SupportMessage.conversation_id == conversation.id,
                SupportMessage.sender_type != reader.value,
                read.is_(False),
            )
            .values({read: True})
        )

        def mark(unit: UnitOfWork) -> None:
            unit.connection.execute(marks)
            if is_customer:
                _change(unit.connection, conversation, unread_customer=0)
            else:
                _change(unit.connection, conversation, unread_agent=0)

        await self._store.write(mark)
        if is_customer:
            return replace(conversation, unread_customer=0)
        return replace(conversation, unread_agent=0)


_ROLES: Final = {"agent": Role.AGENT, "supervisor": Role.SUPERVISOR}
_STAFF = frozenset(_ROLES.values())
_WHICH_AGENT = "Say which agent it is: agentId in the body, or X-Participant-Id."

_OPEN_BY_STATUS = (
    select(SupportConversation.status, func.count())
    .where(SupportConversation.status != Status.CLOSED.value)
    .group_by(SupportConversation.status)
)

# The statements of every message, built once: that costs more than running them.
_ADD_MESSAGE = insert(SupportMessage).returning(*MESSAGES.selected_columns)
_EARLIER = MESSAGES.where(
    SupportMessage.conversation_id == bindparam("of"),
    SupportMessage.sender_id == bindparam("sender"),
    SupportMessage.temp_id == bindparam("temp"),
)
_AFTER_MESSAGE = (
    update(SupportConversation)
    .where(
        SupportConversation.id == bindparam("of"),
        SupportConversation.tenant == bindparam("domain"),
    )
    .values(
        unread_customer=bindparam("new_unread_customer"),
        unread_agent=bindparam("new_unread_agent"),
        last_message_at=bindparam("now"),
        updated_at=bindparam("now"),
        preview=bindparam("new_preview"),
    )
)


def _check(draft: Draft) -> None:
    checked_text(draft.content, "The message", longest=MAX_CONTENT)
    checked_object(draft.metadata, "metadata")
    if draft.temp_id is not None:
        checked_text(draft.temp_id, "tempId", longest=100)


def _agent_of(party: Party) -> Agent:
    """Return as which agent a party acts."""
    if party.role not in _STAFF and party.role is not Role.VOUCHED:
        raise Forbidden("This is for agents and supervisors.")
    if party.role not in _STAFF or party.id is None:
        raise Unprocessable(_WHICH_AGENT)
    return Agent(party.id, party.name)


def _visible_to(party: Party) -> Sequence[ColumnElement[bool]]:
    """Return the conditions on conversations that a party may see in lists."""
    match party.role:
        case Role.SUPERVISOR:
            return ()
        case Role.AGENT:
            waits = SupportConversation.status == Status.QUEUED.value
            waits &= SupportConversation.queued_at.is_not(None)
            return (or_(SupportConversation.agent_id == party.id, waits),)
        case Role.CUSTOMER if party.user_id is not None:
            return (SupportCustomer.user_id == party.user_id,)
        case Role.CUSTOMER:
            return (SupportConversation.id == party.conversation_id,)
        case Role.VOUCHED if party.id is None:
            return ()
        case Role.VOUCHED:
            return (SupportCustomer.participant_id == party.id,)


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
        "created_at": now,
        "updated_at": now,
        "is_customer_away": False,
    }


def _change(connection: Connection, conversation: Conversation, **values: Any) -> None:
    connection.execute(
        update(SupportConversation)
        .where(
            SupportConversation.id == conversation.id,
            SupportConversation.tenant == conversation.tenant,
        )
        .values(values)
    )
