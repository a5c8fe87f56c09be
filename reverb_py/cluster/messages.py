"""
What nodes and scripts say on topics, as bytes: MessagePack between nodes, text from the scripts.

A channel's topic carries what a node published (`E`), how many subscribers the nodes have (`=`),
and members that come (`+`) and go (`-`). The topic of all nodes carries requests, and a node's own
topic the answers to its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, NamedTuple, TypeVar

import msgspec

from reverb_py.protocol.frames import is_text_frame

__all__ = [
    "Answer",
    "Ask",
    "Change",
    "Counts",
    "Event",
    "Published",
    "Request",
    "Terminate",
    "Unintelligible",
    "decode",
    "decode_answer",
    "decode_last_event",
    "decode_members",
    "decode_request",
    "encode",
    "encode_published",
]

_Value = TypeVar("_Value")


class Unintelligible(Exception):
    """This is nothing that a node or a script of this version says."""


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
    """Close a user's connections. It may come twice, and then with the same `number`."""

    node: str
    app_id: str
    user_id: str
    number: str = ""


class Ask(msgspec.Struct, array_like=True, tag="ask"):
    """Tell the node what you know of the channels that begin so, or of those named."""

    node: str
    app_id: str
    number: int
    prefix: str
    names: list[str] | None


Request = Terminate | Ask


class Answer(msgspec.Struct, array_like=True):
    """What `node` knows: of each channel its subscribers and members, and its connections."""

    number: int
    channels: dict[str, tuple[Annotated[int, msgspec.Meta(ge=0)], Collection[str]]]
    connections: Annotated[int, msgspec.Meta(ge=0)]
    node: str = ""


encode = msgspec.msgpack.Encoder().encode
_published = msgspec.msgpack.Decoder(Published)
_request = msgspec.msgpack.Decoder(Request)
_answer = msgspec.msgpack.Decoder(Answer)
_last_event = msgspec.msgpack.Decoder(tuple[bytes, str])


def encode_published(node: str, events: list[Event]) -> bytes:
    """Return what a channel's topic carries when a node publishes there."""
    return b"E" + encode((node, events))


def decode(message: bytes) -> Published | Counts | Change:
    """
    Return what was said on a channel's topic.

    Raises:
        Unintelligible: Nothing that makes sense.
    """
    sign, body = message[:1], message[1:]
    try:
        if sign == b"E":
            published = _published.decode(body)
            if all(is_text_frame(frame) for frame, _, _ in published.events):
                return published
        elif sign == b"=":
            words = body.decode().split()
            counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
            if all(count >= 0 for count in counts.values()):
                return Counts(counts)
        elif sign in (b"+", b"-"):
            return _change(body, has_come=sign == b"+")
    except (ValueError, RecursionError, msgspec.DecodeError) as exc:
        raise Unintelligible(str(exc)) from None
    raise Unintelligible("it begins or ends like nothing known")


def _change(body: bytes, *, has_come: bool) -> Change:
    head, _, rest = body.partition(b"\n")
    before, version, length = (int(number) for number in head.split())
    user_id, info = rest[:length].decode(), rest[length:]
    return Change(before, version, user_id, _checked(info) if has_come else None)


def _checked(info: bytes) -> bytes:
    """Return what is said of a user, which goes to clients: JSON, or nothing."""
    if info:
        msgspec.json.decode(info, type=msgspec.Raw)
    return info


def decode_members(pairs: Sequence[bytes]) -> dict[str, bytes]:
    """Return members' infos by their ids; `pairs` are both in turn. What is neither is left out."""
    members: dict[str, bytes] = {}
    for user_id, info in zip(pairs[::2], pairs[1::2], strict=False):
        try:
            members[user_id.decode()] = _checked(info)
        except (ValueError, RecursionError, msgspec.DecodeError):
            pass
    return members


def decode_request(message: bytes) -> Request:
    """
    Return what was said to all nodes.

    Raises:
        Unintelligible: Nothing that makes sense.
    """
    request: Request = _decoded(_request, message)
    return request


def decode_answer(message: bytes) -> Answer:
    """
    Return what was said to one node.

    Raises:
        Unintelligible: Nothing that makes sense.
    """
    return _decoded(_answer, message)


def decode_last_event(value: bytes) -> tuple[bytes, str]:
    """
    Return a cache channel's last event, its frame and its data.

    Raises:
        Unintelligible: It is none.
    """
    frame, data = _decoded(_last_event, value)
    if not is_text_frame(frame):
        raise Unintelligible("its frame is none")
    return frame, data


def _decoded(decoder: msgspec.msgpack.Decoder[_Value], message: bytes) -> _Value:
    try:
        return decoder.decode(message)
    except (ValueError, RecursionError, msgspec.DecodeError) as exc:
        raise Unintelligible(str(exc)) from None
