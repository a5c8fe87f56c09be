"""Support conversations over HTTP, for customers, in the words of both families of their apps."""

from typing import Annotated, Any, Final, Literal

import msgspec

from chat_api.features.auth.tokens import IssuedToken
from chat_api.features.support.customers import MAX_FINGERPRINT, MAX_NAME, Visit
from chat_api.features.support.messages import MAX_CONTENT, Draft, Messages, Sent
from chat_api.features.support.rules import AgentAtCapacity, Conversation, Party, Side
from chat_api.features.support.service import MAX_CHANNEL, Conversations, Started
from chat_api.features.support.views import (
    ConversationView,
    MessageView,
    SessionView,
    StartedView,
    conversation_view,
    message_view,
)
from chat_api.kernel.callers import Participant
from chat_api.kernel.errors import (
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    TooMany,
    Unprocessable,
)
from chat_api.kernel.routes import (
    Answer,
    Audience,
    Call,
    Example,
    Header,
    NoInput,
    Route,
    stated,
)

__all__ = [
    "MAX_MESSAGES",
    "Content",
    "HistoryQuery",
    "Metadata",
    "customer_routes",
    "sent",
    "temp_id_of",
]

MAX_MESSAGES: Final = 500
"""Of one answer."""

_Fingerprint = Annotated[
    str | None,
    stated(
        "A secret that the app makes up and the device keeps: whoever has it gets the open "
        "conversation. Needed unless a trusted proxy says who it is.",
        minLength=1,
        maxLength=MAX_FINGERPRINT,
    ),
]
_Name = Annotated[str, stated("The name that agents see.", maxLength=MAX_NAME)]
_Contact = Annotated[str | None, stated("How else to reach them.", maxLength=MAX_NAME)]
Content = Annotated[str, stated(minLength=1, maxLength=MAX_CONTENT)]
Metadata = Annotated[
    dict[str, Any] | None, stated("Anything, up to 4,000 bytes and 16 levels deep.")
]
_TempId = Annotated[
    str | None, stated("The app's name for it: sent again, nothing is stored twice.", maxLength=100)
]


class Attributes(msgspec.Struct, frozen=True, rename={"display_name": "displayName"}):
    """Who asks for help."""

    fingerprint: _Fingerprint = None
    display_name: _Name = ""
    contact: _Contact = None


class OpenInput(msgspec.Struct, frozen=True):
    """A customer who may want to talk to somebody."""

    attributes: Attributes


class SessionInput(msgspec.Struct, frozen=True, rename={"display_name": "displayName"}):
    """A customer who wants to talk to somebody."""

    fingerprint: _Fingerprint = None
    display_name: _Name = ""
    contact: _Contact = None
    channel: Annotated[str, stated(minLength=1, maxLength=MAX_CHANNEL)] = "web"
    metadata: Metadata = None


class QueueInput(msgspec.Struct, frozen=True):
    """From where the customer asks for an agent."""

    channel: Annotated[str, stated(minLength=1, maxLength=MAX_CHANNEL)] = "web"


class HistoryQuery(msgspec.Struct, frozen=True):
    """How many of the last messages."""

    limit: Annotated[int, stated(minimum=1, maximum=MAX_MESSAGES)] = 100


class MessageInput(
    msgspec.Struct,
    frozen=True,
    rename={
        "sender_id": "senderId",
        "sender_name": "senderDisplayName",
        "sender_type": "senderType",
        "kind": "type",
        "temp_id": "tempId",
    },
):
    """A message, and who says that they write it."""

    content: Content
    sender_id: Annotated[str | None, stated("The customer's own id.", maxLength=MAX_NAME)] = None
    sender_name: Annotated[str | None, stated(maxLength=MAX_NAME)] = None
    sender_type: Literal["CUSTOMER", "AGENT"] = "CUSTOMER"
    kind: Annotated[str, stated(enum=["TEXT", "SYSTEM"])] = "TEXT"
    metadata: Metadata = None
    temp_id: _TempId = None


class TextInput(msgspec.Struct, frozen=True, rename={"temp_id": "tempId"}):
    """A message."""

    content: Content
    metadata: Metadata = None
    temp_id: _TempId = None


def customer_routes(conversations: Conversations, messages: Messages) -> tuple[Route[Any], ...]:
    """Return what customers' apps ask."""

    async def party_of(call: Call[Any]) -> Party:
        return await conversations.party(call.identity, call.tenant, side=Side.CUSTOMER)

    async def open_conversation(call: Call[OpenInput]) -> Answer:
        """
        The same fingerprint gets the open conversation again (200). Nobody is asked for until it
        enters the queue.
        """
        started = await conversations.start(_visit(call, call.input.attributes), enters_queue=False)
        view, token = conversation_view(started.conversation), _token(started)
        body = StartedView(
            **msgspec.structs.asdict(view), token=token.text, expires_in=token.expires_in
        )
        return Answer(body, 201 if started.is_new else 200)

    async def start_session(call: Call[SessionInput]) -> Answer:
        """The same fingerprint gets the open conversation again, with a fresh token."""
        started = await conversations.start(_visit(call, call.input), enters_queue=True)
        conversation, token = started.conversation, _token(started)
        return Answer(
            SessionView(
                conversation_id=conversation.id,
                status=conversation.status,
                token=token.text,
                expires_in=token.expires_in,
                position=msgspec.UNSET if conversation.position is None else conversation.position,
            )
        )

    async def enter_queue(call: Call[QueueInput]) -> Answer:
        conversation = await conversations.enter_queue(
            await party_of(call), call.path["conversation_id"], channel=call.input.channel
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

    async def send_as(call: Call[MessageInput]) -> Answer:
        """
        A customer can only write as themselves. An `Idempotency-Key` does what `tempId` does.

        An app that makes up its customers' ids may use its own from the first message on.
        """
        given = call.input
        stored = await messages.send(
            await party_of(call),
            call.path["conversation_id"],
            Draft(given.content, temp_id_of(call), given.kind, given.metadata),
            side=Side(given.sender_type),
            sender_id=given.sender_id,
            from_socket=call.socket_id,
        )
        return sent(stored)

    async def send(call: Call[TextInput]) -> Answer:
        """An `Idempotency-Key` does what `tempId` does."""
        given = call.input
        stored = await messages.send(
            await party_of(call),
            call.path["conversation_id"],
            Draft(given.content, temp_id_of(call), metadata=given.metadata),
            side=Side.CUSTOMER,
            from_socket=call.socket_id,
        )
        return sent(stored)

    async def close(call: Call[NoInput]) -> Answer:
        """One that is over stays as it is."""
        conversation = await conversations.close(
            await party_of(call),
            call.path["conversation_id"],
            side=Side.CUSTOMER,
            from_socket=call.socket_id,
        )
        return _conversation(conversation)

    about = (Header.PARTICIPANT_ID, Header.PARTICIPANT_NAME, Header.TENANT)
    within = (Header.PARTICIPANT_ID, Header.TENANT, Header.SOCKET_ID)
    sending = (*within, Header.IDEMPOTENCY_KEY)
    refusals = (NotFound, Forbidden, Unprocessable)
    tenant = {Header.TENANT: "tenant1.example.com"}
    first, second = {"conversation_id": "{conversation}"}, {"conversation_id": "{session}"}
    by_all = "/api/conversations/{conversation_id}"
    by_customers = "/api/customer/conversations/{conversation_id}"

    def showing(path: str, summary: str, example: Example) -> Route[HistoryQuery]:
        return Route(
            "GET",
            f"{path}/messages",
            HistoryQuery,
            history,
            Audience.PARTIES,
            summary=summary,
            answers={200: list[MessageView]},
            errors=refusals,
            headers=within[:2],
            examples=(example,),
        )

    def closing(method: str, path: str, summary: str, example: Example) -> Route[NoInput]:
        return Route(
            method,
            path,
            NoInput,
            close,
            Audience.PARTIES,
            summary=summary,
            answers={200: ConversationView},
            errors=(NotFound, Forbidden),
            headers=within,
            examples=(example,),
        )

    return (
        Route(
            "POST",
            "/api/conversations",
            OpenInput,
            open_conversation,
            Audience.ANYONE,
            summary="Start or resume a conversation, as a customer",
            answers={201: StartedView, 200: StartedView},
            errors=(Unprocessable, TooMany),
            headers=about,
            examples=(
                Example(
                    {
                        "attributes": {
                            "fingerprint": "b7c1a4e0-device-secret",
                            "displayName": "Jane Doe",
                            "contact": "0123456789",
                        }
                    },
                    headers={
                        **tenant,
                        Header.PARTICIPANT_ID: "visitor-1",
                        Header.PARTICIPANT_NAME: "Jane Doe",
                    },
                    keeps={"conversation": "id", "visitor": "token"},
                ),
            ),
        ),
        Route(
            "POST",
            f"{by_all}/queue",
            QueueInput,
            enter_queue,
            Audience.PARTIES,
            summary="Ask for an agent, as a customer",
            answers={200: ConversationView},
            errors=(*refusals, Gone),
            headers=within,
            examples=(Example({"channel": "web"}, first, tenant, sender="{visitor}"),),
        ),
        Route(
            "POST",
            f"{by_all}/messages",
            MessageInput,
            send_as,
            Audience.PARTIES,
            summary="Send a message, as a customer who gives their id",
            answers={201: MessageView, 200: MessageView},
            errors=(*refusals, Gone, Conflict, AgentAtCapacity, TooMany),
            headers=sending,
            examples=(
                Example(
                    {
                        "senderId": "visitor-1",
                        "senderDisplayName": "Jane Doe",
                        "senderType": "CUSTOMER",
                        "content": "Hello!",
                        "type": "TEXT",
                    },
                    first,
                    tenant,
                    sender="{visitor}",
                ),
            ),
        ),
        showing(
            by_all,
            "Show the last messages of a conversation",
            Example({"limit": 100}, first, tenant, sender="{visitor}"),
        ),
        closing(
            "DELETE",
            by_all,
            "Close a conversation",
            Example(
                path=first,
                headers={**tenant, Header.PARTICIPANT_ID: "visitor-1"},
                sender="{visitor}",
            ),
        ),
        Route(
            "POST",
            "/api/customer/sessions",
            SessionInput,
            start_session,
            Audience.ANYONE,
            summary="Start or resume a conversation and wait for an agent, as a customer",
            answers={200: SessionView},
            errors=(Unprocessable, TooMany),
            headers=about,
            examples=(
                Example(
                    {
                        "fingerprint": "client-generated-id",
                        "displayName": "Jane Doe",
                        "contact": "0123456789",
                    },
                    headers=tenant,
                    keeps={"session": "conversationId", "customer": "token"},
                ),
            ),
        ),
        Route(
            "POST",
            f"{by_customers}/messages",
            TextInput,
            send,
            Audience.PARTIES,
            summary="Send a message, as a customer",
            answers={201: MessageView, 200: MessageView},
            errors=(*refusals, Gone, TooMany),
            headers=sending,
            examples=(
                Example(
                    {"content": "Hello!", "metadata": {"source": "web"}},
                    second,
                    tenant,
                    sender="{customer}",
                ),
            ),
        ),
        showing(
            by_customers,
            "Show the last messages of a conversation, as a customer",
            Example({"limit": 50}, second, tenant, sender="{customer}"),
        ),
        closing(
            "POST",
            f"{by_customers}/close",
            "Close a conversation, as a customer",
            Example(
                path=first,
                headers=tenant,
                sender="{visitor}",
                summary="One that is over stays as it is",
            ),
        ),
    )


def sent(stored: Sent) -> Answer:
    """Return the answer to whoever has sent a message."""
    return Answer(message_view(stored.message), 201 if stored.is_new else 200)


def temp_id_of(call: Call[Any]) -> str | None:
    """Return the app's own name for a message, from its body or else from the header."""
    temp_id: str | None = call.input.temp_id
    return call.idempotency_key if temp_id is None else temp_id


def _conversation(conversation: Conversation) -> Answer:
    return Answer(conversation_view(conversation))


def _visit(call: Call[Any], given: Attributes | SessionInput) -> Visit:
    vouched = call.identity if isinstance(call.identity, Participant) else None
    participant_id = (call.headers.get(Header.PARTICIPANT_ID.value) or "").strip()
    name = (call.headers.get(Header.PARTICIPANT_NAME.value) or "").strip()
    return Visit(
        tenant=call.tenant.domain,
        address=call.address,
        fingerprint=given.fingerprint,
        participant_id=participant_id or None,
        is_vouched_for=vouched is not None,
        name=given.display_name or name,
        contact=given.contact,
        channel=given.channel if isinstance(given, SessionInput) else "web",
        metadata=given.metadata if isinstance(given, SessionInput) else None,
    )


def _token(started: Started) -> IssuedToken:
    assert started.token is not None, "only accounts have their own"
    return started.token
