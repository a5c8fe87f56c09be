"""CHAT_AUTH=proxy: the deployment's own proxy says who asks, as guides 000 and 001 assume."""

import ipaddress
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from chat_api.settings import Settings
from tests.chat_api.client import Reply
from tests.chat_api.features.support.desk import OTHER_TENANT, TENANT, Desk, desk_at
from tests.chat_api.features.support.guide_models import ChatMessage, ConversationMetadata
from tests.chat_api.receiver import RealtimeReceiver

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


@pytest.fixture
async def behind_a_proxy(settings: Settings, receiver: RealtimeReceiver) -> AsyncIterator[Desk]:
    behind = replace(settings, auth="proxy", trusted_proxies=LOOPBACK)
    async with desk_at(behind, receiver) as desk:
        yield desk


async def ask(
    desk: Desk,
    method: str,
    path: str,
    body: Any = None,
    *,
    participant: str | None = None,
    tenant: str = TENANT,
) -> Reply:
    headers = {"X-Tenant-Domain": tenant}
    if participant is not None:
        headers |= {"X-Participant-Id": participant, "X-Participant-Name": participant.title()}
    return await desk.nobody.ask(method, path, body, headers=headers)


async def start(desk: Desk, participant: str | None = "jane", tenant: str = TENANT) -> str:
    reply = await ask(
        desk,
        "POST",
        "/api/customer/sessions",
        {"fingerprint": "a secret", "displayName": "Jane Doe"},
        participant=participant,
        tenant=tenant,
    )
    assert reply.status == 200, reply
    return str(reply.body["conversationId"])


async def test_guide_000_works_without_a_token(behind_a_proxy: Desk) -> None:
    desk = behind_a_proxy
    created = await ask(
        desk,
        "POST",
        "/api/conversations",
        {"attributes": {"fingerprint": "f", "displayName": "Jane Doe", "contact": None}},
        participant="customer-77",
    )
    path = f"/api/conversations/{created.body['id']}"
    queued = await ask(desk, "POST", f"{path}/queue", {"channel": "web"})
    sent = await ask(
        desk,
        "POST",
        f"{path}/messages",
        {
            "senderId": "customer-77",
            "senderDisplayName": "Jane Doe",
            "senderType": "CUSTOMER",
            "content": "Salom!",
            "type": "TEXT",
        },
    )
    listed = await ask(desk, "GET", f"{path}/messages?limit=100")
    closed = await ask(desk, "DELETE", path, participant="customer-77")

    conversation = ConversationMetadata.from_json(created.body)
    assert created.status == 201
    assert conversation.customer is not None
    assert conversation.customer.id == "customer-77"
    assert (queued.status, queued.body["position"]) == (200, 1)
    assert ChatMessage.from_json(sent.body).sender == {
        "id": "customer-77",
        "type": "CUSTOMER",
        "displayName": "Jane Doe",
    }
    assert listed.body == [sent.body]
    assert (closed.status, closed.body["status"]) == (200, "CLOSED")


async def test_guide_001_agents_are_who_the_body_says(behind_a_proxy: Desk) -> None:
    desk = behind_a_proxy
    conversation = await start(desk)
    path = f"/api/agent/conversations/{conversation}"
    ashik = {"agentId": "agent-123", "displayName": "Ashik"}

    booted = await ask(desk, "POST", "/api/agent/sessions", {**ashik, "channel": "web"})
    unnamed = await ask(desk, "POST", "/api/agent/sessions", {"channel": "web"})
    queue = await ask(desk, "GET", "/api/agent/queue?page=0&size=20")
    nobody_accepts = await ask(desk, "POST", f"{path}/accept", {})
    nobody_writes = await ask(desk, "POST", f"{path}/messages", {"content": "x"})
    accepted = await ask(desk, "POST", f"{path}/accept", ashik)
    too_late = await ask(desk, "POST", f"{path}/accept", {"agentId": "agent-456"})
    sent = await ask(desk, "POST", f"{path}/messages", {"content": "How can I help?"})
    listed = await ask(desk, "GET", "/api/agent/conversations?status=ASSIGNED,CONNECTED")
    closed = await ask(desk, "POST", f"{path}/close", {"reason": "resolved"})

    agent = {"id": "agent-123", "displayName": "Ashik"}
    assert booted.body["agent"] == agent
    assert [entry["id"] for entry in booted.body["queue"]] == [conversation]
    assert unnamed.status == 422
    assert queue.body["totalElements"] == 1
    assert (nobody_accepts.status, nobody_writes.status) == (422, 422)
    assert (accepted.status, accepted.body["agent"]) == (200, agent)
    assert (too_late.status, too_late.body["code"]) == (409, "conflict")
    assert (sent.status, sent.body["sender"]["id"]) == (201, "agent-123")
    assert [each["status"] for each in listed.body] == ["CONNECTED"]
    assert closed.status == 200


async def test_whom_the_proxy_names_sees_their_own_alone(behind_a_proxy: Desk) -> None:
    desk = behind_a_proxy
    conversation = await start(desk, "jane")
    path = f"/api/conversations/{conversation}"
    agents_path = f"/api/agent/conversations/{conversation}"
    await ask(desk, "POST", f"{agents_path}/accept", {}, participant="agent-1")
    message = {"content": "x"}

    for participant, status in {"jane": 201, "agent-1": 403, "mallory": 403}.items():
        reply = await ask(desk, "POST", f"{path}/messages", message, participant=participant)
        assert reply.status == status, participant
    for participant, status in {"jane": 200, "agent-1": 200, "mallory": 403}.items():
        reply = await ask(desk, "GET", f"{path}/messages", participant=participant)
        assert reply.status == status, participant
    for participant, status in {"agent-1": 201, "agent-2": 403}.items():
        reply = await ask(desk, "POST", f"{agents_path}/messages", message, participant=participant)
        assert reply.status == status, participant
    as_the_agent = await ask(
        desk,
        "POST",
        f"{path}/messages",
        {"content": "x", "senderType": "AGENT", "senderId": "agent-1"},
        participant="agent-1",
    )
    as_somebody_else = await ask(
        desk, "POST", f"{path}/messages", {"content": "x", "senderId": "agent-1"}
    )
    body_and_header = await ask(
        desk, "POST", f"{agents_path}/accept", {"agentId": "agent-1"}, participant="agent-2"
    )
    named_list = await ask(desk, "GET", "/api/agent/conversations", participant="agent-2")
    closed = await ask(desk, "DELETE", path, participant="mallory")

    assert (as_the_agent.status, as_somebody_else.status) == (201, 403)
    assert (body_and_header.status, named_list.body, closed.status) == (403, [], 403)


async def test_a_participant_comes_back_to_the_open_conversation_on_any_device(
    behind_a_proxy: Desk,
) -> None:
    desk = behind_a_proxy
    first = await start(desk, "jane")
    on_another_device = await ask(
        desk, "POST", "/api/customer/sessions", {"fingerprint": "another"}, participant="jane"
    )
    somebody_else_on_this_device = await start(desk, "john")
    without_a_name = await start(desk, None)
    without_anything = await ask(desk, "POST", "/api/customer/sessions", {})

    assert on_another_device.body["conversationId"] == first
    assert len({first, somebody_else_on_this_device, without_a_name}) == 3
    assert await start(desk, None) == without_a_name
    assert without_anything.status == 422


async def test_a_fingerprint_that_cannot_be_one_is_refused_whoever_sends_it(
    behind_a_proxy: Desk,
) -> None:
    for participant in ("jane", None):
        for fingerprint in ("x" * 256, "", "a\0b"):
            reply = await ask(
                behind_a_proxy,
                "POST",
                "/api/customer/sessions",
                {"fingerprint": fingerprint},
                participant=participant,
            )
            assert (reply.status, reply.body["code"]) == (422, "unprocessable"), fingerprint


async def test_fingerprints_are_guessed_no_faster_through_a_proxy_that_names_nobody(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    throttled = replace(settings, auth="proxy", trusted_proxies=LOOPBACK, sessions_per_minute=2)
    async with desk_at(throttled, receiver) as desk:

        async def guess(number: int, client: str, participant: str | None = None) -> int:
            headers = {"X-Tenant-Domain": TENANT, "X-Forwarded-For": client}
            if participant is not None:
                headers["X-Participant-Id"] = participant
            reply = await desk.nobody.ask(
                "POST", "/api/customer/sessions", {"fingerprint": str(number)}, headers=headers
            )
            return reply.status

        of_nobody = [await guess(number, "192.0.2.1") for number in range(3)]
        elsewhere = await guess(3, "192.0.2.2")
        of_jane = [await guess(number, "192.0.2.1", "jane") for number in range(3)]

    assert (of_nobody, elsewhere, of_jane) == ([200, 200, 429], 200, [200] * 3)


async def test_capacity_is_counted_by_what_the_tenant_calls_the_agent(
    behind_a_proxy: Desk,
) -> None:
    desk = behind_a_proxy
    replies = []
    for tenant in (TENANT, OTHER_TENANT):
        for number in range(4):
            conversation = await start(desk, f"jane {number}", tenant)
            replies.append(
                await ask(
                    desk,
                    "POST",
                    f"/api/agent/conversations/{conversation}/accept",
                    {"agentId": "agent-1"},
                    tenant=tenant,
                )
            )

    assert [reply.status for reply in replies] == [200, 200, 200, 409] * 2


async def test_tenants_stay_apart_whoever_asks(behind_a_proxy: Desk) -> None:
    desk = behind_a_proxy
    conversation = await start(desk, "jane")
    for participant in (None, "jane", "agent-1"):
        for method, path, body in (
            ("GET", f"/api/conversations/{conversation}/messages", None),
            ("POST", f"/api/conversations/{conversation}/messages", {"content": "x"}),
            ("DELETE", f"/api/conversations/{conversation}", None),
            ("POST", f"/api/agent/conversations/{conversation}/accept", {"agentId": "agent-1"}),
            ("POST", f"/api/agent/conversations/{conversation}/assign", {"agentId": "agent-1"}),
            ("POST", f"/api/agent/conversations/{conversation}/close", {}),
            ("POST", "/broadcasting/auth", listening(f"private-conversation.{conversation}")),
            ("POST", "/broadcasting/auth", listening(f"private-queue.{TENANT}")),
            ("POST", "/api/agent/broadcasting/auth", listening(f"private-queue.{TENANT}")),
        ):
            reply = await ask(
                desk, method, path, body, participant=participant, tenant=OTHER_TENANT
            )
            assert reply.status == 403, (participant, method, path, reply)
        queue = await ask(
            desk, "GET", "/api/agent/queue", participant=participant, tenant=OTHER_TENANT
        )
        assert queue.body["content"] == []


EVERYBODYS, STAFFS = "/broadcasting/auth", "/api/agent/broadcasting/auth"


def listening(channel: str) -> dict[str, str]:
    return {"socket_id": "12.34", "channel_name": channel}


async def test_who_may_listen_behind_a_proxy(behind_a_proxy: Desk) -> None:
    desk = behind_a_proxy
    conversation = await start(desk, "jane")
    accept = f"/api/agent/conversations/{conversation}/accept"
    await ask(desk, "POST", accept, {}, participant="agent-1")

    async def authorize(channel: str, participant: str | None, at: str = EVERYBODYS) -> Reply:
        return await ask(desk, "POST", at, listening(channel), participant=participant)

    private, presence = (
        f"private-conversation.{conversation}",
        f"presence-conversation.{conversation}",
    )
    statuses = {
        participant: (
            (await authorize(private, participant)).status,
            (await authorize(presence, participant)).status,
            (await authorize(f"private-queue.{TENANT}", participant)).status,
            (await authorize(f"private-queue.{TENANT}", participant, STAFFS)).status,
        )
        for participant in ("jane", "mallory", None, "agent-1")
    }
    customer = await authorize(presence, "jane")
    agent = await authorize(presence, "agent-1")
    connected = await ask(desk, "GET", "/api/agent/conversations?status=CONNECTED")

    assert statuses == {
        # To where staff ask, a proxy lets staff through and nobody else.
        "jane": (200, 200, 403, 200),
        "mallory": (403, 403, 403, 200),
        None: (200, 403, 403, 200),  # nobody can be seen without a name
        "agent-1": (200, 200, 403, 200),
    }
    seen = msgspec.json.decode(customer.body["channel_data"])
    assert seen["user_id"].startswith("customer:")
    assert seen["user_info"]["role"] == "customer"
    assert msgspec.json.decode(agent.body["channel_data"]) == {
        "user_id": "agent:agent-1",
        "user_info": {"name": "Agent-1", "role": "agent"},
    }
    assert [each["id"] for each in connected.body] == [conversation]


async def test_tokens_still_count_behind_a_proxy(behind_a_proxy: Desk) -> None:
    desk = behind_a_proxy
    conversation = await start(desk, "jane")
    agent = await desk.agent()

    accepted = await agent.post(f"/api/agent/conversations/{conversation}/accept", {})
    as_another = await agent.post(
        f"/api/agent/conversations/{conversation}/accept", {"agentId": "agent-1"}
    )

    assert (accepted.status, accepted.body["agent"]["id"]) == (200, "3")
    assert as_another.status == 403


async def test_assigning_takes_nobodys_name_or_ones_own(behind_a_proxy: Desk) -> None:
    desk = behind_a_proxy
    assign = f"/api/agent/conversations/{await start(desk, 'jane')}/assign"
    body = {"agentId": "agent-2", "displayName": "Agent Two"}

    by_another = await ask(desk, "POST", assign, body, participant="agent-1")
    by_nobody = await ask(desk, "POST", assign, body)
    by_oneself = await ask(desk, "POST", assign, body, participant="agent-2")

    assert by_another.status == 403
    assert (by_nobody.status, by_nobody.body["agent"]) == (
        200,
        {"id": "agent-2", "displayName": "Agent Two"},
    )
    assert by_oneself.status == 200
