"""Whose pages may ask: what browsers are told of it, and what is not taken from others' pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Origins"]

_EXPOSED: Final = {"Access-Control-Expose-Headers": "Retry-After, X-Request-ID"}
_FOREIGN_SITES: Final = frozenset({"cross-site", "same-site"})


@dataclass(frozen=True, slots=True)
class Origins:
    """
    The origins whose pages may ask, such as `https://app.example.com`; None is any.

    Any is good where nobody is known by anything but a token: tokens travel in a header and never
    in a cookie, so a page has to have one. Where a request counts for where it comes from, every
    page that is open in somebody's browser could speak for them.
    """

    allowed: frozenset[str] | None = None

    def allow(self, origin: str | None) -> bool:
        """Tell whether a page of this origin may ask; None is no page."""
        return self.allowed is None or (origin is not None and origin.lower() in self.allowed)

    def headers_for(self, origin: str | None) -> Mapping[str, str]:
        """Return the headers by which a browser lets a page of this origin read an answer."""
        if self.allowed is None:
            return {"Access-Control-Allow-Origin": "*", **_EXPOSED}
        if origin is not None and self.allow(origin):
            return {"Access-Control-Allow-Origin": origin, "Vary": "Origin", **_EXPOSED}
        return {"Vary": "Origin"}

    def refuse(self, headers: Mapping[str, str]) -> bool:
        """
        Tell whether a request with these headers was made by a page that may not ask.

        A browser keeps such a page from reading the answer, but sends the request of a form, or
        one of fetch() with a body of text, all the same. What is no browser sends none of these
        headers, and is not refused.
        """
        origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
        if self.allow(origin):
            return False
        if site is not None:
            return site in _FOREIGN_SITES
        # An older browser, or one without TLS. A proxy may have put another Host in its place: then
        # its pages have to be named.
        host = headers.get("Host", "").lower()
        return origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}")
