"""HTTP/1.1 on the wire: heads, bodies, limits, deadlines, and what is sent by no honest client."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlencode

import orjson
import pytest

from reverb_py.protocol.signing import signed_query
from reverb_py.server.listener import Deadlines
from reverb_py.testing import TestServer, serving
from tests.reverb_py.server.raw_client import (
    RawClient,
    connected_socket,
    handshake,
    listener_behind,
    request,
    request_with_long_answer,
    serves,
    text,
    websocket,
)

UP = request("GET /up")
CHUNKED = request("POST /up", "Transfer-Encoding: chunked")
HEALTHY = b'{"health":"OK"}'


def signed_start(server: TestServer, method: str, path: str, body: bytes = b"") -> str:
    """Return the first line, without its version, of a signed request below the app."""
    full_path = f"/apps/{server.app.id}{path}"
    query = signed_query(
        server.app.key, server.app.secret, method, full_path, body, int(time.time())
    )
    return f"{method} {full_path}?{urlencode(query)}"


def event_body(number: int = 0, filling: str = "") -> bytes:
    """Return the body of a publish to `orders`."""
    return orjson.dumps({"name": "made", "channels": ["orders"], "data": f"{number}{filling}"})


async def subscribed(client: RawClient) -> None:
    """Subscribe the client to `orders`."""
    await client.send(text({"event": "pusher:subscribe", "data": {"channel": "orders"}}))
    assert b"subscription_succeeded" in await client.receive_text()


async def receive_refusal(client: RawClient, status: int, body: str) -> None:
    """Take an answer that ends the connection, and see it end."""
    answer = await client.receive_answer()
    assert (answer.status, answer.body.decode()) == (status, body)
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    await client.receive_end()


# Answers.


async def test_an_answer_has_these_headers_and_no_others(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(UP)
        answer = await client.receive_answer()
        assert (answer.status, answer.body) == (200, HEALTHY)
        assert answer.headers.pop("date").endswith(" GMT")
        assert answer.headers == {
            "content-type": "application/json",
            "content-length": "15",
            "access-control-allow-origin": "*",
        }


async def test_a_head_request_gets_the_head_alone(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(request("HEAD /up") + UP)
        answer = await client.receive_answer(head_only=True)
        assert (answer.status, answer.headers["content-length"]) == (200, "15")
        assert (await client.receive_answer()).body == HEALTHY


@pytest.mark.parametrize(
    ("start", "allowed"),
    [
        ("POST /up", "GET"),
        ("DELETE /up", "GET"),
        ("GET /apps/1001/events", "POST"),
        ("PUT /apps/1001/events", "POST"),
        ("HEAD /apps/1001/channels", "GET"),
        ("POST /apps/1001/channels", "GET"),
        ("PATCH /apps/1001/channels/orders", "GET"),
        ("GET /apps/unknown/batch_events", "POST"),
    ],
)
async def test_another_method_is_answered_with_those_there_are(
    server: TestServer, start: str, allowed: str
) -> None:
    method = start.split(" ")[0]
    async with connected_socket(server) as client:
        await client.send(request(start) + UP)
        answer = await client.receive_answer(head_only=method == "HEAD")
        assert (answer.status, answer.headers["allow"]) == (405, allowed)
        if method != "HEAD":
            assert answer.body == f"{method} is not possible here; use {allowed}".encode()
        assert (await client.receive_answer()).body == HEALTHY


@pytest.mark.parametrize(
    "path", ["/", "/unheard/of", "/up/", "/UP", "/apps/1001", "/apps//events", "/app", "/%2fup"]
)
async def test_nothing_is_found_elsewhere(server: TestServer, path: str) -> None:
    async with connected_socket(server) as client:
        await client.send(request(f"GET {path}?with=query") + UP)
        answer = await client.receive_answer()
        assert (answer.status, answer.body) == (404, f"There is nothing at {path}".encode())
        assert (await client.receive_answer()).body == HEALTHY


@pytest.mark.parametrize("path", ["/apps/1001/events", "/up", "/anything"])
async def test_a_preflight_is_answered_for_every_path(server: TestServer, path: str) -> None:
    async with connected_socket(server) as client:
        await client.send(
            request(
                f"OPTIONS {path}",
                "Origin: https://shop.example",
                "Access-Control-Request-Method: POST",
            )
            + UP
        )
        answer = await client.receive_answer()
        assert (answer.status, answer.body) == (204, b"")
        assert "content-length" not in answer.headers
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
        assert answer.headers["access-control-allow-headers"] == (
            "Origin, Content-Type, X-Auth-Token, X-Requested-With, Accept, Authorization, "
            "X-CSRF-TOKEN, X-XSRF-TOKEN, X-Socket-Id, X-Idempotency-Key"
        )
        assert answer.headers["access-control-max-age"] == "86400"
        assert (await client.receive_answer()).body == HEALTHY


# Staying connected.


async def test_a_connection_is_kept_alive_between_requests(server: TestServer) -> None:
    async with connected_socket(server) as client:
        for _ in range(5):
            await client.send(UP)
            answer = await client.receive_answer()
            assert (answer.status, answer.body) == (200, HEALTHY)
            assert "connection" not in answer.headers


async def test_a_client_may_ask_for_the_end_and_gets_no_answer_to_what_it_sends_behind(
    server: TestServer,
) -> None:
    async with connected_socket(server) as client:
        await client.send(request("GET /up", "Connection: close") + UP + b"garbage")
        answer = await client.receive_answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await client.receive_end()


@pytest.mark.parametrize(
    ("headers", "connection"), [(b"", "close"), (b"Connection: keep-alive\r\n", "keep-alive")]
)
async def test_http_1_0_is_kept_alive_only_when_it_asks(
    server: TestServer, headers: bytes, connection: str
) -> None:
    async with connected_socket(server) as client:
        await client.send(b"GET /up HTTP/1.0\r\n" + headers + b"\r\n")
        answer = await client.receive_answer()
        assert (answer.status, answer.headers["connection"]) == (200, connection)
        if connection == "close":
            await client.receive_end()
        else:
            await client.send(UP)
            assert (await client.receive_answer()).body == HEALTHY


async def test_a_half_closed_client_still_gets_its_answer(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(UP)
        client.half_close()
        assert (await client.receive_answer()).body == HEALTHY
        await client.receive_end()


@pytest.mark.parametrize("size", [1_000_000, 1, 7, 1_000])
async def test_pipelined_requests_are_answered_in_order(server: TestServer, size: int) -> None:
    count = 50 if size > 7 else 3
    sent = b"".join(
        request(f"GET /{number}") if number % 2 else request(f"POST /{number}", body=b"{}")
        for number in range(count)
    )
    async with connected_socket(server) as client:
        await client.send_apart(*(sent[i : i + size] for i in range(0, len(sent), size)))
        for number in range(count):
            answer = await client.receive_answer()
            assert (answer.status, answer.body) == (
                404,
                f"There is nothing at /{number}".encode(),
            )


async def test_pipelined_publishes_are_delivered_in_order(server: TestServer) -> None:
    async with websocket(server) as subscriber, connected_socket(server) as publisher:
        await subscribed(subscriber)
        await publisher.send(
            b"".join(
                request(
                    signed_start(server, "POST", "/events", event_body(number)),
                    body=event_body(number),
                )
                for number in range(50)
            )
        )
        for number in range(50):
            assert (await publisher.receive_answer()).body == b"{}"
            assert await subscriber.receive_text() == (
                b'{"event":"made","channel":"orders","data":"%d"}' % number
            )


async def test_each_publish_is_answered_on_its_own_connections_terms(server: TestServer) -> None:
    expected = {
        "content-type": "application/json",
        "content-length": "2",
        "access-control-allow-origin": "*",
    }
    start = signed_start(server, "POST", "/events", event_body())
    async with connected_socket(server) as client:
        for headers in ([], [], ["Connection: keep-alive"], [], ["Connection: close"]):
            await client.send(request(start, *headers, body=event_body()))
            answer = await client.receive_answer()
            assert answer.body == b"{}"
            assert answer.headers.pop("date").endswith(" GMT")
            connection = {"connection": headers[0].split()[1]} if headers else {}
            assert answer.headers == expected | connection
        await client.receive_end()


# Bodies.


@pytest.mark.parametrize("apart", [True, False])
async def test_a_chunked_body_is_read_with_extensions_and_trailers(
    server: TestServer, apart: bool
) -> None:
    body = event_body(7)
    chunks = b"".join(b"%x;quality=1\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    sent = (
        request(signed_start(server, "POST", "/events", body), "Transfer-Encoding: chunked")
        + chunks
        + b"0\r\nX-Checksum: none\r\n\r\n"
        + UP
    )
    async with websocket(server) as subscriber, connected_socket(server) as publisher:
        await subscribed(subscriber)
        await publisher.send_apart(
            *([sent[i : i + 1] for i in range(len(sent))] if apart else [sent])
        )
        assert (await publisher.receive_answer()).body == b"{}"
        assert (await publisher.receive_answer()).body == HEALTHY
        assert await subscriber.receive_text() == (
            b'{"event":"made","channel":"orders","data":"7"}'
        )


async def test_a_trailer_is_no_header(server: TestServer) -> None:
    async with websocket(server) as subscriber, connected_socket(server) as publisher:
        await subscribed(subscriber)
        for number in (1, 2):
            body = event_body(number)
            head = request(
                signed_start(server, "POST", "/events", body), "Transfer-Encoding: chunked"
            )
            trailer = b"X-Idempotency-Key: the-same\r\n"
            await publisher.send(b"%b%x\r\n%b\r\n0\r\n%b\r\n" % (head, len(body), body, trailer))
            assert (await publisher.receive_answer()).body == b"{}"
            assert await subscriber.receive_text() == (
                b'{"event":"made","channel":"orders","data":"%d"}' % number
            )


@pytest.mark.parametrize("expectation", ["100-continue", "100-Continue", "100-continue  "])
async def test_a_client_that_waits_to_be_asked_is_asked_for_its_body(
    server: TestServer, expectation: str
) -> None:
    body = event_body()
    head = request(
        signed_start(server, "POST", "/events", body),
        f"Expect: {expectation}",
        f"Content-Length: {len(body)}",
    )
    async with connected_socket(server) as client:
        await client.send(head)
        assert await client.receive_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        answer = await client.receive_answer()
        assert (answer.status, answer.body) == (200, b"{}")


async def test_a_client_of_http_1_0_is_not_asked_for_its_body(server: TestServer) -> None:
    """RFC 9110, section 10.1.1: it would take the question for the answer."""
    body = event_body()
    start = signed_start(server, "POST", "/events", body)
    head = f"{start} HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    async with connected_socket(server) as client:
        await client.send_apart(head.encode(), body)
        answer = await client.receive_answer()
        assert (answer.status, answer.body) == (200, b"{}")


async def test_another_expectation_can_not_be_met(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(request("POST /apps/1001/events", "Expect: a miracle", body=b"{}"))
        await receive_refusal(client, 417, "The only expectation that can be met is 100-continue")


async def test_a_client_that_waits_to_be_asked_is_told_at_once_when_its_body_is_too_long(
    server: TestServer,
) -> None:
    async with connected_socket(server) as client:
        await client.send(
            request("POST /apps/1001/events", "Expect: 100-continue", "Content-Length: 1048577")
        )
        await receive_refusal(
            client, 413, "The request is larger than 1048576 bytes (REVERB_MAX_REQUEST_SIZE)"
        )


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_body_as_long_as_the_limit_is_read(framing: str) -> None:
    body = b"x" * 1_000
    written = body if "Length" in framing else b"".join([b"3e8\r\n", body, b"\r\n0\r\n\r\n"])
    async with (
        serving(max_request_bytes=1_000) as server,
        connected_socket(server) as client,
    ):
        await client.send(request("POST /anywhere", framing) + written)
        assert (await client.receive_answer()).status == 404


@pytest.mark.parametrize(
    "sent",
    [
        request("POST /anywhere", "Content-Length: 1001"),
        request("POST /anywhere", "Content-Length: 1001") + b"x" * 1001,
        request("POST /anywhere", f"Content-Length: {2**64 - 1}") + b"x",
        request("POST /anywhere", f"Content-Length: {2**63}"),
        request("POST /anywhere", "Transfer-Encoding: chunked") + b"3e9\r\n" + b"x" * 1001,
        request("POST /anywhere", "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 1001,
    ],
)
async def test_a_body_over_the_limit_is_refused(sent: bytes) -> None:
    async with serving(max_request_bytes=1_000) as server:
        async with connected_socket(server) as client:
            await client.send(sent)
            await receive_refusal(
                client, 413, "The request is larger than 1000 bytes (REVERB_MAX_REQUEST_SIZE)"
            )
        await serves(server)


@pytest.mark.parametrize("framing", ["Content-Length: 20000000", "Transfer-Encoding: chunked"])
async def test_a_client_that_is_still_sending_its_too_long_body_can_read_why(
    server: TestServer, framing: str
) -> None:
    piece = b"x" * 100_000
    if framing == "Transfer-Encoding: chunked":
        piece = b"186a0\r\n" + piece + b"\r\n"
    async with connected_socket(server) as client:
        await client.send(request("POST /anywhere", framing))
        for _ in range(200):
            await client.send(piece)
        await receive_refusal(
            client, 413, "The request is larger than 1048576 bytes (REVERB_MAX_REQUEST_SIZE)"
        )


# Heads.


async def test_a_head_of_many_bytes_is_read(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(request(f"GET /up?{'q' * 8_000}", *["X-Header: " + "v" * 70] * 90))
        assert (await client.receive_answer()).body == HEALTHY


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(request("GET /up", "X-Long: " + "v" * 16_384), id="a header"),
        pytest.param(request("GET /up", "X" * 16_384 + ": v"), id="a name"),
        pytest.param(request(f"GET /{'p' * 16_384}"), id="a path"),
        pytest.param(request("GET /up", *["X: v"] * 4_000), id="many headers"),
        pytest.param(request("GET /up", *["X:"] * 5_000), id="many empty headers"),
        pytest.param(
            request("POST /up", "Transfer-Encoding: chunked")
            + b"0\r\nX-Long: "
            + b"v" * 40_000
            + b"\r\n\r\n",
            id="a trailer",
        ),
        pytest.param(
            request("POST /up", "Transfer-Encoding: chunked")
            + b"0\r\n"
            + b"X: v\r\n" * 4_000
            + b"\r\n",
            id="many trailers",
        ),
    ],
)
@pytest.mark.parametrize("size", [1_000_000, 1_000])
async def test_a_head_that_is_too_long_is_refused_in_one_segment_or_in_many(
    server: TestServer, sent: bytes, size: int
) -> None:
    async with connected_socket(server) as client:
        await client.send_apart(*(sent[i : i + size] for i in range(0, len(sent), size)))
        await receive_refusal(client, 431, "The request's head is longer than 16384 bytes")


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"GET /", id="a path"),
        pytest.param(b"GET /up HTTP/1.1\r\nX-Endless: ", id="a header"),
        pytest.param(b"GET /up HTTP/1.1\r\nX-Endless", id="a name"),
        pytest.param(
            request("POST /up", "Transfer-Encoding: chunked") + b"0\r\nX-Endless: ", id="a trailer"
        ),
        pytest.param(
            request("POST /up", "Transfer-Encoding: chunked") + b"1;extension=", id="an extension"
        ),
    ],
)
async def test_a_head_without_end_is_refused_before_it_fills_the_memory(
    server: TestServer, beginning: bytes
) -> None:
    async with connected_socket(server) as client:
        await client.send_apart(beginning)
        for _ in range(40):
            await client.send_apart(b"x" * 1_000)
        await receive_refusal(client, 431, "The request's head is longer than 16384 bytes")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, "Invalid method"),
        (b"garbage\r\n\r\n", "Invalid method"),
        (b"\x00" * 100, "Invalid method"),
        (b"get /up HTTP/1.1\r\n\r\n", "Invalid method"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "Pause on PRI/Upgrade"),
        (b"GET /up HTTP/1.2\r\n\r\n", "Invalid HTTP version"),
        (b"GET /up HTTP/11\r\n\r\n", "Expected dot"),
        (b"GET /up SPDY/1.1\r\n\r\n", "Expected HTTP/"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", "Invalid char in url path"),
        (b"GET /up HTTP/1.1\nHost: x\n\n", "Expected CRLF after version"),
        (b"GET /up HTTP/1.1\r\nX: y\n\r\n", "Missing expected CR after header value"),
        (b"GET /up HTTP/1.1\r\nX: y\rz\r\n\r\n", "Missing expected LF after header value"),
        (b"GET /up HTTP/1.1\r\nX: y\x00z\r\n\r\n", "Invalid header value char"),
        (b"GET /up HTTP/1.1\r\nX : y\r\n\r\n", "Invalid header token"),
        (b"GET /up HTTP/1.1\r\nno colon\r\n\r\n", "Invalid header token"),
        (b"GET /up HTTP/1.1\r\n: empty\r\n\r\n", "Invalid header token"),
        (b"GET /up HTTP/1.1\r\n X: y\r\n\r\n", "Unexpected space after start line"),
        (
            b"GET /up HTTP/1.1\r\nX: y\r\n folded\r\n\r\n",
            "Unexpected whitespace after header value",
        ),
        (b"POST /up HTTP/1.1\r\nContent-Length:\r\n\r\n", "Empty Content-Length"),
        (
            b"POST /up HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
            "Duplicate Content-Length",
        ),
        (
            b"POST /up HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            "Duplicate Content-Length",
        ),
        *(
            (
                b"POST /up HTTP/1.1\r\nContent-Length: %b\r\n\r\n{}" % length,
                "Invalid character in Content-Length",
            )
            for length in (b"-1", b"+2", b"0x2", b"2, 2", b"two", b"2.0")
        ),
        (
            b"POST /up HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "Content-Length overflow",
        ),
        (
            b"POST /up HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            "Transfer-Encoding can't be present with Content-Length",
        ),
        (
            b"POST /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
            "Content-Length can't be present with Transfer-Encoding",
        ),
        (
            b"POST /up HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            "Invalid `Transfer-Encoding` header value",
        ),
        (
            CHUNKED + b"-1\r\n",
            "Invalid character in chunk size",
        ),
        (
            CHUNKED + b"fffffffffffffffff\r\n",
            "Chunk size overflow",
        ),
        (
            CHUNKED + b"1\r\nabc",
            "Expected LF after chunk data",
        ),
        (
            CHUNKED + b"1\na\n0\n\n",
            "Missing expected CR after chunk size",
        ),
    ],
)
async def test_what_is_not_http_is_refused_and_nothing_behind_it_is_read(
    server: TestServer, sent: bytes, reason: str
) -> None:
    async with connected_socket(server) as client:
        await client.send(sent + UP)
        answer = await client.receive_answer()
        assert answer.status == 400
        assert answer.body.startswith(f"This is not an HTTP/1.1 request: {reason}".encode())
        assert answer.headers["connection"] == "close"
        await client.receive_end()


NO_HOST = "A request of HTTP/1.1 has a Host header"
TWO_HOSTS = "A request has one Host header"
NOT_CHUNKED = "The only Transfer-Encoding that is understood is chunked"


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"GET /up HTTP/1.1\r\n\r\n", 400, NO_HOST),
        (handshake(Host=None), 400, NO_HOST),
        (request("GET /up", "Host: elsewhere.example"), 400, TWO_HOSTS),
        (handshake().replace(b"\r\n", b"\r\nHost: x\r\n", 1), 400, TWO_HOSTS),
        (request("POST /up", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501, NOT_CHUNKED),
        (
            request("POST /up", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked")
            + b"0\r\n\r\n",
            501,
            NOT_CHUNKED,
        ),
        (request("POST /up", "Transfer-Encoding: xchunked"), 501, NOT_CHUNKED),
        (
            b"POST /up HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "A request of HTTP/1.0 has no Transfer-Encoding",
        ),
    ],
)
async def test_a_head_that_proxies_could_read_otherwise_is_refused(
    server: TestServer, sent: bytes, status: int, reason: str
) -> None:
    async with connected_socket(server) as client:
        await client.send(sent + UP)
        await receive_refusal(client, status, reason)


@pytest.mark.parametrize(
    "sent", [b"GET /up HTTP/1.0\r\n\r\n", b"GET /up HTTP/1.1\r\nHost:\r\n\r\n"]
)
async def test_a_host_may_be_unknown(server: TestServer, sent: bytes) -> None:
    """As balancers ask whether a server is there."""
    async with connected_socket(server) as client:
        await client.send(sent)
        assert (await client.receive_answer()).body == HEALTHY


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://127.0.0.1/up", 200),
        ("HTTP://elsewhere.example:8080/up?a=http://x/y", 200),
        ("http://127.0.0.1", 404),
        ("http://127.0.0.1?a=/up", 404),
        ("http://127.0.0.1//up", 404),
        ("/http://127.0.0.1/up", 404),
    ],
)
async def test_a_target_may_be_a_whole_address(
    server: TestServer, target: str, status: int
) -> None:
    """RFC 9112, section 3.2.2."""
    async with connected_socket(server) as client:
        await client.send(request(f"GET {target}"))
        assert (await client.receive_answer()).status == status


async def test_good_requests_before_a_bad_one_are_answered_first(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(UP + UP + b"garbage\r\n\r\n" + UP)
        assert (await client.receive_answer()).body == HEALTHY
        assert (await client.receive_answer()).body == HEALTHY
        await receive_refusal(
            client, 400, "This is not an HTTP/1.1 request: Invalid method encountered"
        )


async def test_empty_lines_before_a_request_are_skipped(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(b"\r\n\r\n" + UP + b"\r\n" + UP)
        assert (await client.receive_answer()).body == HEALTHY
        assert (await client.receive_answer()).body == HEALTHY


async def test_this_is_not_a_proxy(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(request("CONNECT elsewhere.example:443") + UP)
        await receive_refusal(client, 405, "This is not a proxy")


# Offers of HTTP/2, which Java's client makes with every request.


def offer(start: str, *headers: str, body: bytes = b"") -> bytes:
    """Return a request that offers to go on as HTTP/2."""
    return request(
        start,
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
        *headers,
        body=body,
    )


@pytest.mark.parametrize("size", [1_000_000, 1, 150])
async def test_an_offer_of_http_2_is_ignored_and_the_body_is_read(
    server: TestServer, size: int
) -> None:
    body = event_body(7)
    sent = offer(signed_start(server, "POST", "/events", body), body=body) + UP
    async with websocket(server) as subscriber, connected_socket(server) as publisher:
        await subscribed(subscriber)
        await publisher.send_apart(*(sent[i : i + size] for i in range(0, len(sent), size)))
        answer = await publisher.receive_answer()
        assert (answer.status, answer.body) == (200, b"{}")
        assert (await publisher.receive_answer()).body == HEALTHY
        assert await subscriber.receive_text() == (
            b'{"event":"made","channel":"orders","data":"7"}'
        )


async def test_a_thousand_offers_in_one_segment_are_ignored_one_by_one(
    server: TestServer,
) -> None:
    async with connected_socket(server) as client:
        await client.send(offer("GET /up") * 1_000 + handshake())
        for _ in range(1_000):
            assert (await client.receive_answer()).body == HEALTHY
        assert (await client.receive_head()).startswith(b"HTTP/1.1 101 ")
        await client.receive_hello()


async def test_an_offer_does_not_take_away_the_limits(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(offer("POST /up", "Content-Length: 1048577"))
        await receive_refusal(
            client, 413, "The request is larger than 1048576 bytes (REVERB_MAX_REQUEST_SIZE)"
        )
    async with connected_socket(server) as client:
        await client.send(offer("POST /up", "Content-Length: 2", "Content-Length: 3"))
        await receive_refusal(
            client, 400, "This is not an HTTP/1.1 request: Duplicate Content-Length"
        )


async def test_an_offer_may_come_with_the_wish_to_end_the_connection(server: TestServer) -> None:
    async with connected_socket(server) as client:
        await client.send(request("GET /up", "Connection: upgrade, close", "Upgrade: h2c"))
        assert (await client.receive_answer()).headers["connection"] == "close"
        await client.receive_end()


# Deadlines.


@pytest.fixture
async def impatient_server() -> AsyncIterator[TestServer]:
    """Serve with short deadlines, each to be told from the others."""
    deadlines = Deadlines(head=0.1, body=0.15, keep_alive=0.2, linger=0.1)
    async with serving(timer_resolution=0.02, deadlines=deadlines) as server:
        yield server
        await serves(server)


@pytest.mark.parametrize(
    "sent",
    [
        b"G",
        b"GET /up HTTP/1.1\r\nX: y\r\n",
        UP[:-1],
        request("POST /up", "Content-Length: 5"),
        request("POST /up", "Content-Length: 5") + b"{",
        request("POST /up", "Transfer-Encoding: chunked") + b"1\r\n{",
        offer("POST /up", "Content-Length: 5") + b"{",
    ],
)
@pytest.mark.parametrize("before", [b"", UP])
async def test_a_slow_request_is_answered_with_408(
    impatient_server: TestServer, before: bytes, sent: bytes
) -> None:
    async with connected_socket(impatient_server) as client:
        await client.send(before + sent)
        if before:
            assert (await client.receive_answer()).body == HEALTHY
        await receive_refusal(client, 408, "The request took too long to arrive")


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /",
        UP[:-2] + b"X: ",
        request("POST /up", "Content-Length: 50000"),
        request("POST /up", "Transfer-Encoding: chunked") + b"ffff\r\n",
    ],
)
async def test_a_request_that_dribbles_in_does_not_get_more_time(
    impatient_server: TestServer, beginning: bytes
) -> None:
    async with connected_socket(impatient_server) as client:
        await client.send(beginning)
        answer = asyncio.create_task(client.receive_answer())
        while not answer.done():
            client.writer.write(b"x")
            await asyncio.sleep(0.01)
        assert (await answer).body == b"The request took too long to arrive"


@pytest.mark.parametrize("sent", [b"", b"\r\n", UP])
async def test_a_connection_that_idles_is_closed_without_a_word(
    impatient_server: TestServer, sent: bytes
) -> None:
    async with connected_socket(impatient_server) as client:
        await client.send(sent)
        if sent == UP:
            assert (await client.receive_answer()).body == HEALTHY
        await client.receive_end()


async def test_empty_lines_do_not_keep_a_connection(impatient_server: TestServer) -> None:
    async with connected_socket(impatient_server) as client:
        ended = asyncio.create_task(client.receive_end())
        while not ended.done():
            client.writer.write(b"\r\n")
            await asyncio.sleep(0.01)
        with suppress(ConnectionResetError):  # by a line end that came behind the close
            await ended


async def test_each_of_many_requests_has_a_time_of_its_own() -> None:
    half = len(UP) // 2
    now = asyncio.get_running_loop().time()
    async with serving() as server, connected_socket(server) as client:
        await client.send(UP[:half])
        for _ in range(5):
            # Every write ends in the middle of a head, so the server never sees a pause.
            await client.send(UP[half:] + UP[:half])
            assert (await client.receive_answer()).body == HEALTHY
            now += Deadlines.head * 0.6
            listener_behind(server).wheel.advance(now)


@pytest.mark.parametrize("last", [b"", b"GET /", request("GET /up", "Connection: close")])
async def test_a_client_that_never_reads_its_answers_is_cut_off(
    impatient_server: TestServer, last: bytes
) -> None:
    async with (
        impatient_server.connected() as occupant,
        connected_socket(impatient_server, receive_buffer=4_096) as client,
    ):
        asked = await request_with_long_answer(impatient_server, occupant)
        await client.send(asked * 200 + last)
        await client.send_until_cut_off(b"\r\n")
