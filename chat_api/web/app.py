"""The aiohttp application: every route behind one frame of request ids, CORS, errors and logs."""

import re
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from chat_api.kernel.errors import ChatError, MethodNotAllowed, NotFound, TooLarge
from chat_api.kernel.routes import Route
from chat_api.web.parsing import MAX_BODY_BYTES, Authenticate, RequestReader
from chat_api.web.proxies import TrustedProxies

__all__ = ["create_app"]

_log = structlog.get_logger("chat_api.web")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

# Tokens travel in a header and never in a cookie, so any page may ask without credentials.
_CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Retry-After, X-Request-ID",
}
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


def create_app(
    routes: Iterable[Route[Any]],
    authenticate: Authenticate,
    proxies: TrustedProxies = TrustedProxies(),  # noqa: B008 - immutable
) -> web.Application:
    """
    Return an application that serves `routes`.

    Every failure is `{"code", "message"}` with its status, also those aiohttp raises itself; what
    nobody foresaw is logged with its traceback and answered 500 without details.
    """
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_frame])
    for route in routes:
        app.router.add_route(route.method, route.path, _handler(route, authenticate, proxies))
    return app


def _handler(route: Route[Any], authenticate: Authenticate, proxies: TrustedProxies) -> _Handler:
    reader = RequestReader(route, authenticate, proxies)

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = await route.handler(await reader.read(request))
        return _json(answer.body, answer.status)

    return handle


@web.middleware
async def _frame(request: web.Request, handler: _Handler) -> web.StreamResponse:
    given_id = request.headers.get("X-Request-ID", "")
    request_id = given_id if _REQUEST_ID.fullmatch(given_id) else secrets.token_hex(8)
    if request.method == "OPTIONS":
        response: web.StreamResponse = web.Response(status=204, headers=_PREFLIGHT)
    else:
        try:
            response = await handler(request)
        except ChatError as error:
            response = _failure(error)
        except web.HTTPException as error:
            response = _failure(_as_chat_error(error), error.status)
        except Exception:
            _log.exception(
                "Request failed",
                method=request.method,
                path=request.rel_url.raw_path,
                request_id=request_id,
            )
            response = _failure(
                ChatError(f"Something went wrong here. Report it with the id {request_id}.")
            )
    response.headers.update(_CORS)
    response.headers["X-Request-ID"] = request_id
    response.headers["Server"] = "chat-api"
    # Path only: a query string may hold what should not be kept. As it was sent: decoded, it could
    # hold what moves the cursor of the terminal it is read on.
    _log.debug(
        "Request",
        method=request.method,
        path=request.rel_url.raw_path,
        status=response.status,
        address=request.remote,
        request_id=request_id,
    )
    return response


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
    response = _json({"code": error.code, "message": error.message}, status or error.status)
    response.headers.update(error.headers)
    return response


def _json(body: object, status: int) -> web.Response:
    if status == 204:
        return web.Response(status=204)
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )
