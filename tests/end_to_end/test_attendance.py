"""A customer's phone goes away and comes back, and the agent sees it, whatever is killed."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import pytest
from sqlalchemy import func, select
from yarl import URL

from chat_api.features.support.feature import Timing
from chat_api.features.support.models import SupportConversation
from chat_api.realtime.reverb import ReverbApp
from chat_api.runtime import ChatApi
from chat_api.settings import Settings
from chat_api.store.outbox import Outbox
from tests.chat_api.client import Client
from tests.chat_api.world import QUICKLY, chat_api, settings_for
from tests.end_to_end.servers import Lines, Servers, post, serving_both
from tests.support.metrics import scraped
from tests.support.proxy import proxying
from tests.support.pusher_js import PusherJs, pusher_js

_PATIENCE = 60.0
"""Seconds: five of them are the customer's."""


ROOT: Final = str(Path(__file__).parents[2])
KEY: Final = "a-key"
SECRET: Final = "3f9a0c7be2d14586"


def listener(servers: Servers, token: str) -> AbstractAsyncContextManager[PusherJs]:
    """Run pusher-js as whom a token names."""
    key, chat_url = servers.settings["REVERB_APP_KEY"], f"http://127.0.0.1:{servers.chat_port}"
    return listener_at(servers.reverb_port, key, chat_url, token)


def listener_at(
    port: int, key: str, chat_url: str, token: str
) -> AbstractAsyncContextManager[PusherJs]:
    authorization = {
        "transport": "ajax",
        "endpoint": f"{chat_url}/broadcasting/auth",
        "headers": {"Authorization": f"Bearer {token}"},
    }
    return pusher_js(key, port, channelAuthorization=authorization)


async def subscribe(client: PusherJs, channel: str) -> None:
    await client.hears("state", "connected")
    await client.do("subscribe", channel)
    await client.hears("event", channel, "pusher:subscription_succeeded")


async def hears_status(client: PusherJs, channel: str, status: str) -> Any:
    while True:
        [event] = await client.hears("event", channel, "system:event", patience=_PATIENCE)
        if event["status"] == status:
            return event


async def test_the_agent_sees_that_the_customer_has_gone_and_is_back(tmp_path: Path) -> None:
    async with (
        serving_both(tmp_path) as servers,
        aiohttp.ClientSession(f"http://127.0.0.1:{servers.chat_port}") as http,
    ):
        session = await post(http, "/api/customer/sessions", {"fingerprint": "a phone's secret"})
        conversation = session["conversationId"]
        login = await post(
            http, "/api/login", {"email": "agent@example.com", "password": "password"}
        )
        accept = f"/api/agent/conversations/{conversation}/accept"
        await post(http, accept, {}, login["token"])
        channel = f"private-conversation.{conversation}"
        presence = f"presence-conversation.{conversation}"
        async with listener(servers, login["token"]) as agent:
            await subscribe(agent, channel)
            async with listener(servers, session["token"]) as customer:
                await subscribe(customer, presence)
            # The program was killed: the server closes what is left of its connection.
            gone = await hears_status(agent, channel, "DISCONNECTED")
            async with listener(servers, session["token"]) as customer:
                await subscribe(customer, presence)
                back = await hears_status(agent, channel, "CONNECTED")

    assert gone["conversationId"] == back["conversationId"] == conversation
    assert gone["agent"] == back["agent"] == {"id": "3", "displayName": "Agent Smith"}


class Realtime(NamedTuple):
    """A reverb_py in a process of its own."""

    process: asyncio.subprocess.Process
    port: int

    @classmethod
    @asynccontextmanager
    async def serving(cls, folder: Path, chat_url: str) -> AsyncIterator["Realtime"]:
        """Run it on a free port, with webhooks to a chat API."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CHAT_", "REVERB_"))
        } | {
            "REVERB_APP_ID": "1001",
            "REVERB_APP_KEY": KEY,
            "REVERB_APP_SECRET": SECRET,
            "REVERB_APP_WEBHOOK_URL": f"{chat_url}/webhooks/reverb",
            "REVERB_APP_WEBHOOK_EVENTS": "member_added,member_removed",
            "PYTHONPATH": ROOT,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "reverb_py", "start", "--host", "127.0.0.1", "--port", "0"),
            env=environment,
            cwd=folder,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            line = await Lines(process.stderr).find("Listening", _PATIENCE)
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            assert found, line
            yield cls(process, int(found[1]))
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def kill(self) -> None:
        """End it without a warning."""
        self.process.kill()
        await self.process.wait()


def settings_of_api(database: str, reverb_port: int) -> Settings:
    reverb = ReverbApp("1001", KEY, SECRET, "127.0.0.1", reverb_port)
    return replace(settings_for(database, reverb), metrics_port=0)


async def relay_failures(api: ChatApi) -> float:
    """Return how often the relay has noticed that there is no server."""
    assert api.metrics_url is not None
    found = await scraped(URL(api.metrics_url).port)
    return found["chat_relay_failures_total",]


async def until_settled(api: ChatApi, count: int) -> None:
    """Wait until the API knows of so many customers that they are there, and has told all."""
    seen, outbox = select(func.count(SupportConversation.customer_seen_at)), Outbox(api.store)
    async with asyncio.timeout(_PATIENCE):
        while await api.store.all(seen) != [(count,)] or (await outbox.backlog()).owed:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("is_noticed", [True, False], ids=["noticed", "unnoticed"])
async def test_who_does_not_come_back_after_the_server_was_killed_is_told_to_have_gone(
    is_noticed: bool, empty_database: str, tmp_path: Path
) -> None:
    """The relay notices when it has something to publish; else customers are looked for in time."""
    timing = Timing(gone=1.0, looks=10_000.0 if is_noticed else 0.1)
    async with (
        proxying(9) as proxy,
        chat_api(settings_of_api(empty_database, proxy.port), QUICKLY, timing=timing) as api,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE)) as http,
    ):
        nobody = Client(http, api.url)
        agent = await nobody.log_in("agent@example.com")
        assert agent.token is not None
        customers = []
        for name in ("stays away", "comes back"):
            session = await nobody.post("/api/customer/sessions", {"fingerprint": name})
            path = f"/api/agent/conversations/{session.body['conversationId']}"
            await agent.post(f"{path}/accept", {})
            await agent.post(f"{path}/messages", {"content": "Hello."})
            customers.append(session.body)
        away, back = [customer["conversationId"] for customer in customers]
        tokens = [customer["token"] for customer in customers]

        async with Realtime.serving(tmp_path, api.url) as first:
            proxy.target_port = first.port
            async with (
                listener_at(first.port, KEY, api.url, tokens[0]) as one,
                listener_at(first.port, KEY, api.url, tokens[1]) as other,
            ):
                await subscribe(one, f"presence-conversation.{away}")
                await subscribe(other, f"presence-conversation.{back}")
                await until_settled(api, 2)
                failures = await relay_failures(api)
                await first.kill()
                if is_noticed:
                    await agent.post(f"/api/agent/conversations/{away}/messages", {"content": "?"})
                    async with asyncio.timeout(_PATIENCE):
                        while await relay_failures(api) == failures:
                            pass

        async with (
            Realtime.serving(tmp_path, api.url) as second,
            listener_at(second.port, KEY, api.url, agent.token) as ears,
            listener_at(second.port, KEY, api.url, tokens[1]) as other,
        ):
            await subscribe(other, f"presence-conversation.{back}")
            await ears.hears("state", "connected")
            for conversation in (away, back):
                channel = f"private-conversation.{conversation}"
                await ears.do("subscribe", channel)
                await ears.hears("event", channel, "pusher:subscription_succeeded")
            proxy.target_port = second.port

            if not is_noticed:
                assert await relay_failures(api) == failures
            gone = await hears_status(ears, f"private-conversation.{away}", "DISCONNECTED")
            await agent.post(f"/api/agent/conversations/{back}/close", {})
            statuses = []
            while "CLOSED" not in statuses:
                [name, event] = await ears.hears(
                    "event", f"private-conversation.{back}", patience=_PATIENCE
                )
                statuses.append(event["status"])

    assert gone == {
        "conversationId": away,
        "status": "DISCONNECTED",
        "agent": {"id": "3", "displayName": "Agent Smith"},
        "timestamp": gone["timestamp"],
    }
    assert "DISCONNECTED" not in statuses
