"""Whose devices are notified of what in a support conversation: guide 002, 7.1."""

import ipaddress
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import select

from chat_api.features.notifications.fcm import ServiceAccount
from chat_api.features.notifications.models import OwedPush
from chat_api.settings import Settings
from tests.chat_api.features.notifications.google import FakeGoogle
from tests.chat_api.features.support.desk import TENANT, Desk, desk_at, naming
from tests.chat_api.receiver import RealtimeReceiver


class Notified(NamedTuple):
    """A desk whose staff and users can be notified, and what Google was given for them."""

    desk: Desk
    google: FakeGoogle

    async def says_where_they_are(self, name: str, *, is_online: bool = True) -> None:
        agent = await self.desk.account(name)
        reply = await agent.ask(
            "PUT",
            "/api/v1/live-agent/agent/status",
            {"is_online": is_online, "fcm_token": f"device-of-{name}"},
        )
        assert reply.status == 200, reply

    async def hears(self, count: int) -> list[tuple[str, Any, Any]]:
        """Return device, notification and data of everything delivered, once it is so much."""
        messages = sorted(await self.google.delivers(count), key=lambda each: each["token"])
        return [(each["token"], each["notification"], each["data"]) for each in messages]


@pytest.fixture
async def notified(
    settings: Settings, receiver: RealtimeReceiver, tmp_path: Path
) -> AsyncIterator[Notified]:
    async with FakeGoogle() as google:
        account = ServiceAccount.from_file(google.write_key_file(tmp_path))
        with_push = replace(settings, service_account=account, fcm_url=google.url)
        async with desk_at(with_push, receiver) as desk:
            yield Notified(desk, google)


async def test_who_is_online_and_serves_the_tenant_hears_of_a_new_session(
    notified: Notified,
) -> None:
    desk = notified.desk
    for name in ("agent", "supervisor", "agent.tenant2"):
        await notified.says_where_they_are(name)
    await notified.says_where_they_are("agent2", is_online=False)
    ali = await desk.account("ali")

    started = await ali.post(
        "/api/v1/live-agent/sessions",
        {"initial_message": "I need help with invoice generation"},
        headers=naming(),
    )
    again = await ali.post("/api/v1/live-agent/sessions", {}, headers=naming())
    # What would be told beyond that would be told before this.
    await desk.customer("a phone", "tenant2.example.com")
    heard = await notified.hears(5)

    assert (started.status, again.status) == (201, 200)
    assert [device for device, _, _ in heard] == [
        "device-of-agent",
        "device-of-agent",
        "device-of-agent.tenant2",
        "device-of-supervisor",
        "device-of-supervisor",
    ]
    first = next(each for each in heard if each[2]["tenant_domain"] == TENANT)
    assert first[1] == {
        "title": "New Live Agent Request",
        "body": f"User from {TENANT} needs assistance",
    }
    assert first[2] == {
        "type": "new_session",
        "session_id": started.body["session_id"],
        "tenant_domain": TENANT,
        "user_account": "ali@example.com",
        "user_name": "Ali Valiyev",
        "message_preview": "I need help with invoice generation",
    }


async def test_entering_the_queue_later_is_told_then(notified: Notified) -> None:
    desk = notified.desk
    await notified.says_where_they_are("agent")
    created = await desk.nobody.post(
        "/api/conversations",
        {"attributes": {"fingerprint": "x", "displayName": "Jane Doe", "contact": "0123"}},
        headers=naming(),
    )
    customer = desk.with_token(created.body["token"])
    path = f"/api/conversations/{created.body['id']}"
    await customer.post(f"{path}/messages", {"content": "hi"})
    before = list(notified.google.delivered)

    for _ in range(2):
        await customer.post(f"{path}/queue", {})
    await desk.customer("somebody else")
    heard = await notified.hears(2)

    assert before == []
    [data] = [data for _, _, data in heard if data["session_id"] == created.body["id"]]
    assert (data["user_account"], data["message_preview"]) == ("0123", "hi")


async def test_each_side_is_notified_of_what_the_other_writes(notified: Notified) -> None:
    desk = notified.desk
    ali, agent = await desk.account("ali"), await desk.agent()
    await ali.post("/api/devices", {"token": "phone-of-ali", "platform": "android"})
    await agent.post("/api/devices", {"token": "phone-of-agent", "platform": "ios"})
    started = await ali.post("/api/v1/live-agent/sessions", {}, headers=naming())
    session_id = started.body["session_id"]

    async def writes(client: Any, side: str, text: str) -> bool:
        reply = await client.post(
            "/api/v1/live-agent/messages",
            {"session_id": session_id, "message_text": text, "sender_type": side},
        )
        assert reply.status == 201, reply
        return bool(reply.body["notification_sent"])

    while_waiting = await writes(ali, "user", "Is anybody there?")
    to_the_user = await writes(agent, "agent", "How can I help?")
    to_the_agent = await writes(ali, "user", "Can you help me with the payment issue?")
    heard = await notified.hears(2)

    assert (while_waiting, to_the_user, to_the_agent) == (False, True, True)
    assert heard == [
        (
            "phone-of-agent",
            {
                "title": "New message from Ali Valiyev",
                "body": "Can you help me with the payment issue?",
            },
            {
                "type": "new_message",
                "session_id": session_id,
                "sender_type": "user",
                "sender_name": "Ali Valiyev",
                "message_text": "Can you help me with the payment issue?",
            },
        ),
        (
            "phone-of-ali",
            {"title": "New message from Agent Smith", "body": "How can I help?"},
            {
                "type": "new_message",
                "session_id": session_id,
                "sender_type": "agent",
                "sender_name": "Agent Smith",
                "message_text": "How can I help?",
            },
        ),
    ]


async def test_a_repeated_message_notifies_once(notified: Notified) -> None:
    desk = notified.desk
    ali, agent = await desk.account("ali"), await desk.agent()
    await ali.post("/api/devices", {"token": "phone-of-ali"})
    started = await ali.post("/api/v1/live-agent/sessions", {}, headers=naming())
    messages = f"/api/agent/conversations/{started.body['session_id']}/messages"

    for text, key in (("once", "m-1"), ("once", "m-1"), ("last", "m-2")):
        await agent.post(messages, {"content": text, "tempId": key})
    heard = await notified.hears(2)

    assert sorted(data["message_text"] for _, _, data in heard) == ["last", "once"]


@pytest.mark.parametrize("named", ["3", "9" * 30])
async def test_an_agent_of_the_proxy_is_not_the_account_of_that_number(
    settings: Settings, receiver: RealtimeReceiver, tmp_path: Path, named: str
) -> None:
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    async with FakeGoogle() as google:
        account = ServiceAccount.from_file(google.write_key_file(tmp_path))
        behind_a_proxy = replace(
            settings,
            auth="proxy",
            trusted_proxies=loopback,
            service_account=account,
            fcm_url=google.url,
        )
        async with desk_at(behind_a_proxy, receiver) as desk:
            agent, customer = await desk.agent(), await desk.customer()
            await agent.post("/api/devices", {"token": "phone-of-somebody-else"})
            accepted = await desk.nobody.post(
                f"{customer.agents_path}/accept", headers=naming() | {"X-Participant-Id": named}
            )
            await customer.says("Between us")
            owed = await desk.api.store.all(select(OwedPush.body))

    assert agent.user_id == 3
    assert (accepted.status, accepted.body["agent"]["id"]) == (200, named)
    assert (owed, google.delivered) == ([], [])
