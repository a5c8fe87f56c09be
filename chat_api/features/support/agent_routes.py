"""Support conversations over HTTP, for agents and supervisors."""

from typing import Annotated, Any, Final

import msgspec

from chat_api.features.support.customer_routes import (
    MAX_MESSAGES,
    Content,
    HistoryQuery,
    Metadata,
    sent,
    temp_id_of,
)
from chat_api.features.support.customers import MAX_NAME
from chat_api.features.support.messages import Draft, Messages
from chat_api.features.support.queue import Queue
from chat_api.features.support.rules import (
    TAKEN,
    AgentAtCapacity,
    Closing,
    Conversation,
    Party,
    Role,
    Side,
    Status,
)
from chat_api.features.support.service import (
    MAX_CHANNEL,
    MAX_REASON,
    Conversations,
    Wanted,
)
from chat_api.features.support.views import (
    AgentView,
    BootView,
    ConversationView,
    MessageView,
    QueueView,
    conversation_view,
    message_view,
    offset_of,
    queue_entry,
)
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import (
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    TooMany,
    Unprocessable,
)
from chat_api.kernel.routes import Answer, Audience, Call, Example, Header, Route, stated
from chat_api.kernel.texts import checked_text

__all__ = ["agent_routes"]

_MAX_PAGE: Final = 100
_MAX_CONVERSATIONS: Final = 500

_AgentId = Annotated[
    str | None,
    stated("The agent's own id, as logging in answered it; may be left out.", maxLength=MAX_NAME),
]
_AgentName = Annotated[
    str | None, stated("Of use behind a proxy; an account has its own.", maxLength=MAX_NAME)
]


class BootInput(
    msgspec.Struct, frozen=True, rename={"agent_id": "agentId", "display_name": "displayName"}
):
    """Who begins to work, and where."""

    agent_id: _AgentId = None
    display_name: _AgentName = None
    channel: Annotated[str, stated(minLength=1, maxLength=MAX_CHANNEL)] = "web"


class AcceptInput(
    msgspec.Struct, frozen=True, rename={"agent_id": "agentId", "display_name": "displayName"}
):
    """Who takes the conversation."""

    agent_id: _AgentId = None
    display_name: _AgentName = None


class AssignInput(
    msgspec.Struct, frozen=True, rename={"agent_id": "agentId", "display_name": "displayName"}
):
    """Who is to have the conversation."""

    agent_id: Annotated[str | int, stated("The agent's id, as a text or a number.")]
    display_name: _AgentName = None


class QueueQuery(msgspec.Struct, frozen=True):
    """A page of the queue."""

    page: Annotated[int, stated("Counted from 0.", minimum=0)] = 0
    size: Annotated[int, stated(minimum=1, maximum=_MAX_PAGE)] = 20


class ConversationsQuery(msgspec.Struct, frozen=True, rename={"agent_id": "agentId"}):
    """Which conversations."""

    status: Annotated[str, stated("States, with commas between.")] = "ASSIGNED,CONNECTED"
    agent_id: Annotated[str | None, stated("For supervisors: whose.")] = None
    page: Annotated[int, stated("Counted from 0.", minimum=0)] = 0
    size: Annotated[int, stated(minimum=1, maximum=_MAX_CONVERSATIONS)] = 100


class AgentMessageInput(
    msgspec.Struct, frozen=True, rename={"agent_id": "agentId", "kind": "type", "temp_id": "tempId"}
):
    """A message."""

    content: Content
    metadata: Metadata = None
    kind: Annotated[str, stated(enum=["TEXT", "SYSTEM"])] = "TEXT"
    agent_id: _AgentId = None
    temp_id: Annotated[
        str | None,
        stated("The app's name for it: sent again, nothing is stored twice.", maxLength=100),
    ] = None


class CloseInput(msgspec.Struct, frozen=True):
    """Why it is over; `resolved` is shown as such."""

    reason: Annotated[str | None, stated(maxLength=MAX_REASON)] = None


def agent_routes(
    conversations: Conversations, messages: Messages, queue: Queue, clock: Clock
) -> tuple[Route[Any], ...]:
    """Return what agents' apps ask."""

    async def party_of(call: Call[Any], named: str | None = None, name: str | None = None) -> Party:
        return await conversations.party(
            call.identity, call.tenant, side=Side.AGENT, named=named, name=name
        )

    async def boot(call: Call[BootInput]) -> Answer:
        given = call.input
        checked_text(given.channel, "channel", longest=MAX_CHANNEL)
        party = await party_of(call, given.agent_id, given.display_name)
        if party.id is None:
            raise Unprocessable("Say which agent it is: agentId in the body, or X-Participant-Id.")
        own = await conversations.listing(
            party,
            Wanted(TAKEN, agent_id=party.id, is_proxied=party.user_id is None),
            limit=_MAX_CONVERSATIONS,
            offset=0,
        )
        waiting = await queue.page(party.domains, limit=_MAX_PAGE)
        now = clock()
        return Answer(
            BootView(
                agent=AgentView(party.id, party.name),
                channel=given.channel,
                conversations=[conversation_view(each) for each in own.conversations],
                queue=[queue_entry(each, now) for each in waiting.conversations],
                max_concurrent=conversations.capacity,
            )
        )

    async def show_queue(call: Call[QueueQuery]) -> Answer:
        page, size = call.input.page, call.input.size
        offset = offset_of(page, size, most=_MAX_PAGE)
        party = await party_of(call)
        waiting = await queue.page(party.domains, limit=size, offset=offset)
        now = clock()
        return Answer(
            QueueView(
                content=[queue_entry(each, now) for each in waiting.conversations],
                page=page,
                size=size,
                total_elements=waiting.total,
                total_pages=-(-waiting.total // size),
            )
        )

    async def show_conversations(call: Call[ConversationsQuery]) -> Answer:
        """Agents see their own, supervisors those of all agents of the request's tenants."""
        given = call.input
        offset = offset_of(given.page, given.size, most=_MAX_CONVERSATIONS)
        party = await party_of(call)
        agent_id = given.agent_id or (party.id if party.role is Role.AGENT else None)
        page = await conversations.listing(
            party,
            Wanted(_statuses(given.status), agent_id=agent_id, is_proxied=party.user_id is None),
            limit=given.size,
            offset=offset,
        )
        return Answer([conversation_view(each) for each in page.conversations])

    async def accept(call: Call[AcceptInput]) -> Answer:
        """Of any number of agents who try at once, one gets 200; the others get 409."""
        party = await party_of(call, call.input.agent_id, call.input.display_name)
        conversation = await conversations.accept(
            party, call.path["conversation_id"], from_socket=call.socket_id
        )
        return _conversation(conversation)

    async def assign(call: Call[AssignInput]) -> Answer:
        """For supervisors: also a conversation that another agent has."""
        conversation = await conversations.assign(
            await party_of(call),
            call.path["conversation_id"],
            str(call.input.agent_id),
            agent_name=call.input.display_name,
            from_socket=call.socket_id,
        )
        return _conversation(conversation)

    async def history(call: Call[HistoryQuery]) -> Answer:
        """The last ones, the oldest of them first."""
        limit = call.input.limit
        if not 1 <= limit <= MAX_MESSAGES:
            raise Unprocessable(f"limit must be from 1 to {MAX_MESSAGES}.")
        latest = await messages.latest(
            await party_of(call), call.path["conversation_id"], limit=limit
        )
        return Answer([message_view(message) for message in latest])

    async def send(call: Call[AgentMessageInput]) -> Answer:
        """
        The first message into a conversation that waits takes it.

        An `Idempotency-Key` does what `tempId` does.
        """
        given = call.input
        stored = await messages.send(
            await party_of(call, given.agent_id),
            call.path["conversation_id"],
            Draft(given.content, temp_id_of(call), given.kind, given.metadata),
            side=Side.AGENT,
            from_socket=call.socket_id,
        )
        return sent(stored)

    async def close(call: Call[CloseInput]) -> Answer:
        """One that is over stays as it is."""
        reason = call.input.reason
        is_resolved = (reason or "").strip().lower() == Closing.RESOLVED
        conversation = await conversations.close(
            await party_of(call),
            call.path["conversation_id"],
            closing=Closing.RESOLVED if is_resolved else Closing.CLOSED,
            reason=reason,
            side=Side.AGENT,
            from_socket=call.socket_id,
        )
        return _conversation(conversation)

    within = (Header.PARTICIPANT_ID, Header.PARTICIPANT_NAME, Header.TENANT)
    changing = (*within, Header.SOCKET_ID)
    refusals = (NotFound, Forbidden, Unprocessable)
    tenant = {Header.TENANT: "tenant1.example.com"}
    path = {"conversation_id": "{session}"}
    agent, supervisor = "agent@example.com", "supervisor@example.com"
    return (
        Route(
            "POST",
            "/api/agent/sessions",
            BootInput,
            boot,
            Audience.STAFF,
            summary="Begin to work: who one is, whom one has, who waits",
            answers={200: BootView},
            errors=(Forbidden, Unprocessable),
            headers=within,
            examples=(Example({"channel": "web"}, headers=tenant, sender=agent),),
        ),
        Route(
            "GET",
            "/api/agent/queue",
            QueueQuery,
            show_queue,
            Audience.STAFF,
            summary="Show who waits, the longest wait first",
            answers={200: QueueView},
            errors=(Forbidden, Unprocessable),
            headers=within,
            examples=(Example({"page": 0, "size": 20}, headers=tenant, sender=agent),),
        ),
        Route(
            "POST",
            "/api/agent/conversations/{conversation_id}/accept",
            AcceptInput,
            accept,
            Audience.STAFF,
            summary="Take a conversation",
            answers={200: ConversationView},
            errors=(*refusals, Conflict, AgentAtCapacity, Gone),
            headers=changing,
            examples=(Example({}, path, tenant, sender=agent),),
        ),
        Route(
            "POST",
            "/api/agent/conversations/{conversation_id}/assign",
            AssignInput,
            assign,
            Audience.STAFF,
            summary="Give a conversation to an agent",
            answers={200: ConversationView},
            errors=(*refusals, Conflict, AgentAtCapacity, Gone),
            headers=changing,
            examples=(Example({"agentId": "3"}, path, tenant, sender=supervisor),),
        ),
        Route(
            "GET",
            "/api/agent/conversations",
            ConversationsQuery,
            show_conversations,
            Audience.STAFF,
            summary="Show conversations, the latest active first",
            answers={200: list[ConversationView]},
            errors=(Forbidden, Unprocessable),
            headers=within,
            examples=(Example({"status": "ASSIGNED,CONNECTED"}, headers=tenant, sender=agent),),
        ),
        Route(
            "POST",
            "/api/agent/conversations/{conversation_id}/messages",
            AgentMessageInput,
            send,
            Audience.STAFF,
            summary="Send a message, as an agent",
            answers={201: MessageView, 200: MessageView},
            errors=(*refusals, Gone, Conflict, AgentAtCapacity, TooMany),
            headers=(*changing, Header.IDEMPOTENCY_KEY),
            examples=(
                Example(
                    {"content": "How can I help?", "metadata": {"channel": "support-panel"}},
                    path,
                    tenant,
                    sender=agent,
                ),
            ),
        ),
        Route(
            "GET",
            "/api/agent/conversations/{conversation_id}/messages",
            HistoryQuery,
            history,
            Audience.STAFF,
            summary="Show the last messages of a conversation, as an agent",
            answers={200: list[MessageView]},
            errors=refusals,
            headers=within,
            examples=(Example({"limit": 100}, path, tenant, sender=agent),),
        ),
        Route(
            "POST",
            "/api/agent/conversations/{conversation_id}/close",
            CloseInput,
            close,
            Audience.STAFF,
            summary="Close a conversation, as an agent",
            answers={200: ConversationView},
            errors=refusals,
            headers=changing,
            examples=(Example({"reason": "resolved"}, path, tenant, sender=agent),),
        ),
    )


def _conversation(conversation: Conversation) -> Answer:
    return Answer(conversation_view(conversation))


def _statuses(text: str) -> frozenset[Status]:
    try:
        return frozenset(Status(word.strip().upper()) for word in text.split(",") if word.strip())
    except ValueError:
        raise Unprocessable(
            f"status must be of {', '.join(Status)}, with commas between."
        ) from None
