"""What every answer has in common: request ids, CORS, one shape of errors."""

import asyncio
from dataclasses import replace

import pytest
import structlog
from pytest_aiohttp.plugin import AiohttpClient
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from yarl import URL

from chat_api.kernel.callers import Caller
from chat_api.kernel.routes import Answer, Audience, Call, NoInput, Route
from chat_api.runtime import running
from chat_api.settings import Settings
from chat_api.telemetry.logs import configure_logs
from chat_api.web.app import create_app
from tests.chat_api.client import Client
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import CHEAP_HASHER, World


async def test_a_request_id_is_echoed_when_it_is_harmless_and_made_otherwise(world: World) -> None:
    given = await world.ali.ask("GET", "/api/user", headers={"X-Request-ID": "abc-123"})
    odd = await world.ali.ask("GET", "/nowhere", headers={"X-Request-ID": "a b<script>"})
    none = await world.ali.get("/api/user")

    assert given.headers["X-Request-ID"] == "abc-123"
    assert len(odd.headers["X-Request-ID"]) == len(none.headers["X-Request-ID"]) == 16
    assert odd.headers["X-Request-ID"] != none.headers["X-Request-ID"]


async def test_pages_of_any_origin_may_ask(world: World) -> None:
    preflight = await world.nobody.ask(
        "OPTIONS",
        "/api/chats/1/messages",
        headers={
            "Origin": "https://app.example.com",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type, x-socket-id",
        },
    )
    refused = await world.nobody.ask("GET", "/api/user", headers={"Origin": "https://x.example"})

    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"].split(", ")
    assert {
        name.lower() for name in preflight.headers["Access-Control-Allow-Headers"].split(", ")
    } >= {
        "authorization",
        "content-type",
        "x-socket-id",
        "x-csrf-token",
        "x-requested-with",
        "x-xsrf-token",
        "accept",
        "idempotency-key",
    }
    assert "Access-Control-Allow-Credentials" not in preflight.headers
    assert refused.status == 401
    assert refused.headers["Access-Control-Allow-Origin"] == "*"


async def test_unknown_addresses_and_methods_are_answered_in_the_same_shape(world: World) -> None:
    nowhere = await world.nobody.get("/api/nowhere")
    wrong = await world.nobody.get("/api/login")

    assert (nowhere.status, nowhere.body) == (
        404,
        {"code": "not_found", "message": "There is nothing at this address."},
    )
    assert (wrong.status, wrong.body, wrong.headers["Allow"]) == (
        405,
        {"code": "method_not_allowed", "message": "Use POST here."},
        "POST",
    )


async def test_what_nobody_foresaw_is_a_500_that_tells_nothing(
    aiohttp_client: AiohttpClient, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(call: Call[NoInput]) -> Answer:
        raise RuntimeError("the secret ingredient")

    async def nobody(token: str) -> Caller:
        raise AssertionError("an open route asks for nobody")

    app = create_app([Route("GET", "/fail", NoInput, fail, audience=Audience.ANYONE)], nobody)
    client = await aiohttp_client(app)
    reply = await Client(client.session, str(client.make_url("")).rstrip("/")).get("/fail")

    request_id = reply.headers["X-Request-ID"]
    assert (reply.status, reply.body) == (
        500,
        {
            "code": "internal",
            "message": f"Something went wrong here. Report it with the id {request_id}.",
        },
    )
    log = capsys.readouterr().out
    assert request_id in log
    assert "the secret ingredient" in log  # people who read logs may know


async def test_senders_are_throttled_each_for_themselves(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with World.open(replace(settings, messages_per_minute=2), receiver) as world:
        replies = [
            await world.ali.post("/api/chats/1/messages", {"content": "x", "tempId": str(number)})
            for number in range(3)
        ]
        personal = await world.ali.post(
            "/api/chat/personal/messages", {"recipientId": 2, "message": "x"}
        )
        other = await world.vali.post("/api/chats/1/messages", {"content": "x", "tempId": "a"})
        typing = [await world.ali.post("/api/chats/1/typing") for _ in range(3)]

    assert [reply.status for reply in replies] == [201, 201, 429]
    assert replies[2].body["code"] == "too_many_requests"
    assert 1 <= int(replies[2].headers["Retry-After"]) <= 60
    assert (personal.status, other.status) == (429, 201)
    assert [reply.status for reply in typing] == [200, 200, 429]


async def test_health_tells_what_is_there(world: World) -> None:
    up = await world.nobody.get("/actuator/health")

    assert (up.status, up.body) == (
        200,
        {
            "status": "UP",
            "components": {
                "database": {"status": "UP"},
                "relay": {
                    "status": "UP",
                    "details": {"backlog": 0, "oldest_seconds": 0.0, "refused": 0},
                },
                "reverb": {"status": "UP"},
            },
        },
    )


async def test_health_stays_up_without_the_realtime_server(world: World) -> None:
    await world.receiver.go_down()
    await world.ali.post("/api/chats/1/messages", {"content": "x", "tempId": "x"})

    reply = await world.nobody.get("/actuator/health")

    assert (reply.status, reply.body["status"]) == (200, "UP")
    assert reply.body["components"]["reverb"] == {"status": "DOWN"}
    details = reply.body["components"]["relay"]["details"]
    assert details["backlog"] == 2  # one for each of the two people
    assert details["oldest_seconds"] >= 0


async def test_health_is_down_without_a_database(world: World) -> None:
    await world.api.store.write(lambda unit: unit.connection.exec_driver_sql("DROP TABLE outbox"))

    reply = await world.nobody.get("/actuator/health")

    assert (reply.status, reply.body) == (
        503,
        {
            "status": "DOWN",
            "components": {
                "database": {"status": "DOWN"},
                "relay": {"status": "UNKNOWN"},
                "reverb": {"status": "UP"},
            },
        },
    )


async def test_an_error_of_the_database_does_not_quote_what_was_said(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.api.store.write(lambda unit: unit.connection.exec_driver_sql("DROP TABLE outbox"))
    configure_logs(debug=True)
    try:
        reply = await world.ali.post(
            "/api/chats/1/messages", {"content": "between us", "tempId": "temp"}
        )
        history = await world.ali.get("/api/chats/1/messages")
    finally:
        structlog.reset_defaults()

    assert (reply.status, reply.body["code"]) == (500, "internal")
    assert history.body["messages"] == []
    log = capsys.readouterr().err
    assert "no such table: outbox" in log or 'relation "outbox" does not exist' in log
    assert "between us" not in log
    assert str(world.ali.token) not in log


async def test_a_log_line_cannot_move_the_cursor_of_whoever_reads_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(debug=True)
    try:
        await world.nobody.get("/api/%1b%5b2J%0a")
    finally:
        structlog.reset_defaults()

    [line] = [line for line in capsys.readouterr().err.splitlines() if "[debug" in line]
    assert "path=/api/%1B%5B2J%0A status=404" in line


async def test_every_line_of_a_request_carries_its_id(aiohttp_client: AiohttpClient) -> None:
    log = structlog.get_logger()

    async def work(call: Call[NoInput]) -> Answer:
        log.info("Working", path=call.path["name"])
        await asyncio.create_task(wait())
        raise RuntimeError("too hard")

    async def wait() -> None:
        log.info("Waiting")

    async def nobody(token: str) -> Caller:
        raise AssertionError("an open route asks for nobody")

    answered: list[tuple[str, str | None, int]] = []
    route = Route("GET", "/work/{name}", NoInput, work, audience=Audience.ANYONE)
    app = create_app(
        [route],
        nobody,
        on_answer=lambda method, path, status, seconds: answered.append((method, path, status)),
    )
    client = await aiohttp_client(app)
    # One connection serves both, one after the other.
    with capture_logs([merge_contextvars]) as logs:
        for request_id in ("first", "second"):
            await client.get("/work/hard", headers={"X-Request-ID": request_id})
        await client.get("/nowhere/hard", headers={"X-Request-ID": "third"})
        log.info("Of nobody")

    assert [(entry["event"], entry.get("request_id")) for entry in logs] == [
        *(
            (event, request_id)
            for request_id in ("first", "second")
            for event in ("Working", "Waiting", "Request failed", "Request")
        ),
        ("Request", "third"),
        ("Of nobody", None),
    ]
    assert {**logs[3], "milliseconds": 0} == {
        "event": "Request",
        "log_level": "debug",
        "method": "GET",
        "path": "/work/hard",
        "status": 500,
        "address": "127.0.0.1",
        "milliseconds": 0,
        "request_id": "first",
    }
    assert answered == [
        ("GET", "/work/{name}", 500),
        ("GET", "/work/{name}", 500),
        ("GET", None, 404),
    ]


@pytest.mark.parametrize("head", [b"", b"GET /api/user HTTP/1.1\r\nX: "])
async def test_a_connection_without_a_request_is_closed(
    settings: Settings, receiver: RealtimeReceiver, head: bytes
) -> None:
    async with running(settings, hasher=CHEAP_HASHER, silence=0.05) as api:
        url = URL(api.url)
        assert url.host is not None
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head)
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
