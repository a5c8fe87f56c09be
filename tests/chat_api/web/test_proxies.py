"""What a proxy may say about a request, and whose word counts."""

import ipaddress
from dataclasses import replace
from typing import Self

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from multidict import CIMultiDict
from pytest_aiohttp.plugin import AiohttpClient

from chat_api.kernel.callers import Caller, Identity, Participant, Visitor
from chat_api.kernel.errors import Unauthenticated
from chat_api.kernel.routes import Answer, Audience, Call, NoInput, Route
from chat_api.settings import Settings
from chat_api.web.app import create_app
from chat_api.web.proxies import TrustedProxies
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import World

PROXIES = TrustedProxies(
    tuple(ipaddress.ip_network(text) for text in ("10.0.0.0/8", "127.0.0.1", "2001:db8::/32"))
)
VOUCHING = replace(PROXIES, vouch_for_people=True)


def forwarded(*lines: str) -> CIMultiDict[str]:
    return CIMultiDict(("X-Forwarded-For", line) for line in lines)


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        # Nobody says anything.
        ("192.0.2.1", [], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        # One proxy, several, and whatever the client invented before them.
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7, 192.0.2.1,10.0.0.2 , 10.0.0.3"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.9, 192.0.2.1"], "192.0.2.1"),
        # A proxy that puts its own line below the client's.
        ("10.0.0.1", ["198.51.100.7", "192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7", "192.0.2.1", "10.0.0.2"], "192.0.2.1"),
        # All of them are trusted: it is somebody on the inside.
        ("10.0.0.1", ["10.1.1.1, 10.0.0.2"], "10.1.1.1"),
        # IPv6, and IPv4 in the clothes of it.
        ("2001:db8::1", ["2001:db9::7"], "2001:db9::7"),
        ("::ffff:10.0.0.1", ["192.0.2.1, ::ffff:10.0.0.2"], "192.0.2.1"),
        # What is no address hides what stands before it.
        ("10.0.0.1", ["192.0.2.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1, x, 10.0.0.2"], "10.0.0.2"),
        # Strangers' words do not count, nor those of a peer without an address.
        ("192.0.2.9", ["192.0.2.1"], "192.0.2.9"),
        ("11.0.0.1", ["192.0.2.1"], "11.0.0.1"),
        ("2001:db9::1", ["192.0.2.1"], "2001:db9::1"),
        ("", ["192.0.2.1"], ""),
    ],
)
def test_a_request_comes_from_the_last_whom_no_trusted_proxy_is(
    peer: str, lines: list[str], client: str
) -> None:
    assert PROXIES.client_address(peer, forwarded(*lines)) == client


def test_without_trusted_proxies_nobodys_word_counts() -> None:
    for nobody in (TrustedProxies(), TrustedProxies(vouch_for_people=True)):
        assert nobody.client_address("127.0.0.1", forwarded("192.0.2.1")) == "127.0.0.1"
        assert nobody.participant("127.0.0.1", CIMultiDict({"X-Participant-Id": "a"})) is None


def test_a_proxy_vouches_for_people_only_where_it_is_meant_to() -> None:
    headers = CIMultiDict(
        {"x-participant-id": " visitor-7 ", "X-Participant-Name": "Zoë", "Host": "A.example:80"}
    )

    assert VOUCHING.participant("10.0.0.1", headers) == Participant("visitor-7", "Zoë", "a.example")
    assert VOUCHING.participant("192.0.2.1", headers) is None
    assert PROXIES.participant("10.0.0.1", headers) is None


def test_a_proxy_need_not_say_who_it_is_nor_where() -> None:
    headers = CIMultiDict({"X-Participant-Id": " ", "Host": "no domain"})

    assert VOUCHING.participant("10.0.0.1", headers) == Participant(None, None, "")
    assert VOUCHING.participant("10.0.0.1", CIMultiDict()) == Participant(None, None, "")


@pytest.mark.parametrize("name", ["X-Participant-Id", "X-Participant-Name"])
@pytest.mark.parametrize("text", ["x" * 201, "a\tb", "a\u200bb", "a\udcffb"])
def test_what_cannot_be_shown_is_nobodys_name(name: str, text: str) -> None:
    with pytest.raises(
        Unauthenticated, match=rf"^{name} must be up to 200 printable characters\.$"
    ):
        VOUCHING.participant("10.0.0.1", CIMultiDict({name: text}))
    VOUCHING.participant("10.0.0.1", CIMultiDict({name: "x" * 200}))


def test_a_name_that_was_sent_beside_the_proxys_is_refused() -> None:
    headers = CIMultiDict([("X-Participant-Id", "mallory"), ("x-participant-id", "ann")])

    with pytest.raises(
        Unauthenticated,
        match=r"^X-Participant-Id must be sent once: the proxy has to replace it\.$",
    ):
        VOUCHING.participant("10.0.0.1", headers)


CALLER = Caller(
    id=7,
    email="ann@example.com",
    first_name="Ann",
    last_name="",
    role="user",
    tenants=(),
    token_id="t",
    token_expires_at=0,
)
AGENT = replace(CALLER, id=8, role="agent")
VISITOR = Visitor("c1", "Zoë", "a.example", "conversation", "t", 0)
TOKENS: dict[str, Caller | Visitor] = {"ann": CALLER, "agent": AGENT, "visitor": VISITOR}


async def authenticate(token: str) -> Caller | Visitor:
    if token not in TOKENS:
        raise Unauthenticated("not ours")
    return TOKENS[token]


class Door:
    """An API with a route for every audience, and whom it took the last request to come from."""

    def __init__(self, client: TestClient[web.Request, web.Application]) -> None:
        self._client = client
        self._identity: Identity | None = None

    @classmethod
    async def open(cls, aiohttp_client: AiohttpClient, proxies: TrustedProxies) -> Self:
        async def answer(call: Call[NoInput]) -> Answer:
            door._identity = call.identity
            return Answer({})

        routes = [
            Route("GET", f"/{audience.value}", NoInput, answer, audience) for audience in Audience
        ]
        door = cls(await aiohttp_client(create_app(routes, authenticate, proxies)))
        return door

    async def who(self, audience: Audience, **headers: str) -> Identity | int | None:
        """Return whom the handler saw, or the status where it was not reached."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._client.get(f"/{audience.value}", headers=sent) as response:
            return self._identity if response.status == 200 else response.status


async def test_a_token_says_who_asks_wherever_it_is_good(aiohttp_client: AiohttpClient) -> None:
    door = await Door.open(aiohttp_client, TrustedProxies())
    seen = {
        (audience.value, token): await door.who(audience, Authorization=f"Bearer {token}")
        for audience in Audience
        for token in ("ann", "agent", "visitor", "foreign")
    }
    nobody = [await door.who(audience, X_Participant_Id="x") for audience in Audience]

    assert seen == {
        ("anyone", "ann"): None,
        ("anyone", "agent"): None,
        ("anyone", "visitor"): None,
        ("anyone", "foreign"): None,
        ("account", "ann"): CALLER,
        ("account", "agent"): AGENT,
        ("account", "visitor"): 403,
        ("account", "foreign"): 401,
        ("staff", "ann"): 403,
        ("staff", "agent"): AGENT,
        ("staff", "visitor"): 403,
        ("staff", "foreign"): 401,
        ("parties", "ann"): CALLER,
        ("parties", "agent"): AGENT,
        ("parties", "visitor"): VISITOR,
        ("parties", "foreign"): 401,
    }
    assert nobody == [None, 401, 401, 401]


async def test_behind_a_proxy_that_vouches_tokens_are_optional(
    aiohttp_client: AiohttpClient,
) -> None:
    vouched = Participant("visitor-7", None, "127.0.0.1")
    door = await Door.open(aiohttp_client, VOUCHING)
    without = [await door.who(audience, X_Participant_Id="visitor-7") for audience in Audience]
    foreign = [
        await door.who(audience, X_Participant_Id="visitor-7", Authorization=value)
        for value in ("Bearer foreign", "Basic YTpi")
        for audience in Audience
    ]
    own = [
        await door.who(audience, X_Participant_Id="visitor-7", Authorization="Bearer visitor")
        for audience in Audience
    ]

    # Accounts are ours alone: no proxy vouches for those.
    let_in = replace(vouched, is_staff=True)
    assert without == [vouched, 401, let_in, vouched]
    assert foreign == [vouched, 401, let_in, vouched] * 2
    assert own == [vouched, 403, 403, VISITOR]


async def test_the_address_that_is_throttled_is_the_clients(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async def fail(world: World, client: str, attempt: int) -> int:
        reply = await world.nobody.post(
            "/api/login",
            {"email": f"{client}{attempt}@example.com", "password": "x"},
            headers={"X-Forwarded-For": client},
        )
        return reply.status

    loopback = (ipaddress.ip_network("127.0.0.1"),)
    throttled = replace(settings, logins_per_minute=1)
    async with World.open(replace(throttled, trusted_proxies=loopback), receiver) as world:
        one = [await fail(world, "192.0.2.1", attempt) for attempt in range(11)]
        other = await fail(world, "192.0.2.2", 0)
    async with World.open(throttled, receiver) as world:
        of_strangers = [await fail(world, f"192.0.2.{attempt}", 0) for attempt in range(11)]

    assert (one, other) == ([401] * 10 + [429], 401)
    assert of_strangers == [401] * 10 + [429]
