"""
What nodes and scripts say on topics, as bytes: MessagePack between nodes, text from the scripts.

A channel's topic carries what a node published (`E`), how many subscribers the nodes have (`=`),
and members that come (`+`) and go (`-`). The topic of all nodes carries requests, and a node's own
topic the answers to its own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, NamedTuple

import msgspec

__all__ = [
    "Answer",
    "Ask",
    "Change",
    "Counts",
    "Event",
    "Published",
    "Request",
    "Terminate",
    "decode",
    "decode_answer",
    "decode_last_event",
    "decode_request",
    "encode",
    "encode_published",
]

Event = tuple[bytes, str | None, str | None]
"""A finished frame, the socket id that does not get it, and the data that a cache remembers."""


class Published(msgspec.Struct, array_like=True):
    """What one node published on one topic in one go."""

    node: str
    events: list[Event]


class Change(NamedTuple):
    """A member has come or gone; the version of the members was one, and is another."""

    before: int
    version: int
    user_id: str
    info: bytes | None
    """None when the user has gone."""


class Counts(NamedTuple):
    """How many connections are subscribed to a channel, by the name of the node."""

    by_node: dict[str, int]


class Terminate(msgspec.Struct, array_like=True, tag="terminate"):
    """Close a user's connections."""

    node: str
    app_id: str
    user_id: str


class Ask(msgspec.Struct, array_like=True, tag="ask"):
    """Tell what you know of the channels that begin so, or of those named."""

    node: str
    app_id: str
    number: int
    answer_to: bytes
    prefix: str
    names: list[str] | None


Request = Terminate | Ask


class Answer(msgspec.Struct, array_like=True):
    """What a node knows: of each channel its subscribers and members, and its connections."""

    number: int
    channels: dict[str, tuple[Annotated[int, msgspec.Meta(ge=0)], Collection[str]]]
    connections: Annotated[int, msgspec.Meta(ge=0)]


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
decode_last_event = msgspec.msgpack.Decoder(tuple[bytes, str]).decode
_decode_published = msgspec.msgpack.Decoder(Published).decode


def encode_published(node: str, events: list[Event]) -> bytes:
    """Return what a channel's topic carries when a node publishes there."""
    return b"E" + encode((node, events))


def decode(message: bytes) -> Published | Counts | Change | None:
    """
    Return what was said on a channel's topic; None is what another version may say.

    Raises:
        ValueError: It is nothing that a node or a script says.
    """
    sign = message[:1]
    if sign == b"E":
        return _decode_published(message[1:])
    if sign == b"=":
        words = message[1:].decode().split()
        return Counts(dict(zip(words[::2], map(int, words[1::2]), strict=True)))
    if sign in (b"+", b"-"):
        head, _, body = message[1:].partition(b"\n")
        before, version, length = (int(number) for number in head.split())
        info = body[length:] if sign == b"+" else None
        return Change(before, version, body[:length].decode(), info)
    return None
