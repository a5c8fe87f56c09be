"""
A day at the support desks of two tenants: REST one way, pusher-js the other, and no browser.

Everybody's pusher-js keeps all it hears. Each step of the day takes from there what it made happen
and compares it whole; what is left at the end was heard by somebody whom it did not concern.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import aiohttp
from sqlalchemy import select

from chat_api.features.support.feature import Timing
from chat_api.features.support.models import OwedSnapshot
from chat_api.realtime.reverb import ReverbApp
from chat_api.runtime import ChatApi
from chat_api.store.outbox import Outbox
from reverb_py.core.apps import Webhook
from reverb_py.testing import TestServer, serving
from tests.chat_api.client import Client, Reply
from tests.chat_api.world import chat_api, settings_for
from tests.support.pusher_js import PusherJs, pusher_js

TENANTS: Final = ("tenant1.example.com", "tenant2.example.com")
SESSIONS: Final = "/api/v1/live-agent/sessions"
MESSAGES: Final = "/api/v1/live-agent/messages"
PATIENCE: Final = 30.0  # seconds
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

Heard = tuple[str, Any]
"""The name of an event, and its data."""


class Listener:
    """What one pusher-js has heard and nobody has taken yet, by channel and in order."""

    def __init__(self, program: PusherJs) -> None:
        self.program = program
        self.channels: set[str] = set()
        self._heard: defaultdict[str, asyncio.Queue[Heard]] = defaultdict(asyncio.Queue)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Listener"]:
        """Keep what it hears while the block runs."""
        task = asyncio.create_task(self._listen())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _listen(self) -> None:
        while True:
            match await self.program.hears(patience=1_000):
                case ["event", channel, name, data]:
                    self._heard[channel].put_nowait((name, data))
                case ["error", error]:
                    self._heard["the connection"].put_nowait(("error", error))

    async def next(self, channel: str) -> Heard:
        """Take what came next on a channel."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._heard[channel].get()
        except TimeoutError:
            raise TimeoutError(f"nothing on {channel}; not taken: {self.not_taken()}") from None

    async def join(self, channel: str) -> Any:
        """Subscribe, and return what the server says of the channel."""
        await self.program.do("subscribe", channel)
        name, data = await self.next(channel)
        assert name == "pusher:subscription_succeeded", (channel, data)
        self.channels.add(channel)
        return data

    async def leave(self) -> None:
        """Close the connection, as an app does that is put away."""
        await self.program.do("disconnect")
        self.channels.clear()

    async def is_refused(self, channel: str) -> None:
        await self.program.do("subscribe", channel)
        name, error = await self.next(channel)
        assert name == "pusher:subscription_error", channel
        assert (error["type"], error["status"]) == ("AuthError", 403)

    def not_taken(self) -> dict[str, list[Heard]]:
        """Take everything that is left."""
        return {
            channel: [queue.get_nowait() for _ in range(queue.qsize())]
            for channel, queue in self._heard.items()
            if queue.qsize()
        }


@dataclass
class Person:
    """Somebody who has to do with one tenant: what they ask, and their listener."""

    rest: Client
    tenant: str
    ears: Listener

    async def asks(
        self, method: str, path: str, json: Any = None, *, on_another_device: bool = False
    ) -> Reply:
        """Ask as an app does that need not hear what it has done itself."""
        headers = {"X-Tenant-Domain": self.tenant}
        if not on_another_device:
            headers["X-Socket-ID"] = self.ears.program.socket_id
        return await self.rest.ask(method, path, json, headers=headers)

    async def does(self, method: str, path: str, json: Any = None, **how: Any) -> Any:
        """Ask for what is granted, and return the answer's body."""
        reply = await self.asks(method, path, json, **how)
        assert reply.status in (200, 201), reply
        return reply.body

    async def hears(self, channel: str, name: str, data: Any) -> None:
        """Take what came next on a channel, which has to be this."""
        heard = await self.ears.next(channel)
        assert (heard[0], timeless(heard[1])) == (name, timeless(data)), channel


@dataclass
class Visitor(Person):
    """A customer without an account, in the words of the guide that their app was made from."""

    conversation: str
    shown: dict[str, Any]
    messages: str
    message: Callable[[str], dict[str, Any]]
    close: tuple[str, str]

    @property
    def channel(self) -> str:
        return f"private-conversation.{self.conversation}"

    @property
    def presence(self) -> str:
        return f"presence-conversation.{self.conversation}"


class Session(NamedTuple):
    """A conversation of somebody with an account."""

    id: str
    shown: dict[str, Any]

    @property
    def channel(self) -> str:
        return f"private-conversation.{self.id}"

    def waiting(self, user: Person, *, position: int) -> dict[str, Any]:
        """Return the session as agents see it in the queue."""
        return {
            "id": self.id,
            "conversationId": self.id,
            "status": "QUEUED",
            "customer": self.shown,
            "tenant": user.tenant,
            "channel": "web",
            "position": position,
            "waitingSeconds": "A WHILE",
            "queuedAt": "TIME",
            "preview": "I need help with invoice generation",
        }


class Desks:
    """Both servers, and everybody's way to them."""

    def __init__(
        self, server: TestServer, api: ChatApi, http: aiohttp.ClientSession, stack: AsyncExitStack
    ) -> None:
        self.api = api
        self.listeners: list[Listener] = []
        self._server = server
        self._http = http
        self._stack = stack
        self.nobody = Client(http, api.url)

    async def listener(self, token: str) -> Listener:
        """Run pusher-js as whom the token names, until the end of the test."""
        authorization = {
            "transport": "ajax",
            "endpoint": f"{self.api.url}/broadcasting/auth",
            "headers": {"Authorization": f"Bearer {token}"},
        }
        program = await self._stack.enter_async_context(
            pusher_js(self._server.app.key, self._server.port, channelAuthorization=authorization)
        )
        [program.socket_id] = await program.hears("state", "connected")
        listener = Listener(program)
        await self._stack.enter_async_context(listener.listening())
        self.listeners.append(listener)
        return listener

    async def account(self, email: str, tenant: str) -> Person:
        client = await self.nobody.log_in(email)
        assert client.token is not None
        return Person(client, tenant, await self.listener(client.token))

    async def agent_of(self, tenant: str) -> Person:
        """Open an account for somebody who answers for one tenant, and log them in."""
        email = f"agent@{tenant}"
        await self.api.accounts.create(
            email=email,
            password="password",
            first_name="Agent",
            last_name=f"of {tenant}",
            role="agent",
            tenants=(tenant,),
        )
        return await self.account(email, tenant)

    async def guide_000_customer(self, tenant: str) -> Visitor:
        """Start a conversation as guide 000's app does, and ask for an agent."""
        attributes = {"fingerprint": "phone", "displayName": "Jane Doe", "contact": "0123456789"}
        headers = {"X-Participant-Id": "visitor-1", "X-Participant-Name": "Jane Doe"}
        reply = await self.nobody.post(
            "/api/conversations",
            {"attributes": attributes},
            headers=headers | {"X-Tenant-Domain": tenant},
        )
        assert reply.status == 201, reply
        path = f"/api/conversations/{reply.body['id']}"
        visitor = Visitor(
            Client(self._http, self.api.url, reply.body["token"]),
            tenant,
            await self.listener(reply.body["token"]),
            reply.body["id"],
            {"id": "visitor-1", "displayName": "Jane Doe", "phone": "0123456789"},
            f"{path}/messages",
            lambda content: {
                "senderId": "visitor-1",
                "senderDisplayName": "Jane Doe",
                "senderType": "CUSTOMER",
                "content": content,
                "type": "TEXT",
            },
            ("DELETE", path),
        )
        await visitor.does("POST", f"{path}/queue", {"channel": "web"})
        return visitor

    async def guide_001_customer(self, tenant: str) -> Visitor:
        """Start a session as guide 001's app does."""
        given = {"fingerprint": "phone", "displayName": "Jane Doe", "contact": "0123456789"}
        reply = await self.nobody.post(
            "/api/customer/sessions", given, headers={"X-Tenant-Domain": tenant}
        )
        assert reply.status == 200, reply
        conversation, token = reply.body["conversationId"], reply.body["token"]
        path = f"/api/customer/conversations/{conversation}"
        ears = await self.listener(token)
        # By which id agents know them, this app learns only where they are seen.
        members = await ears.join(f"presence-conversation.{conversation}")
        return Visitor(
            Client(self._http, self.api.url, token),
            tenant,
            ears,
            conversation,
            {
                "id": members["myID"].removeprefix("customer:"),
                "displayName": "Jane Doe",
                "phone": "0123456789",
            },
            f"{path}/messages",
            lambda content: {"content": content, "metadata": {"source": "web"}},
            ("POST", f"{path}/close"),
        )

    async def everything_is_told(self) -> None:
        """Wait until the realtime server has every event there is."""
        async with asyncio.timeout(PATIENCE):
            store = self.api.store
            while True:
                snapshots = await store.all(select(OwedSnapshot.tenant))
                if not snapshots and not (await Outbox(store).backlog()).owed:
                    return
                await asyncio.sleep(0.01)

    async def is_over(self) -> None:
        """Fail if anybody has heard more than what was taken."""
        await self.everything_is_told()
        for channel in set().union(*(listener.channels for listener in self.listeners)):
            await self._server.publish("the end", channel, "{}")
        for listener in self.listeners:
            for channel in listener.channels:
                assert await listener.next(channel) == ("the end", {}), channel
            assert listener.not_taken() == {}


@asynccontextmanager
async def desks_on(database: str) -> AsyncIterator[Desks]:
    """Run both servers, the one telling the other who comes and goes, and pusher-js for all."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving())
        app = server.app
        reverb = ReverbApp(app.id, app.key, app.secret, "127.0.0.1", server.port)
        settings = settings_for(database, reverb)
        api = await stack.enter_async_context(chat_api(settings, timing=Timing(gone=3.1)))
        kinds = frozenset({"member_added", "member_removed"})
        webhook = Webhook(
            url=f"{api.url}/webhooks/reverb", kinds=kinds, prefixes=("presence-conversation.",)
        )
        server.reload(replace(app, webhooks=(webhook,)))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        desks = Desks(server, api, http, stack)
        try:
            yield desks
            await desks.is_over()
        finally:
            server.reload(app)  # nobody is there any more to be told of the end


def timeless(value: Any) -> Any:
    """Replace times and durations, so that the rest can be compared exactly."""
    match value:
        case dict():
            return {
                name: "A WHILE" if name == "waitingSeconds" else timeless(inner)
                for name, inner in value.items()
            }
        case list():
            return [timeless(inner) for inner in value]
        case str() if TIME.fullmatch(value):
            return "TIME"
        case _:
            return value


def waiting(visitor: Visitor, preview: str | None) -> dict[str, Any]:
    """Return the visitor as agents see them in the queue, where they are always first."""
    entry = {
        "id": visitor.conversation,
        "conversationId": visitor.conversation,
        "status": "QUEUED",
        "customer": visitor.shown,
        "tenant": visitor.tenant,
        "channel": "web",
        "position": 1,
        "waitingSeconds": "A WHILE",
        "queuedAt": "TIME",
    }
    return entry if preview is None else entry | {"preview": preview}


def news(message: Any) -> dict[str, Any]:
    """Return the data of a `chat:message`, of a message as the one who sent it got it back."""
    return {"conversationId": message["conversationId"], "message": message}


def own_channel(person: Person) -> str:
    return f"private-user.{person.rest.user_id}"


def agent_name(tenant: str) -> str:
    return f"Agent of {tenant}"


def state(conversation: str, status: str, agent: Any = None, **more: Any) -> dict[str, Any]:
    """Return the data of a `system:event`."""
    event = {"conversationId": conversation, "status": status, "timestamp": "TIME", **more}
    return event if agent is None else event | {"agent": agent}


async def test_two_tenants_are_served_and_nothing_crosses_between_them(empty_database: str) -> None:
    async with desks_on(empty_database) as desks:
        first, second = TENANTS
        agents = {tenant: await desks.agent_of(tenant) for tenant in TENANTS}
        ali = await desks.account("ali@example.com", first)
        vali = await desks.account("vali@example.com", second)
        for user in (ali, vali):
            await user.ears.join(own_channel(user))

        async with asyncio.TaskGroup() as both:
            for tenant, other, user, customer in (
                (first, second, ali, desks.guide_000_customer),
                (second, first, vali, desks.guide_001_customer),
            ):
                day = a_day(desks, agents[tenant], user, customer, other=agents[other])
                both.create_task(day)
        await two_customers_chat(ali, vali)


async def a_day(
    desks: Desks,
    agent: Person,
    user: Person,
    customer: Callable[[str], Awaitable[Visitor]],
    *,
    other: Person,
) -> None:
    """Have a visitor and somebody with an account helped; `other` answers for another tenant."""
    visitor = await somebody_waits(desks, agent, customer)
    session = await somebody_waits_behind(desks, visitor, agent, user)
    await others_are_kept_out(visitor, session, other)
    await visitor_is_helped(visitor, agent, user, session)
    await user_is_helped(agent, user, session)
    visitor = await visitor_is_away_for_a_while(desks, visitor, agent)
    await both_come_to_an_end(visitor, agent, user, session)


async def somebody_waits(
    desks: Desks, agent: Person, customer: Callable[[str], Awaitable[Visitor]]
) -> Visitor:
    queue = f"private-queue.{agent.tenant}"
    await agent.ears.join(queue)

    visitor = await customer(agent.tenant)
    await agent.hears(queue, "queue:snapshot", [waiting(visitor, None)])
    await desks.everything_is_told()  # their place, before they could hear it
    await visitor.ears.join(visitor.channel)

    said = await visitor.does("POST", visitor.messages, visitor.message("Hello!"))
    assert said["content"] == "Hello!"
    await agent.hears(queue, "queue:snapshot", [waiting(visitor, "Hello!")])
    return visitor


async def somebody_waits_behind(
    desks: Desks, visitor: Visitor, agent: Person, user: Person
) -> Session:
    queue = f"private-queue.{agent.tenant}"
    started = await user.does(
        "POST",
        SESSIONS,
        {
            "initial_message": "I need help with invoice generation",
            "user_context": {"page_url": "/invoices/create", "browser": "Chrome 120"},
        },
    )
    assert (started["tenant_domain"], started["status"]) == (user.tenant, "pending")
    # What their app is not told is by which id agents know them.
    shown = await agent.does("GET", "/api/agent/queue?page=0&size=20")
    customer = shown["content"][1]["customer"]
    assert (customer["displayName"], customer["phone"]) == (started["user_name"], None)
    session = Session(started["session_id"], customer)
    entries = [waiting(visitor, "Hello!"), session.waiting(user, position=2)]
    assert timeless(shown["content"]) == entries
    await agent.hears(queue, "queue:snapshot", entries)
    await desks.everything_is_told()
    await user.ears.join(session.channel)
    return session


async def others_are_kept_out(visitor: Visitor, session: Session, other: Person) -> None:
    """Try everything that an agent of this tenant could do."""
    await other.ears.is_refused(f"private-queue.{visitor.tenant}")
    for conversation in (visitor.conversation, session.id):
        await other.ears.is_refused(f"private-conversation.{conversation}")
        await other.ears.is_refused(f"presence-conversation.{conversation}")
        for method, path, given in (
            ("POST", f"/api/agent/conversations/{conversation}/accept", {}),
            ("POST", f"/api/agent/conversations/{conversation}/messages", {"content": "Psst"}),
            ("GET", f"/api/agent/conversations/{conversation}/messages", None),
            ("POST", f"/api/agent/conversations/{conversation}/close", {}),
            ("PUT", f"{SESSIONS}/{conversation}/status", {"status": "active"}),
            ("GET", f"{SESSIONS}/{conversation}", None),
            ("POST", MESSAGES, {"session_id": conversation, "message_text": "Psst"}),
            ("GET", f"{MESSAGES}/{conversation}", None),
        ):
            for tenant in TENANTS:
                asks = replace(other, tenant=tenant)
                assert (await asks.asks(method, path, given)).status == 403, (method, path, tenant)


async def visitor_is_helped(
    visitor: Visitor, agent: Person, user: Person, session: Session
) -> None:
    path = f"/api/agent/conversations/{visitor.conversation}"
    taken = await agent.does("POST", f"{path}/accept", {})
    smith = taken["agent"]
    assert taken["status"] == "ASSIGNED"
    await visitor.hears(
        visitor.channel, "system:event", state(visitor.conversation, "ASSIGNED", smith)
    )
    queue = f"private-queue.{agent.tenant}"
    await agent.hears(queue, "queue:snapshot", [session.waiting(user, position=1)])
    await user.hears(session.channel, "system:event", state(session.id, "QUEUED", position=1))

    helps = await agent.does("POST", f"{path}/messages", {"content": "How can I help?"})
    await visitor.hears(
        visitor.channel, "system:event", state(visitor.conversation, "CONNECTED", smith)
    )
    await visitor.hears(visitor.channel, "chat:message", news(helps))

    # Guide 001's app has joined already.
    if visitor.presence not in visitor.ears.channels:
        await visitor.ears.join(visitor.presence)
    await agent.ears.join(visitor.channel)
    there = await agent.ears.join(visitor.presence)
    assert (there["count"], there["me"]["info"]) == (
        2,
        {"name": smith["displayName"], "role": "agent"},
    )
    await visitor.hears(visitor.presence, "pusher:member_added", there["me"])

    asked = await visitor.does("POST", visitor.messages, visitor.message("Where is my order?"))
    await agent.hears(visitor.channel, "chat:message", news(asked))
    said = await agent.does("POST", f"{path}/messages", {"content": "On its way."})
    await visitor.hears(visitor.channel, "chat:message", news(said))
    more = await agent.does(
        "POST", f"{path}/messages", {"content": "Anything else?"}, on_another_device=True
    )
    await visitor.hears(visitor.channel, "chat:message", news(more))
    await agent.hears(visitor.channel, "chat:message", news(more))

    await visitor.ears.program.do("trigger", visitor.presence, "client-typing", {"typing": True})
    await agent.hears(visitor.presence, "client-typing", {"typing": True})
    await agent.ears.program.do("trigger", visitor.presence, "client-typing", {"typing": False})
    await visitor.hears(visitor.presence, "client-typing", {"typing": False})

    history = await visitor.does("GET", f"{visitor.messages}?limit=100")
    assert [message["content"] for message in history] == [
        "Hello!",
        "How can I help?",
        "Where is my order?",
        "On its way.",
        "Anything else?",
    ]
    assert history == await agent.does("GET", f"{path}/messages?limit=100")


async def user_is_helped(agent: Person, user: Person, session: Session) -> None:
    status = {
        "status": "active",
        "assigned_agent_id": str(agent.rest.user_id),
        "assigned_agent_name": "Agent",
    }
    taken = await agent.does("PUT", f"{SESSIONS}/{session.id}/status", status)
    agent_view = {"id": str(agent.rest.user_id), "displayName": taken["assigned_agent_name"]}
    await user.hears(session.channel, "system:event", state(session.id, "ASSIGNED", agent_view))
    await agent.hears(f"private-queue.{agent.tenant}", "queue:snapshot", [])

    def message(text: str, sender_type: str) -> dict[str, str]:
        return {"session_id": session.id, "message_text": text, "sender_type": sender_type}

    async def unread(who: Person) -> tuple[int, int]:
        shown = await who.does("GET", f"{SESSIONS}/{session.id}")
        return shown["unread_count_user"], shown["unread_count_agent"]

    said = await agent.does("POST", MESSAGES, message("Please share your transaction ID", "agent"))
    await user.hears(session.channel, "system:event", state(session.id, "CONNECTED", agent_view))
    name, heard = await user.ears.next(session.channel)
    assert (name, heard["message"]["id"]) == ("chat:message", str(said["message_id"]))
    assert heard["message"]["content"] == "Please share your transaction ID"

    assert await unread(user) == (1, 1)
    read = await user.does("GET", f"{MESSAGES}/{session.id}?mark_as_read=true")
    assert [row["message_text"] for row in read["messages"]] == [
        "I need help with invoice generation",
        "Please share your transaction ID",
    ]
    assert await unread(user) == (0, 1)
    await user.does("POST", MESSAGES, message("It is 4711", "user"))
    assert await unread(agent) == (0, 2)
    listed = await agent.does("GET", f"{SESSIONS}?status=active")
    assert [(row["session_id"], row["preview"]) for row in listed["sessions"]][:1] == [
        (session.id, "It is 4711")
    ]
    await agent.does("GET", f"{MESSAGES}/{session.id}?mark_as_read=true")
    assert await unread(agent) == (0, 0)
    rows = (await user.does("GET", f"{MESSAGES}/{session.id}"))["messages"]
    assert all(row["read_by_user"] and row["read_by_agent"] for row in rows)


async def visitor_is_away_for_a_while(desks: Desks, visitor: Visitor, agent: Person) -> Visitor:
    assert visitor.rest.token is not None
    smith = {"id": str(agent.rest.user_id), "displayName": agent_name(agent.tenant)}
    await visitor.ears.leave()
    name, gone = await agent.ears.next(visitor.presence)
    assert (name, gone["info"]) == (
        "pusher:member_removed",
        {"name": "Jane Doe", "role": "customer"},
    )
    disconnected = state(visitor.conversation, "DISCONNECTED", smith)
    await agent.hears(visitor.channel, "system:event", disconnected)

    path = f"/api/agent/conversations/{visitor.conversation}/messages"
    missed = await agent.does("POST", path, {"content": "Are you there?"})
    await desks.everything_is_told()

    visitor = replace(visitor, ears=await desks.listener(visitor.rest.token))
    await visitor.ears.join(visitor.channel)
    await visitor.ears.join(visitor.presence)
    await agent.hears(visitor.presence, "pusher:member_added", gone)
    back = state(visitor.conversation, "CONNECTED", smith)
    await agent.hears(visitor.channel, "system:event", back)
    await visitor.hears(visitor.channel, "system:event", back)
    assert await visitor.does("GET", f"{visitor.messages}?limit=1") == [missed]
    return visitor


async def both_come_to_an_end(
    visitor: Visitor, agent: Person, user: Person, session: Session
) -> None:
    smith = {"id": str(agent.rest.user_id), "displayName": agent_name(agent.tenant)}
    closed = await visitor.does(*visitor.close)
    assert closed["status"] == "CLOSED"
    over = state(visitor.conversation, "CLOSED", smith)
    await agent.hears(visitor.channel, "system:event", over)
    path = f"/api/agent/conversations/{visitor.conversation}/messages"
    too_late = await agent.asks("POST", path, {"content": "Good bye!"})
    assert (too_late.status, too_late.body["code"]) == (410, "gone")
    await visitor.hears(visitor.channel, "system:error", too_late.body)

    await agent.does("PUT", f"{SESSIONS}/{session.id}/status", {"status": "resolved"})
    await user.hears(session.channel, "system:event", state(session.id, "CLOSED", smith))
    message = {"session_id": session.id, "message_text": "Thanks!", "sender_type": "user"}
    too_late = await user.asks("POST", MESSAGES, message)
    assert too_late.status == 410
    assert (await agent.does("GET", f"{SESSIONS}?status=resolved"))["total"] == 1
    assert (await agent.does("GET", "/api/agent/conversations")) == []


async def two_customers_chat(ali: Person, vali: Person) -> None:
    """Have two people talk who know each other, whichever tenants they need help from."""
    at_ali, at_vali = own_channel(ali), own_channel(vali)
    opened = await ali.does("POST", "/api/chats", {"user_id": vali.rest.user_id})
    chat = f"/api/chats/{opened['id']}"

    posted = await ali.does("POST", f"{chat}/messages", {"content": "Salom!", "tempId": "t-1"})
    await vali.hears(at_vali, "MessageSent", {"type": "message", "data": posted})
    await vali.does("POST", f"{chat}/typing", {})
    name, typing = await ali.ears.next(at_ali)
    assert (name, typing["data"]["user"]["id"]) == ("UserIsTyping", vali.rest.user_id)
    marked = await vali.does("POST", f"{chat}/read", {})
    assert marked["message_ids"] == [posted["message"]["id"]]
    read = {"conversation_id": opened["id"], "reader_id": vali.rest.user_id, **marked}
    await ali.hears(at_ali, "MessagesRead", {"type": "read", "data": read})
