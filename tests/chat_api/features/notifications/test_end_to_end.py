"""From a customer's request to an agent's phone: guide 002's two notifications, sent by the API."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import update

from chat_api.features.notifications.fcm import ServiceAccount
from chat_api.features.notifications.models import OwedPush
from chat_api.settings import Settings
from chat_api.store.engine import Store
from tests.chat_api.client import Client, Reply
from tests.chat_api.features.notifications.google import FakeGoogle
from tests.chat_api.receiver import APP_ID, APP_KEY, APP_SECRET, RealtimeReceiver
from tests.chat_api.world import SECRET, World

ROOT = str(Path(__file__).parents[4])
TENANT = {"X-Tenant-Domain": "tenant1.example.com"}
AGENTS_PHONE = "phone-of-agent:APA91bH"
ALIS_PHONE = "phone-of-ali:APA91bF"


@pytest.fixture
async def pushing(
    settings: Settings, receiver: RealtimeReceiver, google: FakeGoogle, tmp_path: Path
) -> AsyncIterator[World]:
    account = ServiceAccount.from_file(google.write_key_file(tmp_path))
    with_push = replace(settings, service_account=account, fcm_url=google.url)
    async with World.open(with_push, receiver) as world:
        yield world


async def go_online(client: Client) -> None:
    reply = await client.ask(
        "PUT",
        "/api/v1/live-agent/agent/status",
        {"is_online": True, "fcm_token": AGENTS_PHONE},
        headers=TENANT,
    )
    assert reply.status == 200, reply


async def ask_for_help(client: Client, words: str) -> str:
    reply = await client.post(
        "/api/v1/live-agent/sessions", {"initial_message": words}, headers=TENANT
    )
    assert reply.status == 201, reply
    session_id: str = reply.body["session_id"]
    return session_id


async def say(client: Client, session_id: str, words: str, sender_type: str) -> Reply:
    message = {"session_id": session_id, "message_text": words, "sender_type": sender_type}
    return await client.post("/api/v1/live-agent/messages", message, headers=TENANT)


def shown(message: Any) -> Any:
    return {name: message[name] for name in ("token", "notification", "data")}


async def test_both_sides_are_notified_in_the_guides_words(
    pushing: World, google: FakeGoogle
) -> None:
    agent = await pushing.stranger()
    await go_online(agent)
    await pushing.ali.post("/api/devices", {"token": ALIS_PHONE, "platform": "ios"})

    session_id = await ask_for_help(pushing.ali, "I need help with invoice generation")
    await google.delivers(1)
    answer = await say(agent, session_id, "x" * 150, "agent")
    await google.delivers(2)

    assert (answer.status, answer.body["notification_sent"]) == (201, True)
    assert [shown(message) for message in google.delivered] == [
        {
            "token": AGENTS_PHONE,
            "notification": {
                "title": "New Live Agent Request",
                "body": "User from tenant1.example.com needs assistance",
            },
            "data": {
                "type": "new_session",
                "session_id": session_id,
                "tenant_domain": "tenant1.example.com",
                "user_account": "ali@example.com",
                "user_name": "Ali Valiyev",
                "message_preview": "I need help with invoice generation",
            },
        },
        {
            "token": ALIS_PHONE,
            "notification": {"title": "New message from Agent Smith", "body": "x" * 100},
            "data": {
                "type": "new_message",
                "session_id": session_id,
                "sender_type": "agent",
                "sender_name": "Agent Smith",
                "message_text": "x" * 150,
            },
        },
    ]


@pytest.mark.parametrize("trouble", ["hangs", "away"])
async def test_no_request_waits_for_google_or_fails_by_it(
    pushing: World, google: FakeGoogle, trouble: str
) -> None:
    agent = await pushing.stranger()
    await go_online(agent)
    if trouble == "hangs":
        google.hangs = asyncio.Event()
    else:
        await google.go_down()

    async with asyncio.timeout(50):  # six attempts of Google, of ten seconds each, take longer
        session_id = await ask_for_help(pushing.ali, "Hello?")
        replies = [await say(pushing.ali, session_id, str(number), "user") for number in range(5)]

    assert {reply.status for reply in replies} == {201}
    if google.hangs is not None:
        google.hangs.set()


async def test_without_a_device_nobody_was_notified(pushing: World, google: FakeGoogle) -> None:
    agent = await pushing.stranger()
    session_id = await ask_for_help(pushing.ali, "Hello?")

    answer = await say(agent, session_id, "Hi", "agent")

    assert (answer.status, answer.body["notification_sent"]) == (201, False)
    assert google.tried == []


async def test_a_process_that_is_killed_before_it_could_send_does_so_after_its_start(
    database: str, receiver: RealtimeReceiver, google: FakeGoogle, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": ROOT,
        "CHAT_DATABASE_URL": database,
        "CHAT_JWT_SECRET": SECRET,
        "CHAT_PORT": "0",
        "CHAT_SEED": "1",
        "CHAT_FCM_URL": google.url,
        "CHAT_FCM_CREDENTIALS": str(google.write_key_file(tmp_path)),
        "REVERB_APP_ID": APP_ID,
        "REVERB_APP_KEY": APP_KEY,
        "REVERB_APP_SECRET": APP_SECRET,
        "REVERB_PORT": str(receiver.port),
    }
    await google.go_down()

    async def start() -> tuple[asyncio.subprocess.Process, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "chat_api",
            "serve",
            env=environment,
            cwd=tmp_path,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        while b"url=" not in (line := await process.stderr.readline()):
            assert line, "it ended instead of starting"
        return process, line.split(b"url=")[1].split()[0].decode()

    async with asyncio.timeout(90), aiohttp.ClientSession() as session:
        first, url = await start()
        try:
            nobody = Client(session, url)
            await go_online(await nobody.log_in("agent@example.com"))
            session_id = await ask_for_help(await nobody.log_in("ali@example.com"), "Hello?")
        finally:
            first.send_signal(signal.SIGKILL)
            await first.wait()

        # It may have died with a claim, which would have to end first.
        store = Store(database)
        due = update(OwedPush).values(next_attempt_at=datetime.now(UTC))
        await store.write(lambda unit: unit.connection.execute(due))
        await store.close()
        await google.go_up()
        second, _ = await start()
        try:
            [message] = await google.delivers(1)
        finally:
            second.send_signal(signal.SIGTERM)
            assert await second.wait() == 0

    assert message["data"]["session_id"] == session_id
    assert google.tried == [AGENTS_PHONE]
