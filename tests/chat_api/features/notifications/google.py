"""Google at the edge of the network: gives access tokens for signed assertions, takes messages."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

PROJECT = "chat-of-tests"
EMAIL = f"push@{PROJECT}.iam.gserviceaccount.com"

_AUDIENCE = "https://oauth2.googleapis.com/token"
_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


class Refusal(NamedTuple):
    """An answer of FCM that is no success; a text instead of JSON comes from something else."""

    status: int
    body: Any = ""
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody changes it


def refusal(
    status: int, name: str, message: str, code: str = "", violation: str = "", **headers: str
) -> Refusal:
    """Return what FCM answers, by its documentation; underscores in `headers` are hyphens."""
    details: list[Any] = [{"@type": _FCM_ERROR, "errorCode": code}] if code else []
    if violation:
        fields = [{"field": violation, "description": message}]
        details.append(
            {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": fields}
        )
    error = {"code": status, "message": message, "status": name, "details": details}
    return Refusal(
        status,
        {"error": error},
        {header.replace("_", "-"): text for header, text in headers.items()},
    )


UNREGISTERED = refusal(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED")
UNAVAILABLE = refusal(503, "UNAVAILABLE", "The service is currently unavailable.", "UNAVAILABLE")
FORBIDDEN = refusal(
    403, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied on resource."
)


class FakeGoogle:
    """
    Both services on one port, which stays the same when they go down and up again.

    `delivered` has every message that was taken; `tried` the device tokens of all requests.
    """

    def __init__(self) -> None:
        self.delivered: list[Any] = []
        self.tried: list[str] = []
        self.answers: list[Refusal] = []
        """For the next requests, which are not delivered."""
        self.answers_to: dict[str, Refusal] = {}
        """For every request to these device tokens."""
        self.hangs: asyncio.Event | None = None
        """While set, messages are answered when it happens."""
        self.access_tokens: list[str] = []
        """All that were given."""
        self.asked_for_access = 0
        self.holds_access: asyncio.Event | None = None
        """While set, access tokens are given when it happens."""
        self.refuses_access: Refusal | None = None
        self.is_forgetful = False
        """Whether it knows none of the access tokens that it gives."""
        self.under_way = 0
        self.most_under_way = 0
        self.port = 0
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._valid_tokens: set[str] = set()
        self._news = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key_file(self) -> dict[str, str]:
        """Return what the console would hand out, but for where tokens are given."""
        private_key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "0123456789abcdef",
            "private_key": private_key.decode(),
            "client_email": EMAIL,
            "client_id": "100000000000000000000",
            "token_uri": f"{self.url}/token",
            "universe_domain": "googleapis.com",
        }

    def write_key_file(self, folder: Path) -> Path:
        path = folder / "service-account.json"
        path.write_text(json.dumps(self.key_file))
        return path

    async def __aenter__(self) -> Self:
        await self.go_up()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.go_down()

    async def go_up(self) -> None:
        app = web.Application()
        app.router.add_post("/token", self._give_access)
        app.router.add_post(f"/v1/projects/{PROJECT}/messages:send", self._send)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def go_down(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def revoke_access(self) -> None:
        """Know none of the access tokens any more that were given until now."""
        self._valid_tokens.clear()

    async def until(self, is_enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self._news:
            await self._news.wait_for(is_enough)

    async def delivers(self, count: int) -> list[Any]:
        """Return every message that was taken, once that are so many."""
        await self.until(lambda: len(self.delivered) >= count)
        return self.delivered

    async def _give_access(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["grant_type"] == _GRANT
        claims = jwt.decode(
            str(form["assertion"]), self._key.public_key(), ["RS256"], audience=_AUDIENCE
        )
        assert (claims["iss"], claims["scope"]) == (EMAIL, _SCOPE)
        self.asked_for_access += 1
        await self._tell(lambda: None)
        if self.holds_access is not None:
            await self.holds_access.wait()
        if self.refuses_access is not None:
            return _response(self.refuses_access)
        access_token = f"ya29.access-{len(self.access_tokens)}"
        self.access_tokens.append(access_token)
        if not self.is_forgetful:
            self._valid_tokens.add(access_token)
        return web.json_response(
            {"access_token": access_token, "expires_in": 3599, "token_type": "Bearer"}
        )

    async def _send(self, request: web.Request) -> web.Response:
        message = (await request.json())["message"]
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await self._tell(lambda: self.tried.append(message["token"]))
        try:
            if self.hangs is not None:
                await self.hangs.wait()
        finally:
            self.under_way -= 1
        scheme, _, access_token = request.headers["Authorization"].partition(" ")
        if scheme != "Bearer" or access_token not in self._valid_tokens:
            return _response(refusal(401, "UNAUTHENTICATED", "Request had invalid credentials."))
        if self.answers:
            return _response(self.answers.pop(0))
        if message["token"] in self.answers_to:
            return _response(self.answers_to[message["token"]])
        await self._tell(lambda: self.delivered.append(message))
        return web.json_response({"name": f"projects/{PROJECT}/messages/{len(self.delivered)}"})

    async def _tell(self, change: Callable[[], None]) -> None:
        async with self._news:
            change()
            self._news.notify_all()


def _response(answer: Refusal) -> web.Response:
    if isinstance(answer.body, str):
        return web.Response(
            status=answer.status,
            text=answer.body,
            headers=answer.headers,
            content_type="text/html",
        )
    return web.json_response(answer.body, status=answer.status, headers=answer.headers)
