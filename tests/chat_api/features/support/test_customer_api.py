"""Guides 000 and 001 as their customers' apps live them: each request, and what they read of it."""

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from chat_api.features.support.models import SupportConversation, SupportCustomer
from chat_api.settings import Settings
from tests.chat_api.features.support.desk import (
    OTHER_TENANT,
    TENANT,
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

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FINGERPRINT = "5b0c2f1e-fingerprint-of-a-phone"
ATTRIBUTES = {"fingerprint": FINGERPRINT, "displayName": "Jane Doe", "contact": "0123456789"}
"""What guide 000's createConversation() sends."""


async def test_guide_000_a_conversation_from_its_start_to_its_end(desk: Desk) -> None:
    participant = {"X-Participant-Id": "customer-77", "X-Participant-Name": "Jane Doe"}
    created = await desk.nobody.post(
        "/api/conversations", {"attributes": ATTRIBUTES}, headers={**participant, **naming()}
    )
    customer = desk.with_token(created.body["token"])
    conversation = ConversationMetadata.from_json(created.body)
    path = f"/api/conversations/{conversation.id}"

    queued = await customer.post(f"{path}/queue", {"channel": "web"})
    sent = await customer.post(
        f"{path}/messages",
        {
            "senderId": "customer-77",
            "senderDisplayName": "Jane Doe",
            "senderType": "CUSTOMER",
            "content": "Salom!",
            "type": "TEXT",
        },
    )
    listed = await customer.get(f"{path}/messages?limit=100")
    closed = await customer.ask("DELETE", path, headers={"X-Participant-Id": "customer-77"})

    assert created.status == 201
    assert timeless(created.body) == {
        "id": conversation.id,
        "status": "QUEUED",
        "customer": {"id": "customer-77", "displayName": "Jane Doe", "phone": "0123456789"},
        "agent": None,
        "createdAt": "TIME",
        "updatedAt": "TIME",
        "tenant": TENANT,
        "channel": "web",
        "token": created.body["token"],
        "expiresIn": 86_400,
    }
    assert UUID.fullmatch(conversation.id)
    assert (conversation.status, conversation.agent) == ("QUEUED", None)
    assert conversation.customer == Participant("customer-77", "Jane Doe")
    assert (queued.status, ConversationMetadata.from_json(queued.body).status) == (200, "QUEUED")
    assert queued.body["position"] == 1
    assert sent.status == 201
    assert timeless(sent.body) == {
        "id": sent.body["id"],
        "conversationId": conversation.id,
        "sender": {"id": "customer-77", "type": "CUSTOMER", "displayName": "Jane Doe"},
        "type": "TEXT",
        "content": "Salom!",
        "timestamp": "TIME",
    }
    assert listed.status == 200
    assert [ChatMessage.from_json(each) for each in listed.body] == [
        ChatMessage.from_json(sent.body)
    ]
    assert (closed.status, closed.body["status"]) == (200, "CLOSED")


async def test_guide_000_without_a_participant_id_the_apps_own_id_is_good_from_the_first_message(
    desk: Desk,
) -> None:
    created = await desk.nobody.post(
        "/api/conversations", {"attributes": {**ATTRIBUTES, "contact": None}}, headers=naming()
    )
    customer = desk.with_token(created.body["token"])
    messages = f"/api/conversations/{created.body['id']}/messages"

    def message(sender_id: str) -> dict[str, str]:
        return {
            "senderId": sender_id,
            "senderDisplayName": "Jane Doe",
            "senderType": "CUSTOMER",
            "content": "hi",
            "type": "TEXT",
        }

    under_the_own_name = await customer.post(messages, message("made-up-by-the-app"))
    under_the_given_name = await customer.post(messages, message(created.body["customer"]["id"]))
    under_another = await customer.post(messages, message("somebody-else"))

    assert created.body["customer"]["phone"] is None
    assert under_the_own_name.status == 201
    assert under_the_own_name.body["sender"]["id"] == "made-up-by-the-app"
    assert under_the_given_name.status == 201
    assert under_another.status == 403


async def test_guide_001_a_session_waits_at_once(desk: Desk) -> None:
    started = await desk.nobody.post(
        "/api/customer/sessions",
        {"fingerprint": "client-generated-id", "displayName": "Jane Doe", "contact": "0123456789"},
        headers=naming(),
    )
    customer = desk.with_token(started.body["token"])
    path = f"/api/customer/conversations/{started.body['conversationId']}"
    sent = await customer.post(
        f"{path}/messages", {"content": "Hello!", "metadata": {"source": "web"}}
    )
    history = await customer.get(f"{path}/messages?limit=50")
    closed = await customer.post(f"{path}/close")
    too_late = await customer.post(f"{path}/messages", {"content": "Hello?"})

    assert started.status == 200
    assert started.body == {
        "conversationId": started.body["conversationId"],
        "status": "QUEUED",
        "token": started.body["token"],
        "expiresIn": 86_400,
        "position": 1,
    }
    assert sent.status == 201
    assert sent.body["metadata"] == {"source": "web"}
    assert (history.status, history.body) == (200, [sent.body])
    assert closed.status == 200
    assert timeless(closed.body) == {
        "id": started.body["conversationId"],
        "status": "CLOSED",
        "customer": {
            "id": sent.body["sender"]["id"],
            "displayName": "Jane Doe",
            "phone": "0123456789",
        },
        "agent": None,
        "createdAt": "TIME",
        "updatedAt": "TIME",
        "tenant": TENANT,
        "channel": "web",
    }
    assert (too_late.status, too_late.body["code"]) == (410, "gone")


async def test_a_conversation_is_not_in_the_queue_before_it_is_asked_for(desk: Desk) -> None:
    agent = await desk.agent()
    created = await desk.nobody.post(
        "/api/conversations", {"attributes": ATTRIBUTES}, headers=naming()
    )
    customer = desk.with_token(created.body["token"])

    before = await agent.ask("GET", "/api/agent/queue", headers=naming())
    queue = f"/api/conversations/{created.body['id']}/queue"
    first, again = [await customer.post(queue, {"channel": "mobile"}) for _ in range(2)]
    after = await agent.ask("GET", "/api/agent/queue", headers=naming())

    assert "position" not in created.body
    assert (before.body["content"], before.body["totalElements"]) == ([], 0)
    assert (first.status, again.status) == (200, 200)
    assert again.body == first.body
    assert [entry["id"] for entry in after.body["content"]] == [created.body["id"]]
    assert after.body["content"][0]["channel"] == "mobile"


async def test_the_same_fingerprint_comes_back_to_the_open_conversation(desk: Desk) -> None:
    first = await desk.nobody.post(
        "/api/conversations", {"attributes": ATTRIBUTES}, headers=naming()
    )
    again = await desk.nobody.post(
        "/api/conversations",
        {"attributes": {**ATTRIBUTES, "displayName": "Jane Roe", "contact": None}},
        headers=naming(),
    )
    as_a_session = await desk.nobody.post(
        "/api/customer/sessions", {"fingerprint": FINGERPRINT}, headers=naming()
    )
    other_tenant = await desk.nobody.post(
        "/api/conversations", {"attributes": ATTRIBUTES}, headers=naming(OTHER_TENANT)
    )
    await desk.with_token(again.body["token"]).ask(
        "DELETE", f"/api/conversations/{first.body['id']}"
    )
    after_its_end = await desk.nobody.post(
        "/api/conversations", {"attributes": ATTRIBUTES}, headers=naming()
    )

    assert (first.status, again.status) == (201, 200)
    assert again.body["id"] == first.body["id"]
    assert again.body["token"] != first.body["token"]
    assert again.body["customer"] == {**first.body["customer"], "displayName": "Jane Roe"}
    assert as_a_session.body["conversationId"] == first.body["id"]
    assert as_a_session.body["position"] == 1
    assert (other_tenant.status, other_tenant.body["tenant"]) == (201, OTHER_TENANT)
    assert other_tenant.body["id"] != first.body["id"]
    assert other_tenant.body["customer"]["id"] != first.body["customer"]["id"]
    assert after_its_end.status == 201
    assert after_its_end.body["id"] != first.body["id"]
    assert after_its_end.body["customer"]["id"] == first.body["customer"]["id"]


async def test_fifty_starts_with_one_fingerprint_at_once_get_one_conversation(desk: Desk) -> None:
    starts = await all_of(
        *(
            desk.nobody.post("/api/conversations", {"attributes": ATTRIBUTES}, headers=naming())
            for _ in range(50)
        )
    )
    [(conversations,)] = await desk.api.store.all(
        select(func.count()).select_from(SupportConversation)
    )

    assert sorted(reply.status for reply in starts) == [200] * 49 + [201]
    assert len({reply.body["id"] for reply in starts}) == 1
    assert conversations == 1


async def test_a_fingerprint_is_kept_hashed_and_never_shown(
    desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    customer = await desk.customer(FINGERPRINT)
    await customer.says("hi")
    agent = await desk.agent()
    answers = [
        await agent.ask("GET", "/api/agent/queue", headers=naming()),
        await agent.post(f"{customer.agents_path}/accept", {}),
        await customer.client.get(f"{customer.path}/messages"),
        await customer.client.ask("DELETE", customer.path),
    ]
    await desk.hears(customer.channel, "system:event", lambda data: data["status"] == "CLOSED")
    rows = await desk.api.store.all(select(SupportCustomer.fingerprint_hash))

    assert re.fullmatch(r"[0-9a-f]{64}", rows[0].fingerprint_hash or "")
    assert all(FINGERPRINT not in str(reply) for reply in answers)
    assert all(FINGERPRINT not in str(event) for event in desk.receiver.received)
    captured = capfd.readouterr()
    assert FINGERPRINT not in captured.out + captured.err


async def test_attempts_to_start_are_counted_by_address_and_tenant(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with desk_at(replace(settings, sessions_per_minute=2), receiver) as desk:
        replies = [
            await desk.nobody.post(
                "/api/customer/sessions", {"fingerprint": f"guess {number}"}, headers=naming()
            )
            for number in range(3)
        ]
        elsewhere = await desk.nobody.post(
            "/api/customer/sessions", {"fingerprint": "guess"}, headers=naming(OTHER_TENANT)
        )

    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[2].body["code"] == "too_many_requests"
    assert 1 <= int(replies[2].headers["Retry-After"]) <= 60
    assert elsewhere.status == 200


async def test_making_up_tenants_does_not_get_round_that(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with desk_at(replace(settings, sessions_per_minute=1), receiver) as desk:
        replies = [
            await desk.nobody.post(
                "/api/customer/sessions", {"fingerprint": "x"}, headers=naming(f"{number}.example")
            )
            for number in range(11)
        ]

    assert [reply.status for reply in replies] == [200] * 10 + [429]


async def test_messages_of_a_customer_are_counted(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with desk_at(replace(settings, messages_per_minute=2), receiver) as desk:
        customer = await desk.customer()
        other = await desk.customer("another")
        replies = [
            await customer.client.post(f"{customer.path}/messages", {"content": "x"})
            for _ in range(3)
        ]
        of_the_other = await other.client.post(f"{other.path}/messages", {"content": "x"})

    assert [reply.status for reply in replies] == [201, 201, 429]
    assert int(replies[2].headers["Retry-After"]) >= 1
    assert of_the_other.status == 201


@pytest.mark.parametrize("with_header", [False, True], ids=["tempId", "Idempotency-Key"])
async def test_a_repeated_message_is_stored_and_told_once(desk: Desk, with_header: bool) -> None:
    customer = await desk.customer()
    key = {"Idempotency-Key": "m-1"} if with_header else {}
    body = {"content": "once", **({} if with_header else {"tempId": "m-1"})}

    sent = await all_of(
        *(customer.client.post(f"{customer.path}/messages", body, headers=key) for _ in range(20))
    )
    await customer.says("last")
    await desk.hears(
        customer.channel, "chat:message", lambda data: data["message"]["content"] == "last"
    )

    assert sorted(reply.status for reply in sent) == [200] * 19 + [201]
    assert len({reply.body["id"] for reply in sent}) == 1
    told = desk.heard(customer.channel, "chat:message")
    assert [data["message"]["content"] for data in told] == ["once", "last"]


async def test_a_message_that_was_sent_can_be_repeated_after_the_end(desk: Desk) -> None:
    customer = await desk.customer()
    body = {"content": "answered too late", "tempId": "m-1"}
    first = await customer.client.post(f"{customer.path}/messages", body)
    await customer.client.ask("DELETE", customer.path)

    again = await customer.client.post(f"{customer.path}/messages", body)

    assert (first.status, again.status) == (201, 200)
    assert again.body == first.body


async def test_limit_returns_the_last_messages_oldest_of_them_first(desk: Desk) -> None:
    customer = await desk.customer()
    for number in range(5):
        await customer.says(f"message {number}")

    last_two = await customer.client.get(f"{customer.path}/messages?limit=2")
    all_five = await customer.client.get(f"{customer.path}/messages")
    none = await customer.client.get(f"{customer.path}/messages?limit=0")

    assert [each["content"] for each in last_two.body] == ["message 3", "message 4"]
    assert [each["content"] for each in all_five.body] == [f"message {n}" for n in range(5)]
    assert (none.status, none.body["code"]) == (422, "unprocessable")


async def test_a_closed_conversation_takes_nothing_more_and_can_still_be_read(desk: Desk) -> None:
    customer = await desk.customer()
    await customer.says("hi")
    closed = await customer.client.ask("DELETE", customer.path)

    again = await customer.client.ask("DELETE", customer.path)
    written = await customer.client.post(f"{customer.path}/messages", {"content": "hi?"})
    queued = await customer.client.post(f"{customer.path}/queue", {})
    history = await customer.client.get(f"{customer.path}/messages")

    assert (again.status, again.body) == (200, closed.body)
    gone = {"code": "gone", "message": "This conversation is closed. Start a new one."}
    assert (written.status, written.body) == (410, gone)
    assert (queued.status, queued.body) == (410, gone)
    assert [each["content"] for each in history.body] == ["hi"]
    assert await desk.hears(customer.channel, "system:error") == gone


async def test_what_a_customer_may_not_send(desk: Desk) -> None:
    refusals: list[tuple[dict[str, Any], int]] = [
        ({"content": "hi", "senderId": "somebody-else"}, 403),
        ({"content": "hi", "senderId": "visitor-1", "senderType": "AGENT"}, 403),
        ({"content": "hi", "senderType": "SUPERVISOR"}, 400),
        ({"content": "hi", "type": "SYSTEM"}, 422),
        ({"content": " "}, 422),
        ({"content": "x" * 4_001}, 422),
        ({"content": "\0"}, 422),
        ({"content": "hi", "metadata": {"x": "y" * 4_000}}, 422),
        ({"content": "hi", "metadata": []}, 400),
        ({"content": "hi", "tempId": ""}, 422),
        ({"content": "🍜" * 4_000}, 422),
        ({"content": 5}, 400),
        ({}, 400),
    ]
    created = await desk.nobody.post(
        "/api/conversations",
        {"attributes": ATTRIBUTES},
        headers={"X-Participant-Id": "visitor-1", **naming()},
    )
    customer = desk.with_token(created.body["token"])
    messages = f"/api/conversations/{created.body['id']}/messages"

    for body, status in refusals:
        refused = await customer.post(messages, body)

        assert refused.status == status, (body, refused)
    assert (await customer.get(messages)).body == []


async def test_what_nobody_can_start_with(desk: Desk) -> None:
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/api/conversations", {"attributes": {"displayName": "Jane"}}),
        ("/api/conversations", {"attributes": {"fingerprint": " "}}),
        ("/api/conversations", {"attributes": {"fingerprint": "x" * 256}}),
        ("/api/customer/sessions", {"fingerprint": "x", "displayName": "x" * 201}),
        ("/api/customer/sessions", {"fingerprint": "x", "contact": "x" * 201}),
        ("/api/customer/sessions", {"fingerprint": "x", "channel": "x" * 33}),
        ("/api/customer/sessions", {"fingerprint": "x\0y"}),
    ]
    for path, body in bodies:
        refused = await desk.nobody.post(path, body, headers=naming())

        assert (refused.status, refused.body["code"]) == (422, "unprocessable"), body
    long_id = await desk.nobody.post(
        "/api/customer/sessions",
        {"fingerprint": "x"},
        headers={"X-Participant-Id": "x" * 201, **naming()},
    )
    no_tenant = await desk.nobody.post(
        "/api/customer/sessions", {"fingerprint": "x"}, headers=naming("not a domain")
    )

    assert (long_id.status, no_tenant.status) == (422, 400)


async def test_a_token_is_for_its_own_conversation_alone(desk: Desk) -> None:
    mine, theirs = await desk.customer("mine"), await desk.customer("theirs")

    for method, path, body in (
        ("POST", "/queue", {}),
        ("POST", "/messages", {"content": "hi"}),
        ("GET", "/messages", None),
        ("DELETE", "", None),
    ):
        of_others = await mine.client.ask(method, theirs.path + path, body)
        nobodys = await desk.nobody.ask(method, theirs.path + path, body)
        unknown = await mine.client.ask(
            method, f"/api/conversations/00000000-0000-4000-8000-000000000000{path}", body
        )
        no_id = await mine.client.ask(method, f"/api/conversations/%00'{path}", body)

        assert (of_others.status, of_others.body["code"]) == (403, "forbidden")
        assert (nobodys.status, nobodys.body["code"]) == (401, "unauthenticated")
        assert (unknown.status, unknown.body["code"]) == (404, "not_found")
        assert (no_id.status, no_id.body["code"]) == (404, "not_found")
    assert (await theirs.client.get(f"{theirs.path}/messages")).body == []


async def test_a_logged_out_token_is_none(desk: Desk) -> None:
    customer = await desk.customer()

    out = await customer.client.post("/api/logout")
    after = await customer.client.get(f"{customer.path}/messages")

    assert (out.status, after.status) == (200, 401)


async def test_both_sides_hear_each_message_but_not_the_connection_it_came_from(
    desk: Desk,
) -> None:
    customer = await desk.taken()
    sent = await customer.client.post(
        f"{customer.path}/messages", {"content": "Salom!"}, headers={"X-Socket-ID": "12.34"}
    )
    await desk.hears(customer.channel, "chat:message")

    [event] = [each for each in desk.receiver.delivered if each.name == "chat:message"]
    assert event.channel == customer.channel
    assert event.socket_id == "12.34"
    assert event.data == {"conversationId": customer.id, "message": sent.body}


async def test_many_customers_start_at_once(desk: Desk) -> None:
    customers = await asyncio.gather(*(desk.customer(f"phone {number}") for number in range(30)))
    queue = await (await desk.agent()).ask("GET", "/api/agent/queue?size=100", headers=naming())

    assert len({customer.id for customer in customers}) == 30
    assert [entry["position"] for entry in queue.body["content"]] == list(range(1, 31))
