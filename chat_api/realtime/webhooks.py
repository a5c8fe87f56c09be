"""What the realtime server tells us: signed requests about who comes and goes."""

import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Malformed, Unauthenticated
from chat_api.kernel.routes import Answer, Audience, Call, NoInput, Route
from reverb_py.protocol.signing import sign

__all__ = ["Handler", "Notice", "Webhooks"]

_MAX_TIME = 253_402_300_799_000  # milliseconds since 1970: the last that a datetime can hold
_MAX_AGE: Final = timedelta(minutes=10)  # the server signs each attempt anew, with its own time


class Notice(NamedTuple):
    """
    Something that happened on a channel; `user_id` is the member's, where it is about one.

    `at` is when we were told, by the server's clock.
    """

    name: str
    channel: str
    user_id: str | None
    at: datetime


Handler = Callable[[Notice], Awaitable[None]]
"""Hears of notices, each possibly twice. What it raises makes the server tell it all again."""


class _Event(msgspec.Struct):
    name: str
    channel: str
    user_id: str | None = None


class _Envelope(msgspec.Struct):
    time_ms: int
    events: list[_Event]


class Webhooks:
    """
    Checks and reads the requests, and passes on what somebody wants to hear.

    One that is more than ten minutes away from `clock` is refused: it may have been recorded on its
    way, and be sent again by somebody who cannot sign.
    """

    def __init__(self, key: str, secret: str, clock: Clock) -> None:
        self._key = key
        self._secret = secret
        self._clock = clock
        self._handlers: dict[str, list[Handler]] = {}
        self._decoder = msgspec.json.Decoder(_Envelope)

    def on(self, name: str, handler: Handler) -> None:
        """Have `handler` called for every notice of this name, such as `member_added`."""
        self._handlers.setdefault(name, []).append(handler)

    def route(self) -> Route[Any]:
        """Return `POST /webhooks/reverb`, which is what the server's webhooks are set to."""
        return Route(
            "POST",
            "/webhooks/reverb",
            NoInput,
            self._receive,
            Audience.ANYONE,
            summary="Be told by the realtime server who comes and goes",
            answers={200: dict[str, Any]},
            errors=(Unauthenticated, Malformed),
        )

    async def _receive(self, call: Call[NoInput]) -> Answer:
        """Signed with the app's key and secret, as the protocol's webhooks are."""
        self._verify(call)
        try:
            envelope = self._decoder.decode(call.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Malformed("The body must be a webhook's JSON object in UTF-8.") from None
        if not 0 <= envelope.time_ms <= _MAX_TIME:
            raise Malformed("time_ms must be milliseconds since 1970.")
        at = datetime.fromtimestamp(envelope.time_ms / 1000, UTC)
        if abs(self._clock() - at) > _MAX_AGE:
            raise Unauthenticated(
                "time_ms is more than 10 minutes off. If it is not an old webhook that is sent "
                "again, set both servers' clocks right."
            )
        for event in envelope.events:
            notice = Notice(event.name, event.channel, event.user_id, at)
            for handler in self._handlers.get(event.name, ()):
                await handler(notice)
        return Answer({})

    def _verify(self, call: Call[NoInput]) -> None:
        key = call.headers.get("X-Pusher-Key", "")
        signature = call.headers.get("X-Pusher-Signature", "")
        expected = sign(self._secret, call.body)
        # Bytes that are not UTF-8 arrive as lone surrogates, which are not encoded strictly.
        is_key_right = hmac.compare_digest(key.encode(errors="surrogateescape"), self._key.encode())
        is_signed = hmac.compare_digest(
            signature.encode(errors="surrogateescape"), expected.encode()
        )
        if not is_signed or not is_key_right:
            raise Unauthenticated("The webhook is not signed with this app's key and secret.")
