"""
Everything that can go wrong for a caller, with its code, its status and its words.

Raise one anywhere inside; the edge turns it into `{"code", "message"}` with the status. The words
reach people, so they say what to do next and never quote a secret or a stack.
"""

from typing import ClassVar

__all__ = [
    "ChatError",
    "Conflict",
    "Forbidden",
    "Gone",
    "Malformed",
    "MethodNotAllowed",
    "NotFound",
    "TooLarge",
    "TooMany",
    "Unauthenticated",
    "Unavailable",
    "Unprocessable",
]


class ChatError(Exception):
    """
    Something went wrong that is not the caller's fault.

    The base of every failure that callers are told about. `code` is stable, the message may change.
    """

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code

    @property
    def headers(self) -> dict[str, str]:
        """Return the HTTP headers that belong to this failure."""
        return {}


class Malformed(ChatError):
    """The request cannot be read: not JSON, a missing field, a wrong type."""

    status, default_code = 400, "malformed"


class Unauthenticated(ChatError):
    """Nobody, or nobody we know any more, is asking."""

    status, default_code = 401, "unauthenticated"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(ChatError):
    """The caller is known and may not do this."""

    status, default_code = 403, "forbidden"


class NotFound(ChatError):
    """No such address, or no such thing."""

    status, default_code = 404, "not_found"


class MethodNotAllowed(ChatError):
    """The address exists, not with this method; `allowed` names those it has."""

    status, default_code = 405, "method_not_allowed"

    def __init__(self, message: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": ", ".join(self.allowed)}


class Conflict(ChatError):
    """The request came too late or contradicts what is stored."""

    status, default_code = 409, "conflict"


class Gone(ChatError):
    """What the request is about is over and will not come back."""

    status, default_code = 410, "gone"


class TooLarge(ChatError):
    """The body is longer than the server reads."""

    status, default_code = 413, "too_large"


class Unprocessable(ChatError):
    """Well-formed but meaningless: an empty text, a chat with oneself."""

    status, default_code = 422, "unprocessable"


class TooMany(ChatError):
    """
    The caller is too fast.

    `retry_after` is in whole seconds, at least one.
    """

    status, default_code = 429, "too_many_requests"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class Unavailable(ChatError):
    """
    Something the API can't do without is out of reach.

    `retry_after` is in whole seconds, at least one.
    """

    status, default_code = 503, "unavailable"

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}
