"""Guides 000 and 001 as agents' apps live them, and what supervisors may do beyond that."""

import asyncio
from dataclasses import replace
from typing import Any

from chat_api.features.auth.tokens import Tokens
from chat_api.kernel.clock import system_clock
from chat_api.settings import Settings
from tests.chat_api.client import Client
from tests.chat_api.features.support.desk import (
    OTHER_TENANT,
    TENANT,
    Customer,
    Desk,
    all_of,
    desk_at,
    naming,
    timeless,
)
from tests.chat_api.features.support.guide_models import (
    ChatMessage,
    ConversationMetadata,
    Participant,
)
from tests.chat_api.receiver import RealtimeReceiver

TOO_LATE = {
    "code": "conflict",
    "message": "Conversation is no longer available to accept.",
}
AGENT_SMITH = {"id": "3", "displayName": "Agent Smith"}


async def test_guide_001_an_agent_from_the_login_to_the_end_of_a_conversation(desk: Desk) -> None:
    customer = await desk.customer(contact="0123456789")
    await customer.says("I need help")
    agent = await desk.agent()

    booted = await agent.post(
        "/api/agent/sessions",
        {"agentId": "3", "displayName": "Ashik", "channel": "web"},
        headers=naming(),
    )
    queue = await agent.ask("GET", "/api/agent/queue?page=0&size=20", headers=naming())
    accepted = await agent.post(
        f"{customer.agents_path}/accept", {"agentId": "3", "displayName": "Ashik"}
    )
    sent = await agent.post(
        f"{customer.agents_path}/messages",
        {"content": "How can I help?", "metadata": {"channel": "support-panel"}},
    )
    messages = await agent.get(f"{customer.agents_path}/messages?limit=100")
    listed = await agent.get("/api/agent/conversations?status=ASSIGNED,CONNECTED")
    closed = await agent.post(f"{customer.agents_path}/close", {"reason": "resolved"})
    afterwards = await agent.get("/api/agent/conversations?status=ASSIGNED,CONNECTED")

    entry = {
        "id": customer.id,
        "conversationId": customer.id,
        "status": "QUEUED",
        "customer": {
            "id": queue.body["content"][0]["customer"]["id"],
            "displayName": "Jane Doe",
            "phone": "0123456789",
        },
        "tenant": TENANT,
        "channel": "web",
        "position": 1,
        "waitingSeconds": queue.body["content"][0]["waitingSeconds"],
        "queuedAt": "TIME",
        "preview": "I need help",
    }
    assert (booted.status, queue.status) == (200, 200)
    assert booted.body["queue"][0]["waitingSeconds"] >= 0
    booted.body["queue"][0]["waitingSeconds"] = entry["waitingSeconds"]
    assert timeless(booted.body) == {
        "agent": AGENT_SMITH,
        "channel": "web",
        "conversations": [],
        "queue": [entry],
        "maxConcurrent": 3,
    }
    assert timeless(queue.body) == {
        "content": [entry],
        "page": 0,
        "size": 20,
        "totalElements": 1,
        "totalPages": 1,
    }
    conversation = {
        "id": customer.id,
        "status": "ASSIGNED",
        "customer": entry["customer"],
        "agent": AGENT_SMITH,
        "createdAt": "TIME",
        "updatedAt": "TIME",
        "tenant": TENANT,
        "channel": "web",
    }
    assert (accepted.status, timeless(accepted.body)) == (200, conversation)
    assert ConversationMetadata.from_json(accepted.body).agent == Participant("3", "Agent Smith")
    assert sent.status == 201
    assert timeless(sent.body) == {
        "id": sent.body["id"],
        "conversationId": customer.id,
        "sender": {"id": "3", "type": "AGENT", "displayName": "Agent Smith"},
        "type": "TEXT",
        "content": "How can I help?",
        "timestamp": "TIME",
        "metadata": {"channel": "support-panel"},
    }
    assert [ChatMessage.from_json(each).content for each in messages.body] == [
        "I need help",
        "How can I help?",
    ]
    assert (listed.status, timeless(listed.body)) == (
        200,
        [{**conversation, "status": "CONNECTED"}],
    )
    assert (closed.status, timeless(closed.body)) == (
        200,
        {**conversation, "status": "CLOSED", "closeReason": "resolved"},
    )
    assert afterwards.body == []
    assert await desk.states(customer, "CLOSED") == ["ASSIGNED", "CONNECTED", "CLOSED"]


async def test_the_customer_hears_who_answers(desk: Desk) -> None:
    customer = await desk.taken()

    event = await desk.hears(
        customer.channel, "system:event", lambda data: data["status"] == "ASSIGNED"
    )

    assert timeless(event) == {
        "conversationId": customer.id,
        "status": "ASSIGNED",
        "agent": AGENT_SMITH,
        "timestamp": "TIME",
    }


async def many_agents(desk: Desk, count: int) -> list[Client]:
    """Open accounts of agents and return them logged in."""
    tokens = Tokens(desk.settings.jwt_secret, desk.settings.jwt_lifetime, system_clock)
    people = await asyncio.gather(
        *(
            desk.api.accounts.create(
                email=f"racer{number}@example.com",
                password="password",
                first_name="Racer",
                last_name=str(number),
                role="agent",
                tenants=("*",),
            )
            for number in range(count)
        )
    )
    return [
        desk.with_token(
            tokens.issue(
                user_id=person.id,
                email=person.email,
                name=person.name,
                role="agent",
                tenants=("*",),
            ).text
        )
        for person in people
    ]


async def test_of_a_hundred_agents_who_race_for_one_conversation_exactly_one_gets_it(
    desk: Desk,
) -> None:
    customer = await desk.customer()
    agents = await many_agents(desk, 100)

    replies = await all_of(*(agent.post(f"{customer.agents_path}/accept", {}) for agent in agents))

    winners = [reply for reply in replies if reply.status == 200]
    assert len(winners) == 1
    assert [(reply.status, reply.body) for reply in replies if reply.status != 200] == [
        (409, TOO_LATE)
    ] * 99
    history = await customer.client.post(f"{customer.path}/queue", {})
    assert history.body["agent"] == winners[0].body["agent"]
    await desk.hears(f"private-queue.{TENANT}", "queue:snapshot", lambda entries: entries == [])
    assert await desk.states(customer, "ASSIGNED") == ["ASSIGNED"]


async def test_an_agent_who_races_with_himself_stays_within_his_capacity(desk: Desk) -> None:
    customers = [await desk.customer(f"phone {number}") for number in range(10)]
    agent = await desk.agent()

    replies = await all_of(
        *(agent.post(f"{customer.agents_path}/accept", {}) for customer in customers)
    )

    assert sorted(reply.status for reply in replies) == [200] * 3 + [409] * 7
    assert {reply.body["code"] for reply in replies if reply.status == 409} == {"agent_at_capacity"}
    own = await agent.get("/api/agent/conversations")
    assert len(own.body) == 3


async def test_closing_one_makes_room_and_zero_is_no_limit(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with desk_at(replace(settings, conversations_by_agent=1), receiver) as desk:
        agent = await desk.agent()
        first, second = await desk.taken("first"), await desk.customer("second")
        full = await agent.post(f"{second.agents_path}/accept", {})
        by_a_message = await agent.post(f"{second.agents_path}/messages", {"content": "hi"})
        own_again = await agent.post(f"{first.agents_path}/accept", {})
        await agent.post(f"{first.agents_path}/close", {})
        free = await agent.post(f"{second.agents_path}/accept", {})
    async with desk_at(replace(settings, conversations_by_agent=0), receiver) as desk:
        more = [await desk.taken(f"more {number}") for number in range(4)]

    assert (full.status, full.body["code"]) == (409, "agent_at_capacity")
    assert (by_a_message.status, by_a_message.body["code"]) == (409, "agent_at_capacity")
    assert (own_again.status, free.status, len(more)) == (200, 200, 4)


async def test_what_is_over_is_gone(desk: Desk) -> None:
    agent = await desk.agent()
    dropped, closed = await desk.customer("dropped"), await desk.taken("closed")
    await dropped.client.ask("DELETE", dropped.path)
    await closed.client.ask("DELETE", closed.path)

    for customer in (dropped, closed):
        accepted = await agent.post(f"{customer.agents_path}/accept", {})
        written = await agent.post(f"{customer.agents_path}/messages", {"content": "hi"})
        assert (accepted.status, accepted.body["code"]) == (410, "gone")
        assert (written.status, written.body["code"]) == (410, "gone")
    again = await agent.post(f"{closed.agents_path}/close", {"reason": "resolved"})
    assert (again.status, again.body["status"]) == (200, "CLOSED")
    assert "closeReason" not in again.body


async def test_an_agent_can_only_be_himself(desk: Desk) -> None:
    customer = await desk.customer()
    agent = await desk.agent()

    as_another = [
        await agent.post(f"{customer.agents_path}/accept", {"agentId": "4"}),
        await agent.post("/api/agent/sessions", {"agentId": "agent-123"}, headers=naming()),
        await agent.post(f"{customer.agents_path}/messages", {"content": "x", "agentId": "4"}),
        await agent.post(f"{customer.agents_path}/assign", {"agentId": "4"}),
    ]
    by_address = await agent.post(
        f"{customer.agents_path}/accept", {"agentId": "agent@example.com", "displayName": "Boss"}
    )

    assert [reply.status for reply in as_another] == [403] * 4
    assert by_address.status == 200
    assert by_address.body["agent"] == AGENT_SMITH


async def test_the_first_message_of_an_agent_takes_what_waits(desk: Desk) -> None:
    customer = await desk.customer()
    agent, other = await desk.agent(), await desk.account("agent2")

    first = await agent.post(f"{customer.agents_path}/messages", {"content": "hi"})
    second = await other.post(f"{customer.agents_path}/messages", {"content": "hi"})
    own = await agent.get("/api/agent/conversations?status=CONNECTED")

    assert (first.status, second.status) == (201, 403)
    assert [each["id"] for each in own.body] == [customer.id]
    assert await desk.states(customer, "CONNECTED") == ["ASSIGNED", "CONNECTED"]


async def test_an_agent_ends_what_waits_and_still_sees_it_whatever_they_have(desk: Desk) -> None:
    customer = await desk.customer("nuisance")
    agent, other = await desk.agent(), await desk.account("agent2")
    for number in range(3):
        await desk.taken(f"phone {number}")

    closed = await agent.post(f"{customer.agents_path}/close", {"reason": "spam"})
    again = await other.post(f"{customer.agents_path}/close", {})
    read = await agent.get(f"{customer.agents_path}/messages")
    listed = await agent.get("/api/agent/conversations?status=CLOSED")

    assert (closed.status, closed.body["status"]) == (200, "CLOSED")
    assert (closed.body["agent"], closed.body["closeReason"]) == (AGENT_SMITH, "spam")
    assert (again.status, read.status) == (403, 200)
    assert [each["id"] for each in listed.body] == [customer.id]
    assert await desk.states(customer, "CLOSED") == ["CLOSED"]
    await desk.hears(f"private-queue.{TENANT}", "queue:snapshot", lambda entries: entries == [])


async def test_agents_read_what_waits_and_what_is_theirs(desk: Desk) -> None:
    waiting, taken = await desk.customer("waiting"), await desk.taken("taken")
    await waiting.says("hello?")
    other = await desk.account("agent2")

    may = await other.get(f"{waiting.agents_path}/messages")
    may_not = [
        await other.get(f"{taken.agents_path}/messages"),
        await other.post(f"{taken.agents_path}/messages", {"content": "x"}),
        await other.post(f"{taken.agents_path}/close", {}),
    ]
    listed = await other.get("/api/agent/conversations?status=QUEUED,ASSIGNED,CONNECTED,CLOSED")
    of_another = await other.get("/api/agent/conversations?agentId=3")

    assert (may.status, [each["content"] for each in may.body]) == (200, ["hello?"])
    assert [reply.status for reply in may_not] == [403] * 3
    assert listed.body == []
    assert of_another.status == 403


async def test_supervisors_see_close_and_reassign_but_do_not_write(desk: Desk) -> None:
    customer = await desk.taken()
    supervisor, new = await desk.supervisor(), await desk.account("agent2")
    await customer.says("I am not happy")

    read = await supervisor.get(f"{customer.agents_path}/messages")
    written = await supervisor.post(f"{customer.agents_path}/messages", {"content": "x"})
    all_of_them = await supervisor.get("/api/agent/conversations")
    of_one = await supervisor.get("/api/agent/conversations?agentId=4")
    assigned = await supervisor.post(f"{customer.agents_path}/assign", {"agentId": new.user_id})
    old_agents = await (await desk.agent()).get(f"{customer.agents_path}/messages")
    new_agents = await new.post(f"{customer.agents_path}/messages", {"content": "I am new"})
    closed = await supervisor.post(f"{customer.agents_path}/close", {"reason": "too long"})

    assert [each["content"] for each in read.body] == ["I am not happy"]
    assert written.status == 403
    assert [each["id"] for each in all_of_them.body] == [customer.id]
    assert of_one.body == []
    assert assigned.status == 200
    assert assigned.body["agent"] == {"id": "4", "displayName": "Agent Jones"}
    assert assigned.body["status"] == "ASSIGNED"
    assert (old_agents.status, new_agents.status) == (403, 201)
    assert (closed.status, closed.body["closeReason"]) == (200, "too long")
    assert await desk.states(customer, "CLOSED") == [
        "ASSIGNED",
        "ASSIGNED",
        "CONNECTED",
        "CLOSED",
    ]


async def test_whom_a_conversation_can_be_assigned_to(desk: Desk) -> None:
    customer = await desk.customer()
    supervisor = await desk.supervisor()
    full = await desk.agent()
    for number in range(3):
        await desk.taken(f"phone {number}")

    answers = {
        agent_id: await supervisor.post(f"{customer.agents_path}/assign", {"agentId": agent_id})
        for agent_id in ("1", "6", "999", "x", "", str(full.user_id), "4", "5")
    }
    again = await supervisor.post(f"{customer.agents_path}/assign", {"agentId": 5})

    assert {agent_id: reply.status for agent_id, reply in answers.items()} == {
        "1": 422,  # a user
        "6": 422,  # an agent of another tenant
        "999": 404,
        "x": 404,
        "": 422,
        "3": 409,
        "4": 200,
        "5": 200,  # the supervisor
    }
    assert answers["3"].body["code"] == "agent_at_capacity"
    assert again.body == answers["5"].body


async def test_customers_and_users_are_no_agents(desk: Desk) -> None:
    customer = await desk.customer()
    user = await desk.account("ali")

    for client in (customer.client, user, desk.nobody):
        replies = [
            await client.post("/api/agent/sessions", {}),
            await client.get("/api/agent/queue"),
            await client.get("/api/agent/conversations"),
            await client.post(f"{customer.agents_path}/accept", {}),
            await client.post(f"{customer.agents_path}/assign", {"agentId": "3"}),
            await client.post(f"{customer.agents_path}/messages", {"content": "x"}),
            await client.get(f"{customer.agents_path}/messages"),
            await client.post(f"{customer.agents_path}/close", {}),
        ]
        expected = 401 if client is desk.nobody else 403
        assert [reply.status for reply in replies] == [expected] * 8


async def test_an_agent_may_write_through_the_customers_endpoint_as_what_he_is(
    desk: Desk,
) -> None:
    customer = await desk.taken()
    agent = await desk.agent()
    body = {"senderId": "3", "senderType": "AGENT", "content": "hi", "type": "TEXT"}

    as_agent = await agent.post(f"{customer.path}/messages", body)
    as_customer = await agent.post(f"{customer.path}/messages", {**body, "senderType": "CUSTOMER"})
    as_another = await agent.post(f"{customer.path}/messages", {**body, "senderId": "4"})

    assert (as_agent.status, as_agent.body["sender"]["type"]) == (201, "AGENT")
    assert (as_customer.status, as_another.status) == (403, 403)


async def test_the_queue_is_paged_the_longest_wait_first(desk: Desk) -> None:
    customers = [await desk.customer(f"phone {number}") for number in range(5)]
    elsewhere = await desk.customer("phone", OTHER_TENANT)
    agent = await desk.agent()

    async def page(query: str) -> Any:
        reply = await agent.ask("GET", f"/api/agent/queue{query}", headers=naming())
        assert reply.status == 200, reply
        return reply.body

    first, last, beyond = await page("?size=2"), await page("?page=2&size=2"), await page("?page=9")
    everywhere = await agent.get("/api/agent/queue")

    def ids(body: Any) -> list[str]:
        return [entry["id"] for entry in body["content"]]

    assert ids(first) == [customer.id for customer in customers[:2]]
    assert [entry["position"] for entry in first["content"]] == [1, 2]
    assert (first["totalElements"], first["totalPages"]) == (5, 3)
    assert ids(last) == [customers[4].id]
    assert last["content"][0]["position"] == 5
    assert (ids(beyond), beyond["totalElements"]) == ([], 5)
    assert ids(everywhere.body) == [customer.id for customer in [*customers, elsewhere]]
    assert everywhere.body["content"][5]["position"] == 1
    for query in ("?size=0", "?size=101", "?page=-1", "?page=999999999"):
        refused = await agent.get(f"/api/agent/queue{query}")
        assert refused.status == 422
    for query in ("?status=WAITING", "?size=501", "?agentId=%00"):
        refused = await agent.get(f"/api/agent/conversations{query}")
        assert refused.status == 422


async def test_seeding_fills_the_queues_of_the_demo_tenants_once(desk: Desk) -> None:
    agent = await desk.agent()
    before = await agent.get("/api/agent/queue")

    seeded = [await desk.nobody.post("/api/admin/seed") for _ in range(2)]
    after = await agent.get("/api/agent/queue")

    assert before.body["totalElements"] == 0
    assert [reply.status for reply in seeded] == [200, 200]
    assert seeded[0].body["conversations"] == seeded[1].body["conversations"]
    assert [entry["id"] for entry in after.body["content"]] == seeded[0].body["conversations"]
    assert {entry["tenant"] for entry in after.body["content"]} == {TENANT, OTHER_TENANT}
    assert len(desk.heard(f"private-queue.{TENANT}")) <= 2
    await desk.hears(f"private-queue.{TENANT}", "queue:snapshot", lambda entries: len(entries) == 3)


async def closing_race(desk: Desk, customer: Customer) -> tuple[int, int]:
    agent = await desk.agent()
    accepted, closed = await all_of(
        agent.post(f"{customer.agents_path}/accept", {}),
        customer.client.ask("DELETE", customer.path),
    )
    return accepted.status, closed.status


async def test_accepting_and_closing_at_once_leaves_no_doubt(desk: Desk) -> None:
    for number in range(5):
        customer = await desk.customer(f"phone {number}")

        accepted, closed = await closing_race(desk, customer)

        assert closed == 200
        assert accepted in (200, 410)
        states = await desk.states(customer, "CLOSED")
        assert states == (["ASSIGNED", "CLOSED"] if accepted == 200 else ["CLOSED"])


async def test_nobody_learns_from_a_wrong_id_more_than_that(desk: Desk) -> None:
    supervisor = await desk.supervisor()
    unknown = "/api/agent/conversations/00000000-0000-4000-8000-000000000000"

    for action in ("accept", "assign", "messages", "close"):
        reply = await supervisor.post(f"{unknown}/{action}", {"agentId": "5", "content": "x"})

        assert (reply.status, reply.body) == (
            404,
            {"code": "not_found", "message": "There is no such conversation."},
        )
