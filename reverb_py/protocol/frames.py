"""
Everything the server says, as finished WebSocket frames.

A frame is built once and the same bytes go to every connection, so each function returns a whole
unmasked text frame (RFC 6455, section 5.2). `data` is a JSON string inside the JSON, except in
`pusher:error`, where it is an object: Swift and Pysher read the code only from an object.
"""

import orjson

__all__ = [
    "PING",
    "PONG",
    "WEBSOCKET_PING",
    "client_event",
    "close_frame",
    "connection_established",
    "error",
    "event",
    "subscription_error",
    "subscription_succeeded",
    "text_frame",
]


def text_frame(payload: bytes) -> bytes:
    """Return `payload`, which is UTF-8, as one unfragmented text frame."""
    length = len(payload)
    if length < 126:
        return b"\x81%c%b" % (length, payload)
    if length < 65536:
        return b"\x81\x7e%b%b" % (length.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (length.to_bytes(8, "big"), payload)


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


def error(code: int, message: str, *, as_string: bool = False) -> bytes:
    """Return `pusher:error`; `as_string` writes its data the way Laravel Reverb does."""
    details = orjson.dumps({"code": int(code), "message": message})
    data = orjson.dumps(details.decode()) if as_string else details
    return text_frame(b'{"event":"pusher:error","data":%b}' % data)
