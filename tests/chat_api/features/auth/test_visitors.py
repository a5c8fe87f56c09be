"""Tokens of customers without an account: what they are good for, and when they end."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from sqlalchemy import select

from chat_api.features.auth.models import RevokedToken
from chat_api.features.auth.tokens import InvalidToken, Tokens, VisitorClaims
from chat_api.kernel.callers import Visitor
from chat_api.kernel.clock import system_clock
from chat_api.settings import Settings
from tests.chat_api.client import Client
from tests.chat_api.features.auth.forging import claims, segment, signed, signed_otherwise
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import SECRET, World

HOUR = timedelta(hours=1)
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def issued(tokens: Tokens | None = None, *, customer_id: str = "customer-7") -> str:
    token = (tokens or Tokens(SECRET, HOUR, system_clock)).issue_to_visitor(
        customer_id=customer_id,
        name="Zoë",
        tenant="tenant1.example.com",
        conversation_id="conversation-1",
    )
    assert token.expires_in == 3600
    return token.text


def visitor(world: World, token: str) -> Client:
    return Client(world.nobody.session, world.api.url, token)


async def state(client: Client) -> int:
    """Return 403 while the token is good, on a channel that is not its holder's, else 401."""
    reply = await client.post(
        "/broadcasting/auth", {"socket_id": "1.2", "channel_name": "private-user.1"}
    )
    return reply.status


def test_a_token_says_whose_it_is_and_for_which_conversation() -> None:
    tokens = Tokens(SECRET, HOUR, lambda: NOON)
    text = issued(tokens)

    payload = jwt.decode(text, SECRET, algorithms=["HS256"], options={"verify_iat": False})
    assert payload == {
        "sub": "customer-7",
        "name": "Zoë",
        "role": "customer",
        "tenant": "tenant1.example.com",
        "conversation": "conversation-1",
        "iat": int(NOON.timestamp()),
        "exp": int((NOON + HOUR).timestamp()),
        "jti": payload["jti"],
    }
    assert len(payload["jti"]) == 32
    assert jwt.get_unverified_header(text) == {"alg": "HS256", "typ": "JWT"}
    assert tokens.read(text) == VisitorClaims(**payload)
    assert jwt.decode(issued(tokens), options={"verify_signature": False})["jti"] != payload["jti"]


def test_a_token_ends_with_its_time() -> None:
    now = NOON
    tokens = Tokens(SECRET, HOUR, lambda: now)
    text = issued(tokens)

    now = NOON + HOUR - timedelta(seconds=1)
    assert isinstance(tokens.read(text), VisitorClaims)
    now = NOON + HOUR
    with pytest.raises(InvalidToken):
        tokens.read(text)


async def test_a_token_names_its_visitor(world: World) -> None:
    text = issued()
    payload = jwt.decode(text, SECRET, algorithms=["HS256"])

    assert await world.api.accounts.authenticate(text) == Visitor(
        customer_id="customer-7",
        name="Zoë",
        tenant="tenant1.example.com",
        conversation_id="conversation-1",
        token_id=payload["jti"],
        token_expires_at=payload["exp"],
    )


async def test_a_token_opens_nothing_that_is_for_accounts(world: World) -> None:
    client = visitor(world, issued(customer_id="1"))  # an account has this id as well

    for method, path, body in (
        ("GET", "/api/user", None),
        ("GET", "/api/chats", None),
        ("POST", "/api/chats", {"user_id": 2}),
        ("GET", "/api/chats/1/messages", None),
        ("POST", "/api/chats/1/messages", {"content": "x", "tempId": "x"}),
        ("GET", "/api/wallet/balance", None),
        ("POST", "/api/wallet/payments", {"recipientId": 2, "amount": 1}),
        ("POST", "/broadcasting/user-auth", {"socket_id": "1.2"}),
        ("GET", "/api/chats/x/messages?limit=x", None),
    ):
        reply = await client.ask(method, path, body)
        assert (reply.status, reply.body) == (
            403,
            {
                "code": "forbidden",
                "message": "This needs an account, and the token is for one conversation.",
            },
        ), path


async def test_a_token_opens_nobodys_channels(world: World) -> None:
    client = visitor(world, issued(customer_id="1"))

    for channel in (
        "private-user.1",
        "private-wallet.1",
        "private-queue.tenant1.example.com",
        "private-conversation.conversation-2",
        "presence-conversation.1",
    ):
        reply = await client.post(
            "/broadcasting/auth", {"socket_id": "1.2", "channel_name": channel}
        )
        assert (reply.status, reply.body) == (
            403,
            {"code": "forbidden", "message": "You may not listen to this channel."},
        ), channel


async def test_logging_out_ends_that_token_for_good(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    token, elsewhere = issued(), issued()
    async with World.open(settings, receiver) as world:
        client = visitor(world, token)
        before = await state(client)
        replies = await asyncio.gather(client.post("/api/logout"), client.post("/api/logout"))
        after = await client.get("/api/user")
        revoked = await world.api.store.all(select(RevokedToken.user_id, RevokedToken.expires_at))
    async with World.open(settings, receiver) as world:
        states = [await state(visitor(world, text)) for text in (token, elsewhere)]

    assert before == 403
    # Of two at once, one may find the token revoked already.
    assert (200, {"message": "Logged out."}) in [(reply.status, reply.body) for reply in replies]
    assert {reply.status for reply in replies} <= {200, 401}
    assert (after.status, after.body) == (
        401,
        {
            "code": "unauthenticated",
            "message": "The token was revoked. Start the conversation again to get a new one.",
        },
    )
    expires_at = jwt.decode(token, SECRET, algorithms=["HS256"])["exp"]
    assert [(row.user_id, row.expires_at.timestamp()) for row in revoked] == [(None, expires_at)]
    assert states == [401, 403]


def visitors_claims(**changes: Any) -> dict[str, Any]:
    now = int(datetime.now(UTC).timestamp())
    usual = {
        "sub": "customer-7",
        "name": "Zoë",
        "role": "customer",
        "tenant": "tenant1.example.com",
        "conversation": "conversation-1",
        "iat": now,
        "exp": now + 1000,
        "jti": "abc",
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


FORGERIES: dict[str, Callable[[], str]] = {
    "expired": lambda: issued(Tokens(SECRET, HOUR, lambda: system_clock() - 2 * HOUR)),
    "never expiring": lambda: signed(visitors_claims(exp=None)),
    "expiring as text": lambda: signed(visitors_claims(exp="9999999999")),
    "another secret": lambda: signed(visitors_claims(), "another secret of thirty-two chars"),
    "HS384": lambda: signed_otherwise(visitors_claims(), "HS384", "sha384"),
    "HS512": lambda: signed_otherwise(visitors_claims(), "HS512", "sha512"),
    "unsigned": lambda: f"{segment({'alg': 'none', 'typ': 'JWT'})}.{segment(visitors_claims())}.",
    "conversation exchanged": lambda: ".".join(
        (
            issued().split(".")[0],
            segment(visitors_claims(conversation="conversation-2")),
            issued().split(".")[2],
        )
    ),
    "no conversation": lambda: signed(visitors_claims(conversation=None)),
    "empty conversation": lambda: signed(visitors_claims(conversation="")),
    "no tenant": lambda: signed(visitors_claims(tenant=None)),
    "no customer": lambda: signed(visitors_claims(sub=None)),
    "empty customer": lambda: signed(visitors_claims(sub="")),
    "no id of its own": lambda: signed(visitors_claims(jti=None)),
    "long id of its own": lambda: signed(visitors_claims(jti="a" * 33)),
    "an agent": lambda: signed(visitors_claims(role="agent")),
    "no role": lambda: signed(visitors_claims(role=None)),
    "an account as customer": lambda: signed(claims(role="customer")),
}


async def test_a_token_that_is_not_ours_is_refused(world: World) -> None:
    for forgery, make in FORGERIES.items():
        assert await state(visitor(world, make())) == 401, forgery
    assert await state(visitor(world, signed(visitors_claims()))) == 403
