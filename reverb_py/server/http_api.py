"""
The HTTP API: every endpoint, who may call it, and what it answers.

Requests come in whole and answers go out whole; how they travel is `http_connection`'s business.
Errors are plain text, as on hosted Pusher: the server libraries put the body into their exception.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote

import orjson

from reverb_py.core.apps import Apps
from reverb_py.core.hub import Hub
from reverb_py.protocol.channel_names import Access, is_channel_name, kind_of
from reverb_py.protocol.requests import InvalidRequest, decode_batch, decode_event, parse_info
from reverb_py.protocol.signing import is_signature_valid, parse_query, request_strings_to_sign

__all__ = ["TIMESTAMP_TOLERANCE", "HttpApi", "Request", "Response"]

TIMESTAMP_TOLERANCE = 600
"""Seconds by which a signed request's timestamp may differ from the server's clock."""

_ALLOWED_INFO = frozenset({"subscription_count", "user_count"})
_PREFLIGHT_HEADERS = (
    "Access-Control-Allow-Methods: GET, POST, OPTIONS\r\n"
    "Access-Control-Allow-Headers: Origin, Content-Type, X-Auth-Token, X-Requested-With, Accept, "
    "Authorization, X-CSRF-TOKEN, X-XSRF-TOKEN, X-Socket-Id\r\n"
    "Access-Control-Max-Age: 86400\r\n"
)


class Request(NamedTuple):
    """One whole request. `path` is as the client wrote it, `query` is without its `?`."""

    method: str
    path: str
    query: str
    body: bytes


class Response(NamedTuple):
    """One whole answer. `headers` are finished lines, beside those that every answer carries."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: str = ""


class _SignedRequest(NamedTuple):
    hub: Hub
    body: bytes
    parameters: Mapping[str, str]
    channel: str


_EMPTY = Response(200, b"{}")


class HttpApi:
    """
    Answers requests. `clock` returns seconds since 1970, which signed timestamps are held against.

    `path_prefix` is the path the server is mounted under, without a slash at its end; requests are
    accepted with and without it, because some proxies strip it.
    """

    def __init__(
        self, apps: Apps, hubs: Mapping[str, Hub], clock: Callable[[], float], path_prefix: str = ""
    ) -> None:
        self._apps = apps
        self._hubs = hubs
        self._clock = clock
        self._path_prefix = path_prefix
        self._routes: tuple[tuple[str, re.Pattern[str], Callable[[_SignedRequest], Response]], ...]
        self._routes = (
            ("POST", re.compile(r"/apps/([^/]+)/events()"), _publish_event),
            ("POST", re.compile(r"/apps/([^/]+)/batch_events()"), _publish_batch),
            ("GET", re.compile(r"/apps/([^/]+)/channels()"), _list_channels),
            ("GET", re.compile(r"/apps/([^/]+)/channels/([^/]+)"), _show_channel),
        )

    def without_prefix(self, path: str) -> str:
        """Return the path below the prefix the server is mounted under."""
        prefix = self._path_prefix
        if prefix and path.startswith(f"{prefix}/"):
            return path[len(prefix) :]
        return path

    def respond(self, request: Request) -> Response:
        """Answer one request. A request that is wrong in any way gets an answer that says how."""
        try:
            return self._route(request)
        except InvalidRequest as exc:
            return text_response(exc.status, exc.message)

    def _route(self, request: Request) -> Response:
        path = self.without_prefix(request.path)
        allowed = []
        for method, pattern, handle in self._routes:
            match = pattern.fullmatch(path)
            if match is not None:
                if method == request.method:
                    hub, parameters = self._authenticate(request, match[1], path)
                    return handle(_SignedRequest(hub, request.body, parameters, match[2]))
                allowed.append(method)
        if path == "/up":
            if request.method in ("GET", "HEAD"):
                return Response(200, b'{"health":"OK"}')
            allowed.append("GET")
        if request.method == "OPTIONS":
            return Response(204, b"", headers=_PREFLIGHT_HEADERS)
        if allowed:
            methods = ", ".join(allowed)
            message = f"{request.method} is not possible here; use {methods}"
            return Response(
                405, message.encode(), "text/plain; charset=utf-8", f"Allow: {methods}\r\n"
            )
        raise InvalidRequest(404, f"There is nothing at {request.path[:200]}")

    def _authenticate(
        self, request: Request, app_id: str, path: str
    ) -> tuple[Hub, Mapping[str, str]]:
        """
        Return the app's hub and the query parameters of a request that is signed and fresh.

        Raises:
            InvalidRequest: The app is unknown (404), or the request is not signed by it (401).
        """
        app = self._apps.with_id(unquote(app_id) if "%" in app_id else app_id)
        if app is None:
            raise InvalidRequest(404, f"No matching application for ID [{app_id[:200]}].")
        parameters = parse_query(request.query)
        if parameters.get("auth_key") != app.key:
            raise InvalidRequest(401, "auth_key is not the key of this application")
        if parameters.get("auth_version") != "1.0":
            raise InvalidRequest(401, "auth_version must be 1.0")
        timestamp = parameters.get("auth_timestamp", "")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15):
            raise InvalidRequest(401, "auth_timestamp must be the seconds since 1970")
        difference = int(timestamp) - int(self._clock())
        if abs(difference) > TIMESTAMP_TOLERANCE:
            raise InvalidRequest(
                401,
                f"auth_timestamp is {abs(difference)} s {'ahead' if difference > 0 else 'old'}; "
                f"{TIMESTAMP_TOLERANCE} s are tolerated: check both clocks",
            )
        digest = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
        if parameters.get("body_md5", digest) != digest:
            raise InvalidRequest(401, "body_md5 is not the MD5 of the body")
        paths = [path]
        if path != request.path:
            paths.append(request.path)
        if "%" in path:
            # Clients sign the path as they wrote it; their HTTP library may have encoded it since.
            paths.append(unquote(path))
        body_md5 = digest if request.body else None

        def strings(signed: Mapping[str, str]) -> Iterator[str]:
            return request_strings_to_sign(request.method, paths, signed, body_md5)

        signature = parameters.get("auth_signature", "")
        is_valid = is_signature_valid(signature, app.secret, strings(parameters))
        if not is_valid and "+" in request.query:
            alternative = parse_query(request.query, plus_is_space=True)
            is_valid = is_signature_valid(signature, app.secret, strings(alternative))
        if not is_valid:
            expected = next(strings(parameters))
            raise InvalidRequest(
                401,
                "auth_signature is not the hex HMAC-SHA256, under the app's secret, of "
                f"{orjson.dumps(expected).decode()}",
            )
        return self._hubs[app.id], parameters


def text_response(status: int, message: str, headers: str = "") -> Response:
    """Return an answer for the developer who reads it."""
    return Response(status, message.encode(), "text/plain; charset=utf-8", headers)


def _publish_event(request: _SignedRequest) -> Response:
    hub = request.hub
    event = decode_event(request.body, hub.app.max_event_data_bytes)
    info = _allowed_info(event.info, event.channels)
    hub.publish(event.name, event.data, event.channels, event.socket_id)
    if not info:
        return _EMPTY
    return _json({"channels": {name: _attributes(hub, name, info) for name in event.channels}})


def _publish_batch(request: _SignedRequest) -> Response:
    hub = request.hub
    events = decode_batch(request.body, hub.app.max_event_data_bytes)
    infos = [_allowed_info(event.info, event.channels) for event in events]
    for event in events:
        hub.publish(event.name, event.data, event.channels, event.socket_id)
    if not any(infos):
        return _EMPTY
    attributes = [
        _attributes(hub, event.channels[0], info) for event, info in zip(events, infos, strict=True)
    ]
    return _json({"batch": attributes})


def _list_channels(request: _SignedRequest) -> Response:
    hub = request.hub
    prefix = request.parameters.get("filter_by_prefix", "")
    info = parse_info(request.parameters.get("info"), _ALLOWED_INFO)
    if "user_count" in info and not prefix.startswith("presence-"):
        raise InvalidRequest(400, "info=user_count goes with filter_by_prefix=presence-")
    channels = {
        name: _attributes(hub, name, info) for name in hub.channels if name.startswith(prefix)
    }
    return _json({"channels": channels})


def _show_channel(request: _SignedRequest) -> Response:
    hub, name = request.hub, unquote(request.channel)
    if not is_channel_name(name):
        raise InvalidRequest(400, f"{name[:250]!r} is not a channel name")
    info = _allowed_info(request.parameters.get("info"), [name])
    return _json({"occupied": name in hub.channels} | _attributes(hub, name, info))


def _allowed_info(info: str | None, channels: Iterable[str]) -> frozenset[str]:
    if not info:
        return frozenset()
    wanted = parse_info(info, _ALLOWED_INFO)
    if "user_count" in wanted:
        for name in channels:
            if kind_of(name).access is not Access.PRESENCE:
                raise InvalidRequest(400, f"info=user_count: {name} is not a presence channel")
    return wanted


def _attributes(hub: Hub, name: str, info: frozenset[str]) -> dict[str, int]:
    channel = hub.channels.get(name)
    attributes = {}
    if "subscription_count" in info:
        attributes["subscription_count"] = 0 if channel is None else len(channel.subscribers)
    if "user_count" in info:
        attributes["user_count"] = 0
    return attributes


def _json(value: object) -> Response:
    return Response(200, orjson.dumps(value))
