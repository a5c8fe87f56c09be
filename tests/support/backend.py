"""An application's backend, made with the official `pusher` package: it publishes and it signs."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pusher
from aiohttp import web

from reverb_py.testing import TestServer

__all__ = ["MASTER_KEY", "AuthEndpoint", "auth_endpoint", "backend_of", "calling"]

MASTER_KEY = base64.b64encode(bytes(range(32))).decode()
"""The key from which the keys of encrypted channels are made; the server never sees it."""


def backend_of(server: TestServer, secret: str | None = None) -> pusher.Pusher:
    """
    Return the library as the server's app configures it; its calls block while they wait.

    `secret` is another one than the app's.
    """
    return pusher.Pusher(
        app_id=server.app.id,
        key=server.app.key,
        secret=secret or server.app.secret,
        host="127.0.0.1",
        port=server.port,
        ssl=False,
        encryption_master_key_base64=MASTER_KEY,
    )


async def calling(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Make a blocking call of the library while the server's loop goes on."""
    return await asyncio.to_thread(call, *arguments, **named)


class AuthEndpoint:
    """
    Lets clients subscribe and sign in as the user their bearer token names: `Bearer ada` is `ada`.

    `forbidden` channels are answered with 403. With `is_presence_by_signin`, presence channels get
    a signature without `channel_data`: who joins is then who has signed in. `requests` are the
    fields of every request, in order.
    """

    def __init__(self, backend: pusher.Pusher) -> None:
        self.forbidden: set[str] = set()
        self.is_presence_by_signin = False
        self.watchlists: dict[str, list[str]] = {}
        self.requests: list[dict[str, str]] = []
        self.port = 0
        self._backend = backend

    def pusher_js_options(self, user: str) -> dict[str, Any]:
        """Return the options by which pusher-js asks here, as this user."""
        url = f"http://127.0.0.1:{self.port}/pusher"
        headers = {"Authorization": f"Bearer {user}"}
        return {
            "channelAuthorization": {
                "endpoint": f"{url}/auth",
                "transport": "ajax",
                "headers": headers,
            },
            "userAuthentication": {
                "endpoint": f"{url}/user-auth",
                "transport": "ajax",
                "headers": headers,
            },
        }

    def echo_options(self, user: str) -> dict[str, Any]:
        """Return the options by which Laravel Echo asks here, as this user."""
        url = f"http://127.0.0.1:{self.port}/broadcasting"
        return {
            "authEndpoint": f"{url}/auth",
            "userAuthentication": {"endpoint": f"{url}/user-auth", "headers": {}},
            "bearerToken": user,
        }

    async def authorize(self, request: web.Request) -> web.Response:
        """Answer a client that wants to subscribe."""
        fields = await self._fields(request)
        channel, socket_id = fields["channel_name"], fields["socket_id"]
        if channel in self.forbidden:
            return web.json_response({"message": "This action is unauthorized."}, status=403)
        member = None
        if channel.startswith("presence-") and not self.is_presence_by_signin:
            user = self._user(request)
            member = {"user_id": user, "user_info": {"name": user.title()}}
        answer = self._backend.authenticate(channel, socket_id, member)
        if "shared_secret" in answer:
            answer["shared_secret"] = answer["shared_secret"].decode()
        return web.json_response(answer)

    async def authenticate_user(self, request: web.Request) -> web.Response:
        """Answer a client that wants to sign in."""
        fields, user = await self._fields(request), self._user(request)
        user_data: dict[str, Any] = {"id": user, "user_info": {"name": user.title()}}
        if user in self.watchlists:
            user_data["watchlist"] = self.watchlists[user]
        return web.json_response(self._backend.authenticate_user(fields["socket_id"], user_data))

    async def _fields(self, request: web.Request) -> dict[str, str]:
        fields = {name: str(value) for name, value in (await request.post()).items()}
        self.requests.append(fields)
        return fields

    def _user(self, request: web.Request) -> str:
        scheme, _, token = request.headers["Authorization"].partition(" ")
        assert scheme == "Bearer"
        return token


@asynccontextmanager
async def auth_endpoint(backend: pusher.Pusher) -> AsyncIterator[AuthEndpoint]:
    """Run an auth endpoint on this machine for as long as the context lasts."""
    endpoint = AuthEndpoint(backend)
    app = web.Application()
    for path in ("/pusher", "/broadcasting"):
        app.router.add_post(f"{path}/auth", endpoint.authorize)
        app.router.add_post(f"{path}/user-auth", endpoint.authenticate_user)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        endpoint.port = runner.addresses[0][1]
        yield endpoint
    finally:
        await runner.cleanup()
