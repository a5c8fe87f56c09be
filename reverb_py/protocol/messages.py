"""
Everything a client says over its WebSocket, decoded.

Clients spell the same thing in many ways: `data` is an object, a JSON string holding an object,
null, an empty string or missing. Decoding is tolerant about that and strict about types, and a
message it can't make sense of raises `MalformedMessage` with words the sender can act on.
"""

import re
from typing import TypeVar

import msgspec

from reverb_py.protocol.channel_names import is_channel_name, user_channel

__all__ = [
    "MAX_USER_ID_LENGTH",
    "ClientMessage",
    "MalformedMessage",
    "MemberData",
    "SigninData",
    "SubscribeData",
    "UnsubscribeData",
    "UserData",
    "decode_data",
    "decode_member",
    "decode_message",
    "decode_user",
]


class MalformedMessage(Exception):
    """A message that breaks the protocol; the text says how."""


class ClientMessage(msgspec.Struct, gc=False):
    """The envelope. `data` is left undecoded: client events relay it byte for byte."""

    event: str
    channel: str | None = None
    data: msgspec.Raw = msgspec.Raw()


class SubscribeData(msgspec.Struct, gc=False):
    """What `pusher:subscribe` asks for. Null and missing fields mean the same."""

    channel: str
    auth: str | None = None
    channel_data: str | None = None


class UnsubscribeData(msgspec.Struct, gc=False):
    """What `pusher:unsubscribe` asks for."""

    channel: str


class SigninData(msgspec.Struct, gc=False):
    """What `pusher:signin` brings: a signature, and the string that was signed."""

    auth: str
    user_data: str


class MemberData(msgspec.Struct, gc=False):
    """What `channel_data` says of a presence member. `user_info` is any JSON."""

    user_id: str | int
    user_info: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def id(self) -> str:
        """The id as everybody gets to see it: a string, also where a number was signed."""
        return str(self.user_id)


class UserData(msgspec.Struct, gc=False):
    """What `user_data` says of a user who signs in. A null watchlist is an empty one."""

    id: str | int
    user_info: msgspec.Raw = msgspec.Raw(b"null")
    watchlist: list[str | int] | None = None


MAX_USER_ID_LENGTH = 128
"""Characters of a user's id."""

_Data = TypeVar("_Data", SubscribeData, UnsubscribeData, SigninData)

_decode_envelope = msgspec.json.Decoder(ClientMessage).decode
_decode_string = msgspec.json.Decoder(str).decode

# Whole pairs and other escapes come first where they begin, so what the group finds is half a pair.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def decode_message(text: str) -> ClientMessage:
    """
    Decode one message.

    Raises:
        MalformedMessage: It is not a JSON object with a string `event`.
    """
    try:
        return _decode_envelope(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise MalformedMessage(f"Invalid message: {_explain(exc, text)}") from None


def decode_data(message: ClientMessage, kind: type[_Data]) -> _Data:
    """
    Decode the `data` of a message, which is an object or a JSON string holding one.

    Raises:
        MalformedMessage: It is missing, is something else, or lacks a field.
    """
    raw: bytes | str = bytes(message.data)
    if not raw:
        raise MalformedMessage(f"Invalid {message.event}: `data` is missing")
    try:
        if raw[0] == ord('"'):
            raw = _decode_string(raw)
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise MalformedMessage(f"Invalid {message.event}: {_explain(exc, raw)} in `data`") from None


def decode_member(channel_data: str) -> MemberData:
    """
    Decode a presence member; the signature over the string has been verified by then.

    Raises:
        MalformedMessage: It is no JSON object with a `user_id`.
    """
    try:
        member = msgspec.json.decode(channel_data, type=MemberData)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise MalformedMessage(f"Invalid channel_data: {_explain(exc, channel_data)}") from None
    _check_user_id(member.id, "channel_data: `user_id`")
    return member


def decode_user(user_data: str) -> UserData:
    """
    Decode a user who signs in; the signature over the string has been verified by then.

    The id names the user's own channel, to which the client will subscribe next, so it is made of
    what channel names are made of (hosted Pusher: "invalid characters").

    Raises:
        MalformedMessage: It is no JSON object with an `id`, or the id can't name a channel.
    """
    try:
        user = msgspec.json.decode(user_data, type=UserData)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise MalformedMessage(f"Invalid user_data: {_explain(exc, user_data)}") from None
    user_id = str(user.id)
    _check_user_id(user_id, "user_data: `id`")
    if not is_channel_name(user_channel(user_id)):
        raise MalformedMessage(
            "Invalid user_data: `id` may have letters, digits and _ - = @ , . ; only, because it "
            "names the channel of the user's own events"
        )
    return user


def _check_user_id(user_id: str, name: str) -> None:
    if not 0 < len(user_id) <= MAX_USER_ID_LENGTH:
        raise MalformedMessage(f"Invalid {name} must have 1 to {MAX_USER_ID_LENGTH} characters")


def _explain(exc: Exception, source: str | bytes) -> str:
    """Say what is wrong with the source, on which the decoder has failed so."""
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    if not isinstance(exc, msgspec.ValidationError):
        text = source if isinstance(source, str) else source.decode()
        for escape in _ESCAPE.finditer(text):
            # JavaScript writes what it has cut in two; the decoder takes it for the end, or worse.
            if escape[1]:
                return f"{escape[0]} is half of a surrogate pair: send whole characters"
    return str(exc)
