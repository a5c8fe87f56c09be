"""
Whose request it is: addresses as they are counted, and as proxies hand them on.

An address is text; what has none, as a client of a Unix socket, has an empty text.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

__all__ = ["address_behind", "network_of", "parsed_address"]

_MAX_HOPS = 32


def parsed_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """
    Return an address, or None for text that is none.

    An IPv4 address is that also when it is written as IPv6 (`::ffff:192.0.2.1`).
    """
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def network_of(address: str) -> str:
    """
    Return what stands for a client's address where addresses are counted.

    An IPv6 client has a whole /64 to itself and counts as that; an IPv4 address counts as itself,
    also when it is written as IPv6. Text that is no address comes back as it is.
    """
    if ":" not in address:
        return address
    parsed = parsed_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        # A zone, as in fe80::1%eth0, belongs to the machine and not to the network.
        return f"{ipaddress.IPv6Address(int(parsed) >> 64 << 64)}/64"
    return address if parsed is None else str(parsed)


def address_behind(peer: str, forwarded_for: str, trusts: Callable[[str], bool]) -> str:
    """
    Return where a request comes from that a trusted `peer` hands on, with its X-Forwarded-For.

    Of the addresses there it is the last that `trusts` does not know as a proxy's: those before it
    may be anybody's invention. What is no address is not looked behind, and neither are more than
    32 proxies.
    """
    client = peer
    for hop in reversed(forwarded_for.rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]):
        address = hop.strip()
        if parsed_address(address) is None:
            break
        client = address
        if not trusts(client):
            break
    return client
