"""
A feature's HTTP side, without HTTP: what it answers, who may ask and what the input looks like.

Features list `Route`s; an edge reads each request into a `Call`, hands it over and writes the
`Answer` down. Handlers therefore never see a socket, and what they accept can be documented from
the same table.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from chat_api.kernel.errors import Unauthenticated
from chat_api.kernel.texts import full_name, id_from

__all__ = ["Answer", "Call", "Caller", "Input", "NoInput", "Person", "Route"]


@dataclass(frozen=True, slots=True)
class Person:
    """An account as others may see it."""

    id: int
    email: str
    first_name: str
    last_name: str

    @property
    def name(self) -> str:
        """Return the full name."""
        return full_name(self.first_name, self.last_name)


@dataclass(frozen=True, slots=True)
class Caller(Person):
    """Whom a valid token names, as the database knows them at the time of the request."""

    role: str
    tenants: tuple[str, ...]
    token_id: str
    token_expires_at: int
    """When the token ends, in seconds since 1970."""


class NoInput(msgspec.Struct, frozen=True):
    """The input of a route that reads none."""


Input = TypeVar("Input", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Call(Generic[Input]):
    """
    One request, read.

    `input` comes from the body, or from the query string for GET. `address` is the peer's network
    address. `socket_id` is the caller's realtime connection, which need not hear its own events;
    it is None unless a well-formed one was sent.
    """

    input: Input
    path: Mapping[str, str]
    address: str
    socket_id: str | None
    identity: Caller | None

    @property
    def caller(self) -> Caller:
        """
        Return who asks.

        Raises:
            Unauthenticated: Nobody in particular: the route is open to anyone.
        """
        if self.identity is None:
            raise Unauthenticated("Log in first: this needs a bearer token.")
        return self.identity

    def path_id(self, name: str, what: str) -> int:
        """
        Return an id from the path.

        Raises:
            NotFound: It cannot be one; the error names `what` was looked for.
        """
        return id_from(self.path[name], what)


@dataclass(frozen=True, slots=True)
class Answer:
    """A body that msgspec can encode as JSON, and its status."""

    body: Any
    status: int = 200


@dataclass(frozen=True, slots=True)
class Route(Generic[Input]):
    """
    One row of a feature's HTTP table.

    Unless `is_open`, the edge answers 401 before the handler or the input is looked at. With
    `reads_forms` the body may be urlencoded as well as JSON, whatever its content type says.
    """

    method: str
    path: str
    input: type[Input]
    handler: Callable[[Call[Input]], Awaitable[Answer]]
    is_open: bool = False
    reads_forms: bool = False
