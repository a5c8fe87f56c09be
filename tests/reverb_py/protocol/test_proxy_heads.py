"""PROXY heads, as proxies write them and as nobody should."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.protocol.proxy_heads import (
    MAX_HEAD_BYTES,
    InvalidProxyHead,
    ProxyHead,
    decode_proxy_head,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def binary(
    command: int, family: int, addresses: bytes = b"", *, length: int | None = None
) -> bytes:
    """Return a head of version 2; `length` is announced in place of the real one."""
    announced = len(addresses) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, family, announced) + addresses


def packed(source: str, destination: str) -> bytes:
    """Return two addresses with two ports, as version 2 has them."""
    both = [ipaddress.ip_address(each).packed for each in (source, destination)]
    return b"".join(both) + struct.pack("!HH", 56324, 443)


V4 = packed("192.0.2.1", "198.51.100.2")
V6 = packed("2001:db8::7", "2001:db8::1")
HEADS = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", "192.0.2.1"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n", "2001:db8::7"),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 0 443\r\n", "::ffff:c000:201"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (binary(0x21, 0x11, V4), "192.0.2.1"),
    (binary(0x21, 0x21, V6), "2001:db8::7"),
    (binary(0x21, 0x11, V4 + b"\x01\x00\x02h2"), "192.0.2.1"),
    (binary(0x21, 0x31, b"/run/client".ljust(108, b"\0") + bytes(108)), None),
    (binary(0x21, 0x00), None),
    (binary(0x20, 0x00), None),
    (binary(0x20, 0x11, V4), None),
    (binary(0x20, 0x00, b"x" * (MAX_HEAD_BYTES - 16)), None),
]


@pytest.mark.parametrize(("head", "source"), HEADS)
@pytest.mark.parametrize(
    "behind", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\n", b"\x00"]
)
def test_a_head_says_how_long_it_is_and_whose_connection_it_begins(
    head: bytes, source: str | None, behind: bytes
) -> None:
    decoded = decode_proxy_head(head + behind)

    assert decoded is not None
    assert decoded.size == len(head)
    if source is None:
        assert decoded.source is None
    else:
        assert decoded.source is not None
        assert ipaddress.ip_address(decoded.source) == ipaddress.ip_address(source)


@pytest.mark.parametrize(("head", "_source"), HEADS)
def test_a_head_that_is_cut_off_anywhere_is_waited_for(head: bytes, _source: str | None) -> None:
    assert [decode_proxy_head(head[:size]) for size in range(len(head))] == [None] * len(head)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.1  198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 example.com 1 2\r\n",
        b"PROXY UNKNOWN \xff\r\n",
        b"PROXY TCP4 " + b" " * 96,
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
        SIGNATURE[:-1] + b"x",
        SIGNATURE + b"\x11\x11\x00\x0c" + V4,
        SIGNATURE + b"\x22\x11\x00\x0c" + V4,
        binary(0x21, 0x12, V4),
        binary(0x21, 0x41, V4),
        binary(0x21, 0x11, V4[:-1]),
        binary(0x21, 0x21, V4),
        binary(0x21, 0x31, V6),
        binary(0x20, 0x00, length=MAX_HEAD_BYTES - 15),
        binary(0x21, 0x11, length=0xFFFF),
    ],
)
def test_what_is_no_head_is_refused_as_soon_as_that_is_sure(data: bytes) -> None:
    with pytest.raises(InvalidProxyHead):
        decode_proxy_head(data)


@given(
    source=st.ip_addresses(),
    port=st.integers(0, 65535),
    version=st.sampled_from([1, 2]),
    behind=st.binary(max_size=50),
)
def test_any_address_is_understood_in_both_versions(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, version: int, behind: bytes
) -> None:
    if version == 1:
        head = f"PROXY TCP{source.version} {source} {source} {port} {port}\r\n".encode()
    else:
        ports = struct.pack("!HH", port, port)
        head = binary(0x21, 0x11 if source.version == 4 else 0x21, source.packed * 2 + ports)

    assert decode_proxy_head(head + behind) == ProxyHead(len(head), str(source))


@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=120).map(lambda rest: b"PROXY " + rest),
        st.binary(max_size=120).map(lambda rest: SIGNATURE + rest),
        st.tuples(st.sampled_from(HEADS), st.integers(0, 300), st.integers(0, 255)).map(
            lambda drawn: _with_byte(drawn[0][0], drawn[1], drawn[2])
        ),
    )
)
def test_more_bytes_never_change_what_was_decided(data: bytes) -> None:
    """Once it is a head, or is none, that is so however it goes on; and it is decided in time."""
    decided: ProxyHead | type[InvalidProxyHead] | None = None
    for size in range(len(data) + 1):
        now = outcome(data[:size])
        if decided is not None:
            assert now == decided
        decided = now
        if isinstance(now, ProxyHead):
            assert now.size == size or outcome(data[: size - 1]) is not None
    if decided is None:
        assert len(data) < MAX_HEAD_BYTES


def outcome(data: bytes) -> ProxyHead | type[InvalidProxyHead] | None:
    try:
        return decode_proxy_head(data)
    except InvalidProxyHead:
        return InvalidProxyHead


def _with_byte(head: bytes, position: int, value: int) -> bytes:
    position %= len(head)
    return head[:position] + bytes([value]) + head[position + 1 :]
