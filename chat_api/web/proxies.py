"""What a proxy in front of the API may say about a request, and from where it is believed."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from chat_api.kernel.callers import Network, Participant
from chat_api.kernel.errors import Unauthenticated
from chat_api.kernel.routes import Header

__all__ = ["TrustedProxies"]

_MAX_PARTICIPANT = 200  # characters


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """
    The addresses whose word counts.

    A request of theirs comes from whom X-Forwarded-For says. With `vouch_for_people`, they also
    say who asks (X-Participant-Id, X-Participant-Name), and no token is needed.
    """

    networks: tuple[Network, ...] = ()
    vouch_for_people: bool = False

    def client_address(self, peer: str, headers: Mapping[str, str]) -> str:
        """
        Return where a request of this peer comes from.

        Of the addresses in X-Forwarded-For it is the last that is not a trusted proxy's: those
        before it may be anybody's invention.
        """
        if not self._trusts(peer):
            return peer
        client = peer
        for hop in reversed(headers.get("X-Forwarded-For", "").split(",")):
            if _address(hop.strip()) is None:
                break
            client = hop.strip()
            if not self._trusts(client):
                break
        return client

    def participant(self, peer: str, headers: Mapping[str, str]) -> Participant | None:
        """
        Return whom the peer vouches for, or None when it is no proxy that does.

        Raises:
            Unauthenticated: It names somebody in a way that cannot be a name.
        """
        if not self.vouch_for_people or not self._trusts(peer):
            return None
        return Participant(
            _text(headers, Header.PARTICIPANT_ID), _text(headers, Header.PARTICIPANT_NAME)
        )

    def _trusts(self, address: str) -> bool:
        if not self.networks:
            return False
        parsed = _address(address)
        return parsed is not None and any(parsed in network for network in self.networks)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def _text(headers: Mapping[str, str], header: Header) -> str | None:
    text = headers.get(header.value, "").strip()
    if len(text) > _MAX_PARTICIPANT or not text.isprintable():
        raise Unauthenticated(
            f"{header.value} must be up to {_MAX_PARTICIPANT} printable characters."
        )
    return text or None
