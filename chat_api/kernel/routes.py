"""
A feature's HTTP side, without HTTP: what it answers, who may ask and what the input looks like.

Features list `Route`s; an edge reads each request into a `Call`, hands it over and writes the
`Answer` down. Handlers therefore never see a socket, and the API's documentation is made from the
same table that serves it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, TypeVar

import msgspec

from chat_api.kernel.callers import Caller, Identity
from chat_api.kernel.errors import ChatError, Forbidden, Malformed, Unauthenticated
from chat_api.kernel.tenants import RequestedTenant, requested_tenant
from chat_api.kernel.texts import id_from

__all__ = ["Answer", "Audience", "Call", "Header", "Input", "NoInput", "Route"]

_MAX_IDEMPOTENCY_KEY = 100  # characters
_JUST_OK: Final[Mapping[int, Any]] = {200: Any}


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
    """A body that msgspec can encode as JSON, and its status. Without a body (204) it is None."""

    body: Any
    status: int = 200


@dataclass(frozen=True, slots=True)
class Route(Generic[Input]):
    """
    One row of a feature's HTTP table.

    The edge settles who asks before the handler or the input is looked at. With `reads_forms` the
    body may be urlencoded as well as JSON, whatever its content type says.

    The rest is what the documentation says: one line on what it does, the type of the body of each
    successful status (anything msgspec makes a schema of; None for no body), which errors the
    handler may raise beside those that follow from the rest of the row, and which headers it reads.
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
