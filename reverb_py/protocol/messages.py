"""
Everything a client says over its WebSocket, decoded.

Clients spell the same thing in many ways: `data` is an object, a JSON string holding an object,
null, an empty string or missing. Decoding is tolerant about that and strict about types, and a
message it can't make sense of raises `MalformedMessage` with words the sender can act on.
"""

from typing import TypeVar

import msgspec

__all__ = [
    "ClientMessage",
    "MalformedMessage",
    "SubscribeData",
    "UnsubscribeData",
    "decode_data",
    "decode_message",
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


_Data = TypeVar("_Data", SubscribeData, UnsubscribeData)

_decode_envelope = msgspec.json.Decoder(ClientMessage).decode
_decode_string = msgspec.json.Decoder(str).decode


def decode_message(text: str) -> ClientMessage:
    """
    Decode one message.

    Raises:
        MalformedMessage: It is not a JSON object with a string `event`.
    """
    try:
        return _decode_envelope(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise MalformedMessage(f"Invalid message: {_explain(exc)}") from None


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
        raise MalformedMessage(f"Invalid {message.event}: {_explain(exc)} in `data`") from None


def _explain(exc: Exception) -> str:
    return "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
