"""Bytes on sockets: WebSocket frames as a client writes and reads them."""

import base64
import hashlib
import os
import socket
import struct
from enum import IntEnum

MASK = os.urandom(4)
WEBSOCKET_KEY = base64.b64encode(os.urandom(16)).decode()
WEBSOCKET_ACCEPT = base64.b64encode(
    hashlib.sha1(f"{WEBSOCKET_KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
)


class BrokenError(Exception):
    """The server did something a correct one does not do; the message says what."""


class Opcode(IntEnum):
    """The first byte of a WebSocket frame that is a whole message."""

    TEXT = 0x81
    PING = 0x89
    PONG = 0x8A


def send(connection: socket.socket, content: bytes) -> None:
    """Send all at once: nothing the load sends is larger than an empty socket buffer."""
    try:
        sent = connection.send(content)
    except OSError as error:
        raise BrokenError(f"a connection broke: {error}") from error
    if sent != len(content):
        raise BrokenError("the server does not read what it is sent")


def split_frame(buffer: bytes, position: int) -> tuple[int, int] | None:
    """Return start and end of the payload of the frame at `position`; None if not complete yet."""
    if len(buffer) < position + 2:
        return None
    length, start = buffer[position + 1], position + 2
    if length == 126:
        if len(buffer) < start + 2:
            return None
        (length,), start = struct.unpack_from(">H", buffer, start), start + 2
    elif length == 127:
        if len(buffer) < start + 8:
            return None
        (length,), start = struct.unpack_from(">Q", buffer, start), start + 8
    elif length > 127:
        raise BrokenError("the server masks its frames, or what it sends is no frame")
    if len(buffer) < start + length:
        return None
    return start, start + length


def masked_frame(opcode: Opcode, payload: bytes) -> bytes:
    """Return a client's frame of less than 64 KiB."""
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", opcode, 0x80 | length)
    else:
        head = struct.pack(">BBH", opcode, 0x80 | 126, length)
    mask = int.from_bytes((MASK * (length // 4 + 1))[:length])
    return head + MASK + (int.from_bytes(payload) ^ mask).to_bytes(length)
