"""Sessions, messages and agents' status as live-agent apps and portals ask for them."""

import re
from typing import Any

import pytest

from tests.chat_api.client import Client, Reply
from tests.chat_api.features.support.desk import OTHER_TENANT, TENANT, Desk, all_of, naming

SESSIONS = "/api/v1/live-agent/sessions"
MESSAGES = "/api/v1/live-agent/messages"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


async def started(user: Client, tenant: str = TENANT, **fields: Any) -> Any:
    """Ask for an agent, as a portal does."""
    body = {
        "initial_message": "I need help with invoice generation",
        "user_context": {"page_url": "/invoices/create", "browser": "Chrome 120"},
    } | fields
    reply = await user.post(SESSIONS, body, headers=naming(tenant))
    assert reply.status == 201, reply
    return reply.body


async def put(client: Client, session_id: str, tenant: str = TENANT, **fields: Any) -> Reply:
    """Change a session's status."""
    path = f"{SESSIONS}/{session_id}/status"
    return await client.ask("PUT", path, fields, headers=naming(tenant))


async def said(client: Client, session_id: str, text: str, sender_type: str) -> Reply:
    body = {"session_id": session_id, "message_text": text, "sender_type": sender_type}
    return await client.post(MESSAGES, body)


async def details(client: Client, session_id: str) -> Any:
    reply = await client.get(f"{SESSIONS}/{session_id}")
    assert reply.status == 200, reply
    return reply.body


async def test_a_portal_asks_for_an_agent(desk: Desk) -> None:
    session = await started(await desk.account("ali"))

    assert TIME.fullmatch(session.pop("created_at"))
    assert len(session.pop("session_id")) == 36
    assert session == {
        "tenant_domain": "tenant1.example.com",
        "user_account": "ali@example.com",
        "user_name": "Ali Valiyev",
        "status": "pending",
        "message": "Session created. An agent will respond shortly.",
    }


async def test_asking_again_goes_on_with_the_open_session(desk: Desk) -> None:
    ali = await desk.account("ali")
    first = await started(ali)

    again = await ali.post(SESSIONS, {"initial_message": "Hello?"}, headers=naming())

    assert (again.status, again.body["session_id"]) == (200, first["session_id"])
    assert again.body["message"] == "Your session is still open. An agent will respond shortly."
    page = await ali.get(f"{MESSAGES}/{first['session_id']}")
    assert [message["message_text"] for message in page.body["messages"]] == [
        "I need help with invoice generation",
        "Hello?",
    ]


@pytest.mark.parametrize("nothing", ["", " \n"])
async def test_a_session_begins_without_a_message_where_the_first_one_is_blank(
    desk: Desk, nothing: str
) -> None:
    ali = await desk.account("ali")

    session = await started(ali, initial_message=nothing)

    page = await ali.get(f"{MESSAGES}/{session['session_id']}")
    assert (session["status"], page.body["messages"]) == ("pending", [])


async def test_messages_wait_while_no_agent_is_there(desk: Desk) -> None:
    agent, status = await desk.agent(), "/api/v1/live-agent/agent/status"
    await agent.ask("PUT", status, {"is_online": False})
    ali = await desk.account("ali")
    session_id = (await started(ali))["session_id"]
    for text in ("Is anybody there?", "I will wait."):
        sent = await said(ali, session_id, text, "user")
        assert (sent.status, sent.body["notification_sent"]) == (201, False)

    await agent.ask("PUT", status, {"is_online": True})
    listed = await agent.get(f"{SESSIONS}?status=pending")
    read = await agent.get(f"{MESSAGES}/{session_id}")

    assert [(row["session_id"], row["unread_count_agent"]) for row in listed.body["sessions"]] == [
        (session_id, 3)
    ]
    assert [(row["message_text"], row["read_by_agent"]) for row in read.body["messages"]] == [
        ("I need help with invoice generation", False),
        ("Is anybody there?", False),
        ("I will wait.", False),
    ]


async def test_asking_ten_times_at_once_makes_one_session(desk: Desk) -> None:
    ali = await desk.account("ali")

    replies = await all_of(*(ali.post(SESSIONS, {}, headers=naming()) for _ in range(10)))

    assert sorted(reply.status for reply in replies) == [200] * 9 + [201]
    assert len({reply.body["session_id"] for reply in replies}) == 1


async def test_nobody_and_staff_cannot_ask_for_an_agent(desk: Desk) -> None:
    nobody = await desk.nobody.post(SESSIONS, {})
    staff = await (await desk.agent()).post(SESSIONS, {})

    assert (nobody.status, staff.status) == (401, 403)


async def test_an_agents_list_shows_each_session_with_what_is_new(desk: Desk) -> None:
    session = await started(await desk.account("ali"))

    reply = await (await desk.agent()).get(f"{SESSIONS}?status=pending&page=1&per_page=20")

    [row] = reply.body.pop("sessions")
    assert reply.body == {"total": 1, "page": 1, "per_page": 20}
    assert TIME.fullmatch(row.pop("last_message_at"))
    assert row == {
        "session_id": session["session_id"],
        "tenant_domain": "tenant1.example.com",
        "user_account": "ali@example.com",
        "user_name": "Ali Valiyev",
        "assigned_agent_id": None,
        "assigned_agent_name": None,
        "status": "pending",
        "created_at": session["created_at"],
        "unread_count_user": 0,
        "unread_count_agent": 1,
        "preview": "I need help with invoice generation",
    }


async def test_lists_are_narrowed_by_status_tenant_and_owner(desk: Desk) -> None:
    ali, vali = await desk.account("ali"), await desk.account("vali")
    agent, other_agent = await desk.agent(), await desk.account("agent2")
    waiting = (await started(ali))["session_id"]
    taken = (await started(vali))["session_id"]
    elsewhere = (await started(ali, OTHER_TENANT))["session_id"]
    assert (await put(agent, taken, status="active")).status == 200

    async def listed(client: Client, query: str = "") -> set[str]:
        reply = await client.get(f"{SESSIONS}?{query}")
        assert reply.status == 200, reply
        assert reply.body["total"] == len(reply.body["sessions"])
        return {row["session_id"] for row in reply.body["sessions"]}

    assert await listed(agent) == {waiting, taken, elsewhere}
    assert await listed(other_agent) == {waiting, elsewhere}
    assert await listed(await desk.supervisor()) == {waiting, taken, elsewhere}
    assert await listed(agent, "status=active") == {taken}
    assert await listed(agent, "status=resolved") == set()
    assert await listed(agent, "assigned_to_me=true") == {taken}
    assert await listed(agent, f"tenant={OTHER_TENANT}") == {elsewhere}
    only_other_tenant = await desk.account("agent.tenant2")
    assert await listed(only_other_tenant) == {elsewhere}
    refused = await only_other_tenant.get(f"{SESSIONS}?tenant={TENANT}")
    assert (refused.status, refused.body["code"]) == (403, "forbidden")
    assert await listed(vali, f"tenant={TENANT}") == {taken}


@pytest.mark.parametrize("query", ["status=open", "page=0", "per_page=0", "per_page=101"])
async def test_a_list_that_makes_no_sense_is_refused(desk: Desk, query: str) -> None:
    reply = await (await desk.agent()).get(f"{SESSIONS}?{query}")

    assert (reply.status, reply.body["code"]) == (422, "unprocessable")


async def test_pages_go_from_the_latest_active_on(desk: Desk) -> None:
    agent = await desk.agent()
    ids = [
        (await started(await desk.account(name), tenant))["session_id"]
        for name, tenant in (("ali", TENANT), ("vali", TENANT), ("ali", OTHER_TENANT))
    ]

    pages = [await agent.get(f"{SESSIONS}?page={page}&per_page=2") for page in (1, 2, 3)]

    assert [reply.body["total"] for reply in pages] == [3, 3, 3]
    assert [len(reply.body["sessions"]) for reply in pages] == [2, 1, 0]
    shown = {row["session_id"] for reply in pages for row in reply.body["sessions"]}
    assert shown == set(ids)


async def test_a_session_is_shown_with_its_context(desk: Desk) -> None:
    session = await started(await desk.account("ali"))
    agent = await desk.agent()
    await put(agent, session["session_id"], status="active")

    shown = await details(agent, session["session_id"])

    assert TIME.fullmatch(shown.pop("updated_at"))
    assert TIME.fullmatch(shown.pop("last_message_at"))
    assert shown == {
        "session_id": session["session_id"],
        "tenant_domain": "tenant1.example.com",
        "user_account": "ali@example.com",
        "user_name": "Ali Valiyev",
        "assigned_agent_id": agent.user_id,
        "assigned_agent_name": "Agent Smith",
        "status": "active",
        "created_at": session["created_at"],
        "unread_count_user": 0,
        "unread_count_agent": 1,
        "metadata": {"page_url": "/invoices/create", "browser": "Chrome 120"},
    }


async def test_an_agents_answer_takes_a_session_that_nobody_has(desk: Desk) -> None:
    ali, agent = await desk.account("ali"), await desk.agent()
    session_id = (await started(ali))["session_id"]

    reply = await said(agent, session_id, "How can I help you?", "agent")

    assert reply.status == 201
    assert type(reply.body.pop("message_id")) is int
    assert TIME.fullmatch(reply.body.pop("created_at"))
    assert reply.body == {
        "session_id": session_id,
        "sender_type": "agent",
        "sender_name": "Agent Smith",
        "message_text": "How can I help you?",
        "notification_sent": False,
    }
    shown = await details(ali, session_id)
    assert (shown["status"], shown["assigned_agent_name"]) == ("active", "Agent Smith")
    assert (await said(await desk.account("agent2"), session_id, "Me too", "agent")).status == 403


async def test_reading_messages_marks_them_for_ones_own_side_only(desk: Desk) -> None:
    ali, agent = await desk.account("ali"), await desk.agent()
    session_id = (await started(ali))["session_id"]
    await said(agent, session_id, "I can help you with that!", "agent")
    before = await details(agent, session_id)

    seen = await agent.get(f"{MESSAGES}/{session_id}?mark_as_read=true")
    peeked = await ali.get(f"{MESSAGES}/{session_id}")

    assert (before["unread_count_agent"], before["unread_count_user"]) == (1, 1)
    rows = [
        {key: value for key, value in row.items() if key not in ("message_id", "created_at")}
        for row in peeked.body["messages"]
    ]
    assert rows == [
        {
            "sender_type": "user",
            "sender_name": "Ali Valiyev",
            "message_text": "I need help with invoice generation",
            "read_by_user": True,
            "read_by_agent": True,
        },
        {
            "sender_type": "agent",
            "sender_name": "Agent Smith",
            "message_text": "I can help you with that!",
            "read_by_user": False,
            "read_by_agent": True,
        },
    ]
    assert seen.body["total"] == 2
    assert seen.body["session"] == {"session_id": session_id, "status": "active"}
    after = await details(agent, session_id)
    assert (after["unread_count_agent"], after["unread_count_user"]) == (0, 1)


async def test_an_agent_who_reads_what_waits_marks_it_and_a_supervisor_does_not(desk: Desk) -> None:
    ali, agent, supervisor = (
        await desk.account("ali"),
        await desk.agent(),
        await desk.supervisor(),
    )
    session_id = (await started(ali))["session_id"]

    async def unread(reader: Client) -> tuple[bool, int]:
        page = await reader.get(f"{MESSAGES}/{session_id}?mark_as_read=true")
        [message] = page.body["messages"]
        shown = await details(ali, session_id)
        return message["read_by_agent"], shown["unread_count_agent"]

    assert await unread(supervisor) == (False, 1)
    assert await unread(agent) == (True, 0)
    assert (await details(ali, session_id))["status"] == "pending"


async def test_the_first_page_has_the_latest_messages(desk: Desk) -> None:
    ali = await desk.account("ali")
    session_id = (await started(ali, initial_message="0"))["session_id"]
    for number in range(1, 5):
        await said(ali, session_id, str(number), "user")

    async def page(number: int) -> list[str]:
        reply = await ali.get(f"{MESSAGES}/{session_id}?page={number}&per_page=2")
        assert reply.body["total"] == 5
        return [row["message_text"] for row in reply.body["messages"]]

    assert [await page(number) for number in (1, 2, 3, 4)] == [["3", "4"], ["1", "2"], ["0"], []]


async def test_an_idempotency_key_keeps_a_repeated_message_from_being_stored_twice(
    desk: Desk,
) -> None:
    ali = await desk.account("ali")
    session_id = (await started(ali))["session_id"]
    body = {"session_id": session_id, "message_text": "Once", "sender_type": "user"}

    replies = [await ali.post(MESSAGES, body, headers={"Idempotency-Key": "one"}) for _ in range(2)]

    assert [reply.status for reply in replies] == [201, 200]
    assert replies[0].body["message_id"] == replies[1].body["message_id"]


async def test_nobody_speaks_for_the_other_side(desk: Desk) -> None:
    ali, agent = await desk.account("ali"), await desk.agent()
    session_id = (await started(ali))["session_id"]

    assert (await said(ali, session_id, "I am the agent", "agent")).status == 403
    assert (await said(agent, session_id, "I am the user", "user")).status == 403
    assert (await said(ali, session_id, "?", "robot")).status == 422


async def test_an_app_assigns_a_session_to_its_own_agent(desk: Desk) -> None:
    agent = await desk.agent()
    by_id = (await started(await desk.account("ali")))["session_id"]
    by_address = (await started(await desk.account("vali")))["session_id"]

    reply = await put(
        agent,
        by_id,
        status="active",
        assigned_agent_id=str(agent.user_id),
        assigned_agent_name="Agent Smith",
    )
    other = await put(agent, by_address, status="active", assigned_agent_id="agent@example.com")

    assert reply.status == 200
    assert TIME.fullmatch(reply.body.pop("updated_at"))
    assert reply.body == {
        "session_id": by_id,
        "status": "active",
        "assigned_agent_id": agent.user_id,
        "assigned_agent_name": "Agent Smith",
    }
    assert (other.status, other.body["assigned_agent_id"]) == (200, agent.user_id)


async def test_naming_an_agent_is_enough_to_assign_a_session(desk: Desk) -> None:
    agent, supervisor = await desk.agent(), await desk.supervisor()
    taken = (await started(await desk.account("ali")))["session_id"]
    given = (await started(await desk.account("vali")))["session_id"]

    own = await put(agent, taken, assigned_agent_id=agent.user_id)
    others = await put(supervisor, given, assigned_agent_id=4, assigned_agent_name="Agent Jones")
    nothing = [
        await put(agent, taken),
        await put(agent, taken, status=None, assigned_agent_id=None),
        await put(agent, taken, assigned_agent_name="Agent Smith"),
    ]

    assert (own.status, own.body["status"], own.body["assigned_agent_id"]) == (200, "active", 3)
    assert (others.status, others.body["assigned_agent_name"]) == (200, "Agent Jones")
    assert [(reply.status, reply.body) for reply in nothing] == [
        (
            422,
            {
                "code": "unprocessable",
                "message": "Say what is to change: status, or assigned_agent_id.",
            },
        )
    ] * 3


async def test_only_a_supervisor_gives_a_session_to_somebody_else(desk: Desk) -> None:
    session_id = (await started(await desk.account("ali")))["session_id"]
    agent, other, supervisor = (
        await desk.agent(),
        await desk.account("agent2"),
        await desk.supervisor(),
    )
    wish: dict[str, Any] = {"status": "active", "assigned_agent_id": other.user_id}

    assert (await put(agent, session_id, **wish)).status == 403
    given = await put(supervisor, session_id, **wish)
    assert (given.status, given.body["assigned_agent_name"]) == (200, "Agent Jones")
    taken_away = await put(supervisor, session_id, status="active", assigned_agent_id=agent.user_id)
    assert (taken_away.status, taken_away.body["assigned_agent_name"]) == (200, "Agent Smith")
    nobodys = await put(supervisor, session_id, status="active", assigned_agent_id=999)
    assert (nobodys.status, nobodys.body["code"]) == (404, "not_found")


async def test_of_many_agents_one_gets_the_session(desk: Desk) -> None:
    session_id = (await started(await desk.account("ali")))["session_id"]
    agents = [await desk.agent(), await desk.account("agent2")]

    replies = await all_of(*(put(agents[n % 2], session_id, status="active") for n in range(20)))

    assert {reply.status for reply in replies} == {200, 409}
    winners = {reply.body["assigned_agent_id"] for reply in replies if reply.status == 200}
    assert len(winners) == 1
    lost = next(reply for reply in replies if reply.status == 409)
    assert lost.body == {
        "code": "conflict",
        "message": "Conversation is no longer available to accept.",
    }


async def test_a_released_session_waits_in_its_old_place(desk: Desk) -> None:
    agent = await desk.agent()
    first = (await started(await desk.account("ali")))["session_id"]
    second = (await started(await desk.account("vali")))["session_id"]
    await put(agent, first, status="active")

    released = await put(agent, first, status="pending")

    assert (released.status, released.body["status"]) == (200, "pending")
    assert released.body["assigned_agent_id"] is None
    queue = await agent.ask("GET", "/api/agent/queue", headers=naming())
    assert [entry["id"] for entry in queue.body["content"]] == [first, second]


@pytest.mark.parametrize("status", ["resolved", "closed"])
@pytest.mark.parametrize("who", ["ali", "agent", "supervisor"])
async def test_either_side_ends_a_session(desk: Desk, status: str, who: str) -> None:
    ali, agent = await desk.account("ali"), await desk.agent()
    session_id = (await started(ali))["session_id"]
    await put(agent, session_id, status="active")

    reply = await put(await desk.account(who), session_id, status=status)

    assert (reply.status, reply.body["status"]) == (200, status)
    assert (await said(ali, session_id, "Wait!", "user")).status == 410
    assert (await put(agent, session_id, status="active")).status == 410
    assert (await started(ali))["session_id"] != session_id


async def test_a_session_of_another_is_forbidden_and_an_unknown_one_not_found(desk: Desk) -> None:
    session_id = (await started(await desk.account("ali")))["session_id"]
    unknown = "00000000-0000-4000-8000-000000000000"
    for client, wanted, status in (
        (await desk.account("vali"), session_id, 403),
        (await desk.account("agent.tenant2"), session_id, 403),
        (await desk.agent(), unknown, 404),
        (await desk.account("ali"), unknown, 404),
    ):
        replies = [
            await client.get(f"{SESSIONS}/{wanted}"),
            await client.get(f"{MESSAGES}/{wanted}"),
            await client.post(MESSAGES, {"session_id": wanted, "message_text": "?"}),
            await client.ask("PUT", f"{SESSIONS}/{wanted}/status", {"status": "closed"}),
        ]
        assert [reply.status for reply in replies] == [status] * 4, (client.user_id, wanted)


async def test_a_request_about_another_tenant_does_not_reach_the_session(desk: Desk) -> None:
    session_id = (await started(await desk.account("ali")))["session_id"]
    await desk.registers(OTHER_TENANT)

    for name in ("ali", "agent", "supervisor"):
        client = await desk.account(name)
        for header in ({"X-Tenant-Domain": OTHER_TENANT}, {"Host": OTHER_TENANT}):
            reply = await client.ask("GET", f"{SESSIONS}/{session_id}", headers=header)
            assert (reply.status, reply.body["code"]) == (403, "forbidden"), (name, header)


async def test_an_agent_says_that_they_can_be_reached(desk: Desk) -> None:
    agent = await desk.agent()
    path = "/api/v1/live-agent/agent/status"

    online = await agent.ask(
        "PUT", path, {"is_online": True, "fcm_token": "fcm_registration_token_here"}
    )
    offline = await agent.ask("PUT", path, {"is_online": False, "fcm_token": "another"})
    user = await (await desk.account("ali")).ask("PUT", path, {"is_online": True})

    assert online.status == 200
    assert TIME.fullmatch(online.body.pop("updated_at"))
    assert online.body == {
        "agent_id": "agent@example.com",
        "agent_name": "Agent Smith",
        "is_online": True,
        "status": "online",
    }
    assert (offline.body["is_online"], offline.body["status"]) == (False, "offline")
    assert (user.status, user.body["code"]) == (403, "forbidden")


async def test_what_is_said_is_heard_over_the_pusher_protocol(desk: Desk) -> None:
    ali, agent = await desk.account("ali"), await desk.agent()
    session_id = (await started(ali))["session_id"]
    channel = f"private-conversation.{session_id}"

    await said(agent, session_id, "How can I help you?", "agent")

    news = await desk.hears(
        channel, "chat:message", lambda data: data["message"]["sender"]["type"] == "AGENT"
    )
    assert news["conversationId"] == session_id
    assert news["message"]["content"] == "How can I help you?"
    assert (await desk.hears(channel, "system:event", lambda data: "agent" in data))["agent"] == {
        "id": str(agent.user_id),
        "displayName": "Agent Smith",
    }
