"""
Whose connection it is: addresses, which proxies are believed, and what one address may do.

An address is text; a client of a Unix socket has none, which is written as an empty text.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from dataclasses import dataclass

from reverb_py.core.limits import AddressLimits, Objection
from reverb_py.protocol.addresses import address_behind, network_of, parsed_address

__all__ = ["Addresses", "Caller", "TrustedProxies", "address_of"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Whose word counts: these networks', and with `has_unix` that of who uses the Unix socket."""

    networks: tuple[Network, ...] = ()
    has_unix: bool = False

    def trusts(self, address: str) -> bool:
        """Tell whether an address is a trusted proxy's."""
        if not address:
            return self.has_unix
        parsed = parsed_address(address)
        return parsed is not None and any(parsed in network for network in self.networks)


class Addresses:
    """
    Knows who calls, and holds each caller against the limits of its address.

    Without limits and without proxies it knows nothing and costs nothing. `limit_hits` counts, by
    the variable of the limit, how often one was reached.
    """

    __slots__ = ("limit_hits", "limits", "proxies")

    def __init__(
        self, limits: AddressLimits | None = None, proxies: TrustedProxies = TrustedProxies()
    ) -> None:
        self.limits = limits
        self.limit_hits: Counter[str] = Counter()
        self.proxies = proxies if proxies.networks or proxies.has_unix else None

    @property
    def count(self) -> int:
        """How many entries the tables of the limits have."""
        return 0 if self.limits is None else self.limits.addresses

    def counted(self, objection: Objection | None) -> Objection | None:
        """Count an objection, if it is one, and return it."""
        if objection is not None:
            self.limit_hits[objection.limit] += 1
        return objection

    def caller(self, peer: str) -> Caller | None:
        """Take note of a new connection; None when there is nothing to note."""
        if self.limits is None and self.proxies is None:
            return None
        return Caller(self, peer)


class Caller:
    """
    Who is at the other end of one connection.

    It is counted under its address, from its beginning until it leaves. A connection of a trusted
    proxy is counted for nobody: its requests are, each for whom X-Forwarded-For names, and from its
    upgrade on a WebSocket is. `objection` says why the connection may not stay, and `network` is
    what stands for the address where addresses are counted. Clients without one are not counted.
    """

    __slots__ = ("_addresses", "_is_counted", "_peer", "network", "objection")

    def __init__(self, addresses: Addresses, peer: str) -> None:
        self._addresses = addresses
        self._peer = peer
        self._is_counted = False
        self.network = network_of(peer)
        self.objection: Objection | None = None
        if addresses.proxies is None or not addresses.proxies.trusts(peer):
            self._admit()

    def objection_to_request(self, forwarded_for: bytes | None) -> Objection | None:
        """Count an HTTP request; return why it is refused, or None."""
        limits = self._addresses.limits
        if limits is None:
            return None
        network = network_of(self._client_address(forwarded_for))
        if not network:
            return None
        return self._addresses.counted(limits.admit_request(network))

    def become_client(self, forwarded_for: bytes | None) -> Objection | None:
        """Take the whole connection for the client's that upgrades it; return any objection."""
        if not self._is_counted:
            self.network = network_of(self._client_address(forwarded_for))
            self._admit()
        return self.objection

    def leave(self) -> None:
        """Note that the connection has gone. Safe to call twice."""
        if self._is_counted and self._addresses.limits is not None:
            self._addresses.limits.release(self.network)
        self._is_counted = False

    def _admit(self) -> None:
        limits = self._addresses.limits
        if limits is not None and self.network:
            self._is_counted = True
            self.objection = self._addresses.counted(limits.admit(self.network))

    def _client_address(self, forwarded_for: bytes | None) -> str:
        proxies = self._addresses.proxies
        if not forwarded_for or proxies is None or not proxies.trusts(self._peer):
            return self._peer
        return address_behind(self._peer, forwarded_for.decode("latin-1"), proxies.trusts)


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return the address at the other end of a connection."""
    peer = transport.get_extra_info("peername")
    # A client's Unix socket may have a name, but an address it has not.
    return str(peer[0]) if isinstance(peer, tuple) else ""
