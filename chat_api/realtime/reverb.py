"""The realtime server as its backends see it: the signed HTTP API, one request at a time."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from chat_api.kernel.clock import Clock
from reverb_py.protocol.signing import signed_query

__all__ = ["MAX_BATCH", "Publication", "Refused", "ReverbApp", "ReverbClient", "Unavailable"]

MAX_BATCH = 10
"""Publications in one request: what every server of this protocol takes."""

# What the event itself is refused for. Anything else (a wrong key, secret, app id or proxy) is put
# right by an operator, and what we owe must wait for that.
_FINAL = frozenset({400, 413, 422})

# What a proxy says when there is nothing behind it.
_AWAY = frozenset({502, 503, 504})

_LONGEST_WISH = 60.0  # seconds
_PROBE = 1.0  # seconds that an answer about the server itself may take

# By status: what only an operator can put right, and where.
_ADVICE = {
    401: "it refuses our signature (401): check REVERB_APP_ID, REVERB_APP_KEY and "
    "REVERB_APP_SECRET",
    404: "it knows no such app (404): check REVERB_APP_ID, REVERB_HOST and REVERB_PORT",
}

_CHECK = "channels/anything"
"""What is asked to see whether it is answered: about one channel, as a whole list can be long."""

T = TypeVar("T")


class ReverbApp(NamedTuple):
    """An app on a realtime server: where it is and the credentials to publish to it."""

    app_id: str
    key: str
    secret: str
    host: str
    port: int
    scheme: str = "http"


class Publication(NamedTuple):
    """
    One event on one channel.

    `key` is unique to this pair for ever and sent along as `idempotency_key`: a server that knows
    the field drops what it has had before, others ignore it.
    """

    key: str
    channel: str
    name: str
    data: str
    socket_id: str | None


class _Channels(msgspec.Struct):
    channels: dict[str, object]


class _Channel(msgspec.Struct):
    occupied: bool


class _User(msgspec.Struct):
    id: str | int


class _Users(msgspec.Struct):
    users: list[_User]


class Unavailable(Exception):
    """
    The server did not take it now and may later.

    `retry_after` is its own wish, in seconds; `is_away` says that there was no server to answer.
    """

    def __init__(self, reason: str, retry_after: float = 0.0, *, is_away: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.is_away = is_away


class Refused(Exception):
    """The server read it and will never take it."""


class ReverbClient:
    """
    Publishes over kept-alive connections. An async context manager; usable only inside it.

    A request that takes longer than `timeout` seconds counts as `Unavailable`, although the server
    may have acted on it: publish again with the same keys.
    """

    def __init__(self, app: ReverbApp, clock: Clock, *, timeout: float = 10.0) -> None:
        self._app = app
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        host = f"[{app.host}]" if ":" in app.host else app.host
        self.address = f"{app.scheme}://{host}:{app.port}"
        self._refuses_us = False
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def publish(self, publications: Sequence[Publication]) -> None:
        """
        Have the server deliver up to `MAX_BATCH` publications, in this order.

        Returns when it has accepted them all.

        Raises:
            Unavailable: It did not, or there is no telling; publishing again may help.
            Refused: It accepted none of them and never will.
        """
        items = [_item(publication) for publication in publications]
        if len(items) == 1:
            await self._post("events", msgspec.json.encode(items[0]), publications[0].key)
        else:
            await self._post("batch_events", msgspec.json.encode({"batch": items}), None)

    async def occupied_channels(self) -> set[str]:
        """
        Return the names of all channels that somebody listens to.

        Raises:
            Unavailable: The server does not say now.
            Refused: It never will.
        """
        return set((await self._get("channels", _Channels)).channels)

    async def is_occupied(self, channel: str) -> bool:
        """
        Tell whether somebody listens to a channel.

        Raises:
            Unavailable: The server does not say now.
            Refused: It never will.
        """
        return (await self._get(f"channels/{channel}", _Channel)).occupied

    async def members(self, channel: str) -> set[str]:
        """
        Return the ids of those who are present on a presence channel.

        A server of several nodes that are cut off from each other leaves some out, see `is_ready`.

        Raises:
            Unavailable: The server does not say now.
            Refused: It never will.
        """
        users = (await self._get(f"channels/{channel}/users", _Users)).users
        return {str(user.id) for user in users}

    async def check(self) -> None:
        """
        Find out whether there is a server that knows our app.

        Raises:
            Unavailable: There is not, and the text says what to do about it.
        """
        try:
            await self._get(_CHECK, _Channel)
        except (Unavailable, Refused) as error:
            # One that does not say who listens may take what we publish.
            if isinstance(error, Unavailable) and (error.is_away or self._refuses_us):
                raise

    async def is_up(self) -> bool:
        """
        Tell, within two seconds, whether the server answers, and does not refuse our app.

        Where it did when it was last asked for something, it is asked again.
        """
        status = await self._status_of("/up")
        if self._refuses_us:
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(_PROBE):
                    await self.check()
        return status is not None and status < 500 and not self._refuses_us

    async def is_ready(self) -> bool:
        """
        Tell, within a second, whether the server knows what all of its nodes know.

        One that does not say (there is no such question in the protocol) is taken to.
        """
        status = await self._status_of("/ready")
        return status is not None and status < 500

    async def _status_of(self, path: str) -> int | None:
        assert self._session is not None, "enter the client first"
        try:
            async with self._session.get(
                URL(f"{self.address}{path}", encoded=True),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=_PROBE),
            ) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def _get(self, action: str, wanted: type[T]) -> T:
        answer = await self._request("GET", action, b"", {})
        try:
            return msgspec.json.decode(answer, type=wanted)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unavailable(f"its answer is not the protocol's: {error}") from error

    async def _post(self, action: str, body: bytes, key: str | None) -> None:
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["X-Idempotency-Key"] = key
        await self._request("POST", action, body, headers)

    async def _request(
        self, method: str, action: str, body: bytes, headers: dict[str, str]
    ) -> bytes:
        assert self._session is not None, "enter the client first"
        app = self._app
        path = quote(f"/apps/{app.app_id}/{action}", safe="/=@,;")
        timestamp = int(self._clock().timestamp())
        query = urlencode(signed_query(app.key, app.secret, method, path, body, timestamp))
        try:
            async with self._session.request(
                method,
                URL(f"{self.address}{path}?{query}", encoded=True),
                data=body or None,
                headers=headers,
                allow_redirects=False,
            ) as response:
                status = response.status
                # Some servers do not let us ask, or know no channel, and take what we publish.
                if method == "POST" or action == _CHECK:
                    is_forbidden = status == 403 and method == "POST"
                    self._refuses_us = status in _ADVICE or is_forbidden
                if 200 <= status < 300:
                    return await response.read()
                words = (await response.content.read(200)).decode(errors="replace").strip()
                # A page comes from something in between, which knows nothing of events.
                is_proxys = status == 400 and response.content_type == "text/html"
                wish = response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(_reason(error), is_away=True) from error
        reason = f"it answered {status} {words}".rstrip()
        if status in _FINAL and not is_proxys:
            raise Refused(reason)
        if status in _ADVICE and not _is_about_clocks(words):
            reason = _ADVICE[status]
        retry_after = float(wish) if wish.isascii() and wish.isdigit() else 0.0
        raise Unavailable(reason, min(retry_after, _LONGEST_WISH), is_away=status in _AWAY)


def _is_about_clocks(words: str) -> bool:
    """Tell whether a signature was refused only for its age, which the server's words explain."""
    return "clock" in words or "Timestamp expired" in words


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return (
            f"nothing answers there ({error.os_error.strerror or error.os_error}): start it, or "
            "set REVERB_HOST and REVERB_PORT"
        )
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return str(error) or type(error).__name__


def _item(publication: Publication) -> dict[str, str]:
    item = {
        "name": publication.name,
        "channel": publication.channel,
        "data": publication.data,
        "idempotency_key": publication.key,
    }
    if publication.socket_id is not None:
        item["socket_id"] = publication.socket_id
    return item
