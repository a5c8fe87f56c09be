"""
What a webhook request says: its events, its body and its signature; pure.

The format is hosted Pusher's, so the `webhook` functions of the official server libraries take it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson
from multidict import CIMultiDict
from yarl import URL

from reverb_py import __version__
from reverb_py.protocol import signing

if TYPE_CHECKING:
    from reverb_py.core.apps import App, Webhook

__all__ = ["KINDS", "body", "client_event", "event", "headers", "objection_to"]

KINDS = frozenset(
    {
        "channel_occupied",
        "channel_vacated",
        "member_added",
        "member_removed",
        "client_event",
        "cache_miss",
        "subscription_count",
    }
)
"""The names of all events there are webhooks for."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*", re.ASCII)
_OWN_HEADERS = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
        "x-pusher-key",
        "x-pusher-signature",
    }
)


def event(kind: str, channel: str, **fields: str | int) -> bytes:
    """Return one event as compact JSON: `name`, `channel`, then the fields of its kind."""
    return orjson.dumps({"name": kind, "channel": channel, **fields})


def client_event(
    channel: str, name: str, data: bytes, socket_id: str, user_id: str | None
) -> bytes:
    """
    Return a `client_event` as compact JSON; without a `user_id` it has none.

    `data` is the JSON that the client sent, or empty. It is always told as a string: the one that
    was sent, or else the text of the JSON.
    """
    fields = {"event": name, "data": _as_string(data), "socket_id": socket_id}
    if user_id is not None:
        fields["user_id"] = user_id
    return event("client_event", channel, **fields)


def body(events: Sequence[bytes], time_ms: int) -> bytes:
    """
    Return the body of one request; `time_ms` is when it was made, in milliseconds since 1970.

    Receivers refuse a `time_ms` that is some minutes old, so each attempt needs a body of its own.
    """
    return b'{"time_ms":%d,"events":[%b]}' % (time_ms, b",".join(events))


def headers(app: App, webhook: Webhook, content: bytes) -> CIMultiDict[str]:
    """Return the headers of one request: its signature, and the webhook's own headers."""
    result = CIMultiDict({"User-Agent": f"reverb-py/{__version__}"})
    result.update(webhook.headers)
    result["Content-Type"] = "application/json"
    result["X-Pusher-Key"] = app.key
    result["X-Pusher-Signature"] = signing.sign(app.secret, content)
    return result


def objection_to(webhook: Webhook) -> str | None:
    """
    Say in one line, without any secret, what is wrong with a webhook's configuration, if anything.

    The address must be an absolute `http` or `https` URL. Where it leads is the operator's choice.
    """
    if not webhook.kinds:
        return f"a webhook needs at least one event of {', '.join(sorted(KINDS))}"
    if unknown := sorted(webhook.kinds - KINDS):
        return f"there is no webhook event {unknown[0]!r}: use {', '.join(sorted(KINDS))}"
    if problem := _objection_to_url(webhook.url):
        return problem
    for name, value in webhook.headers:
        if not _HEADER_NAME.fullmatch(name):
            return f"{name!r} is no name for an HTTP header"
        if name.lower() in _OWN_HEADERS:
            return f"the header {name} is set by the server; leave it out"
        if not _HEADER_VALUE.fullmatch(value):
            return f"the header {name} must be printable ASCII on one line"
        if name.lower() == "authorization" and "@" in URL(webhook.url).raw_authority:
            return "a webhook's url has a user and its headers have Authorization: use one of them"
    return None


def _objection_to_url(text: str) -> str | None:
    if any(character.isspace() or not character.isprintable() for character in text):
        return "a webhook's url can't contain spaces or invisible characters"
    try:
        url = URL(text)
    except ValueError as exc:
        return f"a webhook's url is malformed: {exc}"
    if url.scheme not in ("http", "https"):
        return f"a webhook's url must begin with http:// or https://, not {_beginning(url, text)}"
    try:
        f"{url.user}{url.password}".encode("latin-1")
    except UnicodeEncodeError:
        return "a webhook's url may have only Latin-1 letters in its user and password"
    return None if url.host else "a webhook's url must name a host, as in https://example.com/hook"


def _beginning(url: URL, text: str) -> str:
    """Return what an address begins with, and nothing of where secrets are: behind that."""
    if url.scheme:
        return url.scheme
    if "@" in text:
        return "nothing"
    host = text[: len(text) - len(text.lstrip("/"))] + text.lstrip("/").split("/", 1)[0]
    return repr(host.split("?", 1)[0].split("#", 1)[0]) if host else "nothing"


def _as_string(data: bytes) -> str:
    if data[:1] == b'"':
        try:
            text: str = orjson.loads(data)
        except orjson.JSONDecodeError:
            # Half of a surrogate pair is JSON and no text: what was written says it best.
            return data.decode()
        return text
    return data.decode()
