"""From an HTTP request to the `Call` a feature reads. Everything unreadable is `Malformed`."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from chat_api.kernel.callers import Caller, Identity, Visitor
from chat_api.kernel.errors import Forbidden, Malformed, TooLarge, Unauthenticated
from chat_api.kernel.routes import Audience, Call, Header, Input, NoInput, Route
from chat_api.web.proxies import TrustedProxies
from reverb_py.protocol.socket_ids import is_socket_id

__all__ = ["MAX_BODY_BYTES", "Authenticate", "RequestReader"]

MAX_BODY_BYTES: Final = 64 * 1024
_MAX_FORM_FIELDS = 100
_BODY_TIMEOUT = 30  # seconds
_MAX_DEPTH = 64

_SURROGATE = re.compile(r"[\ud800-\udfff]")

# Possessive, and matching unfinished strings too: no body makes it go back and try again.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)

Authenticate = Callable[[str], Awaitable[Caller | Visitor]]
"""Returns whom a bearer token names, or raises `Unauthenticated`."""

T = TypeVar("T")


class RequestReader(Generic[Input]):
    """Reads the requests of one route."""

    def __init__(
        self, route: Route[Input], authenticate: Authenticate, proxies: TrustedProxies
    ) -> None:
        self._route = route
        self._authenticate = authenticate
        self._proxies = proxies
        self._decoder = msgspec.json.Decoder(route.input)

    async def read(self, request: web.Request) -> Call[Input]:
        """
        Return the request as the route's handler wants it.

        Who is asking is settled first: whoever may not ask learns nothing about their input.

        Raises:
            Unauthenticated: The route needs a valid token.
            Forbidden: The token is of somebody whom the route does not answer.
            Malformed: The input, or a header that the route reads, is unreadable; or the body did
                not arrive in time.
            TooLarge: The body is longer than the server reads.
        """
        identity = await self._identity(request)
        self._check_headers(request)
        socket_id = request.headers.get(Header.SOCKET_ID.value, "")
        body = b"" if request.method == "GET" else await _body(request)
        return Call(
            input=self._input(request, body),
            path=request.match_info,
            address=self._proxies.client_address(request.remote or "", request.headers),
            socket_id=socket_id if is_socket_id(socket_id) else None,
            identity=identity,
            headers=request.headers,
            body=body,
        )

    async def _identity(self, request: web.Request) -> Identity | None:
        audience = self._route.audience
        vouched = None
        if audience is not Audience.ACCOUNT:
            vouched = self._proxies.participant(request.remote or "", request.headers)
        if vouched is not None and audience is Audience.STAFF:
            vouched = replace(vouched, is_staff=True)
        if audience is Audience.ANYONE:
            return vouched
        try:
            identity = await self._authenticate(_bearer_token(request))
        except Unauthenticated:
            if vouched is None:
                raise
            return vouched  # a token that is not ours is the proxy's own
        if audience is Audience.PARTIES:
            return identity
        if isinstance(identity, Visitor):
            raise Forbidden("This needs an account, and the token is for one conversation.")
        if audience is Audience.STAFF and not identity.is_staff:
            raise Forbidden("This is for agents and supervisors.")
        return identity

    def _check_headers(self, request: web.Request) -> None:
        for header in self._route.headers:
            value = request.headers.get(header.value, "")
            # Bytes that are not UTF-8 arrive as lone surrogates, which nothing can store or send.
            if not value.isascii() and _SURROGATE.search(value):
                raise Malformed(f"{header.value} must be in UTF-8.")

    def _input(self, request: web.Request, body: bytes) -> Input:
        wanted = self._route.input
        if request.method == "GET":
            # Of a repeated parameter the last one counts.
            return _convert(dict(request.query), wanted)
        if wanted is NoInput:
            return wanted()
        if self._route.reads_forms and body.lstrip()[:1] not in (b"{", b"["):
            return _convert(_form(body), wanted)
        if _is_nested_deeply(body):
            raise Malformed(f"The body must not be nested deeper than {_MAX_DEPTH}.")
        try:
            return self._decoder.decode(body or b"{}")
        except msgspec.ValidationError as error:
            raise Malformed(f"The body does not fit: {error}.") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Malformed("The body must be a JSON object in UTF-8.") from None


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise Malformed(f"The body did not arrive within {_BODY_TIMEOUT} s.") from None
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(f"The body must not be longer than {MAX_BODY_BYTES} bytes.") from None
    except (web.RequestPayloadError, ConnectionError):
        raise Malformed("The body breaks off, or is not encoded as its headers say.") from None


def _is_nested_deeply(body: bytes) -> bool:
    """Tell it before decoding: how deep a decoder dares to go differs between Python versions."""
    if body.count(b"{") + body.count(b"[") <= _MAX_DEPTH:
        return False
    depth = 0
    for byte in _STRING.sub(b"", body):
        if byte in b"{[":
            depth += 1
            if depth > _MAX_DEPTH:
                return True
        elif byte in b"}]":
            depth -= 1
    return False


def _bearer_token(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("Log in and send the token as Authorization: Bearer TOKEN.")
    return token


def _form(body: bytes) -> dict[str, str]:
    try:
        fields = parse_qsl(
            body.decode(),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_FORM_FIELDS,
        )
    except ValueError:
        raise Malformed("The body is neither a JSON object nor a form in UTF-8.") from None
    return dict(fields)


def _convert(fields: dict[str, str], wanted: type[T]) -> T:
    try:
        return msgspec.convert(fields, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise Malformed(f"The parameters do not fit: {error}.") from None
