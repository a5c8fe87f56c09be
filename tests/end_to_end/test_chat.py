"""A message posted to the chat API reaches subscribed Pusher clients, whatever happens between."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp

from chat_api.realtime.relay import Backoff
from chat_api.realtime.reverb import ReverbApp
from chat_api.runtime import ChatApi
from chat_api.store.outbox import Outbox
from reverb_py.testing import TestServer, serving
from tests.chat_api.client import Client
from tests.chat_api.world import chat_api, settings_for
from tests.support.pusher_js import PusherJs, pusher_js


class Chat(NamedTuple):
    """A chat API and two people with a chat."""

    api: ChatApi
    ali: Client
    vali: Client
    messages: str


@asynccontextmanager
async def chatting(
    folder: Path,
    server: TestServer,
    backoff: Backoff = Backoff(),  # noqa: B008 - immutable
) -> AsyncIterator[Chat]:
    app = server.app
    reverb = ReverbApp(app.id, app.key, app.secret, "127.0.0.1", server.port)
    async with (
        chat_api(settings_for(f"sqlite:///{folder}/chat.sqlite3", reverb), backoff) as api,
        aiohttp.ClientSession() as http,
    ):
        nobody = Client(http, api.url)
        ali, vali = await nobody.log_in("ali@example.com"), await nobody.log_in("vali@example.com")
        chat = await ali.post("/api/chats", {"user_id": vali.user_id})
        yield Chat(api, ali, vali, f"/api/chats/{chat.body['id']}/messages")


@asynccontextmanager
async def listening(server: TestServer, account: Client) -> AsyncIterator[PusherJs]:
    """Run pusher-js, subscribed to the account's channel through `/broadcasting/auth`."""
    authorization = {
        "endpoint": f"{account.url}/broadcasting/auth",
        "headers": {"Authorization": f"Bearer {account.token}"},
    }
    async with pusher_js(
        server.app.key, server.port, channelAuthorization={"transport": "ajax", **authorization}
    ) as client:
        [client.socket_id] = await client.hears("state", "connected")
        await client.do("subscribe", channel_of(account))
        await client.hears("event", channel_of(account), "pusher:subscription_succeeded")
        yield client


def channel_of(account: Client) -> str:
    return f"private-user.{account.user_id}"


async def test_message_typing_and_read_reach_the_other_with_the_guides_payloads(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving())
        chat = await stack.enter_async_context(chatting(tmp_path, server))
        ali, vali = chat.ali, chat.vali
        at_vali = await stack.enter_async_context(listening(server, vali))
        at_ali = await stack.enter_async_context(listening(server, ali))

        posted = await ali.post(chat.messages, {"content": "Salom!", "tempId": "t-1"})

        sent = posted.body["message"]
        [event] = await at_vali.hears("event", channel_of(vali), "MessageSent")
        assert event == {
            "type": "message",
            "data": {
                "message": {
                    "id": sent["id"],
                    "chat_id": "1",
                    "sender_id": str(ali.user_id),
                    "sender_name": "Ali Valiyev",
                    "content": "Salom!",
                    "sent_at": sent["sent_at"],
                    "status": "sent",
                },
                "tempId": "t-1",
            },
        }
        assert await at_ali.hears("event", channel_of(ali), "MessageSent") == [event]

        await vali.post("/api/chats/1/typing", {})
        assert await at_ali.hears("event", channel_of(ali), "UserIsTyping") == [
            {
                "type": "typing",
                "data": {
                    "conversation_id": 1,
                    "user": {
                        "id": vali.user_id,
                        "firstName": "Vali",
                        "lastName": "Aliyev",
                        "email": "vali@example.com",
                    },
                },
            }
        ]

        await vali.post("/api/chats/1/read", {})
        assert await at_ali.hears("event", channel_of(ali), "MessagesRead") == [
            {
                "type": "read",
                "data": {
                    "conversation_id": 1,
                    "reader_id": vali.user_id,
                    "message_ids": [sent["id"]],
                },
            }
        ]


async def test_the_socket_that_posted_does_not_hear_its_own_message(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving())
        chat = await stack.enter_async_context(chatting(tmp_path, server))
        at_ali = await stack.enter_async_context(listening(server, chat.ali))

        await chat.ali.post(
            chat.messages,
            {"content": "from here", "tempId": "1"},
            headers={"X-Socket-ID": at_ali.socket_id},
        )
        await chat.ali.post(chat.messages, {"content": "from elsewhere", "tempId": "2"})

        [event] = await at_ali.hears("event", channel_of(chat.ali), "MessageSent")
        assert event["data"]["message"]["content"] == "from elsewhere"


async def test_a_channel_of_somebody_else_is_refused(tmp_path: Path) -> None:
    async with (
        serving() as server,
        chatting(tmp_path, server) as chat,
        listening(server, chat.ali) as client,
    ):
        await client.do("subscribe", channel_of(chat.vali))
        [error] = await client.hears("event", channel_of(chat.vali), "pusher:subscription_error")
        assert (error["type"], error["status"]) == ("AuthError", 403)


async def test_ten_messages_posted_while_the_server_is_away_arrive_once_and_in_order(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        async with serving() as server:
            chat = await stack.enter_async_context(chatting(tmp_path, server))
            at_vali = await stack.enter_async_context(listening(server, chat.vali))
        for number in range(10):
            draft = {"content": f"message {number}", "tempId": f"t-{number}"}
            assert (await chat.ali.post(chat.messages, draft)).status == 201

        # pusher-js comes back to the same address, authorizes and subscribes by itself, but tries
        # again only 15 seconds after its first attempt has failed.
        server = await stack.enter_async_context(serving(port=server.port))
        await chat.ali.post(chat.messages, {"content": "the last", "tempId": "t-10"})

        assert await heard_until("the last", at_vali, chat.vali) == [
            *(f"message {number}" for number in range(10)),
            "the last",
        ]


async def test_an_api_that_dies_before_noting_what_it_published_is_heard_once(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving())
        async with chatting(tmp_path, server) as chat:
            at_vali = await stack.enter_async_context(listening(server, chat.vali))
            await chat.api.store.write(
                lambda unit: unit.connection.exec_driver_sql(
                    "CREATE TRIGGER forgetful BEFORE DELETE ON outbox "
                    "BEGIN SELECT RAISE(IGNORE); END"
                )
            )
            await chat.ali.post(chat.messages, {"content": "first", "tempId": "t-1"})
            await at_vali.hears("event", channel_of(chat.vali), "MessageSent")
            assert (await Outbox(chat.api.store).backlog()).owed == 2

        # What it believed to have removed is still there, as it is when the power fails.
        async with chatting(tmp_path, server) as chat:
            await chat.api.store.write(
                lambda unit: unit.connection.exec_driver_sql("DROP TRIGGER forgetful")
            )
            await chat.ali.post(chat.messages, {"content": "second", "tempId": "t-2"})
            assert await heard_until("second", at_vali, chat.vali) == ["second"]


async def heard_until(last: str, client: PusherJs, account: Client) -> list[str]:
    """Return the messages that arrive, up to and with the last."""
    heard: list[str] = []
    while last not in heard:
        [event] = await client.hears("event", channel_of(account), "MessageSent", patience=60)
        heard.append(event["data"]["message"]["content"])
    return heard
