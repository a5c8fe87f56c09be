"""Who may listen to a conversation and to a queue, and what listening means."""

from typing import Any

import msgspec
import pytest

from tests.chat_api.client import Client, Reply
from tests.chat_api.features.support.desk import OTHER_TENANT, TENANT, Customer, Desk


async def ask(client: Client, channel: str) -> Reply:
    return await client.post("/broadcasting/auth", {"socket_id": "12.34", "channel_name": channel})


async def member(client: Client, customer: Customer) -> Any:
    reply = await ask(client, f"presence-conversation.{customer.id}")
    assert reply.status == 200, reply
    return msgspec.json.decode(reply.body["channel_data"])


@pytest.mark.parametrize("kind", ["private", "presence"])
async def test_both_sides_and_supervisors_may_listen(desk: Desk, kind: str) -> None:
    mine, theirs = await desk.taken("mine"), await desk.customer("theirs")
    channel = f"{kind}-conversation.{mine.id}"
    statuses = {
        name: (await ask(client, channel)).status
        for name, client in {
            "the customer": mine.client,
            "another customer": theirs.client,
            "its agent": await desk.agent(),
            "another agent": await desk.account("agent2"),
            "an agent of another tenant": await desk.account("agent.tenant2"),
            "the supervisor": await desk.supervisor(),
            "a user": await desk.account("ali"),
            "nobody": desk.nobody,
        }.items()
    }
    waiting = await ask(await desk.agent(), f"{kind}-conversation.{theirs.id}")
    unknown = [
        await ask(await desk.supervisor(), f"{kind}-conversation.{name}")
        for name in ("00000000-0000-4000-8000-000000000000", "1", "x.y")
    ]

    assert statuses == {
        "the customer": 200,
        "another customer": 403,
        "its agent": 200,
        "another agent": 403,
        "an agent of another tenant": 403,
        "the supervisor": 200,
        "a user": 403,
        "nobody": 401,
    }
    assert waiting.status == 403
    assert [reply.status for reply in unknown] == [403] * 3


async def test_a_user_of_the_live_agent_api_may_listen_to_their_own(desk: Desk) -> None:
    user, other = await desk.account("ali"), await desk.account("vali")
    started = await user.post(
        "/api/v1/live-agent/sessions",
        {"initial_message": "hi"},
        headers={"X-Tenant-Domain": TENANT},
    )
    channel = f"private-conversation.{started.body['session_id']}"

    assert (await ask(user, channel)).status == 200
    assert (await ask(other, channel)).status == 403


async def test_the_queue_is_for_the_tenants_staff(desk: Desk) -> None:
    customer = await desk.customer()
    statuses = {
        name: [
            (await ask(client, f"private-queue.{tenant}")).status
            for tenant in (TENANT, OTHER_TENANT)
        ]
        for name, client in {
            "agent": await desk.agent(),
            "supervisor": await desk.supervisor(),
            "agent of the other": await desk.account("agent.tenant2"),
            "customer": customer.client,
            "user": await desk.account("ali"),
            "nobody": desk.nobody,
        }.items()
    }

    assert statuses == {
        "agent": [200, 200],
        "supervisor": [200, 200],
        "agent of the other": [403, 200],
        "customer": [403, 403],
        "user": [403, 403],
        "nobody": [401, 401],
    }


async def test_members_show_who_they_are_and_none_can_be_taken_for_another(desk: Desk) -> None:
    customer = await desk.taken()
    seen = {
        "customer": await member(customer.client, customer),
        "agent": await member(await desk.agent(), customer),
        "supervisor": await member(await desk.supervisor(), customer),
    }

    assert seen["customer"]["user_id"].startswith("customer:")
    assert seen["customer"]["user_info"] == {"name": "Jane Doe", "role": "customer"}
    assert seen["agent"] == {
        "user_id": "3",
        "user_info": {"name": "Agent Smith", "role": "agent"},
    }
    assert seen["supervisor"] == {
        "user_id": "5",
        "user_info": {"name": "Sara Supervisor", "role": "supervisor"},
    }


@pytest.mark.parametrize("kind", ["private", "presence"])
async def test_its_agents_first_listening_connects_a_conversation(desk: Desk, kind: str) -> None:
    customer = await desk.taken()
    channel = f"{kind}-conversation.{customer.id}"

    await ask(customer.client, channel)
    await ask(await desk.supervisor(), channel)
    before = await (await desk.agent()).get("/api/agent/conversations?status=ASSIGNED")
    for _ in range(2):
        await ask(await desk.agent(), channel)
    after = await (await desk.agent()).get("/api/agent/conversations?status=CONNECTED")
    await customer.client.ask("DELETE", customer.path)
    after_its_end = await ask(await desk.agent(), channel)

    assert [each["id"] for each in before.body] == [customer.id]
    assert [each["id"] for each in after.body] == [customer.id]
    assert after_its_end.status == 200
    assert await desk.states(customer, "CLOSED") == ["ASSIGNED", "CONNECTED", "CLOSED"]


async def test_who_has_lost_a_conversation_may_not_listen_any_more(desk: Desk) -> None:
    customer = await desk.taken()
    channel = f"private-conversation.{customer.id}"
    supervisor, agent = await desk.supervisor(), await desk.agent()
    await supervisor.post(f"{customer.agents_path}/assign", {"agentId": "4"})

    assert (await ask(agent, channel)).status == 403
    assert (await ask(await desk.account("agent2"), channel)).status == 200
    news = await desk.hears(
        channel, "system:event", lambda data: data.get("agent", {}).get("id") == "4"
    )
    assert news["status"] == "ASSIGNED"


async def test_who_has_released_a_conversation_hears_so_and_may_not_listen_any_more(
    desk: Desk,
) -> None:
    customer = await desk.taken()
    channel = f"private-conversation.{customer.id}"
    agent = await desk.agent()
    path = f"/api/v1/live-agent/sessions/{customer.id}/status"

    await agent.ask("PUT", path, {"status": "pending"})

    assert (await ask(agent, channel)).status == 403
    await desk.hears(channel, "system:event", lambda data: data["status"] == "QUEUED")
