"""What a proxy in front of the API may say about a request, and from where it is believed."""

from dataclasses import dataclass

from multidict import MultiMapping

from chat_api.kernel.callers import Network, Participant
from chat_api.kernel.errors import Malformed, Unauthenticated
from chat_api.kernel.routes import Header
from chat_api.kernel.tenants import requested_tenant
from reverb_py.protocol.addresses import address_behind, parsed_address

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

    def client_address(self, peer: str, headers: MultiMapping[str]) -> str:
        """
        Return where a request of this peer comes from.

        Of the addresses in X-Forwarded-For it is the last that is not a trusted proxy's: those
        before it may be anybody's invention. What is no address is not looked behind either.
        """
        if not self._trusts(peer):
            return peer
        # Some proxies put a line of their own below the one they were sent.
        return address_behind(peer, ",".join(headers.getall("X-Forwarded-For", ())), self._trusts)

    def participant(self, peer: str, headers: MultiMapping[str]) -> Participant | None:
        """
        Return whom the peer vouches for, or None when it is no proxy that does.

        Raises:
            Unauthenticated: It names somebody in a way that cannot be a name.
        """
        if not self.vouch_for_people or not self._trusts(peer):
            return None
        return Participant(
            _text(headers, Header.PARTICIPANT_ID),
            _text(headers, Header.PARTICIPANT_NAME),
            _tenant(headers),
        )

    def _trusts(self, address: str) -> bool:
        if not self.networks:
            return False
        parsed = parsed_address(address)
        return parsed is not None and any(parsed in network for network in self.networks)


def _tenant(headers: MultiMapping[str]) -> str:
    try:
        return requested_tenant(
            headers.get(Header.TENANT.value), headers.get("Host"), headers.get("Origin")
        ).domain
    except Malformed:
        return ""  # only some requests are about a tenant: a probe of the health is not


def _text(headers: MultiMapping[str], header: Header) -> str | None:
    values = headers.getall(header.value, ())
    if len(values) > 1:
        # One is the proxy's and the other whatever its client sent.
        raise Unauthenticated(f"{header.value} must be sent once: the proxy has to replace it.")
    text = values[0].strip() if values else ""
    if len(text) > _MAX_PARTICIPANT or not text.isprintable():
        raise Unauthenticated(
            f"{header.value} must be up to {_MAX_PARTICIPANT} printable characters."
        )
    return text or None
