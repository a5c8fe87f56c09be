"""Whatever is sent, the answer says what is wrong, nothing changes, and the server goes on."""

import asyncio
from typing import Any, NamedTuple

import msgspec
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.chat_api.world import World

MESSAGES = "/api/chats/1/messages"
PERSONAL = "/api/chat/personal/messages"


class Bad(NamedTuple):
    """A request, and how it is refused."""

    status: int
    code: str
    method: str
    path: str
    body: bytes | dict[str, Any] | list[Any] | None = None


def unreadable(method: str, path: str, *bodies: bytes | dict[str, Any] | list[Any]) -> list[Bad]:
    return [Bad(400, "malformed", method, path, body) for body in bodies]


def meaningless(path: str, *bodies: dict[str, Any]) -> list[Bad]:
    return [Bad(422, "unprocessable", "POST", path, body) for body in bodies]


def unknown(method: str, *paths: str) -> list[Bad]:
    return [Bad(404, "not_found", method, path, {} if method == "POST" else None) for path in paths]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


DRAFT = {"content": "x", "tempId": "t"}

NOT_JSON = (
    b"{",
    b"nonsense",
    b"null",
    b"[]",
    b'"text"',
    b"1",
    b'{"content": NaN, "tempId": "t"}',
    b'{"content": "\xff", "tempId": "t"}',
    b"\x00",
    b"\xef\xbb\xbf{}",
    rb'{"content": "\ud800", "tempId": "t"}',
    rb'{"content": "\udc00x", "tempId": "t"}',
    b'{"content": "x\x00y", "tempId": "t"}',
    b'{"content": "x", "tempId": "t", "metadata": ' + b'{"a":' * 9000 + b"1" + b"}" * 9000 + b"}",
    b'{"content": "x", "tempId": "t", "ignored": ' + b"[" * 20000 + b"]" * 20000 + b"}",
)

BAD = [
    *unreadable("POST", "/api/login", *NOT_JSON[1:2], {}, {"email": "a@b.c"}, {"password": "x"}),
    *unreadable(
        "POST",
        "/api/login",
        {"email": 1, "password": "x"},
        {"email": "a@b.c", "password": ["x"]},
        {"email": None, "password": "x"},
        {"email": "a@b.c", "password": "x", "role": 1},
    ),
    *meaningless(
        "/api/login",
        {"email": "", "password": "x"},
        {"email": "a" * 400, "password": "x"},
        {"email": "ali@example.com\0", "password": "password"},
        {"email": "ali@example.com", "password": "x" * 1025},
    ),
    *unreadable("POST", MESSAGES, *NOT_JSON),
    *unreadable(
        "POST",
        MESSAGES,
        {},
        {"content": "x"},
        {"tempId": "t"},
        {"content": 1, "tempId": "t"},
        {"content": None, "tempId": "t"},
        {"content": "x", "tempId": 1},
        {"content": "x", "tempId": None},
        {**DRAFT, "type": 1},
        {**DRAFT, "metadata": "text"},
        {**DRAFT, "metadata": []},
    ),
    *meaningless(
        MESSAGES,
        {"content": "", "tempId": "t"},
        {"content": " \n\t", "tempId": "t"},
        {"content": "x" * 4001, "tempId": "t"},
        {"content": "a\0b", "tempId": "t"},
        {"content": "x", "tempId": ""},
        {"content": "x", "tempId": "t" * 101},
        {"content": "x", "tempId": "a\0b"},
        {**DRAFT, "type": ""},
        {**DRAFT, "type": "x" * 33},
        {**DRAFT, "metadata": nested(18)},
        {**DRAFT, "metadata": {"a": "x" * 4000}},
        # Fine as a text and too long as an event: every one of these takes four bytes.
        {"content": "\U0001f600" * 4000, "tempId": "t"},
    ),
    *unknown("GET", "/api/chats/0/messages", "/api/chats/abc/messages", "/api/chats/-1/messages"),
    *unknown(
        "GET",
        f"/api/chats/{2**63}/messages",
        f"/api/chats/{2**63 - 1}/messages",
        f"/api/chats/{'9' * 5000}/messages",
        "/api/chats/1.0/messages",
        "/api/chats/%00/messages",
        "/api/chats/%ff/messages",
        "/api/chats/%D9%A1/messages",
        "/api/chats/1%2Fmessages",
        "/api/chats/",
        "//api/chats",
        "/",
    ),
    *unknown("POST", "/api/chats/77/typing", "/api/chats/77/read", "/api/chats/x/typing"),
    *(
        Bad(404, "not_found", "POST", "/api/chats", {"user_id": user_id})
        for user_id in (0, -1, 999, 2**63 - 1, 2**63, 2**200, "abc", "", "1.0", "9" * 5000, "١")  # noqa: RUF001
    ),
    *unreadable(
        "POST",
        "/api/chats",
        {},
        {"user_id": None},
        {"user_id": 1.0},
        {"user_id": True},
        {"user_id": [1]},
        b'{"user_id": ' + b"9" * 10000 + b"}",
    ),
    *meaningless("/api/chats", {"user_id": 1}, {"user_id": "1"}),
    *unreadable("POST", "/api/chats/1/typing", {"typing": 1}, {"typing": "yes"}, {"typing": None}),
    *unreadable("POST", "/api/chats/1/typing", b" ", b"\n"),
    *unreadable(
        "POST",
        "/api/chats/1/read",
        {"message_ids": "1"},
        {"message_ids": [1.5]},
        {"message_ids": 1},
    ),
    *meaningless("/api/chats/1/read", {"message_ids": list(range(1, 1002))}),
    *unreadable("GET", f"{MESSAGES}?limit=x"),
    Bad(400, "malformed", "GET", f"{MESSAGES}?limit=x"),
    Bad(400, "malformed", "GET", f"{MESSAGES}?limit=1.5"),
    Bad(400, "malformed", "GET", f"{MESSAGES}?limit="),
    Bad(400, "malformed", "GET", f"{MESSAGES}?limit=" + "9" * 5000),
    Bad(422, "unprocessable", "GET", f"{MESSAGES}?limit=0"),
    Bad(422, "unprocessable", "GET", f"{MESSAGES}?limit=-1"),
    Bad(422, "unprocessable", "GET", f"{MESSAGES}?limit=201"),
    Bad(422, "unprocessable", "GET", f"{MESSAGES}?limit={2**70}"),
    Bad(404, "not_found", "GET", f"{MESSAGES}?before=x"),
    Bad(404, "not_found", "GET", f"{MESSAGES}?before={2**63}"),
    Bad(422, "unprocessable", "GET", "/api/chats?limit=501"),
    Bad(422, "unprocessable", "GET", "/api/chats?offset=-1"),
    Bad(422, "unprocessable", "GET", f"/api/chats?offset={2**64}"),
    Bad(400, "malformed", "GET", PERSONAL),
    Bad(404, "not_found", "GET", f"{PERSONAL}?with=x"),
    Bad(404, "not_found", "GET", f"{PERSONAL}?with=999"),
    *unreadable("POST", PERSONAL, {}, {"message": "x"}, {"recipientId": 2.5, "message": "x"}),
    *meaningless(
        PERSONAL,
        {"recipientId": 2},
        {"recipientId": 2, "message": ""},
        {"recipientId": 1, "message": "to myself"},
        {"recipientId": 2, "media": "x" * 4001},
    ),
    Bad(404, "not_found", "POST", PERSONAL, {"recipientId": 999, "message": "x"}),
    Bad(413, "too_large", "POST", MESSAGES, {"content": "x" * 70_000, "tempId": "t"}),
    Bad(413, "too_large", "POST", "/broadcasting/auth", b"a=" + b"b" * 70_000),
    Bad(405, "method_not_allowed", "DELETE", MESSAGES),
    Bad(405, "method_not_allowed", "GET", "/api/login"),
    Bad(405, "method_not_allowed", "PUT", "/api/user", {}),
]


async def test_every_bad_request_is_refused_in_its_own_words(world: World) -> None:
    for bad in BAD:
        body = bad.body if isinstance(bad.body, bytes) else None
        json = None if isinstance(bad.body, bytes) else bad.body
        reply = await world.ali.ask(bad.method, bad.path, json, body=body)
        assert (reply.status, reply.body["code"]) == (bad.status, bad.code), (bad, reply)
        assert set(reply.body) == {"code", "message"}, bad
        assert reply.body["message"], bad

    history = await world.ali.get(MESSAGES)
    assert (history.status, history.body) == (200, {"messages": [], "has_more": False})
    assert world.receiver.received == []


async def test_the_limits_themselves_are_allowed(world: World) -> None:
    limits: tuple[dict[str, Any], ...] = (
        {"content": '[{"\\' * 500},
        {"metadata": {"a": [[1]] * 200}},
        {"content": "x" * 4000},
        {"content": '"' * 4000},
        {"content": "\U0001f600" * 2000},
        {"tempId": "t" * 100},
        {"type": "x" * 32},
        {"metadata": nested(16)},
        {"metadata": {"a": "x" * 3900}},
        {"metadata": {"a": [10**40, 1.5e300, None, "\0"]}},
    )
    for number, changes in enumerate(limits):
        draft = {"content": "x", "tempId": str(number), **changes}
        reply = await world.ali.post(MESSAGES, draft)
        assert reply.status == 201, (changes, reply)
    history = await world.ali.get(MESSAGES)
    assert [len(item["content"]) for item in history.body["messages"][2:5]] == [4000, 4000, 2000]
    await world.receiver.hears(20)


async def test_a_body_that_never_ends_or_never_comes_is_not_waited_for_by_others(
    world: World,
) -> None:
    host, port = world.api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"
    )
    await writer.drain()

    assert (await world.ali.get("/api/user")).status == 200

    writer.write(b"x" * 15 + b"\r\n" + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 3 + b"0\r\n\r\n")
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readuntil(b"}")
    writer.close()
    await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 413 ")
    assert msgspec.json.decode(body)["code"] == "too_large"


@pytest.mark.parametrize(
    ("path", "name", "status", "error"),
    [
        (
            "/api/customer/sessions",
            "X-Participant-Id",
            400,
            {"code": "malformed", "message": "X-Participant-Id must be in UTF-8."},
        ),
        *(
            (
                "/webhooks/reverb",
                name,
                401,
                {
                    "code": "unauthenticated",
                    "message": "The webhook is not signed with this app's key and secret.",
                },
            )
            for name in ("X-Pusher-Key", "X-Pusher-Signature")
        ),
    ],
)
async def test_a_header_of_bytes_that_are_no_text_is_refused(
    world: World, path: str, name: str, status: int, error: dict[str, str]
) -> None:
    host, port = world.api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"fingerprint": "a secret of the device"}'
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{name}: \xff\r\n\r\n"
    writer.write(head.encode("latin-1") + body)

    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"}")
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert msgspec.json.decode(answer.partition(b"\r\n\r\n")[2]) == error


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Length: 40\r\n", b"{"),
        (b"Transfer-Encoding: chunked\r\n", b"10\r\n{"),
        (b"Content-Encoding: gzip\r\nContent-Length: 2\r\n", b"{}"),
    ],
    ids=["shorter than said", "without an end", "not compressed"],
)
async def test_a_body_that_is_not_as_its_headers_say_is_the_clients_mistake(
    world: World, headers: bytes, body: bytes
) -> None:
    host, port = world.api.url.removeprefix("http://").split(":")
    lines: asyncio.Queue[EventDict] = asyncio.Queue()

    def note(logger: object, method: str, entry: EventDict) -> EventDict:
        lines.put_nowait(entry)
        return entry

    with capture_logs([note]):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /api/login HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n")
        writer.write(headers + b"\r\n")
        async with asyncio.timeout(30):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        writer.write_eof()
        async with asyncio.timeout(30):
            await reader.read()
            while (line := await lines.get()).get("path") != "/api/login":
                pass
        writer.close()
        await writer.wait_closed()

    assert (line["event"], line["status"]) == ("Request", 400)
