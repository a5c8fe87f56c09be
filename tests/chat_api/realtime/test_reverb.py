"""What the realtime server's answers mean for an event."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from chat_api.realtime.reverb import Publication, Refused, ReverbApp, ReverbClient, Unavailable
from reverb_py.core.apps import App
from reverb_py.testing import serving
from tests.chat_api.receiver import RealtimeReceiver

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


async def test_a_channel_that_the_server_does_not_know_says_nothing_of_the_app(
    aiohttp_client: AiohttpClient,
) -> None:
    """A node of Laravel Reverb answers 404 where nobody is, also when somebody is on another."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({}, status=404 if request.path.endswith("/users") else 200)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    url = (await aiohttp_client(app)).make_url("")
    assert url.port is not None
    target = ReverbApp("1001", "key", "secret", "127.0.0.1", url.port)
    async with ReverbClient(target, lambda: datetime.now(UTC)) as client:
        with pytest.raises(Unavailable):
            await client.members("presence-conversation.1")
        assert await client.is_up()


@pytest.mark.parametrize(("status", "is_ready"), [(200, True), (404, True), (503, False)])
async def test_only_a_server_that_says_so_is_not_ready(
    aiohttp_client: AiohttpClient, status: int, is_ready: bool
) -> None:
    async with answering(aiohttp_client, status, {}) as client:
        assert await client.is_ready() is is_ready


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (
            {"secret": "another-secret-of-some-length"},
            "it refuses our signature (401): check REVERB_APP_ID, REVERB_APP_KEY and "
            "REVERB_APP_SECRET",
        ),
        (
            {"key": "another-key"},
            "it refuses our signature (401): check REVERB_APP_ID, REVERB_APP_KEY and "
            "REVERB_APP_SECRET",
        ),
        (
            {"app_id": "another"},
            "it knows no such app (404): check REVERB_APP_ID, REVERB_HOST and REVERB_PORT",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_server_that_refuses_our_app_is_not_up_and_says_what_to_check(
    wrong: dict[str, str], reason: str
) -> None:
    async with serving() as server:
        app = ReverbApp(server.app.id, server.app.key, server.app.secret, "127.0.0.1", server.port)
        async with ReverbClient(
            ReverbApp(**{**app._asdict(), **wrong}), lambda: datetime.now(UTC)
        ) as client:
            assert await client.is_up()  # it has not been asked for anything so far
            with pytest.raises(Unavailable) as checked:
                await client.check()
            with pytest.raises(Unavailable) as published:
                await client.publish([HELLO])
            assert not await client.is_up()
        async with ReverbClient(app, lambda: datetime.now(UTC)) as client:
            await client.check()
            assert await client.is_up()

    assert str(checked.value) == str(published.value) == reason


async def test_a_clock_that_is_wrong_is_not_blamed_on_the_secret() -> None:
    async with serving() as server:
        app = ReverbApp(server.app.id, server.app.key, server.app.secret, "127.0.0.1", server.port)
        yesterday = datetime.now(UTC) - timedelta(days=1)
        async with ReverbClient(app, lambda: yesterday) as client:
            with pytest.raises(Unavailable, match=r"s are tolerated: check both clocks"):
                await client.check()


async def test_a_server_that_takes_us_again_is_up_again(receiver: RealtimeReceiver) -> None:
    receiver.answers = [401]
    async with ReverbClient(receiver.app, lambda: datetime.now(UTC)) as client:
        with pytest.raises(Unavailable):
            await client.publish([HELLO])

        assert await client.is_up()


async def test_where_nothing_answers_it_is_said_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    app = ReverbApp("1001", "key", "secret", "127.0.0.1", port)
    async with ReverbClient(app, lambda: datetime.now(UTC)) as client:
        with pytest.raises(Unavailable) as error:
            await client.check()

    assert str(error.value).startswith("nothing answers there (")
    assert str(error.value).endswith("): start it, or set REVERB_HOST and REVERB_PORT")


@pytest.mark.parametrize("status", [403, 429, 500])
async def test_a_server_that_does_not_say_who_listens_may_take_what_we_publish(
    aiohttp_client: AiohttpClient, status: int
) -> None:
    async with answering(aiohttp_client, status, {}) as client:
        await client.check()
