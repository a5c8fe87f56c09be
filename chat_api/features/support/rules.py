"""
What a support conversation is, who may do what with it, and what becomes of it.

Values in, decisions out: nothing here reads a clock, a database or a request. The three families of
apps differ in their words only, so all of them are held to these rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, Flag, StrEnum, auto
from typing import Final, NamedTuple

from chat_api.kernel.errors import Conflict, Forbidden, Gone, Unprocessable

__all__ = [
    "OPEN",
    "TAKEN",
    "Agent",
    "AgentAtCapacity",
    "Closing",
    "Conversation",
    "Customer",
    "Message",
    "Party",
    "Role",
    "Side",
    "Standing",
    "Status",
    "check_accept",
    "check_assign",
    "check_named",
    "check_open",
    "check_read",
    "check_release",
    "checked_kind",
    "closing_party",
    "has_to_be_taken",
    "is_taken_anew",
    "may_listen",
    "preview_of",
    "reading_side",
    "sending_side",
    "standing",
    "status_after",
]

PREVIEW: Final = 100
"""Characters of a message that lists show, the … of a cut one included."""


class AgentAtCapacity(Conflict):
    """The agent has as many conversations as one may have."""

    default_code = "agent_at_capacity"


class Status(StrEnum):
    """The states of a conversation."""

    QUEUED = "QUEUED"
    ASSIGNED = "ASSIGNED"
    CONNECTED = "CONNECTED"
    CLOSED = "CLOSED"


TAKEN: Final = frozenset({Status.ASSIGNED, Status.CONNECTED})
"""The states in which a conversation is an agent's."""

OPEN: Final = TAKEN | {Status.QUEUED}
"""The states in which things can still be said."""


class Closing(StrEnum):
    """How a conversation ended, in the words of live-agent apps."""

    RESOLVED = "resolved"
    CLOSED = "closed"


class Side(StrEnum):
    """The two who talk."""

    CUSTOMER = "CUSTOMER"
    AGENT = "AGENT"


class Role(Enum):
    """As what somebody comes to a conversation."""

    CUSTOMER = auto()
    AGENT = auto()
    SUPERVISOR = auto()
    VOUCHED = auto()
    """Let in by the deployment's own proxy, as a customer or an agent."""


@dataclass(frozen=True, slots=True)
class Party:
    """
    Who asks, and about which tenants (`domains`; None for all).

    `id` is what they are known by in conversations: a customer's row for a visitor, an account's id
    as text for staff, or what a proxy calls them; None is somebody whom the proxy let through
    without a name. An account has its `user_id`; a visitor's token is for one `conversation_id`.
    """

    role: Role
    domains: frozenset[str] | None
    id: str | None = None
    name: str = ""
    user_id: int | None = None
    conversation_id: str | None = None


class Agent(NamedTuple):
    """Who answers; `user_id` is their account's, None for those whom only a proxy knows."""

    id: str
    name: str
    user_id: int | None = None


@dataclass(frozen=True, slots=True)
class Customer:
    """
    Who asks for help.

    `participant_id` is what their app or proxy calls them; `email` their account's address.
    """

    id: str
    name: str
    participant_id: str | None = None
    contact: str | None = None
    user_id: int | None = None
    email: str | None = None

    @property
    def shown_id(self) -> str:
        """Return the id under which others see them."""
        return self.participant_id or self.id

    @property
    def account(self) -> str:
        """Return what staff know them by: an address if there is one, or else an id."""
        return self.email or self.contact or self.shown_id


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as it stands. `details` is the JSON text of what the customer's app said."""

    id: str
    tenant: str
    customer: Customer
    status: Status
    created_at: datetime
    updated_at: datetime
    channel: str = "web"
    queued_at: datetime | None = None
    agent: Agent | None = None
    closing: Closing | None = None
    close_reason: str | None = None
    closed_by: str | None = None
    closed_at: datetime | None = None
    details: str | None = None
    unread_customer: int = 0
    unread_agent: int = 0
    last_message_at: datetime | None = None
    preview: str | None = None
    is_customer_away: bool = False
    position: int | None = None
    """Its place in the tenant's queue, from 1; None when it does not wait, or nobody looked."""

    @property
    def is_waiting(self) -> bool:
        """Tell whether it is in the queue."""
        return self.status is Status.QUEUED and self.queued_at is not None


@dataclass(frozen=True, slots=True)
class Message:
    """
    A message as stored.

    `sender_id` is the id under which others see the sender, `details` JSON text.
    """

    id: int
    conversation_id: str
    side: Side
    sender_id: str
    sender_name: str
    kind: str
    content: str
    sent_at: datetime
    details: str | None = None
    read_by_customer: bool = False
    read_by_agent: bool = False


class Standing(Flag):
    """What somebody is to a conversation; a supervisor may be its agent too."""

    STRANGER = 0
    CUSTOMER = auto()
    AGENT = auto()
    """The one it is assigned to."""
    COLLEAGUE = auto()
    """Another agent of the tenant."""
    SUPERVISOR = auto()
    VOUCHED = auto()
    """The proxy's word, with nobody's name: whoever it has to be."""


_EITHER_SIDE = Standing.CUSTOMER | Standing.AGENT | Standing.VOUCHED
_STAFF = Standing.AGENT | Standing.COLLEAGUE | Standing.SUPERVISOR

_NOT_YOURS = "This conversation is not yours."
_OVER = "This conversation is closed. Start a new one."
_TAKEN = "Conversation is no longer available to accept."


def standing(party: Party, conversation: Conversation) -> Standing:
    """Return what a party is to a conversation."""
    if party.domains is not None and conversation.tenant not in party.domains:
        return Standing.STRANGER
    customer, is_agent = conversation.customer, _is_agent_of(conversation, party)
    match party.role:
        case Role.CUSTOMER if party.user_id is not None:
            is_theirs = party.user_id == customer.user_id
            return Standing.CUSTOMER if is_theirs else Standing.STRANGER
        case Role.CUSTOMER:
            is_theirs = party.conversation_id == conversation.id and party.id == customer.id
            return Standing.CUSTOMER if is_theirs else Standing.STRANGER
        case Role.AGENT:
            return Standing.AGENT if is_agent else Standing.COLLEAGUE
        case Role.SUPERVISOR:
            return Standing.SUPERVISOR | (Standing.AGENT if is_agent else Standing.STRANGER)
        case Role.VOUCHED if party.id is None:
            return Standing.VOUCHED
        case Role.VOUCHED:
            named = Standing.STRANGER
            if party.id == customer.shown_id:
                named |= Standing.CUSTOMER
            if is_agent:
                named |= Standing.AGENT
            return named


def _is_agent_of(conversation: Conversation, who: Agent | Party) -> bool:
    """Tell who has it: what a proxy calls somebody may look like an account's id, and is none."""
    agent = conversation.agent
    return agent is not None and (agent.id, agent.user_id) == (who.id, who.user_id)


def check_read(who: Standing, conversation: Conversation) -> None:
    """
    Let the two sides and supervisors read, and, while it waits, any agent of the tenant.

    Raises:
        Forbidden: They are none of these.
    """
    if who & (_EITHER_SIDE | Standing.SUPERVISOR):
        return
    if who & Standing.COLLEAGUE:
        if conversation.status is Status.QUEUED:
            return
        raise Forbidden("This conversation is another agent's.")
    raise Forbidden(_NOT_YOURS)


def may_listen(who: Standing) -> bool:
    """Tell whether somebody hears what is said: the two sides and supervisors do."""
    return bool(who & (_EITHER_SIDE | Standing.SUPERVISOR))


def sending_side(who: Standing, conversation: Conversation, wanted: Side | None) -> Side:
    """
    Return as which side somebody writes; `wanted` is what they say, None for what they are.

    Staff of the tenant may write into a conversation that nobody has, by which they take it.

    Raises:
        Forbidden: They may not write here, or not as that side.
    """
    may = set()
    if who & (Standing.CUSTOMER | Standing.VOUCHED):
        may.add(Side.CUSTOMER)
    if who & (Standing.AGENT | Standing.VOUCHED) or (who & _STAFF and conversation.agent is None):
        may.add(Side.AGENT)
    side = wanted or (Side.AGENT if who & _STAFF else Side.CUSTOMER)
    if side in may:
        return side
    if who & (Standing.COLLEAGUE | Standing.SUPERVISOR) and side is Side.AGENT:
        raise Forbidden("This conversation is another agent's.")
    if may:
        raise Forbidden(f"You may not write as {side.value}.")
    raise Forbidden(_NOT_YOURS)


def reading_side(
    who: Standing, conversation: Conversation, wanted: Side | None = None
) -> Side | None:
    """
    Return whose read marks somebody sets; None for those who only look on.

    While a conversation waits, every agent of the tenant reads it for their side.
    """
    if who & Standing.VOUCHED:
        return wanted
    if who & Standing.CUSTOMER and wanted is not Side.AGENT:
        return Side.CUSTOMER
    return Side.AGENT if _is_agents(who, conversation) else None


def _is_agents(who: Standing, conversation: Conversation) -> bool:
    """Tell whether it is this agent's, or as much theirs as any colleague's because it waits."""
    waits = conversation.status is Status.QUEUED
    return bool(who & Standing.AGENT or (who & Standing.COLLEAGUE and waits))


def check_open(conversation: Conversation) -> None:
    """
    Refuse what a conversation that is over has no place for.

    Raises:
        Gone: It is closed.
    """
    if conversation.status is Status.CLOSED:
        raise Gone(_OVER)


def has_to_be_taken(
    conversation: Conversation, agent: Agent, *, taken_by_agent: int, capacity: int
) -> bool:
    """
    Tell whether accepting changes anything; it does not for one's own.

    `taken_by_agent` is how many conversations `agent` has, `capacity` how many are allowed (0 for
    any number).

    Raises:
        Gone: It is closed.
        Conflict: It is another agent's.
        AgentAtCapacity: The agent has as many as allowed.
    """
    if conversation.status is Status.CLOSED:
        raise Gone("This conversation is closed.")
    if conversation.status in TAKEN:
        if _is_agent_of(conversation, agent):
            return False
        raise Conflict(_TAKEN)
    _check_capacity(taken_by_agent, capacity)
    return True


def is_taken_anew(
    conversation: Conversation, agent: Agent, *, taken_by_agent: int, capacity: int
) -> bool:
    """
    Tell whether assigning changes anything; unlike accepting, it may take from another agent.

    Raises:
        Gone: It is closed.
        AgentAtCapacity: The agent has as many as allowed.
    """
    if conversation.status is Status.CLOSED:
        raise Gone("This conversation is closed.")
    if _is_agent_of(conversation, agent):
        return False
    _check_capacity(taken_by_agent, capacity)
    return True


def _check_capacity(taken: int, capacity: int) -> None:
    if capacity and taken >= capacity:
        raise AgentAtCapacity(
            f"The agent has {taken} of at most {capacity} conversations. Close one first."
        )


def check_accept(who: Standing) -> None:
    """
    Let the tenant's staff take conversations.

    Raises:
        Forbidden: It is somebody else.
    """
    if not who & _STAFF:
        raise Forbidden("Only agents and supervisors of the tenant take conversations.")


def check_assign(who: Standing) -> None:
    """
    Let supervisors decide who answers.

    Raises:
        Forbidden: It is somebody else.
    """
    if not who & (Standing.SUPERVISOR | Standing.VOUCHED):
        raise Forbidden("Only a supervisor assigns a conversation to another agent.")


def check_release(who: Standing) -> None:
    """
    Let its agent and supervisors put a conversation back into the queue.

    Raises:
        Forbidden: It is somebody else.
    """
    if not who & (Standing.AGENT | Standing.SUPERVISOR | Standing.VOUCHED):
        raise Forbidden("Only its agent or a supervisor puts a conversation back into the queue.")


def closing_party(who: Standing, conversation: Conversation, wanted: Side | None = None) -> str:
    """
    Return who ends a conversation, as it is kept: CUSTOMER, AGENT or SUPERVISOR.

    What waits is ended by any agent of the tenant, without being taken first. `wanted` is as which
    side a request with nobody's name was made.

    Raises:
        Forbidden: They may not.
    """
    if who & Standing.VOUCHED:
        return (wanted or Side.CUSTOMER).value
    if who & Standing.CUSTOMER and not (who & Standing.AGENT and wanted is Side.AGENT):
        return Side.CUSTOMER.value
    if _is_agents(who, conversation):
        return Side.AGENT.value
    if who & Standing.SUPERVISOR:
        return "SUPERVISOR"
    if who & Standing.COLLEAGUE:
        raise Forbidden("Only its agent or a supervisor closes this conversation.")
    raise Forbidden(_NOT_YOURS)


def status_after(conversation: Conversation, *, agent_is_there: bool) -> Status:
    """Return the state of a taken conversation once its agent has written or listens."""
    if conversation.status is Status.ASSIGNED and agent_is_there:
        return Status.CONNECTED
    return conversation.status


def check_named(given: Sequence[str | None], known: Sequence[str]) -> None:
    """
    Check that every id a request gives for its sender is one of the sender's own.

    Raises:
        Forbidden: One is somebody else's.
    """
    for name in given:
        if name is not None and name not in known:
            raise Forbidden("The id in the request is not yours.")


def preview_of(content: str) -> str:
    """Return the beginning of a message, on one line, as lists show it."""
    line = " ".join(content[: 4 * PREVIEW].split())
    return line if len(line) <= PREVIEW else line[: PREVIEW - 1].rstrip() + "…"


def checked_kind(kind: str, side: Side) -> str:
    """
    Return the kind of a message: TEXT, or SYSTEM for what an agent's app says by itself.

    Raises:
        Unprocessable: It is neither, or not for this side.
    """
    if kind == "TEXT" or (kind == "SYSTEM" and side is Side.AGENT):
        return kind
    raise Unprocessable("type must be TEXT.")
