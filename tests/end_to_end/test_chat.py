"""A message posted to the chat API reaches subscribed Pusher clients, whatever happens between."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from argon2 import PasswordHasher

from chat_api.realtime.reverb import ReverbApp
from chat_api.runtime import running
from chat_api.settings import Settings
from reverb_py.testing import TestServer, serving
from tests.support.pusher_js import PusherJs, pusher_js

CHEAP_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Account:
    """Somebody who is logged in to the chat API."""

    def __init__(self, http: aiohttp.ClientSession, url: str, login: dict[str, Any]) -> None:
        self._http = http
        self._url = url
        self.token: str = login["access_token"]
        self.user: dict[str, Any] = login["user"]

    async def post(self, path: str, body: object = None, **headers: str) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", **headers}
        async with self._http.post(f"{self._url}{path}", json=body, headers=headers) as response:
            assert response.status in (200, 201), await response.text()
            return await response.json()


class Chat:
    """A chat API with its demo accounts."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self.url = url

    async def log_in(self, email: str) -> Account:
        account = {"email": email, "password": "password"}
        async with self._http.post(f"{self.url}/api/login", json=account) as response:
            assert response.status == 200, await response.text()
            return Account(self._http, self.url, await response.json())


@asynccontextmanager
async def chatting(folder: Path, server: TestServer) -> AsyncIterator[Chat]:
    settings = Settings(
        jwt_secret="0123456789abcdef0123456789abcdef",
        reverb=ReverbApp(
            app_id=server.app.id,
            key=server.app.key,
            secret=server.app.secret,
            host="127.0.0.1",
            port=server.port,
        ),
        port=0,
        database_url=f"sqlite:///{folder / 'chat.sqlite3'}",
        seed=True,
    )
    async with (
        running(settings, hasher=CHEAP_HASHER) as api,
        aiohttp.ClientSession() as http,
    ):
        yield Chat(http, api.url)


@asynccontextmanager
async def listening(server: TestServer, chat: Chat, account: Account) -> AsyncIterator[PusherJs]:
    """Run pusher-js, subscribed to the account's channel through `/broadcasting/auth`."""
    authorization = {
        "endpoint": f"{chat.url}/broadcasting/auth",
        "headers": {"Authorization": f"Bearer {account.token}"},
    }
    async with pusher_js(
        server.app.key, server.port, channelAuthorization={"transport": "ajax", **authorization}
    ) as client:
        [client.socket_id] = await client.hears("state", "connected")
        channel = f"private-user.{account.user['id']}"
        await client.do("subscribe", channel)
        await client.hears("event", channel, "pusher:subscription_succeeded")
        yield client


async def test_message_typing_and_read_reach_the_other_with_the_guides_payloads(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving())
        chat = await stack.enter_async_context(chatting(tmp_path, server))
        ali, vali = await chat.log_in("ali@example.com"), await chat.log_in("vali@example.com")
        at_vali = await stack.enter_async_context(listening(server, chat, vali))
        at_ali = await stack.enter_async_context(listening(server, chat, ali))
        to_vali, to_ali = (f"private-user.{user['id']}" for user in (vali.user, ali.user))
        conversation = await ali.post("/api/chats", {"user_id": vali.user["id"]})

        sent = await ali.post(
            f"/api/chats/{conversation['id']}/messages", {"content": "Salom!", "tempId": "t-1"}
        )

        [event] = await at_vali.hears("event", to_vali, "MessageSent")
        assert event == {
            "type": "message",
            "data": {
                "message": {
                    "id": sent["message"]["id"],
                    "chat_id": str(conversation["id"]),
                    "sender_id": str(ali.user["id"]),
                    "sender_name": sent["message"]["sender_name"],
                    "content": "Salom!",
                    "sent_at": sent["message"]["sent_at"],
                    "status": "sent",
                },
                "tempId": "t-1",
            },
        }
        assert await at_ali.hears("event", to_ali, "MessageSent") == [event]

        await vali.post(f"/api/chats/{conversation['id']}/typing", {})
        assert await at_ali.hears("event", to_ali, "UserIsTyping") == [
            {
                "type": "typing",
                "data": {
                    "conversation_id": conversation["id"],
                    "user": {
                        "id": vali.user["id"],
                        "firstName": vali.user["firstName"],
                        "lastName": vali.user["lastName"],
                        "email": "vali@example.com",
                    },
                },
            }
        ]

        await vali.post(f"/api/chats/{conversation['id']}/read", {})
        assert await at_ali.hears("event", to_ali, "MessagesRead") == [
            {
                "type": "read",
                "data": {
                    "conversation_id": conversation["id"],
                    "reader_id": vali.user["id"],
                    "message_ids": [sent["message"]["id"]],
                },
            }
        ]


async def test_the_socket_that_posted_does_not_hear_its_own_message(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving())
        chat = await stack.enter_async_context(chatting(tmp_path, server))
        ali, vali = await chat.log_in("ali@example.com"), await chat.log_in("vali@example.com")
        at_ali = await stack.enter_async_context(listening(server, chat, ali))
        conversation = await ali.post("/api/chats", {"user_id": vali.user["id"]})
        path = f"/api/chats/{conversation['id']}/messages"

        await ali.post(
            path, {"content": "from here", "tempId": "1"}, **{"X-Socket-ID": at_ali.socket_id}
        )
        await ali.post(path, {"content": "from elsewhere", "tempId": "2"})

        channel = f"private-user.{ali.user['id']}"
        [event] = await at_ali.hears("event", channel, "MessageSent")
        assert event["data"]["message"]["content"] == "from elsewhere"


async def test_a_channel_of_somebody_else_is_refused(tmp_path: Path) -> None:
    async with serving() as server, chatting(tmp_path, server) as chat:
        ali, vali = await chat.log_in("ali@example.com"), await chat.log_in("vali@example.com")
        async with listening(server, chat, ali) as client:
            channel = f"private-user.{vali.user['id']}"
            await client.do("subscribe", channel)
            [error] = await client.hears("event", channel, "pusher:subscription_error")
            assert (error["type"], error["status"]) == ("AuthError", 403)


async def test_ten_messages_posted_while_the_server_is_away_arrive_once_and_in_order(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        async with serving() as server:
            chat = await stack.enter_async_context(chatting(tmp_path, server))
            ali, vali = await chat.log_in("ali@example.com"), await chat.log_in("vali@example.com")
            at_vali = await stack.enter_async_context(listening(server, chat, vali))
            conversation = await ali.post("/api/chats", {"user_id": vali.user["id"]})
        path = f"/api/chats/{conversation['id']}/messages"
        for number in range(10):
            await ali.post(path, {"content": f"message {number}", "tempId": f"t-{number}"})

        # pusher-js comes back to the same address, authorizes and subscribes by itself, but tries
        # again only 15 seconds after its first attempt has failed.
        server = await stack.enter_async_context(serving(port=server.port))
        await ali.post(path, {"content": "the last", "tempId": "t-10"})

        channel = f"private-user.{vali.user['id']}"
        heard: list[str] = []
        while "the last" not in heard:
            [event] = await at_vali.hears("event", channel, "MessageSent", patience=60)
            heard.append(event["data"]["message"]["content"])
        assert heard == [*(f"message {number}" for number in range(10)), "the last"]
