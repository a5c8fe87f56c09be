"""The aiohttp application: every route behind one frame of request ids, CORS, errors and logs."""

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from structlog.contextvars import bound_contextvars

from chat_api.kernel.errors import ChatError, Forbidden, MethodNotAllowed, NotFound, TooLarge
from chat_api.kernel.routes import Answer, Route
from chat_api.web.origins import Origins
from chat_api.web.parsing import MAX_BODY_BYTES, Authenticate, RequestReader
from chat_api.web.proxies import TrustedProxies
from chat_api.web.sending import Sending

__all__ = ["OnAnswer", "create_app"]

_log = structlog.get_logger("chat_api.web")

_FOREIGN_PAGE: Final = (
    "This page may not ask here. Whoever runs the API can allow its origin in CHAT_ALLOWED_ORIGINS."
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": (
        "Accept, Authorization, Content-Type, Idempotency-Key, Origin, X-CSRF-TOKEN, "
        "X-Participant-Id, X-Participant-Name, X-Request-ID, X-Requested-With, X-Socket-ID, "
        "X-Tenant-Domain, X-XSRF-TOKEN"
    ),
    "Access-Control-Max-Age": "600",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OnAnswer = Callable[[str, str | None, int, float], None]
"""Is told the method, the template of the path (None without a route), status and seconds."""


def create_app(
    routes: Iterable[Route[Any]],
    authenticate: Authenticate,
    proxies: TrustedProxies = TrustedProxies(),  # noqa: B008 - immutable
    on_answer: OnAnswer | None = None,
    origins: Origins = Origins(),  # noqa: B008 - immutable
    sending: Sending | None = None,
) -> web.Application:
    """
    Return an application that serves `routes`, and tells `on_answer` of each request it answered.

    Pages may read its answers, and change something, where they are of one of the `origins`.
    Answers leave by way of `sending`, which bounds what clients do not read.

    Every failure is `{"code", "message"}` with its status, also those aiohttp raises itself; what
    nobody foresaw is logged with its traceback and answered 500 without details.
    """
    frame = _frame(proxies, on_answer, origins, sending or Sending())
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[frame])
    for route in routes:
        app.router.add_route(route.method, route.path, _handler(route, authenticate, proxies))
    return app


def _handler(route: Route[Any], authenticate: Authenticate, proxies: TrustedProxies) -> _Handler:
    reader = RequestReader(route, authenticate, proxies)

    async def handle(request: web.Request) -> web.StreamResponse:
        return _response(await route.handler(await reader.read(request)))

    return handle


def _frame(
    proxies: TrustedProxies, on_answer: OnAnswer | None, origins: Origins, sending: Sending
) -> Middleware:
    @web.middleware
    async def frame(request: web.Request, handler: _Handler) -> web.StreamResponse:
        started = time.perf_counter()
        given_id = request.headers.get("X-Request-ID", "")
        request_id = given_id if _REQUEST_ID.fullmatch(given_id) else secrets.token_hex(8)
        # Every line that is logged on behalf of this request carries it.
        with bound_contextvars(request_id=request_id):
            response = await _answered(request, handler, request_id, origins)
            response.headers.update(origins.headers_for(request.headers.get("Origin")))
            response.headers["X-Request-ID"] = request_id
            response.headers["Server"] = "chat-api"
            seconds = time.perf_counter() - started
            # Path only: a query string may hold what should not be kept. As it was sent: decoded,
            # it could hold what moves the cursor of the terminal it is read on.
            _log.debug(
                "Request",
                method=request.method,
                path=request.rel_url.raw_path,
                status=response.status,
                address=proxies.client_address(request.remote or "", request.headers),
                milliseconds=round(seconds * 1000, 1),
            )
        if on_answer is not None:
            resource = request.match_info.route.resource
            template = None if resource is None else resource.canonical
            on_answer(request.method, template, response.status, seconds)
        await sending.send(request, response)
        return response

    return frame


async def _answered(
    request: web.Request, handler: _Handler, request_id: str, origins: Origins
) -> web.StreamResponse:
    if request.method == "OPTIONS":
        may_ask = origins.allow(request.headers.get("Origin"))
        return web.Response(status=204, headers=_PREFLIGHT if may_ask else None)
    try:
        if request.method not in _READING and origins.refuse(request.headers):
            raise Forbidden(_FOREIGN_PAGE)
        return await handler(request)
    except ChatError as error:
        return _failure(error)
    except web.HTTPException as error:
        return _failure(_as_chat_error(error), error.status)
    except Exception:
        _log.exception("Request failed", method=request.method, path=request.rel_url.raw_path)
        return _failure(
            ChatError(f"Something went wrong here. Report it with the id {request_id}.")
        )


def _as_chat_error(error: web.HTTPException) -> ChatError:
    match error:
        case web.HTTPNotFound():
            return NotFound("There is nothing at this address.")
        case web.HTTPMethodNotAllowed():
            allowed = tuple(sorted(error.allowed_methods))
            return MethodNotAllowed(f"Use {' or '.join(allowed)} here.", allowed=allowed)
        case web.HTTPRequestEntityTooLarge():
            return TooLarge(f"The body must not be longer than {MAX_BODY_BYTES} bytes.")
        case _:
            return ChatError(error.reason, code="http_error")


def _failure(error: ChatError, status: int | None = None) -> web.Response:
    body = {"code": error.code, "message": error.message}
    return _response(Answer(body, status or error.status, error.headers))


def _response(answer: Answer) -> web.Response:
    if answer.status in (204, 304):
        return web.Response(status=answer.status, headers=answer.headers)
    if answer.media_type is None:
        content, media_type = msgspec.json.encode(answer.body), "application/json"
    else:
        content, media_type = answer.body, answer.media_type
    headers = {"Content-Type": media_type, **answer.headers}
    return web.Response(body=content, status=answer.status, headers=headers)
