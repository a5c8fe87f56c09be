"""
The codes a client is told, and what it does about them.

A code below 4100 ends the conversation for good, 4100 to 4199 asks the client to wait before it
returns, 4200 to 4299 lets it return at once, and 4300 to 4399 leaves the connection alone. Clients
apply these ranges to close frames, and several (Pysher, some Dart clients) also to `pusher:error`
on a live connection: an answer that must not cost the client its connection therefore carries a
43xx code. See docs/decisions/0003-refusal-codes.md.
"""

import enum

__all__ = ["ErrorCode"]


class ErrorCode(enum.IntEnum):
    """Codes of `pusher:error` messages and of close frames."""

    UNKNOWN_APP = 4001
    APP_DISABLED = 4003
    OVER_CONNECTION_QUOTA = 4004
    PATH_NOT_FOUND = 4005
    UNSUPPORTED_PROTOCOL = 4007
    UNAUTHORIZED = 4009
    OVER_CAPACITY = 4100
    RECONNECT = 4200
    PONG_NOT_RECEIVED = 4201
    REQUEST_REFUSED = 4300
    CLIENT_EVENT_REFUSED = 4301
    WATCHLIST_TOO_LONG = 4302
