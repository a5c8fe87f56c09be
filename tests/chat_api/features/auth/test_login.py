"""Logging in and out, and what a token is good for."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from sqlalchemy import select

from chat_api.features.auth.models import RevokedToken
from chat_api.features.auth.service import Accounts
from chat_api.kernel.errors import TooMany, Unauthenticated
from chat_api.runtime import migrated_store, with_accounts
from chat_api.settings import Settings
from tests.chat_api.client import Client
from tests.chat_api.features.auth.forging import claims, segment, signed, signed_otherwise
from tests.chat_api.features.auth.hashers import SlowHasher
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import CHEAP_HASHER, SECRET, World

ALI = {
    "id": 1,
    "firstName": "Ali",
    "lastName": "Valiyev",
    "email": "ali@example.com",
    "name": "Ali Valiyev",
    "role": "user",
    "tenants": [],
}
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
WRONG = {
    "code": "unauthenticated",
    "message": "The email address, the password or the role is wrong.",
}


@pytest.mark.parametrize("path", ["/api/login", "/api/v1/auth/login"])
async def test_a_user_gets_a_token_and_their_account(world: World, path: str) -> None:
    reply = await world.nobody.post(
        path, {"email": " Ali@Example.com ", "password": "password", "role": "user"}
    )

    token = reply.body["token"]
    assert (reply.status, reply.body) == (
        200,
        {
            "access_token": token,
            "token": token,
            "token_type": "Bearer",
            "expires_in": 86400,
            "user": ALI,
        },
    )
    claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    assert claims["exp"] - claims["iat"] == 86400
    assert {name: claims[name] for name in ("uid", "sub", "email", "name", "role", "tenants")} == {
        "uid": 1,
        "sub": "ali@example.com",
        "email": "ali@example.com",
        "name": "Ali Valiyev",
        "role": "user",
        "tenants": [],
    }
    assert len(claims["jti"]) == 32


@pytest.mark.parametrize("role", ["agent", None])
async def test_an_agent_is_described_as_one(world: World, role: str | None) -> None:
    reply = await world.nobody.post(
        "/api/v1/auth/login", {"email": "agent@example.com", "password": "password", "role": role}
    )

    assert reply.body["agent"] == {
        "id": "3",
        "email": "agent@example.com",
        "name": "Agent Smith",
        "role": "agent",
        "tenants": ["*"],
    }
    assert reply.body["user"]["id"] == 3


async def test_a_supervisor_may_use_the_agents_app(world: World) -> None:
    reply = await world.nobody.post(
        "/api/login",
        {"email": "supervisor@example.com", "password": "password", "role": "agent"},
    )

    assert (reply.status, reply.body["agent"]["role"]) == (200, "supervisor")


async def test_whatever_is_wrong_is_answered_alike(world: World) -> None:
    for credentials in (
        {"email": "ali@example.com", "password": "passwort"},
        {"email": "ali@example.com", "password": ""},
        {"email": "nobody@example.com", "password": "password"},
        {"email": "ali@example.com", "password": "password", "role": "agent"},
        {"email": "agent@example.com", "password": "password", "role": "user"},
    ):
        reply = await world.nobody.post("/api/login", credentials)
        assert (reply.status, reply.body) == (401, WRONG), credentials


async def test_failed_logins_of_one_account_are_throttled(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(replace(settings, logins_per_minute=3), receiver) as world:
        for _ in range(5):
            await world.nobody.log_in("ali@example.com")  # successes do not count
        replies = await asyncio.gather(
            *(
                world.nobody.post("/api/login", {"email": "ali@example.com", "password": str(i)})
                for i in range(10)
            )
        )
        locked = await world.nobody.post(
            "/api/login", {"email": "ALI@example.com", "password": "password"}
        )
        unknown = [
            await world.nobody.post("/api/login", {"email": "no@example.com", "password": "x"})
            for _ in range(4)
        ]
        other = await world.nobody.post(
            "/api/login", {"email": "vali@example.com", "password": "password"}
        )

    assert sorted(reply.status for reply in replies) == [401] * 3 + [429] * 7
    assert (locked.status, locked.body["code"]) == (429, "too_many_requests")
    assert 1 <= int(locked.headers["Retry-After"]) <= 60
    assert [reply.status for reply in unknown] == [401, 401, 401, 429]
    assert other.status == 200


async def fails(accounts: Accounts, email: str, address: str) -> type[Exception] | None:
    """Try a wrong password, and return how that was refused."""
    try:
        await accounts.log_in(email, "wrong", None, address)
    except (TooMany, Unauthenticated) as error:
        return type(error)
    return None


async def test_whoever_guesses_a_password_does_not_lock_its_owner_out(settings: Settings) -> None:
    limited = replace(settings, logins_per_minute=2)
    async with (
        migrated_store(limited) as store,
        with_accounts(limited, store, hasher=CHEAP_HASHER, clock=lambda: NOON) as accounts,
    ):
        answers = {
            email: [
                await fails(accounts, email, f"192.0.2.{number}")
                for number in range(10)
                for _ in range(4)
            ]
            for email in ("ali@example.com", "nobody@example.com")
        }
        login = await accounts.log_in("ali@example.com", "password", None, "198.51.100.1")

    # Whether there is such an account makes no difference.
    assert answers["ali@example.com"] == answers["nobody@example.com"]
    assert answers["ali@example.com"] == [Unauthenticated, Unauthenticated, TooMany, TooMany] * 10
    assert login.person.email == "ali@example.com"


async def test_failed_logins_of_one_account_from_everywhere_have_an_end(
    settings: Settings,
) -> None:
    limited = replace(settings, logins_per_minute=1)
    async with (
        migrated_store(limited) as store,
        with_accounts(limited, store, hasher=CHEAP_HASHER, clock=lambda: NOON) as accounts,
    ):
        answers = [
            await fails(accounts, "ali@example.com", f"192.0.2.{number}") for number in range(101)
        ]
        other = await fails(accounts, "vali@example.com", "192.0.2.101")

    assert answers == [Unauthenticated] * 100 + [TooMany]
    assert other is Unauthenticated


async def test_failed_logins_from_one_address_are_throttled(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(replace(settings, logins_per_minute=1), receiver) as world:
        replies = [
            await world.nobody.post("/api/login", {"email": f"{i}@example.com", "password": "x"})
            for i in range(11)
        ]

    assert [reply.status for reply in replies] == [401] * 10 + [429]


async def test_attempts_that_nobody_had_time_for_do_not_count(settings: Settings) -> None:
    hasher = SlowHasher()
    async with (
        migrated_store(settings) as store,
        with_accounts(settings, store, hasher=hasher) as accounts,
    ):
        crowd = [
            asyncio.create_task(accounts.log_in(f"{number}@example.com", "x", None, "192.0.2.1"))
            for number in range(80)  # more than can wait
        ]
        await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)

        for _ in range(settings.logins_per_minute + 1):
            with pytest.raises(TooMany, match=r"^Too many logins at once\."):
                await accounts.log_in("ali@example.com", "password", None, "192.0.2.2")

        hasher.let_go.set()
        await asyncio.gather(*crowd, return_exceptions=True)
        login = await accounts.log_in("ali@example.com", "password", None, "192.0.2.2")
        assert login.person.id == 1


async def test_logging_out_ends_that_token_only(world: World) -> None:
    elsewhere = await world.nobody.log_in("ali@example.com")

    out = await world.ali.post("/api/logout")
    after = await world.ali.get("/api/user")

    assert (out.status, out.body) == (200, {"message": "Logged out."})
    assert (after.status, after.body) == (
        401,
        {"code": "unauthenticated", "message": "The token was revoked. Log in again."},
    )
    assert after.headers["WWW-Authenticate"] == "Bearer"
    assert (await elsewhere.get("/api/user")).body == ALI


async def test_a_token_stays_revoked_after_a_restart(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(settings, receiver) as world:
        await world.ali.post("/api/logout")
        token = world.ali.token
    async with World.open(settings, receiver) as world:
        again = Client(world.nobody.session, world.api.url, token)
        assert (await again.get("/api/user")).status == 401


async def test_revocations_are_purged_once_their_tokens_have_ended(world: World) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    await world.api.store.write(
        lambda unit: unit.connection.execute(
            RevokedToken.__table__.insert().values(  # type: ignore[attr-defined]
                token_id="old", user_id=1, expires_at=long_ago
            )
        )
    )

    await world.vali.post("/api/logout")

    left = await world.api.store.all(select(RevokedToken.token_id, RevokedToken.user_id))
    assert [row.user_id for row in left] == [2]


HOUR_AGO = int((datetime.now(UTC) - timedelta(hours=1)).timestamp())

FORGERIES: dict[str, Callable[[], str]] = {
    "expired": lambda: signed(claims(exp=HOUR_AGO)),
    "never expiring": lambda: signed(claims(exp=None)),
    "expiring as text": lambda: signed(claims(exp="9999999999")),
    "another secret": lambda: signed(claims(), "another secret of thirty-two chars"),
    "HS384": lambda: signed_otherwise(claims(), "HS384", "sha384"),
    "HS512": lambda: signed_otherwise(claims(), "HS512", "sha512"),
    "unsigned": lambda: f"{segment({'alg': 'none', 'typ': 'JWT'})}.{segment(claims())}.",
    "unsigned, spelt otherwise": lambda: f"{segment({'alg': 'nOnE'})}.{segment(claims())}.",
    "claiming RS256": lambda: ".".join(
        (segment({"alg": "RS256"}), segment(claims()), signed(claims()).split(".")[2])
    ),
    "claims exchanged": lambda: ".".join(
        (signed(claims()).split(".")[0], segment(claims(uid=2)), signed(claims()).split(".")[2])
    ),
    "signature cut": lambda: signed(claims())[:-4],
    "no account": lambda: signed(claims(uid=None)),
    "account as text": lambda: signed(claims(uid="1")),
    "account true": lambda: signed(claims(uid=True)),
    "account that is gone": lambda: signed(claims(uid=999)),
    "another role": lambda: signed(claims(role="supervisor")),
    "huge account": lambda: signed(claims(uid=2**70)),
    "no id of its own": lambda: signed(claims(jti=None)),
    "empty id of its own": lambda: signed(claims(jti="")),
    "claims no object": lambda: jwt.api_jws.encode(b"[1]", SECRET, algorithm="HS256"),
    "not a token": lambda: "abc",
    "dots": lambda: "..",
    "not ASCII": lambda: "ä.ö.ü",
    "deep nesting": lambda: jwt.api_jws.encode(b"[" * 1500, SECRET, algorithm="HS256"),
}


async def test_a_token_that_is_not_ours_is_refused(world: World) -> None:
    for forgery, make in FORGERIES.items():
        headers = {"Authorization": f"Bearer {make()}"}
        reply = await world.nobody.ask("GET", "/api/user", headers=headers)
        assert (reply.status, reply.body["code"]) == (401, "unauthenticated"), forgery
    assert (await world.ali.get("/api/user")).status == 200


async def test_a_token_like_the_forgeries_but_genuine_is_accepted(world: World) -> None:
    headers = {"Authorization": f"bearer  {signed(claims())} "}

    assert (await world.nobody.ask("GET", "/api/user", headers=headers)).body == ALI


async def test_other_credentials_are_refused(world: World) -> None:
    for value in ("", "Bearer", "Bearer ", "Basic YTpi", "Token abc"):
        reply = await world.nobody.ask("GET", "/api/user", headers={"Authorization": value})
        assert (reply.status, reply.body) == (
            401,
            {
                "code": "unauthenticated",
                "message": "Log in and send the token as Authorization: Bearer TOKEN.",
            },
        )


async def test_demo_accounts_can_be_asked_for_again_without_harm(world: World) -> None:
    reply = await world.nobody.post("/api/admin/seed")

    assert (reply.status, reply.body["users"]) == (
        200,
        [
            "ali@example.com",
            "vali@example.com",
            "agent@example.com",
            "agent2@example.com",
            "supervisor@example.com",
            "agent.tenant2@example.com",
        ],
    )
    assert (await world.ali.get("/api/user")).body == ALI


async def test_without_demo_accounts_nobody_can_ask_for_them(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(replace(settings, seed=False), receiver) as world:
        assert (await world.nobody.post("/api/admin/seed")).status == 404
