"""
What a channel's name promises: who may subscribe, and whether its last event is remembered.

Access and caching are two independent properties, both read off the name's prefix, and a prefix
counts only where it stands, with its dash: `privateer` and `my-cache-x` are plain public channels.
"""

import enum
import re
from typing import NamedTuple

__all__ = [
    "MAX_NAME_LENGTH",
    "Access",
    "ChannelKind",
    "is_channel_name",
    "kind_of",
    "user_channel",
]

MAX_NAME_LENGTH = 200
"""Characters of a channel or event name: what the server libraries allow (hosted Pusher: 164)."""


class Access(enum.Enum):
    """How a client earns its subscription."""

    PUBLIC = "public"
    PRIVATE = "private"
    ENCRYPTED = "private-encrypted"
    PRESENCE = "presence"
    USER = "server-to-user"
    RESERVED = "reserved"


class ChannelKind(NamedTuple):
    """The two properties of a name."""

    access: Access
    cached: bool


_USER_PREFIX = "#server-to-user-"

# Longest prefix first: "private-encrypted-cache-x" also starts with "private-".
_PREFIXES = (
    ("private-encrypted-cache-", ChannelKind(Access.ENCRYPTED, True)),
    ("private-encrypted-", ChannelKind(Access.ENCRYPTED, False)),
    ("private-cache-", ChannelKind(Access.PRIVATE, True)),
    ("private-", ChannelKind(Access.PRIVATE, False)),
    ("presence-cache-", ChannelKind(Access.PRESENCE, True)),
    ("presence-", ChannelKind(Access.PRESENCE, False)),
    ("cache-", ChannelKind(Access.PUBLIC, True)),
    (_USER_PREFIX, ChannelKind(Access.USER, False)),
    ("#", ChannelKind(Access.RESERVED, False)),
)
_PUBLIC = ChannelKind(Access.PUBLIC, False)

_NAME = re.compile(r"#?[A-Za-z0-9_\-=@,.;]+", re.ASCII)


def is_channel_name(name: str) -> bool:
    """
    Tell whether `name` keeps the grammar of the official libraries.

    Letters, digits and `_ - = @ , . ;`, at most 200 of them, with one `#` allowed in front.
    """
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def kind_of(name: str) -> ChannelKind:
    """Return what the name promises; it is not checked for its grammar."""
    for prefix, kind in _PREFIXES:
        if name.startswith(prefix):
            return kind
    return _PUBLIC


def user_channel(user_id: str) -> str:
    """Return the name of one user's own channel; it is not checked for its grammar."""
    return _USER_PREFIX + user_id
