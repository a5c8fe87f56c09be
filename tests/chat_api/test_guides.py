"""
The clients of the guides: each request as they send it, and all that their models read of it.

What further tests hold which line of which guide is in docs/guides.md.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from chat_api.settings import Settings
from tests.chat_api.client import Client, Reply
from tests.chat_api.features.support.desk import TENANT, Desk, desk_at
from tests.chat_api.features.support.guide_models import (
    AgentModel,
    Balance,
    ChatMessage,
    ConversationMetadata,
    Message,
    MessageModel,
    MessageSentEvent,
    MessagesReadEvent,
    Participant,
    PaymentNotification,
    SessionModel,
    Transaction,
    User,
    UserIsTypingEvent,
    WebSocketEvent,
    list_of,
    maybe,
    text,
    websocket_event,
    whole,
)
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import World

GUIDES = Path(__file__).parents[2] / "docs" / "guides.md"
Event = TypeVar("Event", MessageSentEvent, UserIsTypingEvent, MessagesReadEvent)


@pytest.fixture
async def desk(settings: Settings, receiver: RealtimeReceiver) -> AsyncIterator[Desk]:
    async with desk_at(settings, receiver) as desk:
        yield desk


class Dio:
    """The HTTP client of the Flutter apps: every request says that it is JSON, even a GET."""

    def __init__(self, nobody: Client, token: str | None = None) -> None:
        self.token = token
        self._nobody = nobody

    async def ask(self, method: str, path: str, data: Any = None, **headers: str) -> Reply:
        client = Client(self._nobody.session, self._nobody.url, self.token)
        sent = {"Content-Type": "application/json", "Accept": "application/json"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.ask(method, path, data, headers=sent | named)

    async def granted(self, method: str, path: str, data: Any = None, **headers: str) -> Any:
        """Return the answer's body; any status but a 2xx is an exception to Dio."""
        reply = await self.ask(method, path, data, **headers)
        assert 200 <= reply.status < 300, reply
        return reply.body


class LiveAgentApp:
    """Guide 002's app: its repositories, with the store in which it keeps strings."""

    def __init__(self, nobody: Client) -> None:
        self.storage: dict[str, str] = {}
        self._nobody = nobody

    @property
    def is_logged_in(self) -> bool:
        return "jwt_token" in self.storage

    async def ask(self, method: str, path: str, data: Any = None) -> Reply:
        reply = await Dio(self._nobody, self.storage.get("jwt_token")).ask(method, path, data)
        if reply.status == 401:
            del self.storage["jwt_token"]
        return reply

    async def log_in(self, email: str, password: str) -> AgentModel:
        credentials = {"email": email, "password": password, "role": "agent"}
        body = await Dio(self._nobody).granted("POST", "/api/v1/auth/login", credentials)
        agent = AgentModel.from_json(body["agent"])
        self.storage["jwt_token"] = text(body["access_token"])
        self.storage["agent_id"] = agent.id
        self.storage["agent_email"] = agent.email
        return agent

    def log_out(self) -> None:
        self.storage.clear()

    async def sessions(self, status: str | None = None) -> list[SessionModel]:
        narrowed = "" if status is None else f"status={status}&"
        path = f"/api/v1/live-agent/sessions?{narrowed}page=1&per_page=20"
        body = await self._granted("GET", path)
        assert [whole(body[name]) for name in ("total", "page", "per_page")][1:] == [1, 20]
        return list_of(SessionModel.from_json, body["sessions"])

    async def session(self, session_id: str) -> SessionModel:
        path = f"/api/v1/live-agent/sessions/{session_id}"
        return SessionModel.from_json(await self._granted("GET", path))

    async def assign(self, session_id: str, agent_id: str, agent_name: str) -> Any:
        return await self._granted(
            "PUT",
            f"/api/v1/live-agent/sessions/{session_id}/status",
            {
                "status": "active",
                "assigned_agent_id": agent_id,
                "assigned_agent_name": agent_name,
            },
        )

    async def close(self, session_id: str) -> Any:
        path = f"/api/v1/live-agent/sessions/{session_id}/status"
        return await self._granted("PUT", path, {"status": "resolved"})

    async def messages(self, session_id: str) -> list[MessageModel]:
        path = f"/api/v1/live-agent/messages/{session_id}?mark_as_read=true"
        body = await self._granted("GET", path)
        assert text(body["session"]["session_id"]) == session_id
        assert whole(body["total"]) == len(body["messages"])
        return list_of(MessageModel.from_json, body["messages"])

    async def send(self, session_id: str, message_text: str) -> MessageModel:
        message = {
            "session_id": session_id,
            "message_text": message_text,
            "sender_type": "agent",
        }
        return MessageModel.from_json(
            await self._granted("POST", "/api/v1/live-agent/messages", message)
        )

    async def set_online(self, is_online: bool, fcm_token: str) -> Any:
        status = {"is_online": is_online, "fcm_token": fcm_token}
        return await self._granted("PUT", "/api/v1/live-agent/agent/status", status)

    async def _granted(self, method: str, path: str, data: Any = None) -> Any:
        reply = await self.ask(method, path, data)
        assert 200 <= reply.status < 300, reply
        return reply.body


async def session_of_ali(desk: Desk) -> str:
    """Create a session as guide 002's portal does, and return its id."""
    ali = await desk.account("ali")
    created = await Dio(desk.nobody, ali.token).ask(
        "POST",
        "/api/v1/live-agent/sessions",
        {"initial_message": "I need help with invoices", "user_context": {"page": "/invoices"}},
        X_Tenant_Domain=TENANT,
    )
    assert created.status == 201
    return text(created.body["session_id"])


async def user_says(desk: Desk, session_id: str, words: str) -> None:
    ali = await desk.account("ali")
    message = {"session_id": session_id, "message_text": words, "sender_type": "user"}
    await Dio(desk.nobody, ali.token).granted("POST", "/api/v1/live-agent/messages", message)


async def test_guide_000_an_agents_app_from_the_queue_to_the_end(desk: Desk) -> None:
    customer = await desk.customer()
    await customer.says("Salom!")
    login = await desk.agent()
    app = Dio(desk.nobody, login.token)
    path = f"/api/agent/conversations/{customer.id}"

    queue = await app.granted("GET", "/api/agent/queue?page=0&size=20")
    accepted = await app.granted(
        "POST", f"{path}/accept", {"agentId": str(login.user_id), "displayName": "Agent Smith"}
    )
    assigned = await app.granted("GET", "/api/agent/conversations?status=ASSIGNED,CONNECTED")
    messages = await app.granted("GET", f"{path}/messages?limit=100")
    closed = await app.granted("POST", f"{path}/close")

    waiting = [ConversationMetadata.from_json(entry) for entry in queue["content"]]
    assert [(each.id, each.status) for each in waiting] == [(customer.id, "QUEUED")]
    conversation = ConversationMetadata.from_json(accepted)
    assert (conversation.id, conversation.status) == (customer.id, "ASSIGNED")
    assert conversation.agent == Participant(str(login.user_id), "Agent Smith")
    assert list_of(ConversationMetadata.from_json, assigned) == [conversation]
    [message] = list_of(ChatMessage.from_json, messages)
    assert (message.content, message.type) == ("Salom!", "TEXT")
    assert message.sender is not None
    assert message.sender["type"] == "CUSTOMER"
    assert ConversationMetadata.from_json(closed).status == "CLOSED"


async def test_guide_000_every_event_is_what_the_app_reads(desk: Desk) -> None:
    customer = await desk.taken()
    agent = await desk.agent()
    await agent.post(f"{customer.agents_path}/messages", {"content": "How can I help?"})
    await agent.post(f"{customer.agents_path}/close")
    too_late = await customer.client.post(f"{customer.path}/messages", {"content": "Wait!"})

    heard = await desk.hears(customer.channel, "chat:message")
    error = await desk.hears(customer.channel, "system:error")

    assert await desk.states(customer, "CLOSED") == ["ASSIGNED", "CONNECTED", "CLOSED"]
    for event in desk.heard(customer.channel, "system:event"):
        assert text(event["conversationId"]) == customer.id
        maybe(Participant.from_json, event, "agent")
    assert text(heard["conversationId"]) == customer.id
    assert ChatMessage.from_json(heard["message"]).content == "How can I help?"
    assert too_late.status == 410
    assert (text(error["code"]), text(error["message"])) == ("gone", too_late.body["message"])


async def test_guide_002_a_portal_asks_for_an_agent_and_reads_what_it_got(desk: Desk) -> None:
    ali = await desk.account("ali")
    portal = Dio(desk.nobody, ali.token)

    created = await portal.ask(
        "POST",
        "/api/v1/live-agent/sessions",
        {
            "initial_message": "I need help with invoice generation",
            "user_context": {"page_url": "/invoices/create", "browser": "Chrome 120"},
        },
        Host=TENANT,
    )

    assert created.status == 201
    session = SessionModel.from_json(created.body | {"unread_count_agent": 1})
    assert (session.tenant_domain, session.user_account) == (TENANT, "ali@example.com")
    assert (session.user_name, session.status) == ("Ali Valiyev", "pending")
    assert text(created.body["message"]) == "Session created. An agent will respond shortly."


async def test_guide_002_an_agents_app_from_the_login_to_the_end_of_a_session(desk: Desk) -> None:
    session_id = await session_of_ali(desk)
    app = LiveAgentApp(desk.nobody)

    agent = await app.log_in("agent@example.com", "password")
    online = await app.set_online(True, "fcm_registration_token_here")
    [pending] = await app.sessions("pending")
    assigned = await app.assign(session_id, app.storage["agent_id"], agent.name)
    first = await app.messages(session_id)
    sent = await app.send(session_id, "How can I help you?")
    await user_says(desk, session_id, "Where is my invoice?")
    between = await app.session(session_id)
    second = await app.messages(session_id)
    read = await app.session(session_id)
    closed = await app.close(session_id)
    [resolved] = await app.sessions("resolved")
    offline = await app.set_online(False, "fcm_registration_token_here")

    assert (agent.email, agent.name) == ("agent@example.com", "Agent Smith")
    assert [online[name] for name in ("agent_id", "agent_name", "is_online", "status")] == [
        "agent@example.com",
        "Agent Smith",
        True,
        "online",
    ]
    assert pending._replace(created_at=read.created_at, last_message_at=None) == SessionModel(
        session_id=session_id,
        tenant_domain=TENANT,
        user_account="ali@example.com",
        user_name="Ali Valiyev",
        assigned_agent_id=None,
        assigned_agent_name=None,
        status="pending",
        created_at=read.created_at,
        updated_at=None,
        last_message_at=None,
        unread_count_user=0,
        unread_count_agent=1,
        preview="I need help with invoices",
        metadata=None,
    )
    assert (assigned["status"], assigned["assigned_agent_name"]) == ("active", "Agent Smith")
    assert [message.message_text for message in first] == ["I need help with invoices"]
    assert (sent.sender_type, sent.sender_name) == ("agent", "Agent Smith")
    assert (sent.session_id, sent.notification_sent) == (session_id, False)
    assert (between.status, between.unread_count_agent, between.unread_count_user) == (
        "active",
        1,
        1,
    )
    assert (between.assigned_agent_id, between.assigned_agent_name) == (3, "Agent Smith")
    assert between.metadata == {"page": "/invoices"}
    assert [(message.sender_type, message.read_by_agent) for message in second] == [
        ("user", True),
        ("agent", True),
        ("user", True),
    ]
    assert [message.message_id for message in second][:2] == [
        first[0].message_id,
        sent.message_id,
    ]
    assert read.unread_count_agent == 0
    assert closed["status"] == "resolved"
    assert (resolved.status, resolved.preview) == ("resolved", "Where is my invoice?")
    assert (offline["is_online"], offline["status"]) == (False, "offline")


async def test_guide_002_an_agents_app_reads_and_ends_a_session_that_nobody_has(
    desk: Desk,
) -> None:
    session_id = await session_of_ali(desk)
    app = LiveAgentApp(desk.nobody)
    await app.log_in("agent@example.com", "password")

    [message] = await app.messages(session_id)
    read = await app.session(session_id)
    closed = await app.close(session_id)
    [resolved] = await app.sessions("resolved")
    afterwards = await app.session(session_id)

    assert (message.read_by_agent, read.unread_count_agent, read.status) == (True, 0, "pending")
    assert (closed["status"], closed["assigned_agent_name"]) == ("resolved", "Agent Smith")
    assert resolved.session_id == session_id
    assert (afterwards.status, afterwards.assigned_agent_id) == ("resolved", 3)


async def test_guide_002_messages_are_there_after_logging_out_and_in_again(desk: Desk) -> None:
    session_id = await session_of_ali(desk)
    app = LiveAgentApp(desk.nobody)
    agent = await app.log_in("agent@example.com", "password")
    await app.assign(session_id, agent.id, agent.name)
    before = await app.messages(session_id)

    app.log_out()
    was_logged_in = app.is_logged_in
    await user_says(desk, session_id, "Are you there?")
    await app.log_in("agent@example.com", "password")
    [row] = await app.sessions("active")
    after = await app.messages(session_id)

    assert not was_logged_in
    assert (row.unread_count_agent, row.preview) == (1, "Are you there?")
    assert [message.message_id for message in after][:-1] == [each.message_id for each in before]
    assert after[-1].message_text == "Are you there?"


async def test_guide_002_a_token_that_has_ended_sends_the_app_to_its_login(desk: Desk) -> None:
    app = LiveAgentApp(desk.nobody)
    await app.log_in("agent@example.com", "password")
    token = app.storage["jwt_token"]
    assert (await Client(desk.nobody.session, desk.nobody.url, token).post("/api/logout")).status

    refused = await app.ask("GET", "/api/v1/live-agent/sessions?page=1&per_page=20")

    assert (refused.status, app.is_logged_in) == (401, False)


async def test_guide_003_messages_over_http_arrive_in_real_time(world: World) -> None:
    ali, vali = [Dio(world.nobody, client.token) for client in (world.ali, world.vali)]
    personal = "/api/chat/personal/messages"

    sent = await ali.granted("POST", personal, {"recipientId": "2", "message": "Salom!"})
    media = {"url": "https://example.com/cat.png"}
    picture = await ali.granted(
        "POST", personal, {"recipientId": "2", "message": "", "type": "image", "media": media}
    )
    history = await vali.granted("GET", f"{personal}?with=1")
    events = [websocket_event(event.data) for event in await world.receiver.hears(4)]

    first, second = Message.from_json(sent["message"]), Message.from_json(picture["message"])
    assert (first.content, first.sender_id, first.type) == ("Salom!", "1", None)
    assert (second.type, second.metadata) == ("image", {"media": media})
    assert list_of(Message.from_json, history["messages"]) == [first, second]
    assert [event.message for event in of_type(MessageSentEvent, events)] == [
        first,
        first,
        second,
        second,
    ]


async def test_guide_003_a_wallet_is_read_over_http_and_heard_in_real_time(world: World) -> None:
    ali, vali = [Dio(world.nobody, client.token) for client in (world.ali, world.vali)]
    before = Balance.from_json(await vali.granted("GET", "/api/wallet/balance"))

    await ali.granted(
        "POST",
        "/api/wallet/payments",
        {"recipientId": "2", "amount": 1250, "note": "For lunch"},
        Idempotency_Key="lunch",
    )
    after = Balance.from_json(await vali.granted("GET", "/api/wallet/balance"))
    body = await vali.granted("GET", "/api/wallet/transactions")
    heard = {
        event.name: event.data
        for event in await world.receiver.hears(7)
        if event.channel == "private-wallet.2"
    }

    assert after == before._replace(balance=before.balance + 1250)
    newest, *_ = list_of(Transaction.from_json, body["transactions"])
    assert (newest.type, newest.amount, newest.counterparty) == ("credit", 1250, "Ali Valiyev")
    assert Balance.from_json(heard["balance:updated"]) == after
    assert Transaction.from_json(heard["transaction:added"]) == newest
    notification = PaymentNotification.from_json(heard["payment:notification"])
    assert (notification.transaction_id, notification.payer) == (newest.id, "Ali Valiyev")
    assert Balance.from_json(heard["wallet:updated"]) == after
    assert Transaction.from_json(heard["wallet:updated"]["transaction"]) == newest
    assert len(heard) == 4


async def test_guide_004_the_app_logs_in_and_is_let_into_its_own_channel(world: World) -> None:
    app = Dio(world.nobody)
    credentials = {"email": "ali@example.com", "password": "password"}
    login = await app.granted("POST", "/api/login", credentials)
    app.token = text(login["token"])

    user = User.from_json(await app.granted("GET", "/api/user"))
    leave = await app.granted(
        "POST",
        "/broadcasting/auth",
        {"channel_name": f"private-user.{user.id}", "socket_id": "1234.5678"},
    )
    refused = await app.ask(
        "POST",
        "/broadcasting/auth",
        {"channel_name": f"private-user.{user.id + 1}", "socket_id": "1234.5678"},
    )

    assert user == User.from_json(login["user"]) == User(1, "Ali", "Valiyev", "ali@example.com")
    assert re.fullmatch(r"app-key:[0-9a-f]{64}", text(leave["auth"]))
    assert refused.status == 403


async def test_guide_004_every_event_is_what_its_model_reads(world: World) -> None:
    ali, vali = [Dio(world.nobody, client.token) for client in (world.ali, world.vali)]

    sent = await ali.granted(
        "POST", "/api/chats/1/messages", {"content": "Hello!", "tempId": "temp-msg-xyz"}
    )
    again = await ali.granted(
        "POST", "/api/chats/1/messages", {"content": "Hello!", "tempId": "temp-msg-xyz"}
    )
    await vali.granted("POST", "/api/chats/1/typing", {})
    await vali.granted("POST", "/api/chats/1/read", {})
    heard = [
        websocket_event(event.data)
        for event in await world.receiver.hears(5)
        if event.channel == "private-user.1"
    ]

    message = Message.from_json(sent["message"])
    assert heard == [
        MessageSentEvent(message, "temp-msg-xyz"),
        UserIsTypingEvent(1, User(2, "Vali", "Aliyev", "vali@example.com")),
        MessagesReadEvent(1, 2, [message.id]),
    ]
    assert message[:5] == (message.id, "1", "1", "Ali Valiyev", "Hello!")
    assert message.status == "sent"
    assert again == sent
    names = [event.name for event in world.receiver.delivered]
    assert sorted(set(names)) == ["MessageSent", "MessagesRead", "UserIsTyping"]


async def test_a_page_may_send_every_header_that_a_guide_names(world: World) -> None:
    named = {
        "authorization",
        "content-type",
        "x-participant-id",
        "x-participant-name",
        "x-tenant-domain",
    }

    allowed = await world.nobody.ask(
        "OPTIONS",
        "/api/conversations",
        headers={
            "Origin": "https://shop.example.com",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": ", ".join(sorted(named)),
        },
    )

    headers = allowed.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert (allowed.status, named - set(headers)) == (204, set())


def of_type(kind: type[Event], events: list[WebSocketEvent]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


async def test_what_the_page_of_the_guides_names_is_served_and_everything_is_on_it(
    desk: Desk,
) -> None:
    page = GUIDES.read_text()
    served = {
        f"{route.method} {without_names(route.path)}"
        for feature in desk.api.features
        for route in feature.routes
    }
    named = {
        f"{method} {without_names(path)}"
        for method, path in re.findall(r"`(GET|POST|PUT|DELETE) (/[^`? ]*)[^`]*`", page)
    }
    events = {event.name for feature in desk.api.features for event in feature.events}

    assert named - served == set()
    assert {request for request in served - named if is_a_guides(request)} == set()
    assert {name for name in events if f"`{name}`" not in page} == set()


def without_names(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def is_a_guides(request: str) -> bool:
    """Tell whether a request belongs to the product, and not to those who operate it."""
    return "/api/" in request
