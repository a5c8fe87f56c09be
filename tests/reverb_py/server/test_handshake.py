"""The opening handshake: who gets in, who is refused, and with which exact words."""

import orjson
import pytest

from reverb_py.core.apps import App
from reverb_py.testing import TestServer, serving
from tests.reverb_py.server.raw_client import (
    PING,
    PONG,
    SWITCHING_PROTOCOLS,
    Frame,
    close_frame,
    connected_socket,
    error_json,
    frame,
    handshake,
    request,
    request_with_long_answer,
    serves,
    text,
    websocket,
)

APP_PATH = "/app/278d425bdf160c739803"


@pytest.mark.parametrize(
    "query",
    [
        "?protocol=5&client=java",
        "?protocol=6",
        "?protocol=7&client=js&version=8.6.0&flash=false",
        "",
        "?",
        "?client=js&version=",
        "?protocol=7&unheard=of&%00=%ff&&=&auth[]=1",
    ],
)
async def test_every_protocol_version_in_use_is_accepted(server: TestServer, query: str) -> None:
    async with connected_socket(server) as client:
        await client.send(handshake(APP_PATH + query))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        hello = orjson.loads(await client.receive_text())
        assert hello.keys() == {"event", "data"}
        assert hello["event"] == "pusher:connection_established"
        assert isinstance(hello["data"], str)
        details = orjson.loads(hello["data"])
        assert details.keys() == {"socket_id", "activity_timeout"}
        assert details["activity_timeout"] == 30
        first, second = details["socket_id"].split(".")
        assert first.isdecimal()
        assert second.isdecimal()
        await client.is_answered()


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        (f"{APP_PATH}?protocol=4", 4007, "Unsupported protocol version: use 5, 6 or 7"),
        (f"{APP_PATH}?protocol=8", 4007, "Unsupported protocol version: use 5, 6 or 7"),
        (f"{APP_PATH}?protocol=abc", 4007, "Unsupported protocol version: use 5, 6 or 7"),
        (f"{APP_PATH}?protocol=", 4007, "Unsupported protocol version: use 5, 6 or 7"),
        (f"{APP_PATH}?protocol=7.0", 4007, "Unsupported protocol version: use 5, 6 or 7"),
        ("/app/unknown?protocol=7", 4001, "Application does not exist: check the app key"),
        ("/app/?protocol=7", 4001, "Application does not exist: check the app key"),
        ("/app/%ff%00", 4001, "Application does not exist: check the app key"),
        ("/", 4005, "Path not found: connect to /app/APP_KEY"),
        ("/app", 4005, "Path not found: connect to /app/APP_KEY"),
        (f"{APP_PATH}/", 4005, "Path not found: connect to /app/APP_KEY"),
        (f"/prefix{APP_PATH}", 4005, "Path not found: connect to /app/APP_KEY"),
        ("/apps/1001/events", 4005, "Path not found: connect to /app/APP_KEY"),
    ],
)
async def test_a_refused_client_gets_the_code_as_a_message_and_as_a_close_frame(
    server: TestServer, path: str, code: int, message: str
) -> None:
    async with connected_socket(server) as client:
        await client.send(handshake(path))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_fatal_error(code, message)


async def test_a_percent_encoded_key_is_the_same_key(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.open_websocket("/app/%3278d425bdf160c739803")


async def test_offers_of_subprotocols_and_compression_are_declined(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(
            handshake(
                Sec_WebSocket_Protocol="pusher, graphql-ws",
                Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits",
                Origin="https://anywhere.example",
            )
        )
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()
        await client.is_answered()


@pytest.mark.parametrize("offer", ["websocket, h2c", "h2c,WebSocket", "websocket,"])
async def test_a_websocket_may_be_one_of_several_offers(server: TestServer, offer: str) -> None:
    async with connected_socket(server) as client:
        await client.send(handshake(Upgrade=offer))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()


async def test_a_handshake_may_name_the_whole_address(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.open_websocket(f"http://127.0.0.1{APP_PATH}?protocol=7")


@pytest.mark.parametrize("prefix", ["/realtime", "/app", "/apps", "/a/b", "/up"])
async def test_a_path_prefix_works_with_and_without(prefix: str) -> None:
    async with serving(path_prefix=prefix) as server:
        for path in (APP_PATH, f"{prefix}{APP_PATH}"):
            async with connected_socket(server) as client:
                await client.open_websocket(path)
                await client.is_answered()


@pytest.mark.parametrize(
    "path", [f"/real{APP_PATH}", f"/realtimes{APP_PATH}", f"/realtime/realtime{APP_PATH}"]
)
async def test_other_prefixes_than_the_configured_one_are_not_found(path: str) -> None:
    async with serving(path_prefix="/realtime") as server, connected_socket(server) as client:
        await client.send(handshake(path))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_fatal_error(4005, "Path not found: connect to /app/APP_KEY")


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (
            handshake(Sec_WebSocket_Key=None),
            400,
            b"Sec-WebSocket-Key must be 16 bytes in base64",
        ),
        (
            handshake(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZ"),
            400,
            b"Sec-WebSocket-Key must be 16 bytes in base64",
        ),
        (
            handshake(Sec_WebSocket_Key="c2hvcnQ="),
            400,
            b"Sec-WebSocket-Key must be 16 bytes in base64",
        ),
        (
            handshake(Sec_WebSocket_Key="ÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿ=="),
            400,
            b"Sec-WebSocket-Key must be 16 bytes in base64",
        ),
        (handshake(Sec_WebSocket_Version=None), 426, b"Sec-WebSocket-Version must be 13"),
        (handshake(Sec_WebSocket_Version="8"), 426, b"Sec-WebSocket-Version must be 13"),
        (
            handshake(start="POST {path} HTTP/1.1"),
            400,
            b"A WebSocket handshake is a GET request of HTTP/1.1",
        ),
        (
            handshake(start="GET {path} HTTP/1.0"),
            400,
            b"A WebSocket handshake is a GET request of HTTP/1.1",
        ),
        (handshake(Content_Length="2") + b"{}", 400, b"A WebSocket handshake has no body"),
        (
            handshake(Transfer_Encoding="chunked") + b"0\r\n\r\n",
            400,
            b"A WebSocket handshake has no body",
        ),
    ],
)
async def test_a_malformed_handshake_is_answered_in_http(
    server: TestServer, sent: bytes, status: int, body: bytes
) -> None:
    async with connected_socket(server) as client:
        await client.send(sent)
        answer = await client.receive_answer()
        assert (answer.status, answer.body) == (status, body)
        assert answer.headers["connection"] == "close"
        assert answer.headers.get("sec-websocket-version") == ("13" if status == 426 else None)
        await client.receive_end()


async def test_a_handshake_without_its_connection_header_is_a_plain_request(
    server: TestServer,
) -> None:
    async with connected_socket(server) as client:
        await client.send(handshake(Connection=None))
        answer = await client.receive_answer()
        where = f"{APP_PATH} is the address of a WebSocket: connect with a Pusher client"
        assert (answer.status, answer.body) == (404, where.encode())


async def test_an_empty_content_length_is_no_body(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(handshake(Content_Length="0"))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()


async def test_a_client_over_the_connection_quota_is_refused_until_another_has_gone() -> None:
    app = App(
        id="1001", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8", max_connections=1
    )
    message = "Application is over its connection quota"
    async with serving(app) as server:
        async with websocket(server) as first:
            async with connected_socket(server) as second:
                await second.send(handshake())
                assert await second.receive_head() == SWITCHING_PROTOCOLS
                await second.receive_fatal_error(4004, message)
            await first.is_answered()
            await first.send(close_frame(1000))
            assert await first.receive_close() == (1000, "")
            await first.receive_end()
        await serves(server)


async def test_a_client_of_a_disabled_app_is_refused() -> None:
    app = App(id="1001", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8", enabled=False)
    async with serving(app) as server, connected_socket(server) as client:
        await client.send(handshake())
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_fatal_error(4003, "Application is disabled")
        assert await server.request("GET", "/connections") == (403, "The application is disabled")


CHOOSY_APP = App(
    id="1001",
    key="278d425bdf160c739803",
    secret="7ad3773142a6692b25b8",
    allowed_origins=("shop.example.com", "*.partner.example"),
)


@pytest.mark.parametrize(
    "origin",
    [
        "https://shop.example.com",
        "http://shop.example.com:8080",
        "https://SHOP.example.com",
        "https://a.partner.example",
    ],
)
async def test_a_page_of_an_allowed_origin_may_connect(origin: str) -> None:
    async with serving(CHOOSY_APP) as server, connected_socket(server) as client:
        await client.send(handshake(Origin=origin))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()
        await client.is_answered()


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://shop.example.com.evil.example",
        "https://partner.example",
        "https://evil.example/shop.example.com",
        "https://shop.example.com@evil.example",
        "null",
        "",
        "shop.example.com",
        "https://[",
        "https://shop.example.com]",
        "https://[::1",
        "ÿþ",
    ],
)
async def test_a_page_of_another_origin_is_refused(origin: str) -> None:
    async with serving(CHOOSY_APP) as server, connected_socket(server) as client:
        await client.send(handshake(Origin=origin))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_fatal_error(4009, "Origin not allowed")
        assert await server.request("GET", "/connections") == (200, '{"connections":0}')


async def test_a_client_without_an_origin_is_no_page_and_may_connect() -> None:
    async with serving(CHOOSY_APP) as server, connected_socket(server) as client:
        await client.send(handshake())
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()
        await client.is_answered()


async def test_an_app_without_allowed_origins_is_for_other_clients_than_pages() -> None:
    app = App(
        id="1001", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8", allowed_origins=()
    )
    async with serving(app) as server:
        async with connected_socket(server) as page:
            await page.send(handshake(Origin="https://shop.example.com"))
            assert await page.receive_head() == SWITCHING_PROTOCOLS
            await page.receive_fatal_error(4009, "Origin not allowed")
        await serves(server)


async def test_frames_in_the_same_segment_as_the_handshake_are_honoured(
    server: TestServer,
) -> None:
    subscribe = {"event": "pusher:subscribe", "data": {"channel": "orders"}}
    async with connected_socket(server) as client:
        await client.send(
            handshake() + text('{"event":"pusher:ping"}') + text(subscribe) + frame(PING)
        )
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()
        assert await client.receive_text() == b'{"event":"pusher:pong","data":"{}"}'
        assert await client.receive_text() == (
            b'{"event":"pusher_internal:subscription_succeeded","channel":"orders","data":"{}"}'
        )
        assert await client.receive() == Frame(PONG, b"")


async def test_frames_in_the_same_segment_as_a_refused_handshake_are_thrown_away(
    server: TestServer,
) -> None:
    async with connected_socket(server) as client:
        await client.send(handshake("/app/unknown") + text('{"event":"pusher:ping"}'))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_fatal_error(4001, "Application does not exist: check the app key")


async def test_a_ping_sent_before_the_hello_is_read_is_answered_behind_it(
    server: TestServer,
) -> None:
    async with connected_socket(server) as client:
        await client.send_apart(handshake(), text('{"event":"pusher:ping","data":""}'))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()
        assert await client.receive_text() == b'{"event":"pusher:pong","data":"{}"}'


async def test_a_handshake_may_arrive_byte_by_byte(server: TestServer) -> None:
    sent = handshake() + text('{"event":"pusher:ping"}')
    async with connected_socket(server) as client:
        await client.send_apart(*(sent[i : i + 1] for i in range(len(sent))))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()
        assert await client.receive_text() == b'{"event":"pusher:pong","data":"{}"}'


@pytest.mark.parametrize("together", [True, False])
async def test_a_kept_alive_http_connection_may_become_a_websocket(
    server: TestServer, together: bool
) -> None:
    pieces = [request("GET /up"), handshake(), text('{"event":"pusher:ping"}')]
    async with connected_socket(server) as client:
        await client.send_apart(*([b"".join(pieces)] if together else pieces))
        assert (await client.receive_answer()).body == b'{"health":"OK"}'
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()
        assert await client.receive_text() == b'{"event":"pusher:pong","data":"{}"}'


async def test_a_client_that_has_not_read_its_answers_may_upgrade_and_is_heard(
    server: TestServer,
) -> None:
    count = 200
    async with (
        server.connected() as occupant,
        connected_socket(server, receive_buffer=4096) as client,
    ):
        asked = await request_with_long_answer(server, occupant)
        await client.send(asked * count + handshake())
        await occupant.ping()
        for _ in range(count):
            answer = await client.receive_answer()
            assert answer.status == 200
            assert len(answer.body) > 30_000
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        await client.receive_hello()
        await client.is_answered()


async def test_both_fatal_words_come_in_one_piece_with_the_message_first(
    server: TestServer,
) -> None:
    message = "Application does not exist: check the app key"
    async with connected_socket(server) as client:
        await client.send(handshake("/app/x") + close_frame(1000))
        assert await client.receive_head() == SWITCHING_PROTOCOLS
        assert await client.receive_text() == error_json(4001, message)
        assert await client.receive_close() == (4001, message)
        await client.receive_end()
