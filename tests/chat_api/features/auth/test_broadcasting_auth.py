"""Leave to listen: what is signed, for whom, and in how many ways clients ask for it."""

from urllib.parse import urlencode

import msgspec
import pytest

from reverb_py.protocol.signing import channel_auth, user_auth
from tests.chat_api.receiver import APP_KEY, APP_SECRET
from tests.chat_api.world import World

PATHS = ["/broadcasting/auth", "/pusher/auth"]
OWN = {"socket_id": "123.456", "channel_name": "private-user.1"}
AUTH = {"auth": channel_auth(APP_KEY, APP_SECRET, "123.456", "private-user.1")}

BODIES = {
    "JSON": msgspec.json.encode(OWN),
    "form": urlencode(OWN).encode(),
    "JSON with extras": msgspec.json.encode({**OWN, "extra": {"a": 1}}),
    "form with extras": urlencode({**OWN, "extra": "1"}).encode(),
}
TYPES = {
    "JSON": "application/json",
    "JSON, with charset": "application/json; charset=utf-8",
    "form": "application/x-www-form-urlencoded",
    "form, with charset": "application/x-www-form-urlencoded; charset=UTF-8",
    "text": "text/plain",
    "nonsense": "nonsense",
    "none": None,
}


@pytest.mark.parametrize("path", PATHS)
async def test_ones_own_channel_is_signed_however_the_body_is_sent(world: World, path: str) -> None:
    for content_type in TYPES.values():
        for body in BODIES.values():
            headers = {} if content_type is None else {"Content-Type": content_type}
            reply = await world.ali.ask("POST", path, body=body, headers=headers)
            assert (reply.status, reply.body) == (200, AUTH), (content_type, body)


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_gets_nothing_signed(world: World, path: str) -> None:
    for body in ({}, OWN, {"socket_id": "x", "channel_name": ""}):
        reply = await world.nobody.post(path, body)
        assert (reply.status, reply.body["code"]) == (401, "unauthenticated")


async def test_other_channels_are_refused(world: World) -> None:
    for channel in (
        "private-user.2",
        "private-user.01",
        "private-user.1.1",
        "private-user.",
        "private-user",
        "Private-user.1",
        "private-user.1,private-user.2",
        "presence-user.1",
        "private-encrypted-user.1",
        "private-encrypted-cache-user.1",
        "private-encrypted-wallet.1",
        "private-encrypted-queue.tenant1.example.com",
        "private-wallets.1",
        "private-conversation.1",
        "public",
        "#server-to-user-1",
    ):
        reply = await world.ali.post(
            "/broadcasting/auth", {"socket_id": "1.2", "channel_name": channel}
        )
        assert (reply.status, reply.body) == (
            403,
            {"code": "forbidden", "message": "You may not listen to this channel."},
        ), channel


async def test_a_malformed_socket_id_is_not_signed(world: World) -> None:
    malformed = ("", "1", "1.", ".2", "1.2.3", "a.b", "1.2:private-user.2", "1.2\n", "\u0661.2")
    for socket_id in malformed:
        for path in (*PATHS, "/broadcasting/user-auth", "/pusher/user-auth"):
            reply = await world.ali.post(path, {**OWN, "socket_id": socket_id})
            assert (reply.status, reply.body) == (
                400,
                {"code": "malformed", "message": "socket_id is not a socket id such as 1234.5678."},
            ), socket_id


async def test_a_malformed_channel_name_is_not_signed(world: World) -> None:
    for channel in (
        "",
        " ",
        "private-user.1 ",
        "private-user.1\n",
        "private-user:1",
        "private-user.\u0661",
        "##x",
        "a" * 201,
        "a\0",
    ):
        reply = await world.ali.post(
            "/broadcasting/auth", {"socket_id": "1.2", "channel_name": channel}
        )
        assert (reply.status, reply.body) == (
            400,
            {"code": "malformed", "message": "channel_name is not the name of a channel."},
        ), channel


async def test_an_unreadable_body_is_malformed(world: World) -> None:
    for body in (
        b"",
        b"{}",
        b"[]",
        b"{",
        b'{"socket_id": 1.2, "channel_name": "private-user.1"}',
        b'{"socket_id": "1.2"}',
        b"socket_id=1.2",
        b"channel_name=private-user.1",
        b"\xff=\xff",
        b"socket_id=%ff&channel_name=private-user.1",
        b"&".join([b"a=b"] * 200),
    ):
        reply = await world.ali.ask("POST", "/broadcasting/auth", body=body)
        assert (reply.status, reply.body["code"]) == (400, "malformed"), body


@pytest.mark.parametrize("path", ["/broadcasting/user-auth", "/pusher/user-auth"])
@pytest.mark.parametrize("body", [b"socket_id=123.456", b'{"socket_id":"123.456"}'])
async def test_signing_in_names_the_user_with_a_text_id(
    world: World, path: str, body: bytes
) -> None:
    reply = await world.ali.ask("POST", path, body=body)

    user_data = '{"id":"1","user_info":{"name":"Ali Valiyev"}}'
    assert (reply.status, reply.body) == (
        200,
        {"auth": user_auth(APP_KEY, APP_SECRET, "123.456", user_data), "user_data": user_data},
    )
