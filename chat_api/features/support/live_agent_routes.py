"""Support conversations over HTTP as live-agent apps know them: sessions and their messages."""

from typing import Annotated, Any, Final

import msgspec

from chat_api.features.support.agents import AGENT_STATUSES, Agents
from chat_api.features.support.customers import MAX_NAME, Visit
from chat_api.features.support.messages import MAX_CONTENT, Draft, Messages
from chat_api.features.support.rules import (
    TAKEN,
    Agent,
    AgentAtCapacity,
    Closing,
    Conversation,
    Message,
    Party,
    Side,
    Status,
)
from chat_api.features.support.service import Conversations, Wanted
from chat_api.features.support.views import offset_of
from chat_api.kernel.clock import wire_time
from chat_api.kernel.errors import Conflict, Forbidden, Gone, NotFound, TooMany, Unprocessable
from chat_api.kernel.routes import Answer, Call, Example, Header, NoInput, Route, stated
from chat_api.kernel.tenants import RequestedTenant, checked_tenant

__all__ = ["live_agent_routes"]

_PENDING: Final = "pending"
_ACTIVE: Final = "active"
_STATUSES: Final = {
    _PENDING: Wanted(frozenset({Status.QUEUED})),
    _ACTIVE: Wanted(TAKEN),
    Closing.RESOLVED.value: Wanted(frozenset({Status.CLOSED}), Closing.RESOLVED),
    Closing.CLOSED.value: Wanted(frozenset({Status.CLOSED}), Closing.CLOSED),
}
_SIDES: Final = {"user": Side.CUSTOMER, "agent": Side.AGENT}
_SENDER_TYPES: Final = {side: word for word, side in _SIDES.items()}

_MAX_SESSIONS: Final = 100
_MAX_MESSAGES: Final = 200

_Time = Annotated[str, stated("ISO 8601, in UTC.", format="date-time")]
_MaybeTime = Annotated[str | None, stated("ISO 8601, in UTC.", format="date-time")]
_SessionStatus = Annotated[str, stated(enum=list(_STATUSES))]
_SenderType = Annotated[str, stated(enum=list(_SIDES))]
_AgentId = Annotated[
    int | str | None, stated("An account's id; a text for whom only a proxy knows.")
]
_Page = Annotated[int, stated("Counted from 1.", minimum=1)]


class StartInput(msgspec.Struct, frozen=True):
    """What somebody needs help with, and where they came from."""

    initial_message: Annotated[
        str | None, stated("A blank one is none.", maxLength=MAX_CONTENT)
    ] = None
    user_context: Annotated[
        dict[str, Any] | None, stated("Any JSON object of up to 4,000 bytes.")
    ] = None


class SessionsQuery(msgspec.Struct, frozen=True):
    """Which sessions."""

    tenant: Annotated[str | None, stated("One tenant's only.")] = None
    status: Annotated[str | None, stated(enum=list(_STATUSES))] = None
    assigned_to_me: bool = False
    page: _Page = 1
    per_page: Annotated[int, stated(minimum=1, maximum=_MAX_SESSIONS)] = 20


class MessageInput(msgspec.Struct, frozen=True):
    """A message; `sender_type` is what the app takes its user for."""

    session_id: str
    message_text: Annotated[str, stated(minLength=1, maxLength=MAX_CONTENT)]
    sender_type: Annotated[str | None, stated(enum=list(_SIDES))] = None


class MessagesQuery(msgspec.Struct, frozen=True):
    """Which messages; the first page has the latest."""

    page: _Page = 1
    per_page: Annotated[int, stated(minimum=1, maximum=_MAX_MESSAGES)] = 50
    mark_as_read: bool = False


class StatusInput(msgspec.Struct, frozen=True):
    """What a session is to become, and whose: one of the two at least."""

    status: Annotated[
        str | None, stated("active, if only an agent is given.", enum=list(_STATUSES))
    ] = None
    assigned_agent_id: Annotated[
        int | str | None, stated("With active: whose it is to be; the caller's if left out.")
    ] = None
    assigned_agent_name: Annotated[
        str | None, stated("An account has its own name.", maxLength=MAX_NAME)
    ] = None


class AgentStatusInput(msgspec.Struct, frozen=True):
    """Whether an agent can be reached, and on which device."""

    is_online: bool
    fcm_token: Annotated[str | None, stated("Registers the device for notifications.")] = None
    status: Annotated[str | None, stated(enum=list(AGENT_STATUSES))] = None


class StartedSession(msgspec.Struct, frozen=True):
    """A session of somebody with an account."""

    session_id: str
    tenant_domain: str
    user_account: str
    user_name: str
    status: _SessionStatus
    created_at: _Time
    message: Annotated[str, stated("What to show to the user.")]


class SessionRow(msgspec.Struct, frozen=True):
    """A session in a list."""

    session_id: str
    tenant_domain: str
    user_account: str
    user_name: str
    assigned_agent_id: _AgentId
    assigned_agent_name: str | None
    status: _SessionStatus
    created_at: _Time
    last_message_at: _MaybeTime
    unread_count_user: int
    unread_count_agent: int
    preview: Annotated[str | None, stated("The beginning of the last message.")]


class SessionList(msgspec.Struct, frozen=True):
    """A page of sessions, the latest active first."""

    sessions: list[SessionRow]
    total: int
    page: int
    per_page: int


class SessionDetails(msgspec.Struct, frozen=True):
    """A session."""

    session_id: str
    tenant_domain: str
    user_account: str
    user_name: str
    assigned_agent_id: _AgentId
    assigned_agent_name: str | None
    status: _SessionStatus
    created_at: _Time
    updated_at: _Time
    last_message_at: _MaybeTime
    unread_count_user: int
    unread_count_agent: int
    metadata: Annotated[msgspec.Raw, stated("The user_context it was started with.", type="object")]


class SentMessage(msgspec.Struct, frozen=True):
    """A message as it was stored."""

    message_id: int
    session_id: str
    sender_type: _SenderType
    sender_name: str
    message_text: str
    created_at: _Time
    notification_sent: Annotated[bool, stated("Whether a device of the other side is notified.")]


class MessageRow(msgspec.Struct, frozen=True):
    """A message in a list."""

    message_id: int
    sender_type: _SenderType
    sender_name: str
    message_text: str
    created_at: _Time
    read_by_user: bool
    read_by_agent: bool


class SessionState(msgspec.Struct, frozen=True):
    """Which session the messages are of."""

    session_id: str
    status: _SessionStatus


class MessageList(msgspec.Struct, frozen=True):
    """A page of messages, oldest first."""

    messages: list[MessageRow]
    total: int
    session: SessionState


class ChangedSession(msgspec.Struct, frozen=True):
    """A session after a change."""

    session_id: str
    status: _SessionStatus
    assigned_agent_id: _AgentId
    assigned_agent_name: str | None
    updated_at: _Time


class AgentState(msgspec.Struct, frozen=True):
    """Whether an agent can be reached."""

    agent_id: Annotated[str, stated("The agent's email address.")]
    agent_name: str
    is_online: bool
    status: Annotated[str, stated(enum=list(AGENT_STATUSES))]
    updated_at: _Time


def live_agent_routes(
    conversations: Conversations, messages: Messages, agents: Agents
) -> tuple[Route[Any], ...]:
    """Return what live-agent apps, and the portals in front of them, ask."""

    async def party_of(
        call: Call[Any], side: Side = Side.AGENT, tenant: RequestedTenant | None = None
    ) -> Party:
        return await conversations.party(call.caller, tenant or call.tenant, side=side)

    async def start(call: Call[StartInput]) -> Answer:
        """Somebody who has an open session gets that one again, with 200."""
        message = call.input.initial_message
        started = await conversations.start(
            Visit(
                tenant=call.tenant.domain,
                address=call.address,
                user=call.caller,
                metadata=call.input.user_context,
                message=message if message and message.strip() else None,
                temp_id=call.idempotency_key,
            ),
            enters_queue=True,
        )
        session = started.conversation
        begun = "Session created." if started.is_new else "Your session is still open."
        return Answer(
            StartedSession(
                session_id=session.id,
                tenant_domain=session.tenant,
                user_account=session.customer.account,
                user_name=session.customer.name,
                status=_status(session),
                created_at=wire_time(session.created_at),
                message=f"{begun} An agent will respond shortly.",
            ),
            201 if started.is_new else 200,
        )

    async def show_sessions(call: Call[SessionsQuery]) -> Answer:
        """Agents see theirs and those that wait, supervisors all of their tenants, users theirs."""
        given = call.input
        offset = offset_of(
            given.page, given.per_page, most=_MAX_SESSIONS, first=1, size_name="per_page"
        )
        if given.status is not None and given.status not in _STATUSES:
            raise Unprocessable(f"status must be one of {', '.join(_STATUSES)}.")
        wanted = Wanted() if given.status is None else _STATUSES[given.status]
        party = await party_of(call, tenant=_narrowed(call))
        if given.assigned_to_me:
            wanted = Wanted(wanted.statuses, wanted.closing, str(call.caller.id))
        page = await conversations.listing(party, wanted, limit=given.per_page, offset=offset)
        return Answer(
            SessionList(
                sessions=[_session_row(session) for session in page.conversations],
                total=page.total,
                page=given.page,
                per_page=given.per_page,
            )
        )

    async def show_session(call: Call[NoInput]) -> Answer:
        session = await conversations.get(await party_of(call), call.path["session_id"])
        details = session.details
        return Answer(
            SessionDetails(
                session_id=session.id,
                tenant_domain=session.tenant,
                user_account=session.customer.account,
                user_name=session.customer.name,
                assigned_agent_id=_agent_id(session.agent),
                assigned_agent_name=_agent_name(session.agent),
                status=_status(session),
                created_at=wire_time(session.created_at),
                updated_at=wire_time(session.updated_at),
                last_message_at=_last_message_at(session),
                unread_count_user=session.unread_customer,
                unread_count_agent=session.unread_agent,
                metadata=msgspec.Raw(b"{}" if details is None else details.encode()),
            )
        )

    async def change(call: Call[StatusInput]) -> Answer:
        """
        With active, an agent takes it, or a supervisor gives it to somebody.

        With pending it waits again, in its old place; resolved and closed end it, as any agent may
        while it waits.
        """
        given, session_id = call.input, call.path["session_id"]
        party = await party_of(call)
        status = given.status
        if status is None and given.assigned_agent_id is not None:
            status = _ACTIVE
        match status:
            case "active":
                session = await conversations.assign(
                    party,
                    session_id,
                    _named_agent(call),
                    agent_name=given.assigned_agent_name,
                    from_socket=call.socket_id,
                )
            case "pending":
                session = await conversations.release(party, session_id, from_socket=call.socket_id)
            case "resolved" | "closed":
                session = await conversations.close(
                    party,
                    session_id,
                    closing=Closing(status),
                    from_socket=call.socket_id,
                )
            case None:
                raise Unprocessable("Say what is to change: status, or assigned_agent_id.")
            case _:
                raise Unprocessable(f"status must be one of {', '.join(_STATUSES)}.")
        return Answer(
            ChangedSession(
                session_id=session.id,
                status=_status(session),
                assigned_agent_id=_agent_id(session.agent),
                assigned_agent_name=_agent_name(session.agent),
                updated_at=wire_time(session.updated_at),
            )
        )

    async def send(call: Call[MessageInput]) -> Answer:
        """An agent's message into a session that waits takes it."""
        given = call.input
        if given.sender_type is not None and given.sender_type not in _SIDES:
            raise Unprocessable(f"sender_type must be one of {', '.join(_SIDES)}.")
        side = None if given.sender_type is None else _SIDES[given.sender_type]
        sent = await messages.send(
            await party_of(call),
            given.session_id,
            Draft(given.message_text, call.idempotency_key),
            side=side,
            from_socket=call.socket_id,
        )
        message = sent.message
        return Answer(
            SentMessage(
                message_id=message.id,
                session_id=message.conversation_id,
                sender_type=_SENDER_TYPES[message.side],
                sender_name=message.sender_name,
                message_text=message.content,
                created_at=wire_time(message.sent_at),
                notification_sent=sent.is_notified,
            ),
            201 if sent.is_new else 200,
        )

    async def show_messages(call: Call[MessagesQuery]) -> Answer:
        given = call.input
        offset = offset_of(
            given.page, given.per_page, most=_MAX_MESSAGES, first=1, size_name="per_page"
        )
        page = await messages.page(
            await party_of(call),
            call.path["session_id"],
            limit=given.per_page,
            offset=offset,
            marks_read=given.mark_as_read,
        )
        return Answer(
            MessageList(
                messages=[_message_row(message) for message in page.messages],
                total=page.total,
                session=SessionState(page.conversation.id, _status(page.conversation)),
            )
        )

    async def set_status(call: Call[AgentStatusInput]) -> Answer:
        given, caller = call.input, call.caller
        status = await agents.set_status(
            caller,
            is_online=given.is_online,
            status=given.status,
            device_token=given.fcm_token,
        )
        return Answer(
            AgentState(
                agent_id=caller.email,
                agent_name=caller.name,
                is_online=status.is_online,
                status=status.status,
                updated_at=wire_time(status.updated_at),
            )
        )

    sessions = "/api/v1/live-agent/sessions"
    within = (Header.TENANT,)
    changing = (Header.TENANT, Header.SOCKET_ID)
    refusals = (NotFound, Forbidden, Unprocessable)
    tenant = {Header.TENANT: "tenant1.example.com"}
    path = {"session_id": "{live_session}"}
    agent = "agent@example.com"
    return (
        Route(
            "POST",
            sessions,
            StartInput,
            start,
            summary="Ask for an agent",
            answers={201: StartedSession, 200: StartedSession},
            errors=(Forbidden, Unprocessable, TooMany),
            headers=(*within, Header.IDEMPOTENCY_KEY),
            examples=(
                Example(
                    {
                        "initial_message": "I need help with invoice generation",
                        "user_context": {"page_url": "/invoices/create", "browser": "Chrome 120"},
                    },
                    headers=tenant,
                    keeps={"live_session": "session_id"},
                ),
            ),
        ),
        Route(
            "GET",
            sessions,
            SessionsQuery,
            show_sessions,
            summary="Show sessions",
            answers={200: SessionList},
            errors=(Forbidden, Unprocessable),
            headers=within,
            examples=(
                Example({"status": _PENDING, "page": 1, "per_page": 20}, {}, tenant, sender=agent),
            ),
        ),
        Route(
            "PUT",
            "/api/v1/live-agent/sessions/{session_id}/status",
            StatusInput,
            change,
            summary="Take, give, release or end a session",
            answers={200: ChangedSession},
            errors=(*refusals, Conflict, AgentAtCapacity, Gone),
            headers=changing,
            examples=(Example({"status": _ACTIVE}, path, tenant, sender=agent),),
        ),
        Route(
            "GET",
            "/api/v1/live-agent/sessions/{session_id}",
            NoInput,
            show_session,
            summary="Show a session",
            answers={200: SessionDetails},
            errors=refusals,
            headers=within,
            examples=(Example(None, path, tenant, sender=agent),),
        ),
        Route(
            "POST",
            "/api/v1/live-agent/messages",
            MessageInput,
            send,
            summary="Send a message in a session",
            answers={201: SentMessage, 200: SentMessage},
            errors=(*refusals, Conflict, AgentAtCapacity, Gone, TooMany),
            headers=(*changing, Header.IDEMPOTENCY_KEY),
            examples=(
                Example(
                    {
                        "session_id": "{live_session}",
                        "message_text": "Please share your transaction ID",
                        "sender_type": "agent",
                    },
                    headers=tenant,
                    sender=agent,
                ),
            ),
        ),
        Route(
            "GET",
            "/api/v1/live-agent/messages/{session_id}",
            MessagesQuery,
            show_messages,
            summary="Show the messages of a session",
            answers={200: MessageList},
            errors=refusals,
            headers=within,
            examples=(Example({"mark_as_read": True}, path, tenant),),
        ),
        Route(
            "PUT",
            "/api/v1/live-agent/agent/status",
            AgentStatusInput,
            set_status,
            summary="Say whether one can be reached",
            answers={200: AgentState},
            errors=(Forbidden, Unprocessable),
            examples=(
                Example(
                    {"is_online": True, "fcm_token": "fcm_registration_token_here"}, sender=agent
                ),
            ),
        ),
    )


def _narrowed(call: Call[SessionsQuery]) -> RequestedTenant:
    """Return the tenant that a list is narrowed to, by its query or else by the request."""
    if call.input.tenant is None:
        return call.tenant
    wanted = RequestedTenant(checked_tenant(call.input.tenant), is_explicit=True)
    if call.tenant.is_explicit and call.tenant != wanted:
        raise Forbidden(f"This request is about the tenant {call.tenant.domain}.")
    return wanted


def _named_agent(call: Call[StatusInput]) -> str:
    """Return whose a session is to be; agents may go by their address, too."""
    named = call.input.assigned_agent_id
    if named is None or named == call.caller.email:
        return str(call.caller.id)
    return str(named)


def _status(session: Conversation) -> str:
    if session.status is Status.CLOSED:
        return (session.closing or Closing.CLOSED).value
    return _PENDING if session.status is Status.QUEUED else _ACTIVE


def _agent_id(agent: Agent | None) -> int | str | None:
    if agent is None:
        return None
    return int(agent.id) if agent.id.isascii() and agent.id.isdigit() else agent.id


def _agent_name(agent: Agent | None) -> str | None:
    return None if agent is None else agent.name


def _last_message_at(session: Conversation) -> str | None:
    return None if session.last_message_at is None else wire_time(session.last_message_at)


def _session_row(session: Conversation) -> SessionRow:
    return SessionRow(
        session_id=session.id,
        tenant_domain=session.tenant,
        user_account=session.customer.account,
        user_name=session.customer.name,
        assigned_agent_id=_agent_id(session.agent),
        assigned_agent_name=_agent_name(session.agent),
        status=_status(session),
        created_at=wire_time(session.created_at),
        last_message_at=_last_message_at(session),
        unread_count_user=session.unread_customer,
        unread_count_agent=session.unread_agent,
        preview=session.preview,
    )


def _message_row(message: Message) -> MessageRow:
    return MessageRow(
        message_id=message.id,
        sender_type=_SENDER_TYPES[message.side],
        sender_name=message.sender_name,
        message_text=message.content,
        created_at=wire_time(message.sent_at),
        read_by_user=message.read_by_customer,
        read_by_agent=message.read_by_agent,
    )
