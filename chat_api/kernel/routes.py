"""
A feature's HTTP side, without HTTP: what it answers, who may ask and what the input looks like.

Features list `Route`s; an edge reads each request into a `Call`, hands it over and writes the
`Answer` down. Handlers therefore never see a socket, and the API's documentation is made from the
same table that serves it.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Generic, TypeVar

import msgspec

from chat_api.kernel.callers import Caller, Identity
from chat_api.kernel.errors import ChatError, Forbidden, Malformed, Unauthenticated
from chat_api.kernel.tenants import RequestedTenant, requested_tenant
from chat_api.kernel.texts import id_from

__all__ = [
    "Answer",
    "Audience",
    "Call",
    "Example",
    "Header",
    "Input",
    "MediaType",
    "NoInput",
    "Route",
    "stated",
]

_MAX_IDEMPOTENCY_KEY = 100  # characters
_JUST_OK: Final[Mapping[int, Any]] = {200: Any}
_KEPT = re.compile(r"\{(\w+)\}")


def stated(description: str = "", **schema: Any) -> msgspec.Meta:
    """
    Return what the documentation says of a value, in the words of JSON Schema, unenforced.

    For limits that the handler checks itself: what breaks them is well-formed and meaningless
    (422), while what decoding refuses is malformed (400).
    """
    return msgspec.Meta(description=description or None, extra_json_schema=schema or None)


class NoInput(msgspec.Struct, frozen=True):
    """The input of a route that reads none."""


Input = TypeVar("Input", bound=msgspec.Struct)


class Audience(Enum):
    """Whom a route answers. Everybody else gets 401, or 403 with a token of the wrong kind."""

    ANYONE = "anyone"
    """No token is looked at; a proxy may say who it is."""
    ACCOUNT = "account"
    """People with an account."""
    STAFF = "staff"
    """Agents and supervisors, or whom a proxy lets through."""
    PARTIES = "parties"
    """Whoever can be part of a conversation: accounts, visitors, whom a proxy lets through."""


class Header(Enum):
    """Request headers that mean something to a handler; a route names those it reads."""

    IDEMPOTENCY_KEY = "Idempotency-Key"
    IF_NONE_MATCH = "If-None-Match"
    PARTICIPANT_ID = "X-Participant-Id"
    PARTICIPANT_NAME = "X-Participant-Name"
    SOCKET_ID = "X-Socket-ID"
    TENANT = "X-Tenant-Domain"


@dataclass(frozen=True, slots=True)
class Call(Generic[Input]):
    """
    One request, read.

    `input` comes from the body, or from the query string for GET. `headers` are the request's, by
    case-insensitive name, and `body` its bytes as they came. `address` is the client's network
    address. `socket_id` is the caller's realtime connection, which need not hear its own events; it
    is None unless a well-formed one was sent.
    """

    input: Input
    path: Mapping[str, str]
    address: str
    socket_id: str | None
    identity: Identity | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def caller(self) -> Caller:
        """
        Return the account that asks.

        Raises:
            Unauthenticated: Nobody in particular: the route is open to anyone.
            Forbidden: Somebody without an account.
        """
        if isinstance(self.identity, Caller):
            return self.identity
        if self.identity is None:
            raise Unauthenticated("Log in first: this needs a bearer token.")
        raise Forbidden("This needs an account: log in with an email address and a password.")

    @property
    def tenant(self) -> RequestedTenant:
        """
        Return the tenant that the request names.

        Raises:
            Malformed: What names it is no domain.
        """
        headers = self.headers
        return requested_tenant(
            headers.get(Header.TENANT.value), headers.get("Host"), headers.get("Origin")
        )

    @property
    def idempotency_key(self) -> str | None:
        """
        Return the client's name for this request, under which it may be repeated, if it has one.

        Raises:
            Malformed: It is blank, longer than 100 characters, or not printable.
        """
        key = self.headers.get(Header.IDEMPOTENCY_KEY.value)
        if key is None:
            return None
        if not key.strip() or len(key) > _MAX_IDEMPOTENCY_KEY or not key.isprintable():
            raise Malformed(
                f"Idempotency-Key must be 1 to {_MAX_IDEMPOTENCY_KEY} printable characters."
            )
        return key

    def path_id(self, name: str, what: str) -> int:
        """
        Return an id from the path.

        Raises:
            NotFound: It cannot be one; the error names `what` was looked for.
        """
        return id_from(self.path[name], what)


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A body that msgspec can encode as JSON, and its status. Without a body (204, 304) it is None.

    With a `media_type` the body is bytes, and sent as they are.
    """

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class MediaType:
    """Stands in `Route.answers` for a body that is not JSON."""

    name: str


@dataclass(frozen=True, slots=True)
class Example:
    """
    A request as a client would send it, in the words of the wire, shown in the documentation.

    It works on an API with the demo data, after the examples before it in the feature's table: the
    tests send them one after another. So `{name}` within a text of `path`, `input`, `headers` or
    `sender` stands for what an earlier one kept; a text that is nothing else becomes the kept value
    as it is, a number included.

    `input` is the JSON body, or the query of a GET. `sender` is the email address of the demo
    account that asks, the token of a visitor as `{kept}`, or empty for nobody (and nobody asks
    where the route is open to anyone). `status` is the one that comes back, by default the first of
    `Route.answers`. `keeps` names parts of the answer for later examples, by where they are:
    `{"chat_id": "id", "first_message_id": "messages.0.id"}`.
    """

    input: Mapping[str, Any] | None = None
    path: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[Header, str] = field(default_factory=dict)
    sender: str = "ali@example.com"
    status: int | None = None
    keeps: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""

    def filled(self, kept: Callable[[str], Any]) -> "Example":
        """Return the same request with what `kept` returns for each `{name}` in its place."""

        def fill(value: Any) -> Any:
            match value:
                case str() if alone := _KEPT.fullmatch(value):
                    return kept(alone[1])
                case str():
                    return _KEPT.sub(lambda match: str(kept(match[1])), value)
                case Mapping():
                    return {name: fill(inner) for name, inner in value.items()}
                case list() | tuple():
                    return [fill(inner) for inner in value]
            return value

        return replace(
            self,
            input=fill(self.input),
            path={name: str(fill(value)) for name, value in self.path.items()},
            headers={name: str(fill(value)) for name, value in self.headers.items()},
            sender=str(fill(self.sender)),
        )


@dataclass(frozen=True, slots=True)
class Route(Generic[Input]):
    """
    One row of a feature's HTTP table.

    The edge settles who asks before the handler or the input is looked at. With `reads_forms` the
    body may be urlencoded as well as JSON, whatever its content type says.

    The rest is what the documentation says: one line on what it does, the type of the body of each
    successful status (anything msgspec makes a schema of; a `MediaType` for what is not JSON; None
    for no body), which errors the handler may raise beside those that follow from the rest of the
    row, which headers it reads, which of them it can't do without (400), and requests to try. What
    the handler's docstring says is shown below the summary.
    """

    method: str
    path: str
    input: type[Input]
    handler: Callable[[Call[Input]], Awaitable[Answer]]
    audience: Audience = Audience.ACCOUNT
    reads_forms: bool = False
    summary: str = ""
    answers: Mapping[int, Any] = field(default_factory=lambda: _JUST_OK)
    errors: tuple[type[ChatError], ...] = ()
    headers: tuple[Header, ...] = ()
    needs: tuple[Header, ...] = ()
    examples: tuple[Example, ...] = ()
