"""Whose pages may ask, and what pages of others cannot do."""

import ipaddress
from dataclasses import replace

import pytest

from chat_api.settings import Settings
from chat_api.web.origins import Origins
from tests.chat_api.client import Reply
from tests.chat_api.features.support.desk import Desk, desk_at
from tests.chat_api.receiver import RealtimeReceiver

APP, EVIL = "https://app.example.com", "https://evil.example"
NAMED = Origins(frozenset({APP}))
NOBODYS = Origins(frozenset())
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def test_where_a_token_says_who_asks_any_page_may() -> None:
    for origin in (None, APP, "null"):
        assert Origins().headers_for(origin)["Access-Control-Allow-Origin"] == "*"
    assert not Origins().refuse({"Origin": EVIL, "Sec-Fetch-Site": "cross-site"})


@pytest.mark.parametrize("origin", [None, EVIL, "null", "https://app.example.com:8443", "*", ""])
def test_a_page_that_is_not_named_is_told_nothing(origin: str | None) -> None:
    assert NAMED.headers_for(origin) == {"Vary": "Origin"}
    assert NOBODYS.headers_for(origin) == {"Vary": "Origin"}


def test_a_page_that_is_named_may_read_the_answer() -> None:
    assert NAMED.headers_for(APP) == {
        "Access-Control-Allow-Origin": "https://app.example.com",
        "Access-Control-Expose-Headers": "Retry-After, X-Request-ID",
        "Vary": "Origin",
    }


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        # An app, a server, a browser that somebody typed an address into.
        ({}, False),
        ({"Host": "chat.example.com"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        # Pages that are named, and the API's own, whatever a proxy has made of the host.
        ({"Origin": APP, "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "https://chat.example.com", "Host": "chat.example.com"}, False),
        ({"Origin": "http://Chat.example.com:8383", "Host": "chat.example.com:8383"}, False),
        (
            {
                "Origin": "https://chat.example.com",
                "Host": "127.0.0.1:8383",
                "Sec-Fetch-Site": "same-origin",
            },
            False,
        ),
        # Everybody else's.
        ({"Origin": EVIL, "Host": "chat.example.com"}, True),
        ({"Origin": "http://chat.example.com:81", "Host": "chat.example.com"}, True),
        ({"Origin": "null", "Host": "chat.example.com"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": EVIL, "Host": "evil.example", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": EVIL, "Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
    ],
)
def test_a_page_that_may_not_ask_is_refused(headers: dict[str, str], is_refused: bool) -> None:
    assert NAMED.refuse(headers) is is_refused


async def start(desk: Desk, origin: str | None) -> Reply:
    """Send what needs no leave: fetch() with a text for a body, or a form."""
    headers = {"Content-Type": "text/plain", "X-Participant-Id": "jane"}
    if origin is not None:
        headers["Origin"] = origin
    return await desk.nobody.ask(
        "POST", "/api/customer/sessions", body=b'{"fingerprint": "f"}', headers=headers
    )


async def preflight(desk: Desk, origin: str) -> dict[str, str]:
    reply = await desk.nobody.ask(
        "OPTIONS",
        "/api/agent/queue",
        headers={"Origin": origin, "Access-Control-Request-Headers": "x-participant-id"},
    )
    assert reply.status == 204
    return {name: value for name, value in reply.headers.items() if name.startswith("Access-")}


async def test_behind_a_proxy_no_page_reads_or_does_anything_unless_it_is_named(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    behind = replace(settings, auth="proxy", trusted_proxies=LOOPBACK)
    async with desk_at(behind, receiver) as desk:
        of_a_page = await start(desk, EVIL)
        queue = await desk.nobody.get("/api/agent/queue")
        own = await start(desk, desk.api.url)
        of_an_app = await start(desk, None)
        preflights = [await preflight(desk, origin) for origin in (EVIL, desk.api.url)]
    async with desk_at(replace(behind, allowed_origins=frozenset({APP})), receiver) as desk:
        named = await start(desk, APP)
        allowed = await preflight(desk, APP)
        other = await start(desk, EVIL)

    assert (of_a_page.status, of_a_page.body) == (
        403,
        {
            "code": "forbidden",
            "message": "This page may not ask here. Whoever runs the API can allow its origin in "
            "CHAT_ALLOWED_ORIGINS.",
        },
    )
    assert (queue.status, queue.body["totalElements"]) == (200, 0)
    assert (own.status, of_an_app.status) == (200, 200)
    for reply in (of_a_page, queue, own, of_an_app, other):
        assert not any(name.startswith("Access-Control-") for name in reply.headers)
    assert preflights == [{}, {}]
    assert (named.status, other.status) == (200, 403)
    assert named.headers["Access-Control-Allow-Origin"] == APP
    assert allowed["Access-Control-Allow-Origin"] == APP
    assert "X-Participant-Id" in allowed["Access-Control-Allow-Headers"].split(", ")
