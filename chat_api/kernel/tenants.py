"""Which tenant a request is about, from its headers alone."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from chat_api.kernel.errors import Malformed

__all__ = ["MAX_TENANT", "RequestedTenant", "checked_tenant", "requested_tenant"]

MAX_TENANT: Final = 150
"""Characters of a tenant's domain; channel names, which contain it, may have 200."""

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_PORT: Final = r"(?::[0-9]*)?"
# With ASCII no letter of another alphabet passes for the one it looks like in lower case.
_FLAGS: Final = re.ASCII | re.IGNORECASE
_HOST = re.compile(rf"({_LABEL}(?:\.{_LABEL})*)\.?{_PORT}", _FLAGS)
_IPV6 = re.compile(rf"\[([0-9a-f:]{{2,39}})\]{_PORT}", _FLAGS)


@dataclass(frozen=True, slots=True)
class RequestedTenant:
    """
    The tenant a request names.

    `is_explicit` says that X-Tenant-Domain named it. Otherwise it is the host the request was sent
    to, or else the page it was sent from: a tenant's own domain, or just where the API is.
    """

    domain: str
    is_explicit: bool


def checked_tenant(text: str) -> str:
    """
    Return a tenant's domain as it is stored: in lower case, without port or final dot.

    Raises:
        Malformed: It is no domain, or has more than `MAX_TENANT` characters.
    """
    host = text.strip()
    match = _HOST.fullmatch(host) or _IPV6.fullmatch(host)
    if match is None or len(match[1]) > MAX_TENANT:
        raise Malformed("The tenant must be a domain such as tenant1.example.com.")
    # The colons of an IPv6 address: the names of channels, which contain the tenant's, have none.
    return match[1].lower().replace(":", "_")


def requested_tenant(named: str | None, host: str | None, origin: str | None) -> RequestedTenant:
    """
    Return the tenant of a request with these X-Tenant-Domain, Host and Origin headers.

    Raises:
        Malformed: None of them names one, or the first that is there is no domain.
    """
    if named is not None and named.strip():
        return RequestedTenant(checked_tenant(named), is_explicit=True)
    if not host and origin:
        try:
            host = urlsplit(origin).netloc
        except ValueError:
            host = ""
    return RequestedTenant(checked_tenant(host or ""), is_explicit=False)
