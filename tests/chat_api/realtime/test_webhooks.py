"""The realtime server's webhooks: what is believed, what is passed on, what is refused."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec
import pusher
import pytest
from aiohttp import web

from chat_api.kernel.callers import Caller, Visitor
from chat_api.kernel.errors import Malformed, Unauthenticated
from chat_api.kernel.routes import Call, NoInput
from chat_api.realtime.webhooks import Notice, Webhooks
from chat_api.web.app import create_app

KEY, SECRET = "app-key", "app-secret"
LEFT = {"name": "member_removed", "channel": "presence-room", "user_id": "7"}
BODY = msgspec.json.encode({"time_ms": 1_700_000_000_123, "events": [LEFT]})
AT = datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)


def signed(body: bytes, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Pusher-Key": key, "X-Pusher-Signature": signature}


class Listening:
    """Webhooks, and what was heard of them."""

    def __init__(self) -> None:
        self.heard: list[Notice] = []
        self.now = AT
        self.webhooks = Webhooks(KEY, SECRET, lambda: self.now)
        self.webhooks.on("member_removed", self._hear)

    async def _hear(self, notice: Notice) -> None:
        self.heard.append(notice)

    async def receive(self, body: bytes, headers: dict[str, str] | None = None) -> Any:
        call = Call(
            input=NoInput(),
            path={},
            address="127.0.0.1",
            socket_id=None,
            identity=None,
            headers=signed(body) if headers is None else headers,
            body=body,
        )
        return (await self.webhooks.route().handler(call)).body


async def test_a_signed_notice_is_passed_on_to_who_wants_it() -> None:
    there = Listening()
    events = [
        {"name": "channel_vacated", "channel": "presence-room"},
        LEFT,
        {"name": "client_event", "channel": "presence-room", "event": "client-x", "data": "{}"},
        {**LEFT, "user_id": "8", "something": "new"},
    ]

    answer = await there.receive(
        msgspec.json.encode({"time_ms": 1_700_000_000_123, "events": events})
    )

    assert answer == {}
    assert there.heard == [
        Notice("member_removed", "presence-room", "7", AT),
        Notice("member_removed", "presence-room", "8", AT),
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Pusher-Key": KEY},
        {"X-Pusher-Key": KEY, "X-Pusher-Signature": ""},
        {"X-Pusher-Key": KEY, "X-Pusher-Signature": "ärger"},
        signed(BODY, secret="another"),
        signed(BODY, key="another"),
        signed(BODY + b" "),
        {**signed(BODY), "X-Pusher-Signature": signed(BODY)["X-Pusher-Signature"].upper()},
    ],
)
async def test_what_is_not_signed_by_the_server_is_not_believed(headers: dict[str, str]) -> None:
    there = Listening()

    with pytest.raises(Unauthenticated):
        await there.receive(BODY, headers)

    assert there.heard == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"time_ms": "1", "events": []}',
        b'{"time_ms": 1, "events": [{}]}',
        b'{"time_ms": 1, "events": [{"name": "x", "channel": 1}]}',
        b'{"time_ms": -1, "events": []}',
        b'{"time_ms": 99999999999999999, "events": []}',
    ],
)
async def test_what_cannot_be_read_is_malformed(body: bytes) -> None:
    there = Listening()

    with pytest.raises(Malformed):
        await there.receive(body)

    assert there.heard == []


@pytest.mark.parametrize(
    ("later", "is_believed"),
    [
        (timedelta(minutes=10), True),
        (timedelta(minutes=-10), True),
        (timedelta(minutes=10, milliseconds=1), False),
        (timedelta(minutes=-10, milliseconds=-1), False),
        (timedelta(days=365), False),
    ],
)
async def test_what_was_signed_long_ago_is_not_believed_again(
    later: timedelta, is_believed: bool
) -> None:
    there = Listening()
    there.now = AT + later

    if is_believed:
        await there.receive(BODY)
    else:
        with pytest.raises(Unauthenticated, match=r"^time_ms is more than 10 minutes off\."):
            await there.receive(BODY)

    assert len(there.heard) == is_believed


async def test_what_the_official_library_signs_and_checks_is_the_same() -> None:
    there = Listening()
    there.now = datetime.now(UTC)
    library = pusher.Pusher(app_id="1001", key=KEY, secret=SECRET)
    now = int(there.now.timestamp() * 1000)  # it wants them fresh
    body = msgspec.json.encode({"time_ms": now, "events": [LEFT]})
    headers = signed(body)

    checked = library.validate_webhook(KEY, headers["X-Pusher-Signature"], body.decode())

    assert checked == {"time_ms": now, "events": [LEFT]}
    assert await there.receive(body, headers) == {}


async def test_a_handler_that_fails_makes_the_server_tell_it_again() -> None:
    there = Listening()
    failures = [OSError("the disk is full")]

    async def fail_once(notice: Notice) -> None:
        if failures:
            raise failures.pop()

    there.webhooks.on("member_removed", fail_once)

    async def nobody(token: str) -> Caller | Visitor:
        raise Unauthenticated("no tokens here")

    runner = web.AppRunner(create_app([there.webhooks.route()], nobody), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/reverb"
    try:
        async with aiohttp.ClientSession() as session:
            answers = []
            for _ in range(2):
                async with session.post(url, data=BODY, headers=signed(BODY)) as response:
                    answers.append((response.status, await response.json()))
            async with session.post(url, data=BODY) as response:
                unsigned = response.status
    finally:
        await runner.cleanup()

    assert [status for status, _ in answers] == [500, 200]
    assert answers[1][1] == {}
    assert unsigned == 401
    assert len(there.heard) == 2
