"""
PROXY heads: what a proxy says, before anything else, about whose connection it hands on.

Versions 1 (a line of text) and 2 (binary) of HAProxy's PROXY protocol,
https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt.
"""

import ipaddress
import struct
from typing import NamedTuple

__all__ = ["MAX_HEAD_BYTES", "InvalidProxyHead", "ProxyHead", "decode_proxy_head"]

MAX_HEAD_BYTES = 4_096
"""Bytes of a head, what version 2 may append to the addresses included."""

_V1_START = b"PROXY "
_V1_MAX_BYTES = 107
_V2_START = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = struct.Struct("!12sBBH")
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
# By family and transport: the bytes of the two addresses with their ports, and those of the first.
_V2_ADDRESSES = {0x00: (0, 0), 0x11: (12, 4), 0x21: (36, 16), 0x31: (216, 0)}


class InvalidProxyHead(ValueError):
    """Bytes that are not the beginning of a connection that a proxy hands on."""


class ProxyHead(NamedTuple):
    """
    One head of `size` bytes.

    `source` is the client's IP address. It is None when the proxy speaks for itself, as in a health
    check, or does not know.
    """

    size: int
    source: str | None


def decode_proxy_head(data: bytes) -> ProxyHead | None:
    """
    Return the head that a connection's bytes begin with, or None when it is not there whole.

    Raises:
        InvalidProxyHead: Whatever may follow, these bytes do not begin with one.
    """
    if data.startswith(_V1_START):
        return _decode_line(data)
    if data.startswith(_V2_START):
        return _decode_binary(data)
    if _V1_START.startswith(data) or _V2_START.startswith(data):
        return None
    raise InvalidProxyHead("no PROXY head")


def _decode_line(data: bytes) -> ProxyHead | None:
    end = data.find(b"\n", 0, _V1_MAX_BYTES)
    if end < 0:
        if len(data) >= _V1_MAX_BYTES:
            raise InvalidProxyHead(f"a line of more than {_V1_MAX_BYTES} bytes")
        return None
    line = data[:end]
    if not line.endswith(b"\r") or not line.isascii():
        raise InvalidProxyHead("not a line of ASCII that CR and LF end")
    family, *rest = line[len(_V1_START) : -1].decode("ascii").split(" ")
    if family == "UNKNOWN":
        return ProxyHead(end + 1, None)
    try:
        source, destination, *ports = rest
        parse = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}[family]
        parse(destination)
        address = str(parse(source))
    except (ValueError, KeyError):
        raise InvalidProxyHead("not two addresses of the family") from None
    if len(ports) != 2 or not all(_is_port(port) for port in ports):
        raise InvalidProxyHead("not two ports")
    return ProxyHead(end + 1, address)


def _is_port(text: str) -> bool:
    return text.isdigit() and len(text) <= 5 and int(text) < 65536


def _decode_binary(data: bytes) -> ProxyHead | None:
    if len(data) < _V2_FIXED.size:
        return None
    _, command, family, length = _V2_FIXED.unpack_from(data)
    size = _V2_FIXED.size + length
    if command not in (_V2_LOCAL, _V2_PROXY):
        raise InvalidProxyHead("not version 2, or a command that it has not")
    if size > MAX_HEAD_BYTES:
        raise InvalidProxyHead(f"more than {MAX_HEAD_BYTES} bytes")
    source_length = 0
    if command == _V2_PROXY:
        if family not in _V2_ADDRESSES:
            raise InvalidProxyHead("addresses that no stream connection has")
        addresses_length, source_length = _V2_ADDRESSES[family]
        if length < addresses_length:
            raise InvalidProxyHead("no room for the addresses")
    if len(data) < size:
        return None
    source = data[_V2_FIXED.size : _V2_FIXED.size + source_length]
    return ProxyHead(size, str(ipaddress.ip_address(source)) if source else None)
