"""A customer's phone goes away and comes back, and the agent sees it: as scripts/server runs it."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp

from tests.end_to_end.test_scripts import Servers, post, serving_both
from tests.support.pusher_js import PusherJs, pusher_js

_PATIENCE = 60.0
"""Seconds: five of them are the customer's."""


def listener(servers: Servers, token: str) -> AbstractAsyncContextManager[PusherJs]:
    """Run pusher-js as whom a token names."""
    authorization = {
        "transport": "ajax",
        "endpoint": f"http://127.0.0.1:{servers.chat_port}/broadcasting/auth",
        "headers": {"Authorization": f"Bearer {token}"},
    }
    key, port = servers.settings["REVERB_APP_KEY"], servers.reverb_port
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
