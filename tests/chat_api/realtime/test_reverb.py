"""What the realtime server's answers mean for an event."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from chat_api.realtime.reverb import Publication, Refused, ReverbApp, ReverbClient, Unavailable
from reverb_py.core.apps import App
from reverb_py.testing import serving

HELLO = Publication("key", "private-user.1", "Hello", "{}", None)


@asynccontextmanager
async def answering(
    aiohttp_client: AiohttpClient, status: int, headers: dict[str, str]
) -> AsyncIterator[ReverbClient]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    url = (await aiohttp_client(app)).make_url("")
    assert url.host is not None
    assert url.port is not None
    target = ReverbApp("1001", "key", "secret", url.host, url.port)
    async with ReverbClient(target, lambda: datetime.now(UTC)) as client:
        yield client


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_only_what_is_wrong_with_the_event_itself_is_final(
    aiohttp_client: AiohttpClient, status: int
) -> None:
    async with answering(aiohttp_client, status, {}) as client:
        with pytest.raises(Refused):
            await client.publish([HELLO])


@pytest.mark.parametrize(
    ("status", "is_away"),
    [
        *((status, False) for status in (302, 401, 403, 404, 405, 407, 421, 425, 426, 429, 500)),
        *((status, True) for status in (502, 503, 504)),
    ],
)
async def test_everything_else_can_be_put_right(
    aiohttp_client: AiohttpClient, status: int, is_away: bool
) -> None:
    async with answering(aiohttp_client, status, {}) as client:
        with pytest.raises(Unavailable) as error:
            await client.publish([HELLO])

    assert error.value.is_away is is_away


async def test_the_page_of_a_proxy_says_nothing_about_an_event(
    aiohttp_client: AiohttpClient,
) -> None:
    async with answering(aiohttp_client, 400, {"Content-Type": "text/html"}) as client:
        with pytest.raises(Unavailable):
            await client.publish([HELLO])


@pytest.mark.parametrize(
    ("wish", "wait"), [("7", 7.0), ("86400", 60.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)]
)
async def test_the_servers_wish_for_patience_is_heard_within_reason(
    aiohttp_client: AiohttpClient, wish: str, wait: float
) -> None:
    async with answering(aiohttp_client, 429, {"Retry-After": wish}) as client:
        with pytest.raises(Unavailable) as error:
            await client.publish([HELLO])

    assert error.value.retry_after == wait


async def test_an_answer_that_is_not_the_protocols_is_no_answer(
    aiohttp_client: AiohttpClient,
) -> None:
    async with answering(aiohttp_client, 200, {}) as client:
        with pytest.raises(Unavailable):
            await client.occupied_channels()
        with pytest.raises(Unavailable):
            await client.is_occupied("private-user.1")
        with pytest.raises(Unavailable):
            await client.members("presence-conversation.1")


async def test_a_server_tells_who_listens_also_where_names_need_encoding() -> None:
    app = App(id="a?b#c%41", key="my-key", secret="a-secret-of-some-length")
    name = "private-user.1_=@,;-"
    async with serving(app) as server, server.connected() as listener:
        await listener.subscribe(name)
        target = ReverbApp(app.id, app.key, app.secret, "127.0.0.1", server.port)
        async with ReverbClient(target, lambda: datetime.now(UTC)) as client:
            assert await client.occupied_channels() == {name}
            assert await client.is_occupied(name)
            assert not await client.is_occupied("private-user.2")


async def test_a_server_tells_who_is_present() -> None:
    name = "presence-conversation.1"
    async with serving() as server, server.connected() as jane, server.connected() as agent:
        await jane.subscribe(name, '{"user_id":"customer:1"}')
        await agent.subscribe(name, '{"user_id":3}')
        app = server.app
        target = ReverbApp(app.id, app.key, app.secret, "127.0.0.1", server.port)
        async with ReverbClient(target, lambda: datetime.now(UTC)) as client:
            assert await client.members(name) == {"customer:1", "3"}
            assert await client.members("presence-conversation.2") == set()
            with pytest.raises(Refused):
                await client.members("private-user.1")
            assert await client.is_ready()


@pytest.mark.parametrize(("status", "is_ready"), [(200, True), (404, True), (503, False)])
async def test_only_a_server_that_says_so_is_not_ready(
    aiohttp_client: AiohttpClient, status: int, is_ready: bool
) -> None:
    async with answering(aiohttp_client, status, {}) as client:
        assert await client.is_ready() is is_ready
