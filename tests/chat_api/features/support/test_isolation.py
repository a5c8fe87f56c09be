"""
No tenant sees or changes what is another's: every endpoint, tried with the other tenant's tokens.

The table has a row for each endpoint that the API documents, so that one which is added without a
thought of tenants fails here.
"""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.chat_api.client import Client, Reply
from tests.chat_api.features.support.desk import (
    OTHER_TENANT,
    TENANT,
    Customer,
    Desk,
    naming,
)

FINGERPRINT = "the victim's secret"
VICTIM = "{victim}"
"""Stands for the conversation of the tenant that is attacked."""


class OfConversation(NamedTuple):
    """An endpoint that is about one conversation, and what to ask it."""

    bodies: tuple[Any, ...] = (None,)


class OfMany(NamedTuple):
    """An endpoint that shows conversations; with `query`, their own staff see the victims."""

    query: str = ""
    method_body: Any = None


class Starting(NamedTuple):
    """An endpoint that finds a customer's conversation or makes one."""

    body: Any


class Channels(NamedTuple):
    """An endpoint that lets somebody listen."""


class NotOfTenants(NamedTuple):
    """An endpoint that knows nothing of conversations, and why."""

    because: str


Row = OfConversation | OfMany | Starting | Channels | NotOfTenants

MESSAGE = OfConversation(({"content": "attack"},))
HISTORY = OfConversation()
ACCOUNT = NotOfTenants("it is about the caller's own account")
DIRECT_CHATS = NotOfTenants("direct chats are of people, who can be of no tenant")
WALLET = NotOfTenants("wallets are of people, who can be of no tenant")
OPERATION = NotOfTenants("it is about the API as a whole")

ENDPOINTS: dict[str, Row] = {
    "POST /api/conversations": Starting({"attributes": {"fingerprint": FINGERPRINT}}),
    "POST /api/conversations/{}/queue": OfConversation(({},)),
    "POST /api/conversations/{}/messages": OfConversation(
        (
            {"content": "attack"},
            {"content": "attack", "senderType": "AGENT"},
            {"content": "attack", "senderId": "3", "senderType": "AGENT"},
        )
    ),
    "GET /api/conversations/{}/messages": HISTORY,
    "DELETE /api/conversations/{}": OfConversation(),
    "POST /api/customer/sessions": Starting({"fingerprint": FINGERPRINT}),
    "POST /api/customer/conversations/{}/messages": MESSAGE,
    "GET /api/customer/conversations/{}/messages": HISTORY,
    "POST /api/customer/conversations/{}/close": OfConversation(),
    "POST /api/agent/sessions": OfMany(method_body={}),
    "GET /api/agent/queue": OfMany(),
    "GET /api/agent/conversations": OfMany("?status=QUEUED,ASSIGNED,CONNECTED,CLOSED"),
    "POST /api/agent/conversations/{}/accept": OfConversation(({}, {"agentId": "6"})),
    "POST /api/agent/conversations/{}/assign": OfConversation(
        ({"agentId": "6"}, {"agentId": "4"}, {"agentId": "5"})
    ),
    "POST /api/agent/conversations/{}/messages": MESSAGE,
    "GET /api/agent/conversations/{}/messages": HISTORY,
    "POST /api/agent/conversations/{}/close": OfConversation(({"reason": "attack"},)),
    "POST /api/v1/live-agent/sessions": Starting({"initial_message": "hi"}),
    "GET /api/v1/live-agent/sessions": OfMany(),
    "GET /api/v1/live-agent/sessions/{}": OfConversation(),
    "PUT /api/v1/live-agent/sessions/{}/status": OfConversation(
        (
            {"status": "resolved"},
            {"status": "pending"},
            {"status": "active"},
            {"status": "active", "assigned_agent_id": 6},
        )
    ),
    "POST /api/v1/live-agent/messages": OfConversation(
        (
            {"session_id": VICTIM, "message_text": "attack", "sender_type": "agent"},
            {"session_id": VICTIM, "message_text": "attack", "sender_type": "user"},
        )
    ),
    "GET /api/v1/live-agent/messages/{}": HISTORY,
    "PUT /api/v1/live-agent/agent/status": NotOfTenants("it is about the agent as a person"),
    "POST /broadcasting/auth": Channels(),
    "POST /pusher/auth": Channels(),
    "POST /api/agent/broadcasting/auth": Channels(),
    "POST /api/login": ACCOUNT,
    "POST /api/v1/auth/login": ACCOUNT,
    "POST /api/logout": ACCOUNT,
    "GET /api/user": ACCOUNT,
    "POST /broadcasting/user-auth": ACCOUNT,
    "POST /pusher/user-auth": ACCOUNT,
    "POST /api/devices": ACCOUNT,
    "GET /api/devices": ACCOUNT,
    "DELETE /api/devices/{}": ACCOUNT,
    "POST /api/chats": DIRECT_CHATS,
    "GET /api/chats": DIRECT_CHATS,
    "POST /api/chats/{}/messages": DIRECT_CHATS,
    "GET /api/chats/{}/messages": DIRECT_CHATS,
    "POST /api/chats/{}/typing": DIRECT_CHATS,
    "POST /api/chats/{}/read": DIRECT_CHATS,
    "POST /api/chat/personal/messages": DIRECT_CHATS,
    "GET /api/chat/personal/messages": DIRECT_CHATS,
    "GET /api/wallet/balance": WALLET,
    "GET /api/wallet/transactions": WALLET,
    "POST /api/wallet/payments": WALLET,
    "POST /webhooks/reverb": NotOfTenants("only the realtime server can sign for it"),
    "GET /actuator/health": OPERATION,
    "GET /metrics": OPERATION,
    "POST /api/admin/seed": OPERATION,
    "GET /openapi.json": OPERATION,
    "GET /docs": OPERATION,
}


async def documented(desk: Desk) -> set[str]:
    document = await desk.nobody.get("/openapi.json")
    return {
        f"{method.upper()} {re.sub(r'{[^}]*}', '{}', path)}"
        for path, methods in document.body["paths"].items()
        for method in methods
    }


async def test_every_endpoint_has_a_row(desk: Desk) -> None:
    there = await documented(desk)

    assert there - set(ENDPOINTS) == set(), "decide what these are to other tenants"
    assert set(ENDPOINTS) - there <= {"GET /metrics"}


@dataclass(frozen=True)
class Victims:
    """A conversation that waits, one that an agent has, and one of a user with an account."""

    waiting: Customer
    taken: Customer
    users: Customer

    @property
    def all(self) -> tuple[Customer, ...]:
        return self.waiting, self.taken, self.users

    @classmethod
    async def of(cls, desk: Desk) -> "Victims":
        waiting = await desk.customer(FINGERPRINT)
        taken = await desk.taken("another secret")
        ali = await desk.account("ali")
        session = await ali.post(
            "/api/v1/live-agent/sessions", {"initial_message": "hi"}, headers=naming()
        )
        users = Customer(ali, session.body["session_id"], TENANT)
        for customer in (waiting, taken):
            await customer.says("for our own tenant's eyes")
        return cls(waiting, taken, users)

    async def as_seen_by_their_own(self, desk: Desk) -> list[Any]:
        supervisor = await desk.supervisor()
        return [
            reply.body
            for customer in self.all
            for reply in (
                await supervisor.ask(
                    "GET", f"/api/v1/live-agent/sessions/{customer.id}", headers=naming()
                ),
                await supervisor.ask("GET", f"{customer.agents_path}/messages", headers=naming()),
            )
        ]


class Attacker(NamedTuple):
    """Somebody with a token, and what they say the tenant is."""

    client: Client
    headers: dict[str, str]


async def strangers(desk: Desk) -> dict[str, Attacker]:
    """Return those whose tokens are not for the victims' tenant, whatever they say."""
    agent = await desk.account("agent.tenant2")
    visitor = (await desk.customer("attacker", OTHER_TENANT)).client
    user = await desk.account("vali")
    own = naming(OTHER_TENANT)
    theirs = naming(TENANT)
    return {
        "agent": Attacker(agent, {}),
        "agent who names his own": Attacker(agent, own),
        "agent who names theirs": Attacker(agent, theirs),
        "agent at their address": Attacker(agent, {"Host": TENANT}),
        "visitor": Attacker(visitor, {}),
        "visitor who names their own": Attacker(visitor, own),
        "visitor who names theirs": Attacker(visitor, theirs),
        "visitor at their address": Attacker(visitor, {"Host": TENANT}),
        "user": Attacker(user, {}),
        "user who names theirs": Attacker(user, theirs),
    }


async def misled(desk: Desk) -> dict[str, Attacker]:
    """Return those who may see the victims, in requests about another tenant."""
    agent, supervisor = await desk.agent(), await desk.supervisor()
    await desk.registers(OTHER_TENANT)
    return {
        "their agent, elsewhere": Attacker(agent, naming(OTHER_TENANT)),
        "their agent, at another's address": Attacker(agent, {"Host": OTHER_TENANT}),
        "their supervisor, elsewhere": Attacker(supervisor, naming(OTHER_TENANT)),
        "their supervisor, at another's address": Attacker(supervisor, {"Host": OTHER_TENANT}),
    }


async def attack(attacker: Attacker, endpoint: str, victim: Customer, body: Any) -> Reply:
    method, _, path = endpoint.partition(" ")
    if isinstance(body, dict):
        body = {name: victim.id if value == VICTIM else value for name, value in body.items()}
    return await attacker.client.ask(
        method, path.replace("{}", victim.id), body, headers=attacker.headers
    )


async def test_no_conversation_is_reached_from_another_tenant(desk: Desk) -> None:
    victims = await Victims.of(desk)
    attackers = await strangers(desk) | await misled(desk)
    before = await victims.as_seen_by_their_own(desk)

    for endpoint, row in ENDPOINTS.items():
        if not isinstance(row, OfConversation):
            continue
        for name, attacker in attackers.items():
            for victim in victims.all:
                for body in row.bodies:
                    reply = await attack(attacker, endpoint, victim, body)
                    assert (reply.status, reply.body["code"]) == (403, "forbidden"), (
                        endpoint,
                        name,
                        body,
                        reply,
                    )
        for victim in victims.all:
            own_token = Attacker(victim.client, naming(OTHER_TENANT))
            for body in row.bodies:
                reply = await attack(own_token, endpoint, victim, body)
                assert reply.status == 403, (endpoint, "the customer, elsewhere", body, reply)

    assert await victims.as_seen_by_their_own(desk) == before
    for victim in victims.all:
        told = [event for event in desk.heard(victim.channel) if "attack" in str(event)]
        assert told == []


async def test_no_list_shows_what_is_another_tenants(desk: Desk) -> None:
    victims = await Victims.of(desk)
    supervisor = Attacker(await desk.supervisor(), naming())
    attackers = await strangers(desk) | await misled(desk)
    secrets = {customer.id for customer in victims.all} | {"for our own tenant's eyes"}

    for endpoint, row in ENDPOINTS.items():
        if not isinstance(row, OfMany):
            continue
        path = endpoint + row.query
        own = await attack(supervisor, path, victims.waiting, row.method_body)
        assert any(customer.id in str(own.body) for customer in victims.all), endpoint
        for name, attacker in attackers.items():
            reply = await attack(attacker, path, victims.waiting, row.method_body)
            assert reply.status in (200, 403), (endpoint, name, reply)
            found = [secret for secret in secrets if secret in str(reply.body)]
            assert found == [], (endpoint, name)


async def test_no_secret_opens_what_it_opened_at_another_tenant(desk: Desk) -> None:
    victims = await Victims.of(desk)
    ali = await desk.account("ali")

    for endpoint, row in ENDPOINTS.items():
        if not isinstance(row, Starting):
            continue
        reply = await attack(
            Attacker(ali, naming(OTHER_TENANT)), endpoint, victims.waiting, row.body
        )
        assert reply.status in (200, 201), (endpoint, reply)
        assert OTHER_TENANT in str(reply.body) or "conversationId" in reply.body
        assert not any(customer.id in str(reply.body) for customer in victims.all), endpoint


async def test_nobodys_view_changes_when_a_customer_asks_for_help_at_the_apis_own_name(
    desk: Desk,
) -> None:
    victims = await Victims.of(desk)
    at_the_api = {"Host": "api.example.com"}
    readers = {
        "agent of one tenant": (await desk.account("agent.tenant2"), "/api/agent/queue"),
        "agent of all": (await desk.agent(), "/api/agent/queue"),
        "supervisor": (await desk.supervisor(), "/api/v1/live-agent/sessions"),
        "user": (victims.users.client, "/api/v1/live-agent/sessions"),
        "visitor": (victims.waiting.client, f"{victims.waiting.path}/messages"),
    }

    async def seen() -> dict[str, tuple[int, bool]]:
        return {
            name: (reply.status, TENANT in str(reply.body) or "own tenant" in str(reply.body))
            for name, (client, path) in readers.items()
            for reply in [await client.ask("GET", path, headers=at_the_api)]
        }

    before = await seen()
    for header in (at_the_api, naming("api.example.com")):
        reply = await desk.nobody.ask(
            "POST", "/api/customer/sessions", {"fingerprint": str(header)}, headers=header
        )
        assert reply.status == 200, reply

    assert await seen() == before
    assert {status for status, _ in before.values()} == {200}
    assert before["supervisor"] == before["user"] == before["visitor"] == (200, True)


async def test_no_channel_is_heard_from_another_tenant(desk: Desk) -> None:
    victims = await Victims.of(desk)
    attackers = await strangers(desk)
    channels = [
        f"{kind}-conversation.{victim.id}"
        for kind in ("private", "presence")
        for victim in victims.all
    ]

    for endpoint, row in ENDPOINTS.items():
        if not isinstance(row, Channels):
            continue
        for name, attacker in attackers.items():
            for channel in [*channels, f"private-queue.{TENANT}"]:
                body = {"socket_id": "12.34", "channel_name": channel}
                reply = await attack(attacker, endpoint, victims.waiting, body)
                assert reply.status == 403, (endpoint, name, channel, reply)
