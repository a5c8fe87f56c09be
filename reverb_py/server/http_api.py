"""
The HTTP API: every endpoint, who may call it, and what it answers.

Requests come in whole and answers go out whole; how they travel is `http_connection`'s business.
Errors are plain text, as on hosted Pusher: the server libraries put the body into their exception.
"""

import hashlib
import math
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

import orjson

from reverb_py.core.bus import Census, merged
from reverb_py.core.figures import AppFigures
from reverb_py.core.hub import Hub
from reverb_py.core.hubs import Hubs
from reverb_py.core.limits import TokenBucket
from reverb_py.protocol.channel_names import Access, is_channel_name, kind_of
from reverb_py.protocol.requests import (
    EventRequest,
    InvalidRequest,
    check_idempotency_key,
    decode_batch,
    decode_event,
    parse_info,
)
from reverb_py.protocol.signing import is_signature_valid, parse_query, request_strings_to_sign

__all__ = [
    "EMPTY",
    "MAX_PARAMETERS",
    "MAX_TARGET_LENGTH",
    "TIMESTAMP_TOLERANCE",
    "HttpApi",
    "Request",
    "Response",
]

TIMESTAMP_TOLERANCE = 600
"""Seconds by which a signed request's timestamp may differ from the server's clock."""

MAX_PARAMETERS = 32
"""Parameters of a signed request. All that the protocol knows together are eight."""

MAX_TARGET_LENGTH = 4_096
"""Characters of a signed request's path and query: the longest name, percent-encoded, has 1,536."""

_EMPTY_DIGEST = hashlib.md5(b"", usedforsecurity=False).hexdigest()
_ROOTS = ("/app/", "/apps/", "/users/", "/up", "/ready")
_ALLOWED_INFO = frozenset({"subscription_count", "user_count"})
_NO_ATTRIBUTES: Mapping[str, int] = {}
_PREFLIGHT_HEADERS = (
    "Access-Control-Allow-Methods: GET, POST, OPTIONS\r\n"
    "Access-Control-Allow-Headers: Origin, Content-Type, X-Auth-Token, X-Requested-With, Accept, "
    "Authorization, X-CSRF-TOKEN, X-XSRF-TOKEN, X-Socket-Id, X-Idempotency-Key\r\n"
    "Access-Control-Max-Age: 86400\r\n"
)


class Request(NamedTuple):
    """One whole request. `path` is as the client wrote it; header names are lowercase."""

    method: str
    path: str
    query: str
    body: bytes
    headers: Mapping[bytes, bytes] = {}


class Response(NamedTuple):
    """
    One whole answer. `headers` are finished lines, beside those that every answer carries.

    When other nodes have a say in it, `coming` ends with the answer, and the rest means nothing.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: str = ""
    coming: Awaitable["Response"] | None = None


class _TooOften(InvalidRequest):
    """A request beyond what its app may do in a second."""

    def __init__(self, rate: int, what: str, retry_after: int) -> None:
        super().__init__(429, f"More than {rate} {what} in a second; try again in {retry_after} s")
        self.headers = f"Retry-After: {retry_after}\r\n"


class _SignedRequest(NamedTuple):
    hub: Hub
    request: Request
    parameters: Mapping[str, str]
    name: str
    """What the path names below the app, percent-encoding undone: a channel or a user."""


class _Route(NamedTuple):
    method: str
    path: re.Pattern[str]
    handle: Callable[[_SignedRequest], Response]
    is_publish: bool = False


EMPTY = Response(200, b"{}")
"""The answer to nearly every publish."""

_Known = TypeVar("_Known")


class HttpApi:
    """
    Answers requests. `clock` returns seconds since 1970, which signed timestamps are held against.

    `path_prefix` is the path the server is mounted under, without a slash at its end; requests are
    accepted with and without it, because some proxies strip it. `trouble` says why this node should
    get no new clients, or returns None.
    """

    def __init__(
        self,
        hubs: Hubs,
        clock: Callable[[], float],
        path_prefix: str = "",
        *,
        trouble: Callable[[], str | None] | None = None,
    ) -> None:
        self._hubs = hubs
        self._clock = clock
        self._path_prefix = path_prefix
        self._trouble = trouble
        self._limits: dict[tuple[str, bool], TokenBucket] = {}

    def without_prefix(self, path: str) -> str:
        """Return the path below the prefix the server is mounted under."""
        prefix = self._path_prefix
        if prefix and path.startswith(f"{prefix}/"):
            below = path[len(prefix) :]
            # The prefix may be /app itself, and yet be missing in front of it.
            if below.startswith(_ROOTS):
                return below
        return path

    def respond(self, request: Request) -> Response:
        """Answer one request. A request that is wrong in any way gets an answer that says how."""
        try:
            return self._route(request)
        except InvalidRequest as exc:
            return _refusal(exc)

    def is_signed(self, head: Request) -> bool:
        """
        Tell, of a request whose body has not arrived, whether its app has signed it.

        What it says of its body is believed so far; one that says nothing is not signed.
        """
        path = self.without_prefix(head.path)
        for route in _ROUTES:
            match = route.path.fullmatch(path)
            if match is not None and route.method == head.method:
                try:
                    self._authenticate(head, match[1], path, None)
                except InvalidRequest:
                    return False
                return True
        return False

    def _route(self, request: Request) -> Response:
        path = self.without_prefix(request.path)
        allowed = []
        for route in _ROUTES:
            match = route.path.fullmatch(path)
            if match is not None:
                if route.method == request.method:
                    app_id, name = match.groups()
                    digest = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
                    hub, parameters = self._authenticate(request, app_id, path, digest)
                    figures = hub.figures
                    figures.http_calls += 1
                    figures.http_bytes_received += len(request.body)
                    try:
                        self._take_from_limit(hub, is_publish=route.is_publish)
                        if "%" in name:
                            name = unquote(name)
                        response = route.handle(_SignedRequest(hub, request, parameters, name))
                    except InvalidRequest as exc:
                        if exc.status == 413:
                            figures.limit_hits["REVERB_APP_MAX_EVENT_DATA_SIZE"] += 1
                        response = _refusal(exc)
                    if response.coming is not None:
                        return Response(0, b"", coming=_counted(response.coming, figures))
                    figures.http_bytes_sent += len(response.body)
                    return response
                allowed.append(route.method)
        if path == "/up":
            if request.method in ("GET", "HEAD"):
                return Response(200, b'{"health":"OK"}')
            allowed.append("GET")
        if path == "/ready":
            if request.method in ("GET", "HEAD"):
                trouble = None if self._trouble is None else self._trouble()
                if trouble is not None:
                    return text_response(503, trouble)
                return Response(200, b'{"ready":true}')
            allowed.append("GET")
        if request.method == "OPTIONS":
            return Response(204, b"", headers=_PREFLIGHT_HEADERS)
        if allowed:
            methods = ", ".join(allowed)
            message = f"{request.method} is not possible here; use {methods}"
            return text_response(405, message, f"Allow: {methods}\r\n")
        if path.startswith("/app/"):
            raise InvalidRequest(
                404,
                f"{request.path[:200]} is the address of a WebSocket: connect with a Pusher client",
            )
        raise InvalidRequest(404, f"There is nothing at {request.path[:200]}")

    def _authenticate(
        self, request: Request, app_id: str, path: str, digest: str | None
    ) -> tuple[Hub, Mapping[str, str]]:
        """
        Return the app's hub and the query parameters of a request that is signed and fresh.

        An empty `app_id` means the app that the key belongs to; `digest` is the hex MD5 of the
        body, or None to believe what the request says of it.

        Raises:
            InvalidRequest: The request is longer (414) or has more parameters (400) than any that
                an app has to make, the app is unknown (404) or disabled (403), or the request is
                not signed by it (401).
        """
        # Whoever knows the key, which is public, has each way to sign a request tried.
        query = request.query
        if len(query) + len(request.path) > MAX_TARGET_LENGTH:
            raise InvalidRequest(
                414, f"Path and query are longer than {MAX_TARGET_LENGTH} characters together"
            )
        if query.count("&") >= MAX_PARAMETERS:
            raise InvalidRequest(400, f"The query has more than {MAX_PARAMETERS} parameters")
        parameters = parse_query(query)
        if app_id:
            hub = self._hubs.with_id(unquote(app_id) if "%" in app_id else app_id)
            if hub is None:
                raise InvalidRequest(404, f"No matching application for ID [{app_id[:200]}].")
        else:
            hub = self._hubs.with_key(parameters.get("auth_key", ""))
        if hub is None or parameters.get("auth_key") != hub.app.key:
            raise InvalidRequest(401, "auth_key is not the key of this application")
        app = hub.app
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
        if digest is None:
            digest = parameters.get("body_md5")
        if digest is None or parameters.get("body_md5", digest) != digest:
            raise InvalidRequest(401, "body_md5 is not the MD5 of the body")
        paths = [path]
        if "%" in path:
            # Clients sign the path as they wrote it; their HTTP library may have encoded it since.
            paths.append(unquote(path))
        if self._path_prefix:
            # A proxy may have stripped the prefix that was signed, or added one that was not.
            paths += [self._path_prefix + each for each in paths]
        body_md5 = None if digest == _EMPTY_DIGEST else digest

        def strings(signed: Mapping[str, str]) -> Iterator[str]:
            return request_strings_to_sign(request.method, paths, signed, body_md5)

        signature = parameters.get("auth_signature", "")
        is_valid = is_signature_valid(signature, app.secrets, strings(parameters))
        if not is_valid and "+" in query:
            alternative = parse_query(query, plus_is_space=True)
            is_valid = is_signature_valid(signature, app.secrets, strings(alternative))
        if not is_valid:
            expected = next(strings(parameters))
            raise InvalidRequest(
                401,
                "auth_signature is not the hex HMAC-SHA256, under the app's secret, of "
                f"{orjson.dumps(expected).decode()}",
            )
        if not app.enabled:
            raise InvalidRequest(403, "The application is disabled")
        return hub, parameters

    def _take_from_limit(self, hub: Hub, *, is_publish: bool) -> None:
        """Count a request against what its app may do; raises InvalidRequest (429) over it."""
        app = hub.app
        rate = app.publishes_per_second if is_publish else app.reads_per_second
        if not rate:
            return
        now = hub.clock()
        bucket = self._limits.get((app.id, is_publish))
        if bucket is None or bucket.rate != rate:
            bucket = self._limits[app.id, is_publish] = TokenBucket(rate, rate, now)
        if not bucket.take(now):
            limit = "PUBLISHES" if is_publish else "READS"
            hub.figures.limit_hits[f"REVERB_APP_{limit}_PER_SECOND"] += 1
            what = "publishes and terminations" if is_publish else "reads"
            raise _TooOften(rate, what, math.ceil(bucket.seconds_until_next()))


def _refusal(exc: InvalidRequest) -> Response:
    return text_response(exc.status, exc.message, exc.headers if isinstance(exc, _TooOften) else "")


async def _counted(coming: Awaitable[Response], figures: AppFigures) -> Response:
    response = await coming
    figures.http_bytes_sent += len(response.body)
    return response


def _when(known: Awaitable[_Known] | None, finish: Callable[[_Known | None], Response]) -> Response:
    """Finish an answer with what other nodes know; at once, with None, where there are none."""
    if known is None:
        return finish(None)

    async def coming() -> Response:
        response = finish(await known)
        while response.coming is not None:
            response = await response.coming
        return response

    return Response(0, b"", coming=coming())


def text_response(status: int, message: str, headers: str = "") -> Response:
    """Return an answer for the developer who reads it."""
    return Response(status, message.encode(), "text/plain; charset=utf-8", headers)


def _publish_event(request: _SignedRequest) -> Response:
    hub = request.hub
    event = decode_event(request.request.body, hub.app.max_event_data_bytes or sys.maxsize)
    channels = event.targets
    info = _allowed_info(event.info, channels)
    key = event.idempotency_key or _idempotency_key(request)
    if key is None and not info:
        hub.publish(event.name, event.data, channels, event.socket_id)
        settled = hub.bus.settled()
        return EMPTY if settled is None else _when(settled, lambda _: EMPTY)

    def finish(answers: list[bytes]) -> Response:
        return _json({"channels": orjson.Fragment(answers[0])}) if answers[0] else EMPTY

    return _publish_once(hub, [(event, info, key)], finish)


def _publish_batch(request: _SignedRequest) -> Response:
    hub = request.hub
    events = decode_batch(request.request.body, hub.app.max_event_data_bytes or sys.maxsize)
    publishes = [
        (event, _allowed_info(event.info, event.targets), event.idempotency_key) for event in events
    ]
    key = _idempotency_key(request)

    def publish(elsewhere: Mapping[str, bytes] | None) -> Response:
        if elsewhere:
            return Response(200, elsewhere[f"batch {key}"])
        return _publish_once(hub, publishes, finish)

    def finish(answers: list[bytes]) -> Response:
        body = b"{}"
        if any(answers):
            batch = [
                orjson.loads(attributes).get(event.targets[0], {}) if attributes else {}
                for event, attributes in zip(events, answers, strict=True)
            ]
            body = orjson.dumps({"batch": batch})
        if key is not None:
            hub.recent_batches.remember(key, body, hub.clock())
            hub.bus.answered({f"batch {key}": body})
        return Response(200, body)

    if key is None:
        return publish(None)
    body = hub.recent_batches.answer_to(key, hub.clock())
    if body is not None:
        return Response(200, body)
    return _when(hub.bus.claim([f"batch {key}"]), publish)


def _publish_once(
    hub: Hub,
    publishes: list[tuple[EventRequest, frozenset[str], str | None]],
    finish: Callable[[list[bytes]], Response],
) -> Response:
    """
    Publish events, each unless one was published under its key.

    `finish` gets the attributes of each one's channels, as JSON, as they were when it was
    published; nothing when none were asked for.
    """
    keys = [key for _, _, key in publishes if key is not None]
    new_keys = [key for key in keys if hub.recent_keys.answer_to(key, hub.clock()) is None]

    def publish(elsewhere: Mapping[str, bytes] | None) -> Response:
        for taken, body in (elsewhere or {}).items():
            hub.recent_keys.remember(taken, body, hub.clock())
        published: list[tuple[EventRequest, frozenset[str], str | None]] = []
        for event, info, key in publishes:
            if key is not None:
                if hub.recent_keys.answer_to(key, hub.clock()) is not None:
                    continue
                # Whoever repeats it while other nodes are being told does not publish it again.
                hub.recent_keys.remember(key, b"", hub.clock())
            hub.publish(event.name, event.data, event.targets, event.socket_id)
            published.append((event, info, key))
        names = [name for event, info, _ in published if info for name in event.targets]
        return _when(
            hub.bus.settled(),
            lambda _: _when(
                hub.bus.census("", names) if names else None,
                lambda others: answer(merged([hub.census("", names), *(others or ())]), published),
            ),
        )

    def answer(
        census: Census, published: list[tuple[EventRequest, frozenset[str], str | None]]
    ) -> Response:
        bodies: dict[str, bytes] = {}
        new: list[bytes] = []
        for event, info, key in published:
            body = b""
            if info:
                body = orjson.dumps(
                    {name: _attributes(census, name, info) for name in event.targets}
                )
            new.append(body)
            if key is not None:
                bodies[key] = body
                hub.recent_keys.remember(key, body, hub.clock())
        if bodies:
            hub.bus.answered(bodies)
        of_new = iter(new)
        done = {id(event) for event, _, _ in published}
        return finish(
            [
                next(of_new)
                if id(event) in done
                else hub.recent_keys.answer_to(key or "", hub.clock()) or b""
                for event, _, key in publishes
            ]
        )

    return _when(hub.bus.claim(new_keys) if new_keys else None, publish)


def _idempotency_key(request: _SignedRequest) -> str | None:
    """Return the key that stands in the request's head."""
    header = request.request.headers.get(b"x-idempotency-key")
    if header is None:
        return None
    key = header.decode("latin-1")
    check_idempotency_key(key)
    return key


def _list_channels(request: _SignedRequest) -> Response:
    hub = request.hub
    prefix = request.parameters.get("filter_by_prefix", "")
    info = parse_info(request.parameters.get("info"), _ALLOWED_INFO)
    if "user_count" in info and not prefix.startswith("presence-"):
        raise InvalidRequest(400, "info=user_count goes with filter_by_prefix=presence-")

    def finish(others: list[Census] | None) -> Response:
        census = merged([hub.census(prefix), *(others or ())])
        if not info:
            # There may be hundreds of thousands, and everybody waits.
            return _json({"channels": dict.fromkeys(census.channels, _NO_ATTRIBUTES)})
        return _json(
            {"channels": {name: _attributes(census, name, info) for name in census.channels}}
        )

    return _when(hub.bus.census(prefix), finish)


def _show_channel(request: _SignedRequest) -> Response:
    hub, name = request.hub, _channel_name(request)
    wanted = parse_info(request.parameters.get("info"), _ALLOWED_INFO | {"cache"})
    info = _allowed_info(",".join(wanted - {"cache"}), [name])
    if "cache" in wanted and not kind_of(name).cached:
        raise InvalidRequest(400, f"info=cache: {name} is not a cache channel")

    def finish(others: list[Census] | None) -> Response:
        census = merged([hub.census("", [name]), *(others or ())])
        answer: dict[str, object] = {"occupied": name in census.channels}
        answer |= _attributes(census, name, info)
        if "cache" in wanted:
            last = hub.last_events.recall(name, hub.clock())
            answer["cache"] = (
                None
                if last is None
                else {"data": last.data, "ttl": math.ceil(last.expires_at - hub.clock())}
            )
        return _json(answer)

    return _when(
        hub.bus.last_event(name) if "cache" in wanted else None,
        lambda _: _when(hub.bus.census("", [name]), finish),
    )


def _list_users(request: _SignedRequest) -> Response:
    hub, name = request.hub, _channel_name(request)
    if kind_of(name).access is not Access.PRESENCE:
        raise InvalidRequest(400, f"{name} is not a presence channel: it has no users")

    def finish(others: list[Census] | None) -> Response:
        census = merged([hub.census("", [name]), *(others or ())])
        _, users = census.channels.get(name, (0, ()))
        return _json({"users": [{"id": user_id} for user_id in users]})

    return _when(hub.bus.census("", [name]), finish)


def _terminate_connections(request: _SignedRequest) -> Response:
    request.hub.terminate(request.name)
    return _when(request.hub.bus.settled(), lambda _: EMPTY)


def _count_connections(request: _SignedRequest) -> Response:
    hub = request.hub

    def finish(others: list[Census] | None) -> Response:
        return _json({"connections": merged([hub.census("", ()), *(others or ())]).connections})

    return _when(hub.bus.census("", ()), finish)


def _channel_name(request: _SignedRequest) -> str:
    if not is_channel_name(request.name):
        raise InvalidRequest(400, f"{request.name[:250]!r} is not a channel name")
    return request.name


def _allowed_info(info: str | None, channels: Iterable[str]) -> frozenset[str]:
    if not info:
        return frozenset()
    wanted = parse_info(info, _ALLOWED_INFO)
    if "user_count" in wanted:
        for name in channels:
            if kind_of(name).access is not Access.PRESENCE:
                raise InvalidRequest(400, f"info=user_count: {name} is not a presence channel")
    return wanted


def _attributes(census: Census, name: str, info: frozenset[str]) -> dict[str, int]:
    subscribers, users = census.channels.get(name, (0, ()))
    attributes = {}
    if "user_count" in info:
        attributes["user_count"] = len(users)
    if "subscription_count" in info:
        attributes["subscription_count"] = subscribers
    return attributes


def _json(value: object) -> Response:
    return Response(200, orjson.dumps(value))


_APP = "/apps/([^/]+)"
_ROUTES = (
    _Route("POST", re.compile(f"{_APP}/events()"), _publish_event, is_publish=True),
    _Route("POST", re.compile(f"{_APP}/batch_events()"), _publish_batch, is_publish=True),
    _Route("GET", re.compile(f"{_APP}/channels()"), _list_channels),
    _Route("GET", re.compile(f"{_APP}/channels/([^/]+)"), _show_channel),
    _Route("GET", re.compile(f"{_APP}/channels/([^/]+)/users"), _list_users),
    _Route("GET", re.compile(f"{_APP}/connections()"), _count_connections),
    _Route(
        "POST",
        re.compile(f"{_APP}/users/([^/]+)/terminate_connections"),
        _terminate_connections,
        is_publish=True,
    ),
    # pusher-http-python forgets the app; its key says which one is meant.
    _Route(
        "POST",
        re.compile("()/users/([^/]+)/terminate_connections"),
        _terminate_connections,
        is_publish=True,
    ),
)
