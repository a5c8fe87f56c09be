"""
Everything the server says, as finished WebSocket frames.

A frame is built once and the same bytes go to every connection, so each function returns a whole
unmasked text frame (RFC 6455, section 5.2). `data` is a JSON string inside the JSON, except in
`pusher:error`, where it is an object unless the server is told otherwise: Swift and Pysher read the
code only from an object.
"""

from collections.abc import Sequence

import orjson

__all__ = [
    "PING",
    "PONG",
    "WEBSOCKET_PING",
    "cache_miss",
    "client_event",
    "close_frame",
    "connection_established",
    "error",
    "error_in_a_string",
    "event",
    "is_text_frame",
    "member_added",
    "member_removed",
    "signin_success",
    "subscription_count",
    "subscription_error",
    "subscription_succeeded",
    "text_frame",
    "watchlist_events",
]


def text_frame(payload: bytes) -> bytes:
    """Return `payload`, which is UTF-8, as one unfragmented text frame."""
    length = len(payload)
    if length < 126:
        return b"\x81%c%b" % (length, payload)
    if length < 65536:
        return b"\x81\x7e%b%b" % (length.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (length.to_bytes(8, "big"), payload)


def is_text_frame(frame: bytes) -> bool:
    """Tell whether this is one whole frame as `text_frame` returns it, whatever it says."""
    size = len(frame)
    if size < 2 or frame[0] != 0x81:
        return False
    length = frame[1]
    if length < 126:
        return size == length + 2
    if length == 126:
        return size == int.from_bytes(frame[2:4], "big") + 4
    return length == 127 and size == int.from_bytes(frame[2:10], "big") + 10


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame; the reason is cut to the 123 bytes a control frame has room for."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return b"\x88%c%b%b" % (len(text) + 2, code.to_bytes(2, "big"), text)


PONG = text_frame(b'{"event":"pusher:pong","data":"{}"}')
PING = text_frame(b'{"event":"pusher:ping","data":"{}"}')
WEBSOCKET_PING = b"\x89\x00"


def event(name: str, channel: str, data: str) -> bytes:
    """Return `{"event":…,"channel":…,"data":"…"}`; `data` is the string the publisher sent."""
    return text_frame(
        b'{"event":%b,"channel":"%b","data":%b}'
        % (orjson.dumps(name), channel.encode(), orjson.dumps(data))
    )


def client_event(name: str, channel: str, data: bytes, user_id: str | None = None) -> bytes:
    """
    Return a client event as the other subscribers get it.

    `data` is the JSON the sender wrote, byte for byte, and left out when there was none: some
    clients send objects, others strings, and each kind of receiver expects its own.
    """
    parts = [b'{"event":', orjson.dumps(name), b',"channel":"', channel.encode(), b'"']
    if data:
        parts += [b',"data":', data]
    if user_id is not None:
        parts += [b',"user_id":', orjson.dumps(user_id)]
    parts.append(b"}")
    return text_frame(b"".join(parts))


def connection_established(socket_id: str, activity_timeout: int) -> bytes:
    """Return the hello; `activity_timeout` is in whole seconds and above zero (pusher-js)."""
    hello = {"socket_id": socket_id, "activity_timeout": activity_timeout}
    return text_frame(
        b'{"event":"pusher:connection_established","data":%b}'
        % orjson.dumps(orjson.dumps(hello).decode())
    )


def subscription_succeeded(channel: str, data: str = "{}") -> bytes:
    """Return the acknowledgement; off presence channels `data` is exactly `{}` (Java, Swift)."""
    return event("pusher_internal:subscription_succeeded", channel, data)


def member_added(channel: str, user_id: str, info: bytes) -> bytes:
    """Return the announcement of a presence member; `info` is JSON."""
    data = b'{"user_id":%b,"user_info":%b}' % (orjson.dumps(user_id), info)
    return event("pusher_internal:member_added", channel, data.decode())


def member_removed(channel: str, user_id: str) -> bytes:
    """Return the announcement that a presence member has left."""
    data = b'{"user_id":%b}' % orjson.dumps(user_id)
    return event("pusher_internal:member_removed", channel, data.decode())


def subscription_count(channel: str, count: int) -> bytes:
    """Return how many connections are subscribed to a channel."""
    return event("pusher_internal:subscription_count", channel, f'{{"subscription_count":{count}}}')


def cache_miss(channel: str) -> bytes:
    """Return the answer to subscribing to a cache channel that has nothing remembered."""
    return text_frame(b'{"event":"pusher:cache_miss","channel":"%b"}' % channel.encode())


def signin_success(user_data: str) -> bytes:
    """Return the acknowledgement of `pusher:signin`, with the string that was signed."""
    data = orjson.dumps({"user_data": user_data})
    return text_frame(b'{"event":"pusher:signin_success","data":%b}' % orjson.dumps(data.decode()))


def watchlist_events(online: Sequence[str], offline: Sequence[str]) -> bytes:
    """Return which watched users are, or have gone, on- and offline; pusher-js reads this form."""
    events = [
        {"name": name, "user_ids": user_ids}
        for name, user_ids in (("online", online), ("offline", offline))
        if user_ids
    ]
    data = orjson.dumps({"events": events})
    return text_frame(
        b'{"event":"pusher_internal:watchlist_events","data":%b}' % orjson.dumps(data.decode())
    )


def subscription_error(channel: str, kind: str, message: str, status: int) -> bytes:
    """Return the refusal of one subscription, for the handlers of that channel (pusher-js)."""
    details = {"type": kind, "error": message, "status": status}
    return text_frame(
        orjson.dumps(
            {
                "event": "pusher:subscription_error",
                "channel": channel,
                "data": orjson.dumps(details).decode(),
            }
        )
    )


def error(code: int, message: str) -> bytes:
    """Return `pusher:error`, whose data is an object."""
    details = orjson.dumps({"code": int(code), "message": message})
    return text_frame(b'{"event":"pusher:error","data":%b}' % details)


def error_in_a_string(code: int, message: str) -> bytes:
    """Return `pusher:error` as Laravel Reverb has it, whose data is a string like all other."""
    details = orjson.dumps({"code": int(code), "message": message}).decode()
    return text_frame(b'{"event":"pusher:error","data":%b}' % orjson.dumps(details))
