"""A chat client that speaks plain HTTP and shows what came back."""

from typing import Any, NamedTuple

import aiohttp
import msgspec


class Reply(NamedTuple):
    """What the API answered."""

    status: int
    body: Any
    headers: dict[str, str]


class Client:
    """Requests to one API as one person, whose id is `user_id`, or as nobody without a token."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, token: str | None = None, user_id: int = 0
    ) -> None:
        self.session = session
        self.url = url
        self.token = token
        self.user_id = user_id

    async def ask(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Send JSON, or a raw body, and read the answer's JSON (None when it is empty)."""
        sent = {"Authorization": f"Bearer {self.token}"} if self.token is not None else {}
        if json is not None:
            body = msgspec.json.encode(json)
            sent["Content-Type"] = "application/json"
        async with self.session.request(
            method,
            self.url + path,
            data=body,
            headers=sent | (headers or {}),
            skip_auto_headers=["Content-Type"],
        ) as response:
            content = await response.read()
            return Reply(
                response.status,
                msgspec.json.decode(content) if content else None,
                dict(response.headers),
            )

    async def get(self, path: str) -> Reply:
        return await self.ask("GET", path)

    async def post(
        self, path: str, json: Any = None, *, headers: dict[str, str] | None = None
    ) -> Reply:
        return await self.ask("POST", path, json, headers=headers)

    async def log_in(self, email: str, password: str = "password") -> "Client":
        reply = await self.post("/api/login", {"email": email, "password": password})
        assert reply.status == 200, reply
        return Client(self.session, self.url, reply.body["token"], reply.body["user"]["id"])
